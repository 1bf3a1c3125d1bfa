"""The pipeline: from a graph to a program that runs in one native call.

In: a graph. Out: `Compiled`, which runs, and which tells what it consists of.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from tracejit.aval import Aval
from tracejit.codegen.generate import generate
from tracejit.codegen.library import plan_call, planners
from tracejit.codegen.text import KernelText, Place, Scalar
from tracejit.config import logger
from tracejit.ir.graph import Graph
from tracejit.kernels.launch import Ptr
from tracejit.ops import Op
from tracejit.runtime.build import Kernel, build
from tracejit.runtime.program import Address, Program, ProgramBuilder
from tracejit.schedule.groups import CALL, Group
from tracejit.schedule.lower import missing
from tracejit.schedule.memory import Buffer
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.values import Value

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
    report: object = None
    graph: Graph | None = field(default=None, repr=False)

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
        self._infos: dict[str, KernelInfo] = {}
        self.launches = 0
        self.generating = 0.0
        self.building = 0.0

    @property
    def kernels(self) -> list[KernelInfo]:
        return list(self._infos.values())

    def add(self, group: Group) -> None:
        """Adds a group's launches."""
        stage = self.plan.stage[group]
        begin = time.perf_counter()
        if group.kind == CALL:
            self._add_call(group.members[0], stage)
            self.building += time.perf_counter() - begin
            return
        texts = generate(group, self.plan)
        self.generating += time.perf_counter() - begin
        begin = time.perf_counter()
        for step, together in enumerate(texts):
            for text in together:
                self._add_text(text, stage + step)
        self.building += time.perf_counter() - begin

    def _address(self, buffer: Buffer, offset: int = 0) -> Address:
        if buffer.kind != "arena":
            return Address(self._external[buffer.kind, buffer.index], offset)
        if buffer not in self._arena:
            self._arena[buffer] = self.builder.arena(buffer.offset, buffer.nbytes)
        return Address(self._arena[buffer], offset)

    def _count(self, kernel: Kernel, doc: str) -> None:
        known = self._infos.get(kernel.symbol)
        launches = 1 if known is None else known.launches + 1
        self._infos[kernel.symbol] = KernelInfo(kernel.name, doc, kernel.text, kernel, launches)
        self.launches += 1

    def _add_text(self, text: KernelText, stage: int) -> None:
        if text.units == 0:
            return
        kernel = build(text.text, text.name)
        slots = [
            self._address(s.buffer, s.offset)
            if isinstance(s, Place)
            else self._scalars[s.index]
            if isinstance(s, Scalar)
            else s
            for s in text.slots
        ]
        self.builder.add_launch(kernel, slots, units=text.units, unit_cost=text.unit_cost, stage=stage)
        self._count(kernel, text.doc)

    def _operands(self, call: Value) -> list[Address]:
        found = []
        for read in call.reads:
            if read.source.numel:
                offset = read.offset * read.source.dtype.itemsize
                found.append(self._address(self.plan.storage[read.source], offset))
            else:
                found.append(self._nowhere())
        for result in call.results:
            found.append(self._address(self.plan.storage[result]) if result.numel else self._nowhere())
        return found

    def _nowhere(self) -> Address:
        """A buffer for operands without elements."""
        return Address(self.builder.arena(0, 64))

    def _add_call(self, call: Value, stage: int) -> None:
        operands = self._operands(call)
        for step, launch in enumerate(call.launches):
            kernel = build(launch.function)
            slots = [operands[s.index] if isinstance(s, Ptr) else s for s in launch.slots]
            self.builder.add_launch(
                kernel,
                slots,
                units=launch.units,
                unit_cost=launch.unit_cost,
                stage=stage + step,
                fails=launch.fails,
            )
            self._count(kernel, f"Library: {call.name}.")


def _describe(graph: Graph, plan: Plan) -> list[GroupInfo]:
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


def compile_graph(graph: Graph) -> Compiled:
    """Compiles a graph into one native program.

    Raises: NotImplementedError naming an operation that has no kernel (see `supports`).
    Cost: about 30 ms for each kernel that is not in the cache.
    """
    seconds: dict[str, float] = {}
    begin = time.perf_counter()
    plan = make_plan(graph, plan_call)
    seconds["schedule"] = time.perf_counter() - begin
    assembly = _Assembly(graph, plan)
    for group in plan.groups:
        assembly.add(group)
    seconds["codegen"] = assembly.generating
    seconds["build"] = assembly.building
    begin = time.perf_counter()
    program = assembly.builder.build()
    seconds["program"] = time.perf_counter() - begin
    compiled = Compiled(
        program,
        assembly.kernels,
        _describe(graph, plan),
        assembly.launches,
        plan.stages,
        plan.arena_bytes,
        seconds,
        None,
        graph,
    )
    _log.debug("%s: %d groups, %d launches, %d stages", graph.name, len(plan.groups), assembly.launches, plan.stages)
    return compiled
