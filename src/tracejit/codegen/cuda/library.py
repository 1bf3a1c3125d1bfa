"""Library operations on a GPU: the CPU kernel's own function, a unit of its range for each thread.

In: a call whose kernels are such functions. Out: `CudaText`s.
Must not know: what a kernel computes.

Any split of a kernel's range gives the same bits, so one unit a thread does. What is fast on a CPU need not be so here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tracejit.codegen.cuda.loops import LOOP_THREADS
from tracejit.codegen.cuda.text import CudaText
from tracejit.codegen.text import Place, Slot
from tracejit.kernels import template
from tracejit.kernels.launch import Launch, Ptr, Scratch
from tracejit.schedule.plan import Plan
from tracejit.schedule.values import Value, whole

_TEXT = """def {name}(p, lo, hi):
    # {doc}
    u = block() * {threads} + thread()
    if u < hi:
        return {function}(p, u, u + 1)
    return 0
"""


def is_for_threads(function: Callable[..., Any]) -> bool:
    """Whether a library kernel can be a thread's: nothing but text, and without memory for many units at once."""
    return function.__module__ == template.__name__ and "stack_" not in inspect.getsource(function)


def library_texts(call: Value, plan: Plan) -> list[CudaText]:
    """The GPU kernels of a library operation, one after another.

    Raises: NotImplementedError if one of its kernels is no thread's.
    """
    operands: list[Slot] = []
    for read in [*call.reads, *map(whole, call.results)]:
        # Of an operand without elements any address will do.
        offset = read.offset * read.source.dtype.itemsize
        operands.append(Place(plan.storage[read.source], offset) if read.source.numel else 0)
    texts = []
    for launch in call.launches:
        if not is_for_threads(launch.function):
            raise NotImplementedError(f"no GPU kernels for '{call.name}': {launch.function.__name__} is for CPUs")
        slots = [_slot(slot, operands, call, plan) for slot in launch.slots]
        texts.append(_text(launch, tuple(slots), f"Library: {call.name}."))
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
