"""Programs with open sizes: planned once, then laid out for any sizes by which everything would be decided alike.

In: a graph whose sizes are symbols. Out: `Template.instantiate`, which gives programs for values of the symbols, and
`Template.run`, which needs none: for a few launches, or for sizes that may not be met again.
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
from tracejit.compiler import Compiled, KernelInfo, Notes, Planned, library_slots, plan_graph
from tracejit.ir.graph import Graph
from tracejit.ops import Op
from tracejit.runtime.build import Kernel, build, build_many, missing
from tracejit.runtime.entry import MAX_SLOTS
from tracejit.runtime.program import Address, Arena, ProgramBuilder, Slot
from tracejit.runtime.recipe import Origin
from tracejit.schedule.lower import Layout
from tracejit.schedule.memory import ALIGNMENT, Buffer, place
from tracejit.schedule.plan import Plan, scratch_bytes
from tracejit.schedule.spaces import CALL
from tracejit.schedule.values import Value, whole
from tracejit.symbols import At, Real, Size, Trail, Wanted, fill, present
from tracejit.template_parts import Buffers, Call, Generated, run_function

_PROBES = (1, 2, 5, 9, 40, 300)
"""Sizes at which library operations are asked for the kernel that they would take."""
_FEW = 12
"""Launches up to which running one after another takes less time than a program that is made for one run."""


def _plan_present(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> Any:
    """The launches of a library operation for the present sizes."""
    return plan_call(op, tuple(Layout(d, present(s), present(t)) for d, s, t in layouts), present(attrs))


@dataclass(slots=True)
class Launches(Planned):
    """What there is in place of a program where a template is run for the sizes of each call, as of `Compiled`."""

    kernels: list[KernelInfo]
    launches: int
    stages: int
    arena_bytes: int
    seconds: dict[str, float]
    _notes: Notes

    @property
    def notes(self) -> Notes:
        """What planning decided."""
        return self._notes


class Template:
    """A planned graph whose sizes are symbols.

    The last `constants` scalars of the graph are no run-time numbers, but given when a program is made; instead, they
    may be `derived` from the symbols where it is only run. It has no kernels until they are built.
    """

    def __init__(self, graph: Graph, trail: Trail, constants: int, derived: Sequence[Size | Real] = ()) -> None:
        begin = time.perf_counter()
        self._externals = len(graph.inputs) + len(graph.outputs)
        self._inputs = len(graph.inputs)
        self._scalars = len(graph.scalars) - constants - len(derived)
        self._kinds = graph.scalars[self._scalars :]
        self._graph = graph
        outcome = plan_graph(graph, _plan_present, strands=False)
        plan, self._notes = outcome.plan, outcome.notes()
        self._stages = plan.stages
        self._wanted = Wanted()
        self._bytes = sum(present(b.nbytes) for b in plan.arena)
        self._arena = [(self._wanted(b.nbytes), b.first, b.last) for b in plan.arena]
        self._place_of = {b: k for k, b in enumerate(plan.arena)}
        self._items: list[Generated | Call] = []
        self._collect(plan)
        self._order = sorted(
            (item.stage + step, k, step)
            for k, item in enumerate(self._items)
            for step in range(len(item.launches) if isinstance(item, Call) else 1)
        )
        self.outputs = [(self._wanted(o.shape), o.dtype.np) for o in graph.outputs]
        kinds = graph.scalars[len(graph.scalars) - len(derived) :]
        self._derived = [self._text(n, kind) for n, kind in zip(derived, kinds, strict=True)]
        self._ways = self._find_ways(trail)
        self._trail = trail
        self._evaluate: Callable[[Sequence[int]], list[Any] | None] = trail.function(self._wanted.values)
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

    def _generated(self, t: KernelText, stage: int) -> Generated:
        slots = [self._slot(s) for s in t.slots]
        changing = [(k, s.index) for k, s in enumerate(slots) if type(s) is At]
        addresses = [(k, *s) for k, s in enumerate(slots) if type(s) is tuple]
        numbers = [(k, s.index) for k, s in enumerate(slots) if type(s) is Scalar]
        units, cost = self._wanted(t.units), self._wanted(t.unit_cost)
        return Generated((t.text, t.name), slots, changing, addresses, numbers, units, cost, stage, t.doc)

    def _text(self, n: Any, kind: str) -> str:
        """A number that follows from the symbols, in Python."""
        if type(n) is Real:
            return f"{self._text(n.size, 'i')} / {self._text(n.by, 'i')}"
        at = self._wanted(n)
        place = f"v{at.index}" if type(at) is At else repr(at)
        return f"float({place})" if kind == "f" else place

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

    def _call(self, call: Value, plan: Plan, stage: int) -> Call:
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
        return Call(call.op, layouts, attrs, operands, call.launches, given, fixed, scratch, stage, doc)

    def _find_ways(self, trail: Trail) -> dict[Any, Origin]:
        """The kernels that library operations take at these sizes and at others, so that none is missing later."""
        evaluate = trail.function(self._wanted.values, unconditional=True)
        ways: dict[Any, Origin] = {}
        calls = [item for item in self._items if isinstance(item, Call)]
        for call in calls:
            ways.update(_origins(call.op, *call.present, call.launches))
        for probe in _PROBES:
            try:
                found = evaluate([probe] * trail.symbols)
                assert found is not None
                for call in calls:
                    if not call.fixed:
                        layouts, attrs = _at(call, found)
                        ways.update(_origins(call.op, layouts, attrs, self._planned(call, layouts, attrs) or ()))
            except (ArithmeticError, ValueError, TypeError, IndexError):
                # The sizes of a probe need not belong together.
                continue
        return ways

    def build_own(self) -> None:
        """Builds the kernels that are generated, for `run`: those of the library are built when they are first used."""
        texts = [item.source for item in self._items if isinstance(item, Generated)]
        self._kernels = dict(zip(texts, build_many(texts), strict=True))
        buffers = Buffers(self._inputs, self.outputs, self._graph.homes, self._arena)
        numbers = [f"numbers[{k}]" for k in range(self._scalars)] + self._derived
        launches = self._order, self._items, self._kernels
        self._run = run_function(self._trail, self._wanted, buffers, *launches, numbers, self._planned)

    def build(self, elsewhere: Callable[[str, list[tuple[str, str]], list[Origin]], None] | None = None) -> None:
        """Builds the kernels.

        `elsewhere` is told those that are not on disk, texts with names and kernels of the library, and a digest of
        them all; it may raise, to have them compiled by another process.

        Raises: what `elsewhere` raises.
        """
        texts = [item.source for item in self._items if isinstance(item, Generated)]
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
        used: list[tuple[Kernel, str]] = []
        for item, launches in zip(self._items, calls, strict=True):
            if type(item) is Generated:
                slots = item.slots.copy()
                for k, at in item.open:
                    slots[k] = found[at]
                for k, at, offset in item.addresses:
                    slots[k] = Address(at, fill(offset, found))
                for k, at in item.numbers:
                    slots[k] = scalars[at]
                units = fill(item.units, found)
                cost = fill(item.unit_cost, found)
                kernel = self._kernels[item.source]
                builder.add_launch(kernel, slots, units=units, unit_cost=cost, stage=item.stage)
                used.append((kernel, item.doc))
                continue
            assert isinstance(item, Call)
            operands = [Address(at, fill(offset, found)) for at, offset in item.operands]
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
                used.append((kernel, item.doc))
        program = builder.build(arena)
        infos = _infos(used)
        seconds = {"layout": time.perf_counter() - begin}
        source = lambda: self._graph  # noqa: E731
        compiled = Compiled(program, infos, len(used), self._stages, nbytes, seconds, None, source, self._notes)
        return compiled, [(fill(shape, found), kind) for shape, kind in self.outputs]

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
        sizes = [fill(n, found) for n, _, _ in self._arena]
        calls: list[tuple[Any, ...]] = []
        for item in self._items:
            if type(item) is not Call:
                calls.append(())
                continue
            launches = item.launches if item.fixed else self._planned(item, *_at(item, found))
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

        Edge: only where `runs`; the kernels must have been built.
        Cost: 2 us, and for each launch 1 to 2, or 30 where it is one of a library operation at new sizes.
        """
        try:
            return self._run(values, arrays, numbers)
        except ZeroDivisionError:
            return None

    def _room(self, call: Call) -> int:
        """The buffer that is a library operation's scratch memory, or the one that is nothing."""
        return self._externals + (call.scratch if call.scratch >= 0 else len(self._arena))

    def _slots(self) -> list[int]:
        """How many slots each launch has."""
        slots = [len(item.slots) for item in self._items if isinstance(item, Generated)]
        return slots + [len(one.slots) for item in self._items if isinstance(item, Call) for one in item.launches]

    @property
    def runs(self) -> bool:
        """Whether `run` may be used: no launch has many slots."""
        return max(self._slots(), default=0) <= MAX_SLOTS

    @property
    def is_short(self) -> bool:
        """Whether it may, and there are so few launches that a program would not be worth it."""
        return len(self._slots()) <= _FEW and self.runs

    def launches(self) -> Launches:
        """What `run` does. Edge: the kernels must have been built."""
        used: list[tuple[Kernel, str]] = []
        for item in self._items:
            if isinstance(item, Generated):
                used.append((self._kernels[item.source], item.doc))
            else:
                used += [(build(launch.function), item.doc) for launch in item.launches]
        return Launches(_infos(used), len(used), self._stages, self._bytes, {"plan": self.seconds}, self._notes)

    @staticmethod
    def _planned(call: Call, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The launches for these sizes, if they take the place of those that were planned."""
        try:
            launches = plan_call(call.op, layouts, attrs)
        except (ValueError, NotImplementedError):
            return None
        same = len(launches) == len(call.launches) and all(
            a.fails == b.fails for a, b in zip(launches, call.launches, strict=True)
        )
        if call.scratch < 0 and scratch_bytes(launches):
            return None
        return launches if same else None


def _infos(used: list[tuple[Kernel, str]]) -> list[KernelInfo]:
    """The distinct kernels of launches, each with what its first one computes."""
    found: dict[str, tuple[Kernel, str, int]] = {}
    for kernel, doc in used:
        _, first, times = found.get(kernel.symbol, (kernel, doc, 0))
        found[kernel.symbol] = (kernel, first, times + 1)
    return [KernelInfo(k.name, doc, k.text, k, times) for k, doc, times in found.values()]


def _at(call: Call, found: list[Any]) -> tuple[tuple[Layout, ...], tuple[Any, ...]]:
    """Layouts and attributes of a library operation for some sizes."""
    return tuple([Layout(*fill(layout, found)) for layout in call.layouts]), fill(call.attrs, found)


def _origins(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...], launches: Sequence[Any]) -> dict[Any, Origin]:
    """The functions of a library operation's launches, each with where it comes from."""
    plain = tuple(map(tuple, layouts))
    return {launch.function: (op.name, plain, attrs, step) for step, launch in enumerate(launches)}


def _has_open(x: Any) -> bool:
    return type(x) is At or (type(x) is tuple and any(map(_has_open, x)))


def _signed(value: int) -> int:
    return int(np.uint64(value & 0xFFFFFFFFFFFFFFFF).astype(np.int64))
