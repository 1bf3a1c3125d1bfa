"""The pipeline for a GPU: from a graph to a program of a device.

In: a graph, a context and a pool of its device. Out: `DeviceProgram`, or `GpuCompiled`, which takes and gives what a
CPU's `Compiled` does.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tracejit.codegen.cuda.generate import generate
from tracejit.codegen.cuda.library import plan_call, plan_with_calls
from tracejit.codegen.cuda.text import CudaCall, CudaText
from tracejit.compiler import Notes, Outcome, Planned, plan_graph
from tracejit.errors import CudaError
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.kernels.cuda.blas import is_call
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.cuda.cublas import is_there
from tracejit.runtime.cuda.driver import Context
from tracejit.runtime.cuda.gpu import Gpu
from tracejit.runtime.cuda.memory import Block, Pool
from tracejit.runtime.cuda.program import DeviceProgram, Work
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, fails
from tracejit.schedule.spaces import Group


def _is_own(node: Node) -> bool:
    """Whether a product is not one of the GPU's library, whose bits may depend on how it is asked for."""
    return not is_call(node.dtype.name, node.shape, node.args[0].shape[-1])


def plan_for_gpu(graph: Graph, calls: bool = False) -> Outcome:
    """The plan of a graph: as for the CPU, but for what only the CPU's products gain from.

    `calls` says that large products are those of the GPU's library.
    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    planner, arrange = plan_call, partial(arrange_products, panel_columns=None)
    if calls:
        planner, arrange = plan_with_calls, partial(arrange, movable=_is_own)
    return plan_graph(graph, planner, arrange=arrange, strands=False, sums=False)


def compile_for_gpu(graph: Graph, context: Context, pool: Pool) -> DeviceProgram:
    """Plans a graph as for the CPU, and writes its kernels for a GPU; they are compiled when they first run.

    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    return _compile(graph, context, pool)[1]


def _compile(graph: Graph, context: Context, pool: Pool) -> tuple[Outcome, DeviceProgram]:
    outcome = plan_for_gpu(graph, is_there(context))
    plan, scalars, readable = outcome.plan, len(graph.scalars), _readable(graph)
    return outcome, DeviceProgram(context, pool, _stages(plan), plan.arena_bytes, scalars, readable)


def _readable(graph: Graph) -> list[int]:
    """The bytes of each input that a program may copy before it reads them; 0 if it may not."""
    written = set(graph.homes.values())
    return [
        0 if k in written or node.attrs[1] is not None else node.tensor.numel * node.dtype.itemsize
        for k, node in enumerate(graph.inputs)
    ]


def _stages(plan: Plan) -> list[list[Work]]:
    stages: list[list[Work]] = [[] for _ in range(plan.stages)]
    for group in plan.groups:
        # Memory is used again from stage to stage, so the order of stages is that of the launches.
        for step, work in enumerate(_work(group, plan), plan.stage[group]):
            stages[step] += work
    return stages


def _work(group: Group, plan: Plan) -> list[list[Work]]:
    wide, plain = generate(group, plan), generate(group, plan, vectors=False)
    home = any(v in plan.storage and plan.storage[v].kind == "input" for v in plan.stored(group))
    return [
        [Work(*both, fails(group), home) for both in zip(*stage, strict=True)]
        for stage in zip(wide, plain, strict=True)
    ]


_LINES = 8
"""How many of a program's lines an error names."""


@dataclass(frozen=True, slots=True)
class GpuKernelInfo:
    """One distinct kernel: what it computes, its text, and how many launches use it."""

    name: str
    doc: str
    text: str
    symbol: str
    launches: int


@dataclass(slots=True)
class GpuCompiled(Planned):
    """A graph compiled for a GPU: what `compiler.Compiled` is for the CPU.

    `hosts` are the inputs that are single numbers in the host's memory.
    """

    machine: Gpu
    program: DeviceProgram
    kernels: list[GpuKernelInfo]
    launches: int
    stages: int
    arena_bytes: int
    seconds: dict[str, float]
    source: Graph = field(repr=False)
    _notes: Notes = field(repr=False)
    hosts: list[tuple[int, int, Block]] = field(repr=False)
    releases = True

    @property
    def notes(self) -> Notes:
        """What planning decided."""
        return self._notes

    def empty(self, shape: tuple[int, ...], kind: np.dtype) -> DeviceArray:
        """Memory for a result."""
        return self.machine.empty(shape, kind)

    def run(self, pointers: np.ndarray, scalars: np.ndarray) -> int:
        """Asks for one run: addresses and scalars as those of `Compiled.run`; 0 or an error code, with nothing changed.

        Cost: waits for the kernels that may find something wrong.
        """
        try:
            return self._run(pointers, scalars)
        except CudaError as error:
            lines = list(dict.fromkeys(self.source.lines.values()))
            where = ", ".join(lines[:_LINES]) + ", ..." * (len(lines) > _LINES)
            error.add_note(
                f"found when the program of {self.source.name} was asked for, whose operations are of {where}; "
                "it may be the fault of what was asked for before"
            )
            raise

    def _run(self, pointers: np.ndarray, scalars: np.ndarray) -> int:
        graph, machine = self.source, self.machine
        inputs = len(graph.inputs)
        addresses = pointers.tolist()
        for place, nbytes, block in self.hosts:
            number = np.frombuffer(ctypes.string_at(addresses[place], nbytes), np.uint8)
            machine.context.put(block.address, number)
            addresses[place] = block.address
        given, outputs = addresses[:inputs], addresses[inputs : inputs + len(graph.outputs)]
        for output, place in graph.homes.items():
            outputs[output] = given[place]
        return self.program.run(given, outputs, scalars[: len(graph.scalars)])


def compile_region(graph: Graph, machine: Gpu, hosts: Sequence[bool]) -> GpuCompiled:
    """Compiles a graph whose inputs are in the GPU's memory but for `hosts`, which are single numbers of the host.

    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    for node, host in zip(graph.inputs, hosts, strict=True):
        if host and node.shape:
            raise NotImplementedError("a tensor of the host's memory is beside those on the GPU")
    begin = time.perf_counter()
    outcome, program = _compile(graph, machine.context, machine.pool)
    alike: dict[str, list[CudaText | CudaCall]] = {}
    for kernel in program.kernels:
        alike.setdefault(f"{kernel.name} {kernel.text}", []).append(kernel)
    kernels = [GpuKernelInfo(k[0].name, k[0].doc, k[0].text, key, len(k)) for key, k in alike.items()]
    blocks = [
        (place, node.dtype.itemsize, machine.pool.allocate(node.dtype.itemsize))
        for place, (node, host) in enumerate(zip(graph.inputs, hosts, strict=True))
        if host
    ]
    seconds = {"all": time.perf_counter() - begin}
    launches = sum(k.launches for k in kernels)
    plan, notes = outcome.plan, outcome.notes()
    return GpuCompiled(
        machine, program, kernels, launches, plan.stages, plan.arena_bytes, seconds, graph, notes, blocks
    )
