"""Programs with open sizes: planned once, then laid out for any sizes by which everything would be decided alike.

In: a graph whose sizes are symbols. Out: `Template.instantiate`, which gives programs for values of the symbols, and
`Template.run`, which needs none for a few launches.
Must not know: tensors, traces.

Kernels take their sizes as arguments, so a program for other sizes has the same kernels; what is worked out again are
the arguments, the ways of library operations, the arena, and the shares of the threads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.codegen.generate import generate
from tracejit.codegen.library import plan_call
from tracejit.codegen.text import KernelText, Place, Scalar
from tracejit.compiler import Compiled, KernelInfo, library_slots, plan_graph
from tracejit.ir.graph import Graph
from tracejit.ops import Op
from tracejit.runtime.arrays import empty
from tracejit.runtime.build import Kernel, build, build_many, missing
from tracejit.runtime.entry import ENTRY, MAX_SLOTS
from tracejit.runtime.program import Address, Arena, ProgramBuilder, Slot
from tracejit.runtime.recipe import Origin
from tracejit.runtime.team import launch as run_launch
from tracejit.schedule.lower import Layout
from tracejit.schedule.memory import ALIGNMENT, Buffer, place
from tracejit.schedule.plan import Plan, scratch_bytes
from tracejit.schedule.spaces import CALL
from tracejit.schedule.values import Value, whole
from tracejit.symbols import Cost, Size, Trail, present, text

_PROBES = (1, 2, 5, 9, 40, 300)
"""Sizes at which library operations are asked for the kernel that they would take."""
_FEW = 4
"""Launches up to which running one after another takes less time than a program that is made for one run."""
_KNOWN = 256
"""Values of the symbols for which is remembered what follows from them."""
_BYTE = np.dtype(np.uint8)


def _plan_present(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> Any:
    """The launches of a library operation for the present sizes."""
    return plan_call(op, tuple(Layout(d, present(s), present(t)) for d, s, t in layouts), present(attrs))


class _Wanted:
    """What is worked out anew for each sizes: each different expression once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[str, int] = {}

    def __call__(self, x: Any) -> Any:
        """Where the value will be found, or the value itself if it depends on no symbol."""
        if isinstance(x, tuple):
            return tuple(map(self, x))
        if not isinstance(x, (Size, Cost)):
            return x
        name = text(x)
        at = self._known.get(name)
        if at is None:
            at = self._known[name] = len(self.values)
            self.values.append(x)
        return _At(at)


@dataclass(frozen=True, slots=True)
class _At:
    """Stands for a value of the list that `_Wanted` makes."""

    index: int


def _fill(x: Any, found: list[Any]) -> Any:
    if type(x) is _At:
        return found[x.index]
    return tuple([_fill(item, found) for item in x]) if type(x) is tuple else x


@dataclass(slots=True)
class _Generated:
    """Launches of a generated kernel, given by text and name: slots that hold a number, and those that hold one that
    depends on sizes (with where it is found), an address (with buffer and offset), a run-time number (with its place).
    """

    source: tuple[str, str]
    slots: list[Any]
    open: list[tuple[int, int]]
    addresses: list[tuple[int, int, Any]]
    numbers: list[tuple[int, int]]
    units: Any
    unit_cost: Any
    stage: int
    doc: str


@dataclass(slots=True)
class _Call:
    """A library operation: planned anew unless its sizes are the same in all programs.

    `present` are the layouts and attributes that `launches` are for. `scratch` is the number of the arena's buffer that
    the launches share, -1 if they need none.
    """

    op: Op
    layouts: tuple[Any, ...]
    attrs: tuple[Any, ...]
    operands: list[tuple[int, Any]]
    launches: tuple[Any, ...]
    present: tuple[tuple[Layout, ...], tuple[Any, ...]]
    fixed: bool
    scratch: int
    stage: int
    doc: str


