"""Library operations on a GPU: their own kernels, else the CPU kernel's function, a unit of its range for each thread.

In: how a call's operands lie in memory; the planned call. Out: launches; `CudaText`s.
Must not know: what a kernel computes.

Any split of a kernel's range gives the same bits, so one unit a thread does. What is fast on a CPU need not be so here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tracejit import kernels
from tracejit.codegen import library as cpu
from tracejit.codegen.cuda.loops import LOOP_THREADS
from tracejit.codegen.cuda.text import CudaCall, CudaText
from tracejit.codegen.text import Place, Slot
from tracejit.kernels import template
from tracejit.kernels.cuda.blas import GemmLaunch, is_call, plan_gemm
from tracejit.kernels.cuda.launch import GpuLaunch
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.ops import Op, ops
from tracejit.schedule.lower import Layout, PlannedLaunch
from tracejit.schedule.plan import Plan
from tracejit.schedule.values import Value, whole

_PREFIX = "launch_"
_TEXT = """def {name}(p, lo, hi):
    # {doc}
    u = lo * {threads} + thread()
    if u < hi:
        return {function}(p, u, u + 1)
    return 0
"""


@functools.cache
def own_launches() -> dict[str, Callable[..., tuple[GpuLaunch, ...]]]:
    """What launches an operation's own GPU kernels, by the name of the operation."""
    found: dict[str, Callable[..., tuple[GpuLaunch, ...]]] = {}
    for module in kernels.gpu_modules():
        for name, value in vars(module).items():
            if name.startswith(_PREFIX):
                found[name[len(_PREFIX) :]] = value
    return found


def plan_call(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[PlannedLaunch, ...]:
    """The launches of a library operation on a GPU over operands, then results.

    Raises: NotImplementedError if it has no GPU kernels, ValueError if an operand must be contiguous.
    """
    if op is ops.check_index:
        raise NotImplementedError("no GPU kernels for 'check_index': what comes after it would run if it fails, too")
    own = own_launches().get(op.name)
    if own is not None:
        return own(*(Operand(*layout) for layout in layouts), *attrs)
    launches = cpu.plan_call(op, layouts, attrs)
    for launch in launches:
        if not is_for_threads(launch.function):
            raise NotImplementedError(f"no GPU kernels for '{op.name}': {launch.function.__name__} is for CPUs")
    return launches


def plan_with_calls(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[PlannedLaunch, ...]:
    """As `plan_call`, where the GPU's library computes large products."""
    if op.name == "matmul":
        a, b, c = (Operand(*layout) for layout in layouts)
        if is_call(a.dtype, c.shape, a.shape[-1]):
            return (plan_gemm(a, b, c),)
    return plan_call(op, layouts, attrs)


def is_for_threads(function: Callable[..., Any]) -> bool:
    """Whether a library kernel can be a thread's: nothing but text, and without memory for many units at once."""
    return function.__module__ == template.__name__ and "stack_" not in inspect.getsource(function)


def library_texts(call: Value, plan: Plan, vectors: bool) -> list[CudaText | CudaCall]:
    """The GPU kernels of a library operation that `plan_call` planned, one after another."""
    operands: list[Slot] = []
    for read in [*call.reads, *map(whole, call.results)]:
        # Of an operand without elements any address will do.
        offset = read.offset * read.source.dtype.itemsize
        operands.append(Place(plan.storage[read.source], offset) if read.source.numel else 0)
    doc = f"Library: {call.name}."
    texts: list[CudaText | CudaCall] = []
    for launch in call.launches:
        if isinstance(launch, GemmLaunch):
            texts.append(CudaCall(launch.gemm, doc, tuple(operands[slot.index] for slot in launch.slots)))
            continue
        chosen = launch if vectors or getattr(launch, "plain", None) is None else launch.plain
        slots = tuple(_slot(slot, operands, call, plan) for slot in chosen.slots)
        if isinstance(chosen, GpuLaunch):
            grid = chosen.units, chosen.blocks, chosen.threads
            made = CudaText(chosen.name, chosen.text, doc, slots, *grid, chosen.promises, may_not_run=chosen.checked)
            texts.append(made)
        else:
            texts.append(_text(chosen, slots, doc))
    return texts


def _slot(slot: int | float | Ptr | Scratch, operands: list[Slot], call: Value, plan: Plan) -> Slot:
    if isinstance(slot, Ptr):
        return operands[slot.index]
    return Place(plan.scratch[call]) if isinstance(slot, Scratch) else slot


def _text(launch: Launch, slots: tuple[Slot, ...], doc: str) -> CudaText:
    function = launch.function
    name = f"cuda_{function.__name__}"
    text = _TEXT.format(name=name, function=function.__name__, threads=LOOP_THREADS, doc=doc)
    blocks = -(-launch.units // LOOP_THREADS)
    return CudaText(name, text, doc, slots, launch.units, blocks, LOOP_THREADS, (), function)
