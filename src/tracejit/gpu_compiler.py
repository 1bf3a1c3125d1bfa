"""The pipeline for a GPU: from a graph to a program of a device.

In: a graph, a context and a pool of its device. Out: `DeviceProgram`.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

from tracejit.codegen.cuda.generate import generate
from tracejit.codegen.cuda.library import plan_call, plan_with_calls
from tracejit.compiler import Notes, plan_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.kernels.cuda.blas import is_call
from tracejit.runtime.cuda.cublas import is_there
from tracejit.runtime.cuda.driver import Context
from tracejit.runtime.cuda.memory import Pool
from tracejit.runtime.cuda.program import DeviceProgram, Work
from tracejit.schedule.groups import Group
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan


def _is_own(node: Node) -> bool:
    """Whether a product is not one of the GPU's library, whose bits may depend on how it is asked for."""
    return not is_call(node.dtype.name, node.shape, node.args[0].shape[-1])


def plan_for_gpu(graph: Graph, calls: bool = False) -> tuple[Plan, Notes]:
    """The plan of a graph: as for the CPU, but for what only the CPU's products gain from.

    `calls` says that large products are those of the GPU's library.
    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    if calls:
        return plan_graph(graph, plan_with_calls, arrange=lambda g: arrange_products(g, None, _is_own))
    return plan_graph(graph, plan_call, arrange=lambda g: arrange_products(g, None))


def compile_for_gpu(graph: Graph, context: Context, pool: Pool) -> DeviceProgram:
    """Plans a graph as for the CPU, and writes its kernels for a GPU; they are compiled when they first run.

    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    plan = plan_for_gpu(graph, is_there(context))[0]
    stages: list[list[Work]] = [[] for _ in range(plan.stages)]
    for group in plan.groups:
        # Memory is used again from stage to stage, so the order of stages is that of the launches.
        for step, work in enumerate(_work(group, plan), plan.stage[group]):
            stages[step] += work
    return DeviceProgram(context, pool, stages, plan.arena_bytes, len(graph.scalars))


def _work(group: Group, plan: Plan) -> list[list[Work]]:
    wide, plain = generate(group, plan), generate(group, plan, vectors=False)
    return [[Work(*both) for both in zip(*stage, strict=True)] for stage in zip(wide, plain, strict=True)]
