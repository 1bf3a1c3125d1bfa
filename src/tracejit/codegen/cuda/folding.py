"""Folds over the threads of a block, in an order that depends on the number of threads alone.

In: a writer, and the variable that holds what a thread folded. Out: lines that put the threads' values together.
Must not know: where the values come from.

In a warp, lane l takes in lane l + 16, then l + 8, and so on; the warps are then put together as a tree in their order.
"""

from __future__ import annotations

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.cuda.text import CudaWriter
from tracejit.dtypes import dtype
from tracejit.kernels.cuda.threads import WARP
from tracejit.schedule.values import Value


def _folded_type(kind: dtype) -> dtype:
    """The type that elements of a dtype are folded in."""
    return dtypes.uint8 if kind is dtypes.bool else dtypes.widened(kind)


def unfolded(text: str, kind: dtype) -> str:
    """A fold's result as an element of its value."""
    return expression.cast(text, _folded_type(kind), kind)


def operand(text: str, kind: dtype) -> str:
    """An element as it is folded."""
    return f"uint8({text})" if kind is dtypes.bool else text


def start(writer: CudaWriter, value: Value) -> str:
    """A new variable with what a fold starts from."""
    name = writer.name("r")
    writer.line(f"{name} = start_{value.name}_{expression.folding(value.dtype)}()")
    return name


def step(writer: CudaWriter, value: Value, sofar: str, text: str) -> None:
    """One step of a fold."""
    writer.line(f"{sofar} = step_{value.name}_{expression.folding(value.dtype)}({sofar}, {text})")


def fold_block(writer: CudaWriter, value: Value, sofar: str, threads: int) -> None:
    """Puts the values of a block's threads together; all of them know the result. All must come here."""
    short = expression.folding(value.dtype)
    distance = WARP // 2
    while distance:
        step(writer, value, sofar, f"down_{short}({sofar}, {distance})")
        distance //= 2
    if threads == WARP:
        writer.line(f"{sofar} = first_{short}({sofar})")
        return
    _meet(writer, value, sofar, threads // WARP, f"thread() % {WARP} == 0", f"thread() // {WARP}", "")


def fold_lanes(writer: CudaWriter, value: Value, sofar: str, warps: int) -> None:
    """Puts the values of the same lane of a block's warps together. All threads must come here."""
    _meet(writer, value, sofar, warps, "", "thread()", f" + thread() % {WARP}")


def _meet(writer: CudaWriter, value: Value, sofar: str, warps: int, condition: str, index: str, lane: str) -> None:
    """Shares a value of each warp, or of each thread, and folds those of all warps as a tree."""
    short = expression.folding(value.dtype)
    step_by = WARP if lane else 1
    size = _folded_type(value.dtype).itemsize
    place = writer.shared(-(-warps * step_by * size // 8))
    if condition:
        writer.line(f"if {condition}:")
        writer.depth += 1
    writer.store_shared(short, place, index, sofar)
    if condition:
        writer.depth -= 1
    writer.line("barrier()")
    parts = []
    for warp in range(warps):
        parts.append(writer.name("w"))
        writer.line(f"{parts[-1]} = {writer.load_shared(short, place, f'{warp * step_by}{lane}')}")
    while len(parts) > 1:
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            step(writer, value, first, second)
        parts = parts[::2]
    writer.line(f"{sofar} = {parts[0]}")
