"""The templates of elementwise groups: a thread does one vector of places, or one place, or its part of a tile.

In: a group and its plan. Out: `CudaText`.
Must not know: any operation.
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.cuda.text import VECTOR_BYTES, CudaText, CudaWriter
from tracejit.codegen.cuda.tiles import Tiled, write_tiles
from tracejit.codegen.elements import Elements
from tracejit.schedule.plan import Plan
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import VIRTUAL

LOOP_THREADS = 128
"""Threads of a block of a loop kernel."""
MOST_TOGETHER = 8
"""Places that a thread takes at most at a time."""


def vector_of(group: Group, plan: Plan) -> int:
    """How many places of a group a thread had better take at a time: 16 bytes of the widest element.

    One where the rows are not whole vectors: their elements would lie across the borders that memory is read in.
    """
    outside = {r.source for v in group.members for r in v.reads if r.source.kind != VIRTUAL} - set(group.members)
    sizes = [v.dtype.itemsize for v in (*outside, *plan.stored(group))]
    vector = min(MOST_TOGETHER, VECTOR_BYTES // max(sizes))
    if not group.cuts:
        # One row, whose rest is done place by place.
        return vector
    inner = min(group.cuts)
    return vector if isinstance(inner, int) and inner % vector == 0 else 1


def together(writer: CudaWriter, count: int, body: Callable[[], None]) -> None:
    """Writes a loop of so many turns, `k`, that LLVM writes out; no loop around one turn."""
    if count == 1:
        writer.line("k = 0")
        body()
        return
    writer.line(f"for k in range({count}):")
    writer.depth += 1
    writer.line("unrolled()")
    body()
    writer.depth -= 1


def write_loop(group: Group, plan: Plan, vectors: bool, stem: str, doc: str) -> CudaText:
    """Element by element. The units are elements, or tiles."""
    writer = CudaWriter()
    turned = Tiled(writer, group, plan)
    if turned.tiled:
        return write_tiles(turned, writer, stem, doc)
    vector = vector_of(group, plan) if vectors else 1
    writer = CudaWriter(vector)
    elements = Elements(writer, group, plan)
    writer.line(f"first = (lo * {LOOP_THREADS} + thread()) * {vector}")
    if elements.flat:
        _write_flat(elements, writer)
    else:
        _write_rows(elements, writer)
    units = group.numel
    return writer.complete(stem, doc, units, -(-units // (vector * LOOP_THREADS)), LOOP_THREADS)


def _write_flat(elements: Elements, writer: CudaWriter) -> None:
    elements.begin_row()
    elements.hoist(elements.group.members)
    if writer.vector == 1:
        writer.line("if first < hi:")
        writer.depth += 1
        writer.line("j = first")
        _write_body(elements)
        writer.depth -= 1
        return
    writer.line(f"if first + {writer.vector} <= hi:")
    writer.depth += 1
    together(writer, writer.vector, lambda: _write_place(elements, "first"))
    writer.depth -= 1
    writer.line("else:")
    writer.depth += 1
    writer.line("for j in range(first, hi):")
    writer.depth += 1
    writer.line("rolled()")
    _write_body(elements)
    writer.depth -= 2


def _write_rows(elements: Elements, writer: CudaWriter) -> None:
    writer.line("if first < hi:")
    writer.depth += 1
    writer.line(f"u = first // {elements.n}")
    writer.line(f"start = first - u * {elements.n}")
    elements.start_rows("u")
    elements.begin_row()
    elements.hoist(elements.group.members)
    together(writer, writer.vector, lambda: _write_place(elements, "start"))
    writer.depth -= 1


def _write_place(elements: Elements, start: str) -> None:
    elements.writer.line(f"j = {start} + k")
    _write_body(elements)


def _write_body(elements: Elements) -> None:
    """Computes and stores at a place; the stores come last, so that in-place updates read the old values."""
    elements.forget_places()
    texts = [(v, elements.compute(v, "j")) for v in elements.stored]
    for value, text in texts:
        elements.store(value, "j", text)
