"""Values: what a program computes, with views resolved into the way in which memory is read.

In: nothing but op records. Out: `Value`s that read one another through strides.
Must not know: how values are grouped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from tracejit.dtypes import dtype
from tracejit.ir.node import CONST, Node
from tracejit.ops import Op
from tracejit.shapes import contiguous_strides

# Kinds of values.
INPUT = "input"  # given at each call
VIRTUAL = "virtual"  # element k is a function of k: full, iota, uniform
ELEMENTWISE = "elementwise"
REDUCTION = "reduction"
SCAN = "scan"  # a running sum or the like: as large as its operand, in order along a dimension
CALL = "call"  # a library operation; its results are values of their own
RESULT = "result"
ISLAND = "island"  # elementwise values that are one loop whatever is around them; its results are values of their own
JOINED = "joined"  # put together by copies into its parts

COMPUTED = (ELEMENTWISE, REDUCTION, SCAN)
"""Kinds of values that a kernel of this package's computes."""

Dims = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A number: a constant, or the scalar `index` of the call, which is a float ("f") or an integer ("i")."""

    constant: Any = None
    index: int = -1
    kind: str = "f"

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells numbers apart, as slots of a kernel."""
        return (self.index,) if self.index >= 0 else (type(self.constant), repr(self.constant))


def number_of(node: Node) -> Number:
    """The number that a node is."""
    return Number(constant=node.attrs[0]) if node.op == CONST else Number(index=node.attrs[0], kind=node.attrs[1])


