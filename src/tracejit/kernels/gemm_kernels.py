"""Matrix product kernels: the loops over panels, rows and blocks of k round the vector functions.

All read one argument block, see the slots below, which `gemm` fills. A unit is a panel of columns (with `rows` rows
of C at most), so that any split over threads does the same arithmetic for each element.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.gemm_code import Code, Word, native_kernel
from tracejit.kernels.gemm_vectors import (
    F32,
    F64,
    TARGET,
    Lane,
    add_copy,
    add_dots,
    add_tile,
    add_transpose,
)

(A, B, C, M, N, K, A_BATCH, A_M, A_K, B_BATCH, B_K, B_N, C_BATCH, C_M, MODE, ROWS) = range(16)
"""The slots of the argument block: addresses, sizes, strides in elements, how B is read, rows of C in a unit."""

DIRECT, COPY, TRANSPOSE, GATHER = range(4)
"""How a panel of B is read: in place, or packed from contiguous rows, contiguous columns or neither."""

TILE_ROWS = 8 if TARGET.registers == 32 else 6
TILE_VECTORS = 2
THIN_VECTORS = 8 if TARGET.registers == 32 else 4
DOT_ROWS = 4
"""Rows and vectors of the product tile, vectors of the one-row tile, rows of the tile that packs nothing."""

BLOCK_K = 1024
_PANEL_BYTES = (BLOCK_K + 16) * TILE_VECTORS * TARGET.vector_bytes
"""The longest run of k that a packed panel holds, and its buffer."""


def add_tiles(
    code: Code,
    lane: Lane,
    a: Word,
    a_m: Word,
    a_k: Word | int,
    b: Word,
    b_k: Word | int,
    c: Word,
    c_m: Word,
    k: Word,
    begin: Word | int,
    rows: Word,
    left: Word,
) -> None:
    """All tiles of `rows` rows of C in one panel of columns, of which `left` are there."""

    def place(i: Word) -> tuple[Word, Word]:
        return a + i * a_m * lane.size, c + i * c_m * lane.size

    def tile(i: Word, height: int, vectors: int) -> None:
        a_at, c_at = place(i)
        function = add_tile(code.module, lane, height, vectors)
        code.call(function, a_at, a_m, a_k, b, b_k, c_at, c_m, k, begin, rows - i, left)

    def strip(vectors: int) -> None:
        with code.loop(0, rows, TILE_ROWS) as i:
            many = rows - i > TILE_ROWS // 2
            code.either(many, lambda: tile(i, TILE_ROWS, vectors), lambda: tile(i, TILE_ROWS // 2, vectors))

    code.either(left <= lane.count, lambda: strip(1), lambda: strip(TILE_VECTORS))


def _pack(
    code: Code, lane: Lane, mode: Word, source: Word, b_k: Word, b_n: Word, panel: Word, k: Word, left: Word
) -> None:
    """Packs k rows of at most TILE_VECTORS vectors of B."""
    columns = TILE_VECTORS * lane.count
    taken = left.least(columns)
    with code.when(mode.equals(COPY)):
        code.call(add_copy(code.module, lane, TILE_VECTORS), source, b_k, panel, k, left)
    with code.when(mode.equals(TRANSPOSE)), code.loop(0, taken, lane.count) as j:
        transpose = add_transpose(code.module, lane)
        code.call(transpose, source + j * b_n * lane.size, b_n, panel + j * lane.size, columns, k, left - j)
    with code.when(mode.equals(GATHER)), code.loop(0, k) as i, code.loop(0, taken) as j:
        code.store(panel, i * columns + j, code.load(source, i * b_k + j * b_n, lane.kind))


def _panel(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """Panels of columns of B, packed or in place; a packed panel serves all the units in a row that share it."""
    a, b, c, m, n, k, a_m, a_k, b_k, b_n, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_K, B_N, C_M)
    a_batch, b_batch, c_batch, mode, rows = code.slots(p, A_BATCH, B_BATCH, C_BATCH, MODE, ROWS)
    size, columns = lane.size, TILE_VECTORS * lane.count
    parts = (m + rows - 1).quotient(rows)
    panels = (n + columns - 1).quotient(columns)
    blocks = (k + BLOCK_K - 1).quotient(BLOCK_K).most(1)
    buffer = code.buffer(_PANEL_BYTES)
    packed = code.cell(-1)
    with code.loop(low, high) as unit:
        panel = unit.quotient(parts)
        batch = panel.quotient(panels)
        i, j = (unit - panel * parts) * rows, (panel - batch * panels) * columns
        count, left = rows.least(m - i), n - j
        a_at = a + (batch * a_batch + i * a_m) * size
        b_at = b + (batch * b_batch + j * b_n) * size
        c_at = c + (batch * c_batch + i * c_m + j) * size
        direct = mode.equals(DIRECT)
        with code.loop(0, direct.choose(1, blocks)) as block:
            start = block * BLOCK_K
            run = direct.choose(k, (k - start).least(BLOCK_K))
            with code.when(mode.differs(DIRECT) & ((blocks > 1) | packed.now.differs(panel))):
                _pack(code, lane, mode, b_at + start * b_k * size, b_k, b_n, buffer, run, left)
                packed.set(panel)
            right, right_step = direct.choose(b_at, buffer), direct.choose(b_k, columns)
            begin = block.equals(0).number()
            add_tiles(
                code, lane, a_at + start * a_k * size, a_m, a_k, right, right_step, c_at, c_m, run, begin, count, left
            )


def _thin(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """One row of C at a time, wide panels of B in place."""
    a, b, c, m, n, k, a_m, a_k, b_k, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_K, C_M)
    a_batch, b_batch, c_batch = code.slots(p, A_BATCH, B_BATCH, C_BATCH)
    columns = THIN_VECTORS * lane.count
    panels = (n + columns - 1).quotient(columns)
    tile = add_tile(code.module, lane, 1, THIN_VECTORS)
    with code.loop(low, high) as unit:
        row = unit.quotient(panels)
        batch = row.quotient(m)
        i, j = row - batch * m, (unit - row * panels) * columns
        a_at = a + (batch * a_batch + i * a_m) * lane.size
        b_at = b + (batch * b_batch + j) * lane.size
        c_at = c + (batch * c_batch + i * c_m + j) * lane.size
        code.call(tile, a_at, 0, a_k, b_at, b_k, c_at, c_m, k, 1, 1, n - j)


def _dots(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """Few rows of A against contiguous columns of B: nothing is packed."""
    a, b, c, m, n, k, a_m, a_k, b_n, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_N, C_M)
    a_batch, b_batch, c_batch = code.slots(p, A_BATCH, B_BATCH, C_BATCH)
    panels = (n + lane.count - 1).quotient(lane.count)
    with code.loop(low, high) as unit:
        batch = unit.quotient(panels)
        j = (unit - batch * panels) * lane.count
        a_at = a + batch * a_batch * lane.size
        b_at = b + (batch * b_batch + j * b_n) * lane.size
        c_at = c + (batch * c_batch + j) * lane.size

        def dots(rows: int) -> None:
            function = add_dots(code.module, lane, rows)
            code.call(function, a_at, a_m, a_k, b_at, b_n, c_at, c_m, k, m, n - j)

        code.either(m.equals(1), lambda: dots(1), lambda: dots(DOT_ROWS))


def _integer(kind: Any, code: Code, p: Word, low: Word, high: Word) -> None:
    """One row of C a unit, element by element, modulo the range of the type."""
    a, b, c, m, n, k, a_m, a_k, b_k, b_n, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_K, B_N, C_M)
    a_batch, b_batch, c_batch = code.slots(p, A_BATCH, B_BATCH, C_BATCH)
    with code.loop(low, high) as unit:
        batch = unit.quotient(m)
        i = unit - batch * m
        a_at, b_at, c_at = batch * a_batch + i * a_m, batch * b_batch, batch * c_batch + i * c_m
        with code.loop(0, n) as j:
            total = code.cell(code.word(0, kind))
            with code.loop(0, k) as at:
                factors = code.load(a, a_at + at * a_k, kind), code.load(b, b_at + at * b_k + j * b_n, kind)
                total.set(total.now + factors[0] * factors[1])
            code.store(c, c_at + j, total.now)


panel_f32 = native_kernel("panel_f32", partial(_panel, F32))
panel_f64 = native_kernel("panel_f64", partial(_panel, F64))
thin_f32 = native_kernel("thin_f32", partial(_thin, F32))
thin_f64 = native_kernel("thin_f64", partial(_thin, F64))
dots_f32 = native_kernel("dots_f32", partial(_dots, F32))
dots_f64 = native_kernel("dots_f64", partial(_dots, F64))
product_8 = native_kernel("product_8", partial(_integer, ir.IntType(8)))
product_16 = native_kernel("product_16", partial(_integer, ir.IntType(16)))
product_32 = native_kernel("product_32", partial(_integer, ir.IntType(32)))
product_64 = native_kernel("product_64", partial(_integer, ir.IntType(64)))


def gemm_panel_f32(p: Any, lo: int, hi: int) -> Any:
    """Panels of B in place or packed, float32."""
    return panel_f32(p, lo, hi)


def gemm_panel_f64(p: Any, lo: int, hi: int) -> Any:
    """Panels of B in place or packed, float64."""
    return panel_f64(p, lo, hi)


def gemm_thin_f32(p: Any, lo: int, hi: int) -> Any:
    """Single rows against contiguous rows of B, float32."""
    return thin_f32(p, lo, hi)


def gemm_thin_f64(p: Any, lo: int, hi: int) -> Any:
    """Single rows against contiguous rows of B, float64."""
    return thin_f64(p, lo, hi)


def gemm_dots_f32(p: Any, lo: int, hi: int) -> Any:
    """Few rows against contiguous columns of B, float32."""
    return dots_f32(p, lo, hi)


def gemm_dots_f64(p: Any, lo: int, hi: int) -> Any:
    """Few rows against contiguous columns of B, float64."""
    return dots_f64(p, lo, hi)


def gemm_i8(p: Any, lo: int, hi: int) -> Any:
    """Matrix product of 8-bit integers, modulo 2**8."""
    return product_8(p, lo, hi)


def gemm_i16(p: Any, lo: int, hi: int) -> Any:
    """Matrix product of 16-bit integers, modulo 2**16."""
    return product_16(p, lo, hi)


def gemm_i32(p: Any, lo: int, hi: int) -> Any:
    """Matrix product of 32-bit integers, modulo 2**32."""
    return product_32(p, lo, hi)


def gemm_i64(p: Any, lo: int, hi: int) -> Any:
    """Matrix product of 64-bit integers, modulo 2**64."""
    return product_64(p, lo, hi)
