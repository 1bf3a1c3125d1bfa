"""The trace tree: events in the order in which a region's Python made them.

A region is cut into segments where Python looks at memory. Within a segment values are numbered *slots*: tensors that
come from outside are bound to a slot when they first appear, and every result gets the next ones. Two calls that
take the same way through the tree therefore mean the same by the same slot.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.devices import device
from tracejit.dtypes import ALL, get_default_dtype
from tracejit.ops.record import Op
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.symbols import Real, Size
from tracejit.tensor.generator import Generator
from tracejit.tensor.tape import current
from tracejit.trace.account import Note


class Number:
    """A Python number that entered an operation.

    It is a constant until a call brings another value; then it becomes a run-time number (`varies`). If the
    recorded Python computed with it, it is `fixed`: another value is another branch of the tree.
    """

    __slots__ = ("event", "fixed", "high", "index", "kind", "low", "region", "value", "varies")

    def __init__(self, region: Any, index: int, value: float | int, varies: bool = False) -> None:
        self.region = region
        self.index = index
        self.value = value
        self.kind = "f" if isinstance(value, float) else "i"
        self.varies = varies
        self.fixed = False
        # What a whole number may be: beyond what its operation's type holds, eager may raise.
        self.low, self.high = -(2**63), 2**63 - 1
        self.event: Event | None = None

    def fix(self, value: float | int) -> None:
        """Make the number part of the structure, with the value of this call."""
        self.fixed = True
        self.value = value
        if self.event is not None:
            self.event.match = None

    def avoid(self, special: tuple[float, ...], value: float | int) -> None:
        """That the number is none of some became part of the structure: the tree knows that by its value alone."""
        self.fix(value)

    def place(self, value: int, size: int) -> int:
        """The place that the number is among so many, counted from the front; it is part of the structure."""
        self.fix(value)
        return value % size

    def ahead(self, value: int, stop: Any, size: int) -> bool:
        """How much greater another number is cannot be known without what both are."""
        return False

    def admits(self, value: Any) -> bool:
        """Whether a call with this value takes the same branch; a first change makes the number a run-time one."""
        kind = "f" if isinstance(value, float) else "i"
        if kind != self.kind or (kind == "i" and not self.low <= value <= self.high):
            return False
        if self.varies and not self.fixed:
            return True
        if same_number(self.value, value):
            return True
        if self.fixed:
            return False
        self.varies = True
        self.region.promoted(self, value)
        return True


def same_number(a: Any, b: Any) -> bool:
    """Whether two numbers have the same type and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return bool(a == b)


class Derived:
    """A number that a composite's Python made of sizes that stay open, as an operand alone (`trace/opening.py`)."""

    __slots__ = ("high", "kind", "low", "size")

    def __init__(self, size: Any, kind: str) -> None:
        self.size, self.kind = size, kind
        self.low, self.high = -(2**63), 2**63 - 1

    @property
    def key(self) -> Any:
        """What equal ones have in common."""
        n = self.size
        return (self.kind, n.size, n.by) if type(n) is Real else (self.kind, n)

    def fix(self, value: float | int) -> None:
        """Python calculates with it. Raises: TypeError, as it has no value."""
        raise TypeError("a number that follows from open sizes has no value")

    def avoid(self, special: tuple[float, ...], value: float | int) -> None:
        """Python asks whether it is one of some. Raises: TypeError, as above."""
        self.fix(value)


@dataclass(frozen=True, slots=True)
class External:
    """What a tensor from outside must be like to take a slot."""

    shape: tuple[int, ...]
    dtype: Any
    requires_grad: bool
    leaf: bool
    strides: tuple[int, ...] | None
    writeable: bool
    gpu: bool = False

    def admits(self, t: Any) -> bool:
        """Whether a tensor is like that."""
        array = t._array
        if t._base is not None and array is not None:
            # A change in place of what it shows may have given it a history.
            current(t)
        if t._requires_grad is not self.requires_grad or (t._node is None) is not self.leaf:
            return False
        return self.holds(array, t._dtype)

    def holds(self, array: Any, dtype: Any) -> bool:
        """Whether memory is like that of such a tensor."""
        if array is None or array.shape != self.shape or dtype is not self.dtype:
            return False
        if array.flags.writeable is not self.writeable or (type(array) is DeviceArray) is not self.gpu:
            return False
        if self.strides is None:
            return bool(array.flags.c_contiguous)
        return array.strides == self.strides and not array.flags.c_contiguous


@dataclass(slots=True)
class Step:
    """One primitive of an event: a record applied to slots and numbers.

    `op` None is an assignment, or with `view` a second tensor on the same memory. `view` says that the result is not
    memory of its own.
    """

    op: Op | None
    args: tuple[Any, ...]
    attrs: tuple[Any, ...]
    outs: tuple[int, ...]
    view: bool = False


