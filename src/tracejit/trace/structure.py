"""What segments have in common when sizes and numbers change: their structure, and programs made for any sizes.

In: the events of a segment. Out: its graph, and a program for it, laid out from a template where one fits.
Must not know: matching, recording.

The structure of a segment is all but its *free* values: the sizes and strides of tensors from outside, sizes among the
attributes of operations, and constant numbers. The first segment of a structure is compiled as it stands. At the
second, free values that differ become symbols, those that were equal at both stay as they are, and the plan made then
serves all later ones by which its conditions hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tracejit.aval import Aval
from tracejit.compiler import Compiled, compile_graph, recall_program
from tracejit.config import SETTINGS
from tracejit.ir import node as ir
from tracejit.ir.graph import Graph
from tracejit.passes import Making
from tracejit.runtime.program import Arena
from tracejit.symbols import Trail, opened, values_at
from tracejit.template import Launches, Template
from tracejit.tensor.gpu import gpu_side
from tracejit.trace.background import GRAPH, Elsewhere
from tracejit.trace.expected import Expected, check_of, given_in
from tracejit.trace.tree import Derived, Event, Number, Static

_SIZES = frozenset(("shape", "size", "start", "length"))
"""Attributes that hold sizes or places; all others are part of the structure."""
_TEMPLATES = 8
"""Templates of one structure: beyond that its programs are planned one by one."""
_FAMILIES = 64
"""Structures whose templates are kept: beyond that those used longest ago are dropped."""
_SIGHTINGS = 4
"""How many lists of free values tell which of them belong together."""


@dataclass(slots=True)
class Outline:
    """A segment's structure with its free values in order, and those of them that are constant numbers."""

    key: tuple[Any, ...]
    varying: tuple[bool, ...]
    free: list[Any]
    numbers: list[int]


