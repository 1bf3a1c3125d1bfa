"""The pipeline for a GPU: from a graph to a program of a device.

In: a graph, a context and a pool of its device. Out: `DeviceProgram`.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

from tracejit.codegen.cuda.generate import generate
from tracejit.codegen.cuda.library import plan_call
from tracejit.compiler import plan_graph
from tracejit.ir.graph import Graph
from tracejit.runtime.cuda.driver import Context
from tracejit.runtime.cuda.memory import Pool
from tracejit.runtime.cuda.program import DeviceProgram, Work
from tracejit.schedule.groups import Group
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan


def _arranged(graph: Graph) -> Graph:
    return arrange_products(graph, None)


def plan_for_gpu(graph: Graph) -> Plan:
    """The plan of a graph: as for the CPU, but for what only the CPU's products gain from.

    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    return plan_graph(graph, plan_call, arrange=_arranged)[0]


def compile_for_gpu(graph: Graph, context: Context, pool: Pool) -> DeviceProgram:
    """Plans a graph as for the CPU, and writes its kernels for a GPU; they are compiled when they first run.

    Raises: NotImplementedError naming a library operation that has no kernels for a GPU.
    """
    plan = plan_for_gpu(graph)
    stages: list[list[Work]] = [[] for _ in range(plan.stages)]
    for group in plan.groups:
        # Memory is used again from stage to stage, so the order of stages is that of the launches.
        for step, work in enumerate(_work(group, plan), plan.stage[group]):
            stages[step] += work
    return DeviceProgram(context, pool, stages, plan.arena_bytes, len(graph.scalars))


def _work(group: Group, plan: Plan) -> list[list[Work]]:
    wide, plain = generate(group, plan), generate(group, plan, vectors=False)
    return [[Work(*both) for both in zip(*stage, strict=True)] for stage in zip(wide, plain, strict=True)]
