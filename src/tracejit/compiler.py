"""The pipeline: from a graph to a program that runs in one native call.

In: a graph. Out: `Compiled`, which runs, and which tells what it consists of.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tracejit.aval import Aval
from tracejit.codegen import text
from tracejit.codegen.library import panel_columns, plan_call, prepared
from tracejit.codegen.repeated import Texts
from tracejit.codegen.text import KernelText
from tracejit.config import SETTINGS, logger
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.ir.text import parse_graph, print_graph
from tracejit.kernels.launch import Launch, Ptr, Scratch
from tracejit.ops import Op, ops
from tracejit.passes import Report, run_passes
from tracejit.runtime.build import Begun, Kernel, begin, build_many, environment, recall
from tracejit.runtime.cache import RECIPE, STORE
from tracejit.runtime.program import Address, Arena, Program, ScalarRef, Slot
from tracejit.runtime.recipe import Origin, Part, Recipe, Step, unpack
from tracejit.schedule import cost
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.lower import Layout, Planner, missing
from tracejit.schedule.memory import ALIGNMENT, Buffer
from tracejit.schedule.plan import Early, Plan, make_plan
from tracejit.schedule.spaces import CALL, Group
from tracejit.schedule.values import whole

_log = logger("fusion")
_PLANNING = (
    "aval",
    "codegen",
    "compiler",
    "dtypes",
    "ir",
    "ops",
    "passes",
    "runtime",
    "schedule",
    "shapes",
    "symbols",
)
"""Modules and packages that decide what a program consists of, beside the kernel library."""
_MANY_VALUES = 256
"""Values whose planning takes longer than the memory costs that a forked process makes the other one copy."""


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One distinct kernel: what it computes, its text, and how many launches use it."""

    name: str
    doc: str
    text: str
    kernel: Kernel
    launches: int

    @property
    def symbol(self) -> str:
        """What tells the kernel from every other one."""
        return self.kernel.symbol


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One group: its kind, its operations in order, its stage, and why producers beside it are not part of it.

    It and its neighbours are done for `block` of `parts` at a time, or for all of them (0). `nodes` are those that it
    computes, `beside` the lines of nodes.
    """

    kind: str
    ops: tuple[str, ...]
    stage: int
    cuts: tuple[str, ...]
    nodes: tuple[Node, ...] = field(repr=False)
    beside: Mapping[Node, str] = field(repr=False, compare=False)
    block: int = 0
    parts: int = 0

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the user's source that it computes."""
        return tuple(dict.fromkeys([self.beside[node] for node in self.nodes if node in self.beside]))


class Notes(NamedTuple):
    """What planning decided: the graph that passes left, what they did, and the groups."""

    graph: Graph
    report: Report
    groups: list[GroupInfo]


class Outcome(NamedTuple):
    """What planning comes to: the plan, the graph that passes left, and what they did."""

    plan: Plan
    graph: Graph
    report: Report

    def notes(self) -> Notes:
        """The same for people."""
        return Notes(self.graph, self.report, describe(self.plan))