@dataclass(slots=True)
class Result:
    """A tensor that Python gets from an event; `source` is the slot of the tensor from outside that it is a view of."""

    slot: int
    aval: Aval
    requires_grad: bool
    strides: tuple[int, ...] | None = None
    source: int | None = None


class Place:
    """A point of the tree: what may come next.

    `model` is the place of the branch that this one repeats at other sizes, if it does; `peers` are those that repeat
    this one. `grown` says that it lies in a branch for other sizes, `moving` along which dimensions operations on parts
    of tensors of so many dimensions begin elsewhere from call to call, None if none does. `openings` are branches that
    begin here and serve all sizes (`trace/opening.py`).
    """

    __slots__ = ("__weakref__", "cut", "end", "events", "grown", "model", "moving", "openings", "peers", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.events: list[Event] = []
        self.cut: Stop | None = None
        self.end: Stop | None = None
        self.grown = False
        self.moving: dict[tuple[Op, int], tuple[int, ...]] | None = None
        self.model: Place | None = None
        self.peers: weakref.WeakSet[Place] = weakref.WeakSet()
        self.openings: Any = None

    def models(self) -> Iterator[Event]:
        """The events that one at this place may repeat at other sizes: here, and at the places like this one.

        Cost: the first of them are at hand; of the places like this one there are as many as branches.
        """
        root = self.model or self
        yield from root.events
        if root is not self:
            yield from self.events
        for place in root.peers:
            yield from place.events

    def ends(self, name: str) -> Stop | None:
        """The end ("cut" or "end") that the places like this one have."""
        root = self.model or self
        return next((s for p in (root, *root.peers) if (s := getattr(p, name)) is not None), None)


class Segment:
    """A stretch of the region between two looks at memory: the root of a tree of events."""

    __slots__ = ("cells", "number", "region", "root")

    # cells: by id of a tensor from outside, the cell of the one matcher that takes it without a closer look.

    def __init__(self, region: Any, number: int) -> None:
        self.cells: dict[int, list[Any]] = {}
        self.region = region
        self.number = number
        self.root = Place(self)


@dataclass(eq=False, slots=True)
class Event:
    """One thing that Python did: an operation, a composite, a backward pass, an assignment, a detachment, or a
    leaf that requires gradients from here on.

    `operands` are the tensors it took, in order: slots. `binds` describes those that come from outside and take a
    new slot. `numbers` are the numbers it took. `assigned` are changes in place: slot before, slot after, and what
    became of the gradient history (None: nothing, else whether there is one now); `shown` are views of what got one,
    each with what it shows. `renewed` are views and detached tensors of what was changed before, which it takes again:
    slot before and slot after. `ranges` are the bounds of index operands from outside. `key` is everything else that
    must be equal. `layout` rebuilds the call's arguments.
    `crossing` is what a backward pass is like outside of its segment (`trace/crossing.py`), `watched` are leaves that
    it reaches without changing them. `fit` is how an event at open sizes finds those of a call (`trace/opening.py`).
    """

    kind: str
    function: Any
    key: Any
    operands: tuple[int, ...]
    binds: dict[int, External]
    numbers: tuple[Number, ...]
    layout: Any
    grad: bool
    before: Event | None
    parent: Place
    line: str
    name: str
    steps: list[Step] = field(default_factory=list)
    results: tuple[Result, ...] = ()
    output: Any = None
    draws: tuple[tuple[Any, Number, Number, int], ...] = ()
    leaves: tuple[tuple[int, int | None, int | None], ...] = ()
    assigned: tuple[tuple[int, int, Any], ...] = ()
    ranges: tuple[tuple[int, int, int], ...] = ()
    slots: int = 0
    count: int = 0
    next: Place = None  # type: ignore[assignment]
    match: Callable[..., Any] | None = None
    met: int = 0
    crossing: Any = None
    watched: tuple[int, ...] = ()
    shown: tuple[tuple[int, int], ...] = ()
    renewed: tuple[tuple[int, int], ...] = ()
    cells: list[list[Any]] = field(default_factory=list)
    fit: Callable[[list[Any], list[int]], Any] | None = None
    outside: int = field(init=False)
    """How many tensors from outside the segment has bound up to and with this event."""

    def __post_init__(self) -> None:
        self.outside = len(self.binds) + (0 if self.before is None else self.before.outside)


@dataclass(eq=False, slots=True)
class Stop:
    """The end of a segment: where Python looked at memory, or left the region.

    `tape` are the steps of the gradient tape at that point, by slot: a plan and which of its results, or why there can
    be none. `behind` are the slots of views whose memory was changed since they were taken: their history is that of
    the base, found when somebody asks. `programs` holds what was compiled for each set of values that Python still
    had, `kept` what another process said of its own, `lean` which slots the program for the gradients of one that
    leaves a lean tape wants in memory, None if it shall leave none. `obstacle` says why the segment cannot become a
    program, if it cannot. `silent` marks a cut that the tracer needs and Python did not ask for. `eager` are the
    operations and units that run eagerly behind it. Of a whole call (`trace/uncut.py`) Python wants the values that
    some slots have when they are made (`reads`), and its way stands on what is `expected`. `cause` says what the call
    that first came here did differently from those before it, `note` is what the account says about a cut. `opening` is
    what the end belongs to if its segment is for all sizes.
    """

    last: Event | None
    slots: int
    numbers: int
    tape: dict[int, Any]
    reason: str
    line: str
    behind: set[int]
    obstacle: str | None = None
    silent: bool = False
    next: Segment | None = None
    programs: dict[Any, Any] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)
    lean: dict[Any, frozenset[int] | None] = field(default_factory=dict)
    eager: set[Any] = field(default_factory=set)
    reads: tuple[int, ...] = ()
    expected: tuple[Any, ...] = ()
    cause: str = ""
    note: Note = field(default_factory=lambda: Note("cut", "", "", 0))
    opening: Any = None