class Template:
    """A planned graph whose sizes are symbols.

    The last `constants` scalars of the graph are no run-time numbers, but given when a program is made. It has no
    kernels until they are built.
    """

    def __init__(self, graph: Graph, trail: Trail, constants: int) -> None:
        begin = time.perf_counter()
        self._externals = len(graph.inputs) + len(graph.outputs)
        self._inputs = len(graph.inputs)
        self._scalars = len(graph.scalars) - constants
        self._kinds = graph.scalars[self._scalars :]
        self._graph = graph
        outcome = plan_graph(graph, _plan_present, strands=False)
        plan, self._notes = outcome.plan, outcome.notes()
        self._stages = plan.stages
        self._wanted = _Wanted()
        self._arena = [(self._wanted(b.nbytes), b.first, b.last) for b in plan.arena]
        self._place_of = {b: k for k, b in enumerate(plan.arena)}
        self._items: list[_Generated | _Call] = []
        self._collect(plan)
        self._order = sorted(
            (item.stage + step, k, step)
            for k, item in enumerate(self._items)
            for step in range(len(item.launches) if isinstance(item, _Call) else 1)
        )
        self._outputs = [(self._wanted(o.shape), o.dtype.np) for o in graph.outputs]
        self._ways = self._find_ways(trail)
        self._evaluate: Callable[[Sequence[int]], list[Any] | None] = trail.function(self._wanted.values)
        self._known: dict[tuple[int, ...], Any] = {}
        self.seconds = time.perf_counter() - begin
        """What planning took."""

    # --- planning -----------------------------------------------------------------------------------------------------

    def _collect(self, plan: Plan) -> None:
        texts: list[tuple[int, KernelText]] = []
        for group in plan.groups:
            stage = plan.stage[group]
            if group.kind == CALL:
                self._items.append(self._call(group.members[0], plan, stage))
                continue
            for step, together in enumerate(generate(group, plan)):
                texts += [(stage + step, kernel) for kernel in together if kernel.units]
        self._items += [self._generated(kernel, stage) for stage, kernel in texts]

    def _generated(self, t: KernelText, stage: int) -> _Generated:
        slots = [self._slot(s) for s in t.slots]
        changing = [(k, s.index) for k, s in enumerate(slots) if type(s) is _At]
        addresses = [(k, *s) for k, s in enumerate(slots) if type(s) is tuple]
        numbers = [(k, s.index) for k, s in enumerate(slots) if type(s) is Scalar]
        units, cost = self._wanted(t.units), self._wanted(t.unit_cost)
        return _Generated((t.text, t.name), slots, changing, addresses, numbers, units, cost, stage, t.doc)

    def _slot(self, slot: Any) -> Any:
        if isinstance(slot, Place):
            return self._address(slot.buffer, slot.offset)
        return slot if isinstance(slot, Scalar) else self._wanted(slot)

    def _address(self, buffer: Buffer | None, offset: Any) -> Any:
        """Number of the program's buffer (inputs, outputs, arena) and the offset in it."""
        if buffer is None:
            return (self._externals + len(self._arena), 0)
        if buffer.kind == "arena":
            return (self._externals + self._place_of[buffer], self._wanted(offset))
        return (buffer.index if buffer.kind == "input" else self._inputs + buffer.index, self._wanted(offset))

    def _call(self, call: Value, plan: Plan, stage: int) -> _Call:
        assert call.op is not None
        reads = [*call.reads, *map(whole, call.results)]
        layouts = tuple((r.source.dtype.name, self._wanted(r.shape), self._wanted(r.strides)) for r in reads)
        attrs = self._wanted(call.attrs)
        operands = []
        for r in reads:
            buffer = plan.storage[r.source] if r.source.numel else None
            operands.append(self._address(buffer, r.offset * r.source.dtype.itemsize if buffer else 0))
        fixed = not _has_open((layouts, attrs))
        scratch = self._place_of[plan.scratch[call]] if call in plan.scratch else -1
        doc = f"Library: {call.op.name}."
        now = tuple([Layout(r.source.dtype.name, present(r.shape), present(r.strides)) for r in reads])
        given = now, present(call.attrs)
        return _Call(call.op, layouts, attrs, operands, call.launches, given, fixed, scratch, stage, doc)

    def _find_ways(self, trail: Trail) -> dict[Any, Origin]:
        """The kernels that library operations take at these sizes and at others, so that none is missing later."""
        evaluate = trail.function(self._wanted.values, unconditional=True)
        ways: dict[Any, Origin] = {}
        calls = [item for item in self._items if isinstance(item, _Call)]
        for call in calls:
            ways.update(_origins(call.op, *call.present, call.launches))
        for probe in _PROBES:
            try:
                found = evaluate([probe] * trail.symbols)
                assert found is not None
                for call in calls:
                    if not call.fixed:
                        ways.update(_origins(call.op, *_at(call, found), self._planned(call, found) or ()))
            except (ArithmeticError, ValueError, TypeError, IndexError):
                # The sizes of a probe need not belong together.
                continue
        return ways

    def build_own(self) -> None:
        """Builds the kernels that are generated: those of the library are then built when they are first used."""
        texts = [item.source for item in self._items if isinstance(item, _Generated)]
        self._kernels = dict(zip(texts, build_many(texts), strict=True))

    def build(self, elsewhere: Callable[[str, list[tuple[str, str]], list[Origin]], None] | None = None) -> None:
        """Builds the kernels.

        `elsewhere` is told those that are not on disk, texts with names and kernels of the library, and a digest of
        them all; it may raise, to have them compiled by another process.

        Raises: what `elsewhere` raises.
        """
        texts = [item.source for item in self._items if isinstance(item, _Generated)]
        if elsewhere is not None:
            new = missing([*texts, *self._ways])
            if new:
                digest = hashlib.sha256("".join(new.values()).encode()).hexdigest()
                lacking = [self._ways[source] for source in new if not isinstance(source, tuple)]
                elsewhere(digest, [source for source in new if isinstance(source, tuple)], lacking)
        kernels = build_many([*texts, *self._ways])
        self._kernels = dict(zip(texts, kernels, strict=False))
        self.kernels = [kernel.symbol for kernel in kernels[len(texts) :]]

    # --- programs -----------------------------------------------------------------------------------------------------

    def instantiate(
        self, values: Sequence[int], constants: Sequence[Any], arena: Arena
    ) -> tuple[Compiled, list[Any]] | None:
        """The program for these values of the symbols, shape and type of its outputs; None if it needs another plan.

        Edge: the kernels must have been built.
        """
        begin = time.perf_counter()
        decided = self._decide(values)
        if decided is None:
            return None
        found, calls, sizes = decided
        buffers = [Buffer("arena", 0, n, first, last) for n, (_, first, last) in zip(sizes, self._arena, strict=True)]
        builder = ProgramBuilder()
        builder.external(self._externals)
        scalars: list[Slot] = [builder.scalar() for _ in range(self._scalars)]
        scalars += [
            float(c) if kind == "f" else _signed(int(c)) for c, kind in zip(constants, self._kinds, strict=True)
        ]
        nbytes = place(buffers)
        for buffer in buffers:
            builder.arena(buffer.offset, buffer.nbytes)
        builder.arena(0, ALIGNMENT)
        used: dict[str, tuple[Kernel, str, int]] = {}
        launched = 0

        def note(kernel: Kernel, doc: str) -> None:
            _, first, times = used.get(kernel.symbol, (kernel, doc, 0))
            used[kernel.symbol] = (kernel, first, times + 1)

        for item, launches in zip(self._items, calls, strict=True):
            if type(item) is _Generated:
                slots = item.slots.copy()
                for k, at in item.open:
                    slots[k] = found[at]
                for k, at, offset in item.addresses:
                    slots[k] = Address(at, _fill(offset, found))
                for k, at in item.numbers:
                    slots[k] = scalars[at]
                units = _fill(item.units, found)
                cost = _fill(item.unit_cost, found)
                kernel = self._kernels[item.source]
                builder.add_launch(kernel, slots, units=units, unit_cost=cost, stage=item.stage)
                note(kernel, item.doc)
                launched += 1
                continue
            assert isinstance(item, _Call)
            operands = [Address(at, _fill(offset, found)) for at, offset in item.operands]
            scratch = Address(self._room(item))
            for step, launch in enumerate(launches):
                kernel = build(launch.function)
                builder.add_launch(
                    kernel,
                    library_slots(launch, operands, scratch),
                    units=launch.units,
                    unit_cost=launch.unit_cost,
                    stage=item.stage + step,
                    fails=launch.fails,
                    grain=launch.grain,
                )
                note(kernel, item.doc)
                launched += 1
        program = builder.build(arena)
        infos = [KernelInfo(k.name, doc, k.text, k, times) for k, doc, times in used.values()]
        seconds = {"layout": time.perf_counter() - begin}
        source = lambda: self._graph  # noqa: E731
        compiled = Compiled(program, infos, launched, self._stages, nbytes, seconds, None, source, self._notes)
        return compiled, [(_fill(shape, found), kind) for shape, kind in self._outputs]

    def _decide(self, values: Sequence[int]) -> tuple[list[Any], list[tuple[Any, ...]], list[int]] | None:
        """What follows from the symbols: the wanted values, each item's launches if it is a library operation, bytes of
        the buffers in the arena. None if another plan is needed.
        """
        try:
            found = self._evaluate(values)
        except ZeroDivisionError:
            return None
        if found is None:
            return None
        sizes = [_fill(n, found) for n, _, _ in self._arena]
        calls: list[tuple[Any, ...]] = []
        for item in self._items:
            if type(item) is not _Call:
                calls.append(())
                continue
            launches = item.launches if item.fixed else self._planned(item, found)
            if launches is None:
                return None
            if item.scratch >= 0 and not item.fixed:
                sizes[item.scratch] = scratch_bytes(launches)
            calls.append(launches)
        return found, calls, sizes

    def run(
        self, values: Sequence[int], arrays: Sequence[np.ndarray], numbers: Sequence[Any]
    ) -> tuple[list[np.ndarray], int] | None:
        """New arrays with what the graph computes, and the code of the launch that failed or 0: for sizes that may not
        be met again, without a program. None if these sizes need another plan.

        Edge: only where `is_short`; the kernels must have been built.
        Cost: 10 us, and for each launch 2 to 5, or 30 where it is one of a library operation.
        """
        key = tuple(values)
        decided = self._known.get(key)
        if decided is None:
            decided = self._decide(values)
            if decided is None:
                return None
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = decided
        found, calls, sizes = decided
        if any(len(launch.slots) > MAX_SLOTS for launches in calls for launch in launches):
            return None
        outs = [empty(_fill(shape, found), kind) for shape, kind in self._outputs]
        buffers = [*arrays, *outs, *[empty((n,), _BYTE) for n in sizes], empty((ALIGNMENT,), _BYTE)]

        def address(buffer: int, offset: Any) -> Any:
            begin = _fill(offset, found)
            return ENTRY.address_of(buffers[buffer]) + begin if begin else buffers[buffer]

        for _, k, step in self._order:
            item = self._items[k]
            if type(item) is _Generated:
                slots = item.slots.copy()
                for at, which in item.open:
                    slots[at] = found[which]
                for at, buffer, offset in item.addresses:
                    slots[at] = address(buffer, offset)
                for at, which in item.numbers:
                    slots[at] = numbers[which]
                units, cost = _fill(item.units, found), _fill(item.unit_cost, found)
                kernel = self._kernels[item.source]
            else:
                assert isinstance(item, _Call)
                launch = calls[k][step]
                operands: list[Any] = [address(buffer, offset) for buffer, offset in item.operands]
                slots = library_slots(launch, operands, buffers[self._room(item)])
                units, cost, kernel = launch.units, launch.unit_cost, build(launch.function)
            code = run_launch(kernel.address, units, cost, *slots)
            if code:
                return outs, code
        return outs, 0

    def _room(self, call: _Call) -> int:
        """The buffer that is a library operation's scratch memory, or the one that is nothing."""
        return self._externals + (call.scratch if call.scratch >= 0 else len(self._arena))

    @property
    def is_short(self) -> bool:
        """Whether `run` may be used: a few launches, none with many slots."""
        slots = [len(item.slots) for item in self._items if isinstance(item, _Generated)]
        slots += [len(launch.slots) for item in self._items if isinstance(item, _Call) for launch in item.launches]
        return len(slots) <= _FEW and max(slots, default=0) <= MAX_SLOTS

    @staticmethod
    def _planned(call: _Call, found: list[Any]) -> tuple[Any, ...] | None:
        """The launches for these sizes, if they take the place of those that were planned."""
        try:
            launches = plan_call(call.op, *_at(call, found))
        except (ValueError, NotImplementedError):
            return None
        same = len(launches) == len(call.launches) and all(
            a.fails == b.fails for a, b in zip(launches, call.launches, strict=True)
        )
        if call.scratch < 0 and scratch_bytes(launches):
            return None
        return launches if same else None


def _at(call: _Call, found: list[Any]) -> tuple[tuple[Layout, ...], tuple[Any, ...]]:
    """Layouts and attributes of a library operation for some sizes."""
    return tuple([Layout(*_fill(layout, found)) for layout in call.layouts]), _fill(call.attrs, found)


def _origins(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...], launches: Sequence[Any]) -> dict[Any, Origin]:
    """The functions of a library operation's launches, each with where it comes from."""
    plain = tuple(map(tuple, layouts))
    return {launch.function: (op.name, plain, attrs, step) for step, launch in enumerate(launches)}


def _has_open(x: Any) -> bool:
    return type(x) is _At or (type(x) is tuple and any(map(_has_open, x)))


def _signed(value: int) -> int:
    return int(np.uint64(value & 0xFFFFFFFFFFFFFFFF).astype(np.int64))