class Planned:
    """What planning decided about a graph that is compiled, for a CPU or a GPU."""

    __slots__ = ()

    @property
    def notes(self) -> Notes:
        """What planning decided."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of its plan")

    @property
    def graph(self) -> Graph:
        """The graph that passes left."""
        return self.notes.graph

    @property
    def report(self) -> Report:
        """What the passes did."""
        return self.notes.report

    @property
    def groups(self) -> list[GroupInfo]:
        """The groups in the order of their stages."""
        return self.notes.groups


@dataclass(slots=True)
class Compiled(Planned):
    """A compiled graph.

    `key` is the digest under which its recipe is on disk, if it is. `run(pointers, scalars)` takes the addresses of the
    inputs, then of the outputs (int64; a homed output's is its input's), and the scalars (float64, or int64 bits); it
    gives 0 or an error code that `program.failure` explains. Outputs are contiguous. `seconds` is the time by phase,
    `source` makes the graph that was compiled.
    """

    program: Program
    kernels: list[KernelInfo]
    launches: int
    stages: int
    arena_bytes: int
    seconds: dict[str, float]
    key: str | None
    source: Callable[[], Graph] = field(repr=False)
    _notes: Notes | None = field(repr=False)

    @property
    def notes(self) -> Notes:
        """What planning decided. Cost: planning once more, but for programs of a template."""
        if self._notes is None:
            self._notes = plan_graph(self.source(), plan_call).notes()
        return self._notes

    @property
    def releases(self) -> bool:
        """Whether other Python threads may run meanwhile."""
        return self.program.releases

    def run(self, pointers: np.ndarray, scalars: np.ndarray) -> int:
        """Runs the program once."""
        return self.program.run(pointers, scalars)


def supports(op: Op, avals: tuple[Aval | None, ...]) -> bool:
    """Whether an operation on operands of these types (None: a number) can be compiled."""
    # Every operation of the library has a planner; to look for it would load the whole library.
    return op.family == "library" or missing(op, avals) is None


class _Assembly:
    """Puts the launches of a plan down as a recipe."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.plan = plan
        self._scalars = [ScalarRef(k) for k in range(len(graph.scalars))]
        self._inputs = len(graph.inputs)
        self._externals = self._inputs + len(graph.outputs)
        self._arena: list[tuple[int, int]] = []
        self._place_of: dict[Buffer, int] = {}
        self._met: set[Any] = set()
        """Functions of the library that have been told where they come from."""
        self._wanted: list[tuple[Group, int, KernelText | Launch, tuple[Slot, ...], str, Origin | None]] = []

    def generate(self) -> None:
        """Writes the kernels' texts and finds the library's kernels."""
        texts = Texts(self.plan)
        for group in self.plan.groups:
            stage = self.plan.stage[group]
            if group.kind == CALL:
                self._want_call(group, stage)
                continue
            for step, together in enumerate(texts.generate(group)):
                for kernel in together:
                    if kernel.units:
                        slots = tuple([self._slot(s) for s in kernel.slots])
                        self._wanted.append((group, stage + step, kernel, slots, kernel.doc, None))

    def build(self, begun: Begun | None) -> tuple[Recipe, list[Kernel]]:
        """Builds all kernels, of which some are begun; gives the recipe, and the kernels of its parts."""
        sources = [(w.text, w.name) if isinstance(w, KernelText) else w.function for _, _, w, *_ in self._wanted]
        built = build_many(sources, begun)
        strands = {g: (k, strand.parts) for k, strand in enumerate(self.plan.strands, 1) for g in strand.groups}
        blocks = {group: stages.block for stages in self.plan.blocked for group in stages.groups}
        kernels: dict[Kernel, int] = {}
        parts: list[Part] = []
        steps: list[Step] = []
        for kernel, (group, stage, wanted, slots, doc, origin) in zip(built, self._wanted, strict=True):
            part = kernels.setdefault(kernel, len(kernels))
            if part == len(parts):
                parts.append(Part(kernel.digest, doc, origin))
            fails, grain = (wanted.fails, wanted.grain) if isinstance(wanted, Launch) else (False, 1)
            strand = strands.get(group, (0, 0))
            units, unit_cost, block = int(wanted.units), float(wanted.unit_cost), blocks.get(group, 0)
            steps.append(Step(part, slots, units, unit_cost, stage, fails, *strand, grain, block))
        plan = self.plan
        recipe = Recipe(
            tuple(parts),
            tuple(steps),
            self._externals,
            len(self._scalars),
            tuple(self._arena),
            plan.arena_bytes,
            plan.stages,
        )
        return recipe, list(kernels)

    def _slot(self, slot: text.Slot) -> Slot:
        if isinstance(slot, text.Place):
            return self._address(slot.buffer, slot.offset)
        return self._scalars[slot.index] if isinstance(slot, text.Scalar) else slot

    def _address(self, buffer: Buffer, offset: int = 0) -> Address:
        place = self._place_of.get(buffer)
        if place is None:
            place = self._place_of[buffer] = self._number(buffer)
        return Address(place, offset)

    def _number(self, buffer: Buffer) -> int:
        if buffer.kind == "arena":
            return self._room(buffer.offset, buffer.nbytes)
        return buffer.index if buffer.kind == "input" else self._inputs + buffer.index

    def _room(self, offset: int, nbytes: int) -> int:
        """A buffer of the arena."""
        self._arena.append((offset, nbytes))
        return self._externals + len(self._arena) - 1

    def _want_call(self, group: Group, stage: int) -> None:
        call = group.members[0]
        assert call.op is not None
        operands = []
        reads = [*call.reads, *map(whole, call.results)]
        for read in reads:
            if read.source.numel:
                operands.append(self._address(self.plan.storage[read.source], read.offset * read.source.dtype.itemsize))
            else:
                # An operand without elements: any address will do.
                operands.append(Address(self._room(0, ALIGNMENT)))
        scratch = self.plan.scratch.get(call)
        shared = Address(self._room(0, ALIGNMENT)) if scratch is None else self._address(scratch)
        for step, launch in enumerate(call.launches):
            origin = None
            if launch.function not in self._met:
                self._met.add(launch.function)
                layouts, first = call.origin
                origin = (call.op.name, tuple(map(tuple, layouts)), call.attrs, first + step)
            slots = tuple(library_slots(launch, operands, shared))
            self._wanted.append((group, stage + step, launch, slots, f"Library: {call.name}.", origin))