def outline(events: list[Event]) -> Outline:
    """The structure of a segment."""
    key: list[Any] = []
    varying: list[bool] = []
    free: list[Any] = []
    numbers: list[int] = []
    for event in events:
        for slot, ext in event.binds.items():
            key.append((slot, ext.dtype, len(ext.shape), ext.strides is None, ext.gpu))
            free.extend(ext.shape)
            if ext.strides is not None:
                free.extend([s // ext.dtype.itemsize for s in ext.strides])
        for step in event.steps:
            args: list[Any] = []
            for a in step.args:
                if type(a) is int:
                    args.append(a)
                    continue
                if type(a) is Derived:
                    args.append((a.kind, -1))
                    numbers.append(len(free))
                    free.append(a)
                    continue
                if type(a) is Number:
                    open_ = a.varies and not a.fixed
                    args.append((a.kind, a.index if open_ else -1))
                    varying.append(open_)
                    if open_:
                        continue
                elif type(a.value) not in (int, float):
                    args.append((type(a.value), repr(a.value)))
                    continue
                else:
                    args.append(("f" if type(a.value) is float else "i", -1))
                numbers.append(len(free))
                free.append(a.value)
            attrs: Any = ()
            if step.attrs:
                assert step.op is not None
                attrs = tuple(
                    [
                        _skeleton(value, free) if name in _SIZES else value
                        for name, value in zip(step.op.attrs, step.attrs, strict=True)
                    ]
                )
            key.append((step.op, tuple(args), attrs, step.outs))
        key.append(event.assigned)
    return Outline(tuple(key), tuple(varying), free, numbers)


def _skeleton(value: Any, free: list[Any]) -> Any:
    if type(value) is int:
        free.append(value)
        return int
    if isinstance(value, tuple):
        return tuple([_skeleton(v, free) for v in value])
    return value


def _refill(value: Any, free: Iterator[Any]) -> Any:
    if type(value) is int:
        return next(free)
    return tuple([_refill(v, free) for v in value]) if isinstance(value, tuple) else value


def computes_on_gpu(events: list[Event]) -> bool:
    """Whether a segment computes on a GPU."""
    return any(ext.gpu for event in events for ext in event.binds.values()) or any(
        step.op is not None and step.op.origin is not None for event in events for step in event.steps
    )


READ = -(1 << 62)
"""In place of a slot: new memory for a value that Python only reads."""


@dataclass(slots=True)
class Ends:
    """What a segment leaves: slots that get new memory, and those of changed inputs with their last value; values that
    are only read are new memory for `READ`. `expected` is what its program looks at before it leaves anything.
    """

    outputs: list[tuple[int, int]]
    homes: list[tuple[int, int]]
    expected: tuple[Expected, ...] = ()


def make_graph(
    events: list[Event],
    ends: Ends,
    structure: Outline,
    name: str,
    values: list[Any] | None = None,
    making: Making | None = None,
) -> Graph:
    """The graph of a segment of this structure, with its own free values or with `values`: an `ir` node stands for a
    number given later. Numbers may have become run-time numbers since.

    With `making` it is as the first pass leaves it, and has no lines and labels: for a compiler that is asked for
    nothing but a program.
    """
    nodes: dict[int, Any] = {}
    inputs: list[ir.Node] = []
    slots: dict[int, int] = {}
    lines: dict[ir.Node, str] = {}
    labels: dict[ir.Node, str] = {}
    scalars: dict[Number, ir.Node] = {}
    checks: list[ir.Node] = []
    values = structure.free if values is None else values
    free, varying = iter(values), iter(structure.varying)

    def number(n: Number | Static | Derived) -> ir.Node:
        if isinstance(n, Static) and type(n.value) not in (int, float):
            return ir.const(n.value)
        if isinstance(n, Number) and next(varying):
            if n not in scalars:
                scalars[n] = ir.scalar(len(scalars), n.kind)
            return scalars[n]
        value = next(free)
        return value if isinstance(value, ir.Node) else ir.const(value)

    for event in events:
        for slot, ext in event.binds.items():
            shape = tuple([next(free) for _ in ext.shape])
            strides = None if ext.strides is None else tuple([next(free) for _ in ext.strides])
            slots[slot] = len(inputs)
            nodes[slot] = ir.input(len(inputs), Aval(shape, ext.dtype), strides)
            inputs.append(nodes[slot])
        for step in event.steps:
            args = tuple([nodes[a] if type(a) is int else number(a) for a in step.args])
            if step.op is None:
                nodes[step.outs[0]] = args[0]
                continue
            attrs = step.attrs
            if attrs:
                attrs = tuple(
                    [_refill(v, free) if n in _SIZES else v for n, v in zip(step.op.attrs, attrs, strict=True)]
                )
            if making is None:
                made = ir.make(step.op.origin or step.op, args, attrs)
                lines.setdefault(made, event.line)
                labels.setdefault(made, event.name)
            else:
                made = making.make(step.op.origin or step.op, args, attrs)
            if step.op.looks_at:
                checks.append(made)
            if len(step.outs) == 1:
                nodes[step.outs[0]] = made
            else:
                for which, out in enumerate(step.outs):
                    nodes[out] = ir.item(made, which)
    outputs = [nodes[last] for _, last in ends.outputs]
    homes = {}
    for root, last in ends.homes:
        homes[len(outputs)] = slots[root]
        outputs.append(nodes[last])
    looked_at = given_in(ends.expected)
    numbers = {index: ir.scalar(len(scalars) + k, kind) for k, (index, kind) in enumerate(looked_at)}
    kinds = [*(n.kind for n in scalars), *(kind for _, kind in looked_at)]
    given = sorted({v for v in values if isinstance(v, ir.Node)}, key=lambda n: n.attrs[0])
    kinds += [v.attrs[1] for v in given]
    checks += [check_of(one, nodes, numbers) for one in ends.expected]
    rest = {} if making is None else making.rest
    graph = Graph(tuple(inputs), tuple(kinds), tuple(outputs), homes, name, lines, labels, rest)
    return graph.checking(checks) if checks else graph


def scalars_of(events: list[Event], ends: Ends) -> list[tuple[int, str]]:
    """Index and kind of the run-time numbers of a segment, in the order of its graph's scalars."""
    found: dict[Number, None] = {}
    for event in events:
        for step in event.steps:
            for a in step.args:
                if type(a) is Number and a.varies and not a.fixed:
                    found[a] = None
    return [*((n.index, n.kind) for n in found), *given_in(ends.expected)]


@dataclass(slots=True)
class _Family:
    """The programs of one structure: lists of free values that were seen, and the templates made."""

    seen: list[list[Any]] = field(default_factory=list)
    templates: list[tuple[Template, list[list[int]], list[int]]] = field(default_factory=list)
    """Each with the places of its symbols, then those of its open numbers; all other places must be as `seen[0]`."""
    planned: tuple[Template, list[list[int]], list[int]] | None = None
    """A template whose kernels another process compiles."""


@dataclass(slots=True)
class Built:
    """A program, shape and type of its outputs, and what was new about it: its structure, kernels, its plan."""

    compiled: Compiled | Launches
    results: list[tuple[tuple[int, ...], Any]]
    new_structure: bool
    new_kernels: list[str]
    planned: bool


class Kept(NamedTuple):
    """A program that another process made of a segment: the key of its recipe, shape and type of its outputs, and the
    slots of those that a lean tape keeps.
    """

    key: str
    results: list[tuple[tuple[int, ...], Any]]
    left: tuple[int, ...]


class Exceeded(Exception):
    """The program would be one compilation too many."""


class Structures:
    """The structures that a region has met, and the kernels that its programs use."""

    def __init__(self) -> None:
        self._families: dict[Any, _Family] = {}
        self._met: set[int] = set()
        self.closed = False
        """Whether a program that would be a compilation is refused with `Exceeded`."""
        # Of a region's programs one runs at a time.
        self._arena = Arena()
        self.kernels: set[str] = set()

    def build(
        self,
        events: list[Event],
        ends: Ends,
        name: str,
        elsewhere: Elsewhere | None = None,
        kept: Kept | None = None,
    ) -> Built:
        """The program of a segment, which is `kept`, or which another process compiles if `elsewhere` says so.

        Raises: NotImplementedError if the compiler cannot make one, Exceeded if it would be one compilation too many,
        Pending if another process is at it.
        """
        shape = outline(events)
        key = (shape.key, tuple(ends.outputs), tuple(ends.homes), ends.expected)
        mark = hash(key)
        place = key, shape.varying
        family = self._families[place] = self._families.pop(place, _Family())
        if len(self._families) > _FAMILIES:
            del self._families[next(iter(self._families))]
        before = set(self.kernels)
        fresh = mark not in self._met
        if fresh and self.closed:
            raise Exceeded
        if computes_on_gpu(events):
            graph = make_graph(events, ends, shape, name)
            hosts = [not ext.gpu for event in events for ext in event.binds.values()]
            compiled = gpu_side().compile_region(graph, hosts)
            made, planned = (compiled, [(o.shape, o.dtype.np) for o in graph.outputs]), True
        else:
            made, planned = None, True
            if kept is not None and not family.seen:
                compiled = recall_program(kept.key, name, lambda: make_graph(events, ends, shape, name), self._arena)
                made = None if compiled is None else (compiled, kept.results)
            if made is None:
                made, planned = self._from_template(family, shape, events, ends, name, elsewhere)
        if made is None:
            # Who wants graphs checked after each pass wants the first one to run, too.
            graph = make_graph(events, ends, shape, name, making=None if SETTINGS.check else Making())
            compiled = compile_graph(
                graph,
                self._arena,
                None if elsewhere is None else elsewhere.graph,
                lambda: make_graph(events, ends, shape, name),
            )
            made = compiled, [(o.shape, o.dtype.np) for o in graph.outputs]
        if not family.seen:
            family.seen.append(shape.free)
        compiled, results = made
        symbols = [k.symbol for k in compiled.kernels]
        new = [s for s in symbols if s not in before]
        if new and self.closed:
            raise Exceeded
        self.kernels.update(symbols)
        self._met.add(mark)
        return Built(compiled, results, fresh, new, planned)

    def _from_template(
        self, family: _Family, shape: Outline, events: list[Event], ends: Ends, name: str, elsewhere: Elsewhere | None
    ) -> Any:
        for template, symbols, numbers in family.templates:
            made = _instantiate(template, symbols, numbers, shape.free, family.seen[0], self._arena)
            if made is not None:
                return made, False
        if family.planned is None:
            family.planned = self._plan(family, shape, events, ends, name, elsewhere)
        if family.planned is None:
            return None, True
        template, symbols, numbers = family.planned
        template.build(None if elsewhere is None else elsewhere.kernels)
        family.planned = None
        made = _instantiate(template, symbols, numbers, shape.free, family.seen[0], self._arena)
        if made is not None:
            family.templates.insert(0, (template, symbols, numbers))
            self.kernels.update(template.kernels)
        return made, True

    def _plan(
        self, family: _Family, shape: Outline, events: list[Event], ends: Ends, name: str, elsewhere: Elsewhere | None
    ) -> tuple[Template, list[list[int]], list[int]] | None:
        """A template that serves what the family has seen, without its kernels; None if there is no need for one."""
        if not family.seen or len(family.templates) >= _TEMPLATES:
            return None
        if elsewhere is not None and elsewhere.asked is not None and elsewhere.asked.kind == GRAPH:
            # No template served this segment when its graph was handed to the other process.
            return None
        family.seen[1:] = [*family.seen[1:], shape.free][-_SIGHTINGS + 1 :]
        trail = Trail()
        values, symbols, numbers = _opened(family.seen, shape, trail, len(scalars_of(events, ends)))
        if not symbols and not numbers:
            return None
        return Template(make_graph(events, ends, shape, name, values), trail, len(numbers)), symbols, numbers


def _opened(seen: list[list[Any]], shape: Outline, trail: Trail, scalars: int) -> Any:
    """The free values with symbols for those that changed, and the places of symbols and of open numbers.

    Values that were always equal get one symbol.
    """
    values = list(shape.free)
    numbers: list[int] = []
    constants = set(shape.numbers)
    for place in shape.numbers:
        value = shape.free[place]
        if any(not _same(value, other[place]) for other in seen):
            numbers.append(place)
            values[place] = ir.scalar(scalars + len(numbers) - 1, "f" if isinstance(value, float) else "i")
    classes = opened(seen, trail, constants)
    for places, symbol in classes:
        for place in places:
            values[place] = symbol
    return values, [places for places, _ in classes], numbers


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and bool(a == b)


def _instantiate(
    template: Template, symbols: list[list[int]], numbers: list[int], free: list[Any], first: list[Any], arena: Arena
) -> tuple[Compiled, list[Any]] | None:
    """The template's program for some free values, None if it is not for them."""
    values = values_at(symbols, free)
    if values is None:
        return None
    rest = free.copy()
    for places in symbols:
        for place in places:
            rest[place] = first[place]
    constants = []
    for place in numbers:
        constants.append(free[place])
        rest[place] = first[place]
    # Equal numbers of another type or sign are other numbers.
    if rest != first or any(not _same(a, b) for a, b in zip(rest, first, strict=True) if not a):
        return None
    return template.instantiate(values, constants, arena)
