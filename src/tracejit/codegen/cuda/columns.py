"""The templates of column reductions: a warp goes down 32 columns, several warps of a block take turns with the rows.

In: a group and its plan. Out: `CudaText`s.
Must not know: any operation.

The order of a fold: rows of a block of 256, warp w of 8 those with number w modulo 8 one after another, then the warps
as a tree. Blocks are put together in the same way.
"""

from __future__ import annotations

from tracejit.codegen import expression
from tracejit.codegen.cuda import folding
from tracejit.codegen.cuda.text import CudaText, CudaWriter
from tracejit.codegen.elements import Elements
from tracejit.kernels.cuda.threads import WARP
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan, folded_blocks
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import Value

WARPS = 8
"""Warps of a block, each of which has every eighth row."""
COLUMN_THREADS = WARPS * WARP


def _begin(writer: CudaWriter, strips: str) -> None:
    """Finds a thread's column `j`, the number `k` of its block of rows, and the first of its rows, `turn`."""
    writer.line("w = lo")
    writer.line("if w < hi:")
    writer.depth += 1
    writer.line(f"k = w // {strips}")
    writer.line(f"j = (w - k * {strips}) * {WARP} + thread() % {WARP}")
    writer.line(f"turn = thread() // {WARP}")


def _end(writer: CudaWriter, sums: dict[Value, str], columns: str) -> None:
    """Puts the warps together; what follows is done once for each column."""
    for value, sofar in sums.items():
        folding.fold_lanes(writer, value, sofar, WARPS)
    writer.line(f"if turn == 0 and j < {columns}:")
    writer.depth += 1


def write_column(group: Group, plan: Plan, stem: str, doc: str) -> CudaText:
    """Blocks of rows, 32 columns at a time. The units are blocks of rows times strips of columns."""
    outer, size, inner = group.layout
    writer = CudaWriter()
    elements = Elements(writer, group, plan)
    blocks, strips = -(-size // cost.COLUMN_ROWS), -(-inner // WARP)
    many, several, tall = writer.size(strips), writer.size(blocks), writer.size(size)
    _begin(writer, many)
    writer.line(f"o = k // {several}")
    writer.line(f"top = (k - o * {several}) * {cost.COLUMN_ROWS}")
    writer.line(f"bottom = o * {tall} + min(top + {cost.COLUMN_ROWS}, {tall})")
    sums = {value: folding.start(writer, value) for value in group.reductions}
    writer.line(f"if j < {elements.n}:")
    writer.depth += 1
    writer.line(f"u = o * {tall} + top + turn")
    writer.line("while u < bottom:")
    writer.depth += 1
    elements.start_rows("u")
    elements.begin_row()
    elements.hoist(group.members)
    texts = [(v, elements.compute(v, "j")) for v in elements.stored if v in group.full]
    for value, sofar in sums.items():
        read = value.reads[0]
        folding.step(writer, value, sofar, folding.operand(elements.operand(value, read, "j"), read.source.dtype))
    for value, text in texts:
        elements.store(value, "j", text)
    writer.line(f"u += {WARPS}")
    writer.depth -= 2
    _end(writer, sums, elements.n)
    for value, sofar in sums.items():
        index = f"k * {elements.n} + j"
        if value in plan.partials:
            writer.store(expression.folding(value.dtype), writer.pointer(plan.partials[value]), index, sofar)
        else:
            final = folding.unfolded(sofar, value.dtype)
            writer.store(value.dtype.short, writer.pointer(plan.storage[value]), index, final)
    units = outer * blocks * strips
    return writer.complete(stem, doc, units, units, COLUMN_THREADS)


def combine_columns(group: Group, plan: Plan, value: Value) -> CudaText:
    """Puts the partial results of columns together. The units are strips of columns."""
    inner = group.unit
    short = expression.folding(value.dtype)
    writer = CudaWriter()
    partial, out = writer.pointer(plan.partials[value]), writer.pointer(plan.storage[value])
    strips = -(-inner // WARP)
    many, several, n = writer.size(strips), writer.size(folded_blocks(group, value)), writer.size(inner)
    _begin(writer, many)
    sofar = folding.start(writer, value)
    writer.line(f"if j < {n}:")
    writer.depth += 1
    writer.line("i = turn")
    writer.line(f"while i < {several}:")
    writer.depth += 1
    folding.step(writer, value, sofar, writer.load(short, partial, f"(k * {several} + i) * {n} + j"))
    writer.line(f"i += {WARPS}")
    writer.depth -= 2
    _end(writer, {value: sofar}, n)
    writer.store(value.dtype.short, out, f"k * {n} + j", folding.unfolded(sofar, value.dtype))
    units = value.numel // inner * strips
    stem = f"combine_columns_{value.name}_{short}"
    return writer.complete(stem, f"Blocks of rows put together: {value.name}.", units, units, COLUMN_THREADS)
