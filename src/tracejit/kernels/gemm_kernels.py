"""Matrix product kernels: the loops over panels, rows and blocks of k round the vector tiles.

All read one argument block, see the slots below; `gemm` fills it. A unit is a panel of columns (with `rows` rows
of C at most), so that any split over threads does the same arithmetic for each element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from tracejit.kernels.gemm_tiles import (
    DOT_GROUPS,
    THIN_VECTORS,
    TILE_ROWS,
    TILE_VECTORS,
    dots_four,
    dots_one,
    element_size,
    load_integer,
    pack_columns,
    pack_element,
    pack_rows,
    store_integer,
    tile_full,
    tile_half,
    tile_narrow,
    tile_thin,
    vector_lanes,
)
from tracejit.kernels.gemm_vectors import TARGET
from tracejit.kernels.memory import load_arg, stack_u8

(A, B, C, M, N, K, A_BATCH, A_M, A_K, B_BATCH, B_K, B_N, C_BATCH, C_M, MODE, ROWS) = range(16)
"""The slots of the argument block: addresses, sizes, strides in elements, how B is read, rows of C in a unit."""

DIRECT, COPY, TRANSPOSE, GATHER = range(4)
"""How a panel of B is read: in place, or packed from contiguous rows, contiguous columns or neither."""

BLOCK_K = 1024
PANEL_BYTES = (BLOCK_K + 16) * TILE_VECTORS * TARGET.vector_bytes
"""The longest run of k that a packed panel holds; its buffer, with room for a transposed block past the end."""


@register_jitable
def _pack(zero, mode, source, b_k, b_n, panel, kc, left):  # type: ignore[no-untyped-def]
    """Packs `kc` rows of at most TILE_VECTORS vectors of B."""
    size, width = element_size(zero), vector_lanes(zero)
    columns = TILE_VECTORS * width
    if mode == COPY:
        pack_rows(zero, source, b_k, panel, kc, left)
    elif mode == TRANSPOSE:
        for j in range(0, min(left, columns), width):
            pack_columns(zero, source + j * b_n * size, b_n, panel + j * size, columns, kc, left - j)
    else:
        for k in range(kc):
            for j in range(min(left, columns)):
                pack_element(zero, source, k * b_k + j * b_n, panel, k * columns + j)


@register_jitable
def _tiles(zero, a, a_m, a_k, b, b_k, c, c_m, kc, begin, rows, left):  # type: ignore[no-untyped-def]
    """All tiles of `rows` rows of C in one panel of columns."""
    size = element_size(zero)
    if left <= vector_lanes(zero):
        for i in range(0, rows, TILE_ROWS):
            a_at, c_at = a + i * a_m * size, c + i * c_m * size
            tile_narrow(zero, a_at, a_m, a_k, b, b_k, c_at, c_m, kc, begin, rows - i, left)
        return
    i = 0
    while rows - i > TILE_ROWS // 2:
        a_at, c_at = a + i * a_m * size, c + i * c_m * size
        tile_full(zero, a_at, a_m, a_k, b, b_k, c_at, c_m, kc, begin, rows - i, left)
        i += TILE_ROWS
    if i < rows:
        a_at, c_at = a + i * a_m * size, c + i * c_m * size
        tile_half(zero, a_at, a_m, a_k, b, b_k, c_at, c_m, kc, begin, rows - i, left)


@register_jitable
def _panel(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """Panels of columns of B, packed or in place; a packed panel serves all the units in a row that share it."""
    a, b, c = load_arg(p, A), load_arg(p, B), load_arg(p, C)
    m, n, k = load_arg(p, M), load_arg(p, N), load_arg(p, K)
    a_m, a_k, b_k, b_n, c_m = load_arg(p, A_M), load_arg(p, A_K), load_arg(p, B_K), load_arg(p, B_N), load_arg(p, C_M)
    mode, rows = load_arg(p, MODE), load_arg(p, ROWS)
    size, columns = element_size(zero), TILE_VECTORS * vector_lanes(zero)
    parts = (m + rows - 1) // rows
    panels = (n + columns - 1) // columns
    buffer = stack_u8(PANEL_BYTES)
    packed = -1
    for unit in range(lo, hi):
        panel = unit // parts
        batch = panel // panels
        i, j = (unit - panel * parts) * rows, (panel - batch * panels) * columns
        count, left = min(rows, m - i), n - j
        a_at = a + (batch * load_arg(p, A_BATCH) + i * a_m) * size
        b_at = b + (batch * load_arg(p, B_BATCH) + j * b_n) * size
        c_at = c + (batch * load_arg(p, C_BATCH) + i * c_m + j) * size
        if mode == DIRECT:
            _tiles(zero, a_at, a_m, a_k, b_at, b_k, c_at, c_m, k, 1, count, left)
            continue
        start = 0
        while start == 0 or start < k:
            kc = min(BLOCK_K, k - start)
            if packed != panel or k > BLOCK_K:
                _pack(zero, mode, b_at + start * b_k * size, b_k, b_n, buffer, kc, left)
                packed = panel
            begin = 1 if start == 0 else 0
            _tiles(zero, a_at + start * a_k * size, a_m, a_k, buffer, columns, c_at, c_m, kc, begin, count, left)
            start += BLOCK_K
    return 0


@register_jitable
def _thin(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """One row of C at a time, wide panels of B in place."""
    a, b, c = load_arg(p, A), load_arg(p, B), load_arg(p, C)
    m, n, k = load_arg(p, M), load_arg(p, N), load_arg(p, K)
    a_k, b_k, c_m = load_arg(p, A_K), load_arg(p, B_K), load_arg(p, C_M)
    size, columns = element_size(zero), THIN_VECTORS * vector_lanes(zero)
    panels = (n + columns - 1) // columns
    for unit in range(lo, hi):
        row = unit // panels
        batch = row // m
        i, j = row - batch * m, (unit - row * panels) * columns
        a_at = a + (batch * load_arg(p, A_BATCH) + i * load_arg(p, A_M)) * size
        b_at = b + (batch * load_arg(p, B_BATCH) + j) * size
        c_at = c + (batch * load_arg(p, C_BATCH) + i * c_m + j) * size
        tile_thin(zero, a_at, 0, a_k, b_at, b_k, c_at, c_m, k, 1, 1, n - j)
    return 0


@register_jitable
def _dots(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """Few rows of A against contiguous columns of B: nothing is packed."""
    a, b, c = load_arg(p, A), load_arg(p, B), load_arg(p, C)
    m, n, k = load_arg(p, M), load_arg(p, N), load_arg(p, K)
    a_m, a_k, b_n, c_m = load_arg(p, A_M), load_arg(p, A_K), load_arg(p, B_N), load_arg(p, C_M)
    size, columns = element_size(zero), DOT_GROUPS * vector_lanes(zero)
    panels = (n + columns - 1) // columns
    for unit in range(lo, hi):
        batch = unit // panels
        j = (unit - batch * panels) * columns
        a_at = a + batch * load_arg(p, A_BATCH) * size
        b_at = b + (batch * load_arg(p, B_BATCH) + j * b_n) * size
        c_at = c + (batch * load_arg(p, C_BATCH) + j) * size
        if m == 1:
            dots_one(zero, a_at, a_m, a_k, b_at, b_n, c_at, c_m, k, 1, n - j)
        else:
            dots_four(zero, a_at, a_m, a_k, b_at, b_n, c_at, c_m, k, m, n - j)
    return 0


@register_jitable
def _integer(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """One row of C a unit, element by element, modulo the range of the type."""
    a, b, c = load_arg(p, A), load_arg(p, B), load_arg(p, C)
    m, n, k = load_arg(p, M), load_arg(p, N), load_arg(p, K)
    a_k, b_k, b_n = load_arg(p, A_K), load_arg(p, B_K), load_arg(p, B_N)
    for unit in range(lo, hi):
        batch = unit // m
        i = unit - batch * m
        a_at = batch * load_arg(p, A_BATCH) + i * load_arg(p, A_M)
        b_at = batch * load_arg(p, B_BATCH)
        c_at = batch * load_arg(p, C_BATCH) + i * load_arg(p, C_M)
        for j in range(n):
            total = 0
            for at in range(k):
                total += load_integer(zero, a, a_at + at * a_k) * load_integer(zero, b, b_at + at * b_k + j * b_n)
            store_integer(zero, c, c_at + j, total)
    return 0


def gemm_panel_f32(p: Any, lo: int, hi: int) -> int:
    """Panels of B in place or packed, float32."""
    return _panel(p, lo, hi, np.float32(0.0))


def gemm_panel_f64(p: Any, lo: int, hi: int) -> int:
    """Panels of B in place or packed, float64."""
    return _panel(p, lo, hi, np.float64(0.0))


def gemm_thin_f32(p: Any, lo: int, hi: int) -> int:
    """Single rows against contiguous rows of B, float32."""
    return _thin(p, lo, hi, np.float32(0.0))


def gemm_thin_f64(p: Any, lo: int, hi: int) -> int:
    """Single rows against contiguous rows of B, float64."""
    return _thin(p, lo, hi, np.float64(0.0))


def gemm_dots_f32(p: Any, lo: int, hi: int) -> int:
    """Few rows against contiguous columns of B, float32."""
    return _dots(p, lo, hi, np.float32(0.0))


def gemm_dots_f64(p: Any, lo: int, hi: int) -> int:
    """Few rows against contiguous columns of B, float64."""
    return _dots(p, lo, hi, np.float64(0.0))


def gemm_i8(p: Any, lo: int, hi: int) -> int:
    """Matrix product of int8, modulo 2**8."""
    return _integer(p, lo, hi, np.int8(0))


def gemm_i16(p: Any, lo: int, hi: int) -> int:
    """Matrix product of int16, modulo 2**16."""
    return _integer(p, lo, hi, np.int16(0))


def gemm_i32(p: Any, lo: int, hi: int) -> int:
    """Matrix product of int32, modulo 2**32."""
    return _integer(p, lo, hi, np.int32(0))


def gemm_i64(p: Any, lo: int, hi: int) -> int:
    """Matrix product of int64, modulo 2**64."""
    return _integer(p, lo, hi, np.int64(0))


def gemm_u8(p: Any, lo: int, hi: int) -> int:
    """Matrix product of uint8, modulo 2**8."""
    return _integer(p, lo, hi, np.uint8(0))