def path(event: Event | None, behind: Event | None = None) -> list[Event]:
    """The events of a segment up to and with this one, all or those behind another one."""
    out: list[Event] = []
    while event is not behind:
        assert event is not None
        out.append(event)
        event = event.before
    return out[::-1]


def is_detached(last: Event | None, values: Any, value: Any, source: Any) -> bool:
    """Whether a tensor was detached from another in a segment, up to an event; `values` has the tensors by slot."""
    event = last
    while event is not None:
        if (
            event.kind == "detach"
            and values[event.results[0].slot] is value
            and values[event.operands[0]] is source
        ):
            return True
        event = event.before
    return False


def same_value(a: Any, b: Any) -> bool:
    """Whether two values that are part of a structure are the same, numbers and arrays by their bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a is b or bool(a == b)


class Opaque(Exception):
    """An argument whose value the tracer cannot compare: it may hold tensors, or change and stay equal."""


_PLAIN: set[type] = {bool, int, str, bytes, type(None), type(...), np.ndarray, device, Generator}
_PLAIN.update(type(d) for d in ALL)
_PLAIN.update(np.dtype(code).type for code in "?bhilqBHILQefd")


Flattened = tuple[list[Any], list[Any], Any, Any]


def flatten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flattened:
    """The tensors and floats of a call in order, a key of everything else, and a layout to rebuild the call.

    Raises: Opaque for an argument that cannot be compared.
    """
    tensors: list[Any] = []
    numbers: list[Any] = []
    key: list[Any] = [get_default_dtype()]
    layout = (_walk(args, tensors, numbers, key), _walk(kwargs, tensors, numbers, key))
    return tensors, numbers, tuple(key), layout


tensor_type: Any = None


def register_tensor(cls: type) -> None:
    """Say what a tensor is."""
    global tensor_type
    tensor_type = cls


def _walk(x: Any, tensors: list[Any], numbers: list[Any], key: list[Any]) -> Any:
    kind = type(x)
    if isinstance(x, tensor_type):
        tensors.append(x)
        key.append(tensor_type)
        return Leaf("tensor", len(tensors) - 1)
    if kind is float:
        numbers.append(x)
        key.append(float)
        return Leaf("number", len(numbers) - 1)
    if kind is tuple or kind is list:
        key.append((kind, len(x)))
        return Sequence(kind, tuple(_walk(e, tensors, numbers, key) for e in x))
    if kind is dict:
        key.append((dict, tuple(x)))
        return Mapping(tuple((k, _walk(v, tensors, numbers, key)) for k, v in x.items()))
    if kind is Size:
        key.append((int, x))
        return Static(x)
    if kind not in _PLAIN and not (isinstance(x, tuple) and all(type(e) in (int, Size) for e in x)):
        raise Opaque
    if isinstance(x, (np.ndarray, np.generic)):
        key.append((kind, x.dtype.str, x.shape, x.tobytes()))
        return Static(x.copy())
    key.append((kind, x))
    return Static(x)


@dataclass(frozen=True, slots=True)
class Leaf:
    """In a layout: the tensor or number with this place in the call."""

    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Static:
    """In a layout: a value that is part of the structure."""

    value: Any


@dataclass(frozen=True, slots=True)
class Sequence:
    """In a layout: a list or tuple."""

    kind: Callable[..., Any]
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """In a layout: a dict."""

    items: tuple[tuple[Any, Any], ...]


def rebuild(layout: Any, tensors: Any, numbers: Any) -> Any:
    """The value that a layout describes."""
    kind = type(layout)
    if kind is Leaf:
        return tensors[layout.index] if layout.kind == "tensor" else numbers[layout.index]
    if kind is Static:
        return layout.value
    if kind is Sequence:
        items = [rebuild(e, tensors, numbers) for e in layout.items]
        if layout.kind in (list, tuple):
            return layout.kind(items)
        return layout.kind(*items)
    return {k: rebuild(v, tensors, numbers) for k, v in layout.items}