@dataclass(eq=False, slots=True)
class Value:
    """One value. `op` is None for a copy. `layout` is (outer, size, inner) of the operand of a reduction or a scan, and
    `back` says of a scan that it begins at the end.

    `into` says that the value is written into a part of a joined value; `parts` are the copies that make a
    joined value, `results` the results of a call or an island, `call` that of which it is a result. `origin` says how
    operands and results of a call's operation lie, and which of its launches is the call's first. `reads` are the
    operands that are not numbers, `joined` the joined values among them. `body` is what an island does, `nodes` the
    nodes for which it does that.
    """

    kind: str
    op: Op | None
    shape: tuple[int, ...]
    dtype: dtype
    args: tuple[Read | Number, ...] = ()
    attrs: tuple[Any, ...] = ()
    node: Node | None = None
    layout: tuple[int, int, int] = (0, 0, 0)
    back: bool = False
    into: Read | None = None
    after: tuple[Value, ...] = ()
    parts: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    call: Value | None = None
    launches: Any = ()
    origin: tuple[Any, int] = ((), 0)
    body: Body | None = None
    nodes: tuple[Node, ...] = ()
    index: int = 0
    numel: int = field(init=False)
    reads: tuple[Read, ...] = field(init=False)
    joined: tuple[Value, ...] = field(init=False)
    _cuts: list[tuple[Value, frozenset[int]]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.numel = prod(self.shape)
        self.reads = self.joined = ()
        if self.args:
            self.reads = tuple([a for a in self.args if type(a) is Read])
            self.joined = tuple([r.source for r in self.reads if r.source.kind == JOINED])

    @property
    def cuts(self) -> list[tuple[Value, frozenset[int]]]:
        """What is read, or written into, with the numbers of trailing elements at which that changes its step, if it
        does.
        """
        if self._cuts is None:
            first = self.args[0] if self.kind == REDUCTION else None
            shape = first.shape if isinstance(first, Read) else self.shape
            places = [*self.reads, *([self.into] if self.into else [])]
            self._cuts = [(read.source, cuts) for read in places if (cuts := cuts_of(read.over(shape)))]
        return self._cuts

    @property
    def is_apart(self) -> bool:
        """Whether it is written into a joined value whose parts do not overlap."""
        # The last part of one whose parts overlap comes after the others.
        return self.into is not None and not self.into.source.parts[-1].after

    @property
    def name(self) -> str:
        if self.op is not None:
            return self.op.name
        return {ELEMENTWISE: "copy"}.get(self.kind, self.kind)

    def read_instead(self, other: Mapping[Value, Value]) -> None:
        """Reads values of the same shape in the place of those that are given with them."""
        self.args = tuple(
            [replace(a, source=other[a.source]) if isinstance(a, Read) and a.source in other else a for a in self.args]
        )
        self.reads = tuple([a for a in self.args if isinstance(a, Read)])
        self._cuts = None

    def release(self) -> None:
        """Lets go of values that refer to this one."""
        self.results = ()
        self.into = self.call = self._cuts = None

    def __repr__(self) -> str:
        return f"<{self.index}: {self.name} {self.dtype.short}{list(self.shape)}>"


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """What islands do alike. `steps` say how each value comes about: its operation, its type, the operation's
    attributes, and operands, which are numbers, earlier values (k: the k-th), or what the island reads (-1 - k).

    `results` are the values that the island gives, `cuts` those of the loop.
    """

    steps: tuple[tuple[Op, dtype, tuple[Any, ...], tuple[int | Number, ...]], ...]
    results: tuple[int, ...]
    cuts: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Read:
    """A value seen through views: element (i, j, ...) of `shape` lies at offset + i * strides[0] + ...

    One that is `picked` lies further on by as many steps of `along` as the element (i, j, ...) of that read says, which
    is another operand of whoever reads it. Nobody changes it: it is not frozen because it is made often.
    """

    source: Value
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    picked: Read | None = None
    along: int = 0
    _dense: bool | None = field(init=False, default=None)
    _in_order: bool | None = field(init=False, default=None)

    def over(self, shape: tuple[int, ...]) -> Dims:
        """The dimensions (size, stride), outermost first, of the read broadcast to `shape`: merged where possible,
        without those of size 1.
        """
        own, strides, at = self.shape, self.strides, len(self.shape) - len(shape)
        dims: list[tuple[int, int]] = []
        begun, count, step = False, 1, 1
        for size in shape:
            if size != 1:
                stride = strides[at] if at >= 0 and own[at] != 1 else 0
                if begun and step == size * stride:
                    count *= size
                else:
                    if begun:
                        dims.append((count, step))
                    begun, count = True, size
                step = stride
            at += 1
        if begun:
            dims.append((count, step))
        return tuple(dims)

    def lies_along(self, shape: tuple[int, ...]) -> bool:
        """Whether neighbours of `shape` are neighbours in memory, or one element."""
        if self.picked is not None:
            return False
        dims = self.over(shape)
        return not dims or dims[-1][1] in (0, 1)

    def is_whole(self, numel: int) -> bool:
        """Whether element k of the read, in row-major order, is element k of the source."""
        if self._dense is None:
            self._dense = self.picked is None and self.offset == 0 and self.source.numel == prod(self.shape)
        if not self._dense or self.source.numel != numel:
            return False
        if self._in_order is None:
            self._in_order = self.over(self.shape) == (((numel, 1),) if numel != 1 else ())
        return self._in_order


def whole(value: Value, shape: tuple[int, ...] | None = None) -> Read:
    """A contiguous value read as it lies, under its own shape or another one with as many elements."""
    shape = value.shape if shape is None else shape
    return Read(value, shape, contiguous_strides(shape))


def nests(cuts: frozenset[int], numel: int) -> bool:
    """Whether loops can be cut at all these numbers of trailing elements: each divides the next, and all divide the
    whole.

    >>> nests(frozenset({4, 8}), 24), nests(frozenset({4, 6}), 24)
    (True, False)
    """
    ordered = [*sorted(cuts), numel]
    return all(b % a == 0 for a, b in itertools.pairwise(ordered))


def cuts_of(dims: Dims) -> frozenset[int]:
    """The numbers of trailing elements at which a merged read changes its step.

    >>> sorted(cuts_of(((2, 100), (3, 0), (4, 1))))
    [4, 12]
    """
    cuts, size = set(), 1
    for n, _ in reversed(dims[1:]):
        size *= n
        cuts.add(size)
    return frozenset(cuts)


def outer_cuts(value: Value, is_full: bool, unit: int, inside: set[Value]) -> set[int] | None:
    """Cuts of a member's outside reads in units, and of where it is put; None if one is inside a unit."""
    found: set[int] = set()
    for source, cuts in value.cuts:
        if source in inside:
            continue
        if not is_full:
            found |= cuts
            continue
        for cut in cuts:
            if cut % unit:
                return None
            if cut > unit:
                found.add(cut // unit)
    return found


def split(dims: Dims, cuts: list[int], numel: int) -> list[int]:
    """The strides of a merged read over the loops that `cuts` (descending, each dividing the one before) make.

    Loop d goes over `cuts[d - 1] // cuts[d]` steps of `cuts[d]` trailing elements each; the last cut is 1.

    >>> split(((6, 4), (4, 1)), [12, 4, 1], 24)
    [12, 4, 1]
    """
    strides = []
    bounds, size = [], 1
    for n, stride in reversed(dims):
        bounds.append((size, size * n, stride))
        size *= n
    for at, cut in enumerate(cuts):
        above = numel if at == 0 else cuts[at - 1]
        if above == cut:
            strides.append(0)
            continue
        for low, high, stride in bounds:
            if low <= cut < high:
                strides.append(stride * (cut // low))
                break
        else:
            strides.append(0)
    return strides


def writers(source: Value) -> tuple[Value, ...]:
    """The values whose kernels put a source into memory."""
    if source.kind == JOINED:
        return source.parts
    if source.kind == RESULT:
        assert source.call is not None
        return (source.call,)
    return (source,) if source.kind in COMPUTED else ()


def buffers(members: list[Value]) -> set[Value]:
    """What members read from outside."""
    inside = set(members)
    return {r.source for v in members for r in v.reads if r.source not in inside and r.source.kind != VIRTUAL}


def readers_of(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """The values that read each value, once for each place where they do."""
    readers: dict[Value, list[Value]] = {}
    for value in values:
        for read in value.reads:
            readers.setdefault(read.source, []).append(value)
    return readers


def unfold(island: Value) -> list[Value]:
    """The values of an island, one by one."""
    body = island.body
    assert body is not None
    values: list[Value] = []
    for (op, kind, attrs, operands), node in zip(body.steps, island.nodes, strict=True):
        args = [a if isinstance(a, Number) else whole(values[a]) if a >= 0 else island.args[-1 - a] for a in operands]
        value = Value(ELEMENTWISE, op, island.shape, kind, tuple(args), attrs, node)
        value.index = len(values)
        values.append(value)
    return values