class _Ahead:
    """Has another process compile the kernels of library operations while the rest of a long plan is made."""

    def __init__(self) -> None:
        self.begun: Begun | None = None

    def begin(self, values: int, launches: Sequence[Any]) -> None:
        """Begins with those of these launches, if planning so many values takes longer than it costs."""
        if values >= _MANY_VALUES:
            self.begun = begin([launch.function for launch in launches])

    def dismiss(self) -> None:
        """What is not asked for by now will not be."""
        if self.begun is not None:
            self.begun.crew.dismiss()


def library_slots(launch: Launch, operands: list[Any], scratch: Any) -> list[Any]:
    """The argument block of a library launch, with what stands for its operands and for its scratch memory."""
    return [
        s if type(s) is int else operands[s.index] if isinstance(s, Ptr) else scratch if isinstance(s, Scratch) else s
        for s in launch.slots
    ]


def describe(plan: Plan) -> list[GroupInfo]:
    """What each group of a plan is, and why it is not part of another."""
    group_of = {value: group for group in plan.groups for value in group.members}
    cuts: dict[Group, list[str]] = {}
    for cut in plan.cuts:
        cuts.setdefault(group_of[cut.consumer], []).append(f"{cut.producer.name} -> {cut.reader}: {cut.reason}")
    blocked = {group: (stages.block, stages.parts) for stages in plan.blocked for group in stages.groups}
    infos = []
    for group in plan.groups:
        reasons = cuts.get(group, [])
        body = group.members[0].body
        names = [v.name for v in group.members] if body is None else [op.name for op, *_ in body.steps]
        nodes = [v.node for v in group.members if v.node is not None] if body is None else group.members[0].nodes
        infos.append(
            GroupInfo(
                group.kind,
                tuple(names),
                plan.stage[group],
                tuple(dict.fromkeys(reasons)),
                tuple(nodes),
                plan.lines,
                *blocked.get(group, (0, 0)),
            )
        )
    return infos


def compile_graph(
    graph: Graph,
    arena: Arena | None = None,
    elsewhere: Callable[[str | None, str], None] | None = None,
    source: Callable[[], Graph] | None = None,
) -> Compiled:
    """Compiles a graph into one native program, whose intermediate values may share an arena with other programs'.

    `elsewhere` is told digest and text of a graph that was not compiled before, and may raise, to have it compiled by
    another process; the digest is None if programs are not kept. `source` makes a graph of the same meaning for who
    asks what planning decided.

    Raises: NotImplementedError naming an operation that has no kernel (see `supports`); what `elsewhere` raises.
    Cost: about 30 ms for each kernel that is not in the cache; a graph that was compiled before, in any process,
        is not planned again: some 0.3 ms and 30 us for each kernel.
    """
    clock = Clock()
    key, content = _identity(graph)
    found = None if key is None else _recall(key)
    clock.lap("recall")
    if found is None:
        if elsewhere is not None:
            elsewhere(key, content)
        ahead = _Ahead()
        try:
            plan = plan_graph(graph, plan_call, clock, early=ahead.begin).plan
            assembly = _Assembly(graph, plan)
            assembly.generate()
            clock.lap("codegen")
            found = assembly.build(ahead.begun)
            plan.release()
        finally:
            ahead.dismiss()
        if key is not None:
            STORE.put(key, graph.name, "", found[0].pack(), RECIPE)
        clock.lap("build")
    return _loaded(found, graph.name, arena, clock, key, (lambda: graph) if source is None else source)


def recall_program(key: str, name: str, source: Callable[[], Graph], arena: Arena) -> Compiled | None:
    """The program of a graph that was compiled before, by the key that `Compiled` told, if all of it is still there.

    Cost: as that of `compile_graph`, without having to make the graph: `source` does if anybody asks for it.
    """
    if SETTINGS.check:
        # Who wants graphs checked after each pass wants passes to run.
        return None
    clock = Clock()
    found = _recall(key)
    clock.lap("recall")
    return None if found is None else _loaded(found, name, arena, clock, key, source)


