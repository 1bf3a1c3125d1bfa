"""The pipeline: from a graph to a program that runs in one native call.

In: a graph. Out: `Compiled`, which runs, and which tells what it consists of.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from tracejit.aval import Aval
from tracejit.codegen import text
from tracejit.codegen.generate import generate
from tracejit.codegen.library import panel_columns, plan_call, planners
from tracejit.codegen.text import KernelText
from tracejit.config import logger
from tracejit.ir.graph import Graph
from tracejit.kernels.launch import Launch, Ptr, Scratch
from tracejit.ops import Op
from tracejit.passes import Report, run_passes
from tracejit.runtime.build import Kernel, build_many
from tracejit.runtime.program import Address, Arena, Program, ProgramBuilder, Slot
from tracejit.schedule.groups import CALL
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.lower import missing
from tracejit.schedule.memory import ALIGNMENT, Buffer
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.values import Value, whole

_log = logger("fusion")


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One distinct kernel: what it computes, its text, and how many launches use it."""

    name: str
    doc: str
    text: str
    kernel: Kernel
    launches: int


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One group: its kind, its operations in order, its stage, and why producers beside it are not part of it."""

    kind: str
    ops: tuple[str, ...]
    stage: int
    lines: tuple[str, ...]
    cuts: tuple[str, ...]


@dataclass(slots=True)
class Compiled:
    """A compiled graph.

    `run(pointers, scalars)` takes the addresses of the inputs, then of the outputs (int64; a homed output's is its
    input's), and the scalars (float64, or int64 bits); it gives 0 or an error code that `program.failure` explains.
    Outputs are contiguous. `seconds` is the time by phase, `report` what the passes did.
    """

    program: Program
    kernels: list[KernelInfo]
    groups: list[GroupInfo]
    launches: int
    stages: int
    arena_bytes: int
    seconds: dict[str, float]
    report: Report
    graph: Graph | None = field(repr=False)

    @property
    def releases(self) -> bool:
        """Whether other Python threads may run meanwhile."""
        return self.program.releases

    def run(self, pointers: np.ndarray, scalars: np.ndarray) -> int:
        """Runs the program once."""
        return self.program.run(pointers, scalars)


def supports(op: Op, avals: tuple[Aval | None, ...]) -> bool:
    """Whether an operation on operands of these types (None: a number) can be compiled."""
    if op.family == "library":
        return op.name in planners()
    return missing(op, avals) is None


class _Assembly:
    """Builds the kernels of a plan and puts their launches into a program."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.plan = plan
        self.builder = ProgramBuilder()
        self._external: dict[tuple[str, int], int] = {}
        for k in range(len(graph.inputs)):
            self._external["input", k] = self.builder.external()
        for k in range(len(graph.outputs)):
            self._external["output", k] = self.builder.external()
        self._scalars = [self.builder.scalar() for _ in graph.scalars]
        self._arena: dict[Buffer, int] = {}
        self._wanted: list[tuple[int, KernelText | Launch, list[Slot], str]] = []
        self._infos: dict[str, KernelInfo] = {}
        self.launches = 0

    @property
    def kernels(self) -> list[KernelInfo]:
        return list(self._infos.values())

    def generate(self) -> None:
        """Writes the kernels' texts and finds the library's kernels."""
        for group in self.plan.groups:
            stage = self.plan.stage[group]
            if group.kind == CALL:
                self._want_call(group.members[0], stage)
                continue
            for step, together in enumerate(generate(group, self.plan)):
                for kernel in together:
                    if kernel.units:
                        slots = [self._slot(s) for s in kernel.slots]
                        self._wanted.append((stage + step, kernel, slots, kernel.doc))

    def build(self) -> None:
        """Builds all kernels and adds their launches to the program."""
        sources = [(w.text, w.name) if isinstance(w, KernelText) else w.function for _, w, _, _ in self._wanted]
        for kernel, (stage, wanted, slots, doc) in zip(build_many(sources), self._wanted, strict=True):
            self.builder.add_launch(
                kernel,
                slots,
                units=wanted.units,
                unit_cost=wanted.unit_cost,
                stage=stage,
                fails=isinstance(wanted, Launch) and wanted.fails,
            )
            known = self._infos.get(kernel.symbol)
            times = 1 if known is None else known.launches + 1
            self._infos[kernel.symbol] = KernelInfo(kernel.name, doc, kernel.text, kernel, times)
            self.launches += 1

    def _slot(self, slot: text.Slot) -> Slot:
        if isinstance(slot, text.Place):
            return self._address(slot.buffer, slot.offset)
        return self._scalars[slot.index] if isinstance(slot, text.Scalar) else slot

    def _address(self, buffer: Buffer, offset: int = 0) -> Address:
        if buffer.kind != "arena":
            return Address(self._external[buffer.kind, buffer.index], offset)
        if buffer not in self._arena:
            self._arena[buffer] = self.builder.arena(buffer.offset, buffer.nbytes)
        return Address(self._arena[buffer], offset)

    def _want_call(self, call: Value, stage: int) -> None:
        operands = []
        for read in (*call.reads, *map(whole, call.results)):
            if read.source.numel:
                operands.append(self._address(self.plan.storage[read.source], read.offset * read.source.dtype.itemsize))
            else:
                # An operand without elements: any address will do.
                operands.append(Address(self.builder.arena(0, ALIGNMENT)))
        scratch = self.plan.scratch.get(call)
        shared = Address(self.builder.arena(0, ALIGNMENT)) if scratch is None else self._address(scratch)
        for step, launch in enumerate(call.launches):
            slots = library_slots(launch, operands, shared)
            self._wanted.append((stage + step, launch, slots, f"Library: {call.name}."))


def library_slots(launch: Launch, operands: list[Address], scratch: Address) -> list[Slot]:
    """The argument block of a library launch."""
    return [operands[s.index] if isinstance(s, Ptr) else scratch if isinstance(s, Scratch) else s for s in launch.slots]


def describe(graph: Graph, plan: Plan) -> list[GroupInfo]:
    """What each group of a plan is, and why it is not part of another."""
    cuts: dict[Value, list[str]] = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.consumer, []).append(f"{cut.producer.name} -> {cut.consumer.name}: {cut.reason}")
    infos = []
    for group in plan.groups:
        lines = [graph.lines[v.node] for v in group.members if v.node is not None and v.node in graph.lines]
        reasons = [reason for v in group.members for reason in cuts.get(v, [])]
        infos.append(
            GroupInfo(
                group.kind,
                tuple(v.name for v in group.members),
                plan.stage[group],
                tuple(dict.fromkeys(lines)),
                tuple(dict.fromkeys(reasons)),
            )
        )
    return infos


def compile_graph(graph: Graph, arena: Arena | None = None) -> Compiled:
    """Compiles a graph into one native program, whose intermediate values may share an arena with other programs'.

    Raises: NotImplementedError naming an operation that has no kernel (see `supports`).
    Cost: about 30 ms for each kernel that is not in the cache.
    """
    clock = _Clock()
    simplified, report = run_passes(graph)
    clock.lap("passes")
    simplified = arrange_products(simplified, panel_columns)
    plan = make_plan(simplified, plan_call)
    clock.lap("schedule")
    assembly = _Assembly(simplified, plan)
    assembly.generate()
    clock.lap("codegen")
    assembly.build()
    clock.lap("build")
    program = assembly.builder.build(arena)
    groups = describe(simplified, plan)
    clock.lap("program")
    _log.debug("%s: %d groups, %d launches, %d stages", graph.name, len(groups), assembly.launches, plan.stages)
    return Compiled(
        program,
        assembly.kernels,
        groups,
        assembly.launches,
        plan.stages,
        plan.arena_bytes,
        clock.seconds,
        report,
        simplified,
    )


class _Clock:
    """Times phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._begin
        self._begin = now