def _loaded(
    found: tuple[Recipe, list[Kernel]],
    name: str,
    arena: Arena | None,
    clock: Clock,
    key: str | None,
    source: Callable[[], Graph],
) -> Compiled:
    """The program of a recipe and the kernels of its parts."""
    recipe, kernels = found
    program = recipe.program(kernels, arena)
    clock.lap("program")
    launches = Counter(step.part for step in recipe.steps)
    infos = [
        KernelInfo(kernel.name, part.doc, kernel.text, kernel, launches[k])
        for k, (kernel, part) in enumerate(zip(kernels, recipe.parts, strict=True))
    ]
    _log.debug("%s: %d launches, %d stages", name, len(recipe.steps), recipe.stages)
    return Compiled(
        program, infos, len(recipe.steps), recipe.stages, recipe.arena_bytes, clock.seconds, key, source, None
    )


def _arrange(graph: Graph) -> Graph:
    return arrange_products(graph, panel_columns)


def plan_graph(
    graph: Graph,
    planner: Planner,
    clock: Clock | None = None,
    arrange: Callable[[Graph], Graph] | None = None,
    *,
    strands: bool = True,
    sums: bool = True,
    early: Early | None = None,
) -> Outcome:
    """The plan of a graph, and what was decided on the way; `arrange` arranges products for another than the CPU, which
    adds rows at places by kernels of its own without `sums`.

    Who does not use `strands` had better have none: they hold memory longer.
    """
    clock = Clock() if clock is None else clock
    simplified, report = run_passes(graph)
    clock.lap("passes")
    preparing = prepared if strands else None
    plan = make_plan(
        simplified,
        planner,
        arrange=arrange or _arrange,
        strands=strands,
        early=early,
        preparing=preparing,
        scans=strands,
        sums=sums,
        strips=strands,
    )
    clock.lap("schedule")
    return Outcome(plan, simplified, report)


def is_compiling() -> bool:
    """Whether Python runs for a compiler alone: never, what it does in a region is what it does without one."""
    return False


# --- recipes on disk --------------------------------------------------------------------------------------------------


@functools.cache
def version() -> str:
    """Digest of everything but the graph that a recipe depends on: this package, numba, Python, the CPU."""
    digest = hashlib.sha256(f"{environment()}\n{cost.FAR_BYTES}".encode())
    root = os.path.dirname(__file__)
    for name in _PLANNING:
        folder = os.path.join(root, name)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else [f"{folder}.py"]
        for path in names:
            if path.endswith(".py"):
                # Without a buffer, and without objects for paths: every process begins with this.
                with open(os.path.join(folder, path), "rb", buffering=0) as file:
                    digest.update(file.read())
    return digest.hexdigest()


def _identity(graph: Graph) -> tuple[str | None, str]:
    """Digest and text of a graph, whatever its name and its lines; no digest if its program is planned each time."""
    try:
        content = print_graph(graph, lines=False, name="graph")
    except TypeError:
        # It holds what has no text.
        return None, ""
    if SETTINGS.check:
        # Who wants graphs checked after each pass wants passes to run.
        return None, content
    return hashlib.sha256(f"{version()}\n{content}".encode()).hexdigest(), content


def compile_text(key: str, content: str) -> None:
    """Compiles the graph of a text for another process, which will find it on disk under this digest.

    Raises: KeyError if the graph has another digest in this process; what `compile_graph` raises.
    """
    graph = parse_graph(content)
    if _identity(graph)[0] != key:
        raise KeyError("the process that compiles has another version of tracejit, numba or Python, or another CPU")
    compile_graph(graph)


def compile_kernels(texts: Sequence[tuple[str, str]], origins: Sequence[Origin]) -> None:
    """Builds kernels for another process, which will find them on disk: texts with names, and those of the library."""
    build_many([*texts, *map(_library_kernel, origins)])


def _recall(key: str) -> tuple[Recipe, list[Kernel]] | None:
    """A recipe that was kept and the kernels of its parts, if all of it is still there."""
    data = STORE.get(key, RECIPE)
    if data is None:
        return None
    recipe = unpack(data)
    kernels = []
    for part in recipe.parts:
        kernel = recall(part.digest, None if part.origin is None else functools.partial(_library_kernel, part.origin))
        if kernel is None:
            return None
        kernels.append(kernel)
    return recipe, kernels


def _library_kernel(origin: Origin) -> Any:
    """The function of a kernel of the library, by the call that it was planned for."""
    name, layouts, attrs, step = origin
    (op,) = (op for op in ops if op.name == name)
    return plan_call(op, tuple([Layout(*layout) for layout in layouts]), attrs)[step].function


class Clock:
    """Times phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Notes what has passed since the lap before."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._begin
        self._begin = now
