"""Matrix product kernels: the loops over panels, rows and blocks of k round the vector functions.

All read one argument block, see the slots below, which `gemm` fills. A unit is a panel of columns, or all of them, with
`rows` rows of C at most, so that any split over threads does the same arithmetic for each element.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import llvmlite.ir as ir

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.gemm_packing import add_copy, add_strips, add_transpose
from tracejit.kernels.gemm_tiles import ALONE, APART, ENDING, add_column, add_dots, add_gate, add_row_dots, add_tile
from tracejit.kernels.vectors import F32, F64, LINE_BYTES, TARGET, Lane

(A, B, C, M, N, K, A_BATCH, A_M, A_K, B_BATCH, B_K, B_N, C_BATCH, C_M) = range(14)
"""The slots of the argument block: addresses, sizes, strides in elements."""

(A_MODE, B_MODE, ROWS, RUN, GROUP, HEIGHT) = range(14, 20)
"""More of them, 0 where a kernel does not look at them; for panels: how A and B are read, rows of C in a unit, steps of
k in a pass, panels of B (columns, for few rows) and rows of A that are gone through at once."""

(ADDED, GATE, GATE_M, GATE_USE) = range(20, 24)
"""The last ones. ADDED: the address of the row that is added before what is below 0 becomes 0, or 0. For panels alone:
the address of a gate that C goes through at last, or 0, the stride of its rows, and what it does (see `add_gate`)."""

DIRECT, COPY, TRANSPOSE, GATHER, STRIPS = range(5)
"""How an operand is read: in place, or packed from contiguous rows (of B; columns of A), or for B alone from contiguous
columns or neither. A may be strips that were packed before; its strides are then those of `strip_strides`."""

class Tile(NamedTuple):
    """The shape of what a product is computed by: so many rows, each of so many vectors, held in registers."""

    rows: int
    vectors: int


TILE_ROWS = 8 if TARGET.registers == 32 else 6
SHORT_ROWS = 4
TILE_VECTORS = 2
THIN_VECTORS = 8 if TARGET.registers == 32 else 4
DOT_ROWS = 4
ROW_VECTORS = max(2, 64 // TARGET.vector_bytes)
"""Rows of the product tile, of the one for what is left, their vectors; vectors of the one-row tile; rows of the tile
that packs nothing, its vectors if there is but one row: chains to hide what a step of one costs, of as many columns as
the first cache can hold."""

THIN_AHEAD, THIN_FAR = 24 if TARGET.vector_bytes == LINE_BYTES else 96, 1 << 20
"""Steps that rows of B are asked for ahead where one row of A meets wide panels, and from how many bytes of B on: its
rows are pages apart, which no CPU foresees (4096x4096 in a third of the time, 768x3072 in 0.87 of it)."""

NARROW = Tile(TILE_ROWS, TILE_VECTORS)
WIDE = Tile(6, 4)
"""The product tile, and one for large products where 32 registers hold long vectors: ten loads for 24 multiply-adds, in
place of ten for 16, leave these 1.05 of the time that they would take alone, in place of 1.15."""

BLOCK_BYTES = 256 * 1024
"""Packed panels of B and rows of A, which stay in the second cache."""

FAR_BLOCK_BYTES = 512 * 1024 if TARGET.vector_bytes == 64 else BLOCK_BYTES
"""The same for products whose results the second cache does not hold, so that it is there for what is packed."""

_CHUNK = 8
"""Steps of k that are copied at once: rows whose addresses differ by a power of two share few places of a cache."""


def strip_rows(size: int) -> int:
    """Rows of A, whole tiles of elements of `size` bytes, that are packed together: a mask each has a register."""
    return max(1, 8 // -(-TILE_ROWS * size // TARGET.vector_bytes)) * TILE_ROWS


def strip_strides(k: int) -> tuple[int, int]:
    """From a strip's first row to the next strip's, in elements for each of its rows; from a column to the next."""
    return (k // 2 + 1) * 2, TILE_ROWS


def _strip_length(k: Word) -> Word:
    """The first of `strip_strides`: a little more than k, so that strips keep out of each other's way in a cache, and
    even, so that vectors of two columns do not go over the end of a line."""
    return (k.quotient(2) + 1) * 2


def call_tile(
    code: Code,
    lane: Lane,
    a: Word,
    a_m: Word | int,
    a_k: Word | int,
    b: Word,
    b_k: Word | int,
    c: Word,
    c_m: Word,
    k: Word,
    begin: Word | int,
    rows: Word,
    left: Word,
    *more: Word,
    tile: Tile = NARROW,
    use: str = ALONE,
) -> None:
    """Calls for one tile (see `add_tile`), of which `rows` rows and `left` columns are there at most."""
    half = tile.vectors // 2

    def call(height: int, vectors: int) -> None:
        function = add_tile(code.module, lane, height, vectors, use)
        code.call(function, a, a_m, a_k, b, b_k, c, c_m, k, begin, rows, left, *more)

    def strip(vectors: int) -> None:
        many = rows > SHORT_ROWS
        code.either(many, lambda: call(tile.rows, vectors), lambda: call(SHORT_ROWS, vectors))

    code.either(left <= half * lane.count, lambda: strip(half), lambda: strip(tile.vectors))


def pack_panels(
    code: Code,
    lane: Lane,
    mode: Word,
    b: Word,
    b_k: Word,
    b_n: Word,
    block: Word,
    k: Word,
    left: Word,
    panels: Word,
    side_by_side: Word | None = None,
    vectors: int = TILE_VECTORS,
) -> None:
    """Packs k rows of panels of B, of which `left` columns are there: one panel after another, or `side_by_side` in
    rows of so many elements.
    """
    columns, size = vectors * lane.count, lane.size
    down: Word | int = columns if side_by_side is None else side_by_side
    along: Word | int = k * columns if side_by_side is None else columns

    with code.when(mode.equals(COPY)), code.loop(0, k, _CHUNK) as i, code.loop(0, panels) as panel:
        source = b + (i * b_k + panel * columns) * size
        copy, out = add_copy(code.module, lane, vectors), block + (panel * along + i * down) * size
        code.call(copy, source, b_k, out, down, (k - i).least(_CHUNK), left - panel * columns)

    with code.when(mode > COPY), code.loop(0, panels) as panel:
        source, out = b + panel * columns * b_n * size, block + panel * along * size
        there = (left - panel * columns).least(columns)
        with code.when(mode.equals(TRANSPOSE)), code.loop(0, there, lane.count) as j:
            transpose = add_transpose(code.module, lane)
            code.call(transpose, source + j * b_n * size, b_n, out + j * size, down, k, there - j)
        with code.when(mode.equals(GATHER)), code.loop(0, k) as i, code.loop(0, there) as j:
            code.store(out, i * down + j, code.load(source, i * b_k + j * b_n, lane.kind))


def _pack_strips(code: Code, lane: Lane, a: Word, a_k: Word, block: Word, k: Word, rows: Word) -> None:
    """Packs k columns of A, the rows of a tile together, as strips (see `strip_strides`)."""
    together = strip_rows(lane.size)
    strips, down = add_strips(code.module, lane, TILE_ROWS, together // TILE_ROWS), _strip_length(k)
    with code.loop(0, k, _CHUNK) as start, code.loop(0, rows, together) as i:
        source, out = a + (start * a_k + i) * lane.size, block + (i * down + start * TILE_ROWS) * lane.size
        code.call(strips, source, a_k, out, down * TILE_ROWS, (k - start).least(_CHUNK), rows - i)


def _panel(lane: Lane, shape: Tile, code: Code, p: Word, low: Word, high: Word, use: str = ENDING) -> None:
    """Panels of columns of B for a part of the rows of C; units that follow one another share what is packed. Only
    narrow tiles have their rows of A packed.

    C is relu(A @ B + bias) if there is a bias, and goes through a gate if there is one, while a cache has it. APART it
    is the distance of each row of A and each column of B.
    """
    a, b, c, m, n, k, a_m, a_k, b_k, b_n, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_K, B_N, C_M)
    a_batch, b_batch, c_batch, a_mode, b_mode = code.slots(p, A_BATCH, B_BATCH, C_BATCH, A_MODE, B_MODE)
    rows, run, group, tall = code.slots(p, ROWS, RUN, GROUP, HEIGHT)
    added, gate, gate_m, gate_use = code.slots(p, ADDED, GATE, GATE_M, GATE_USE)
    size, columns = lane.size, shape.vectors * lane.count
    parts = code.quotient(m + rows - 1, rows)
    panels = (n + columns - 1).quotient(columns)
    buffer = code.buffer(FAR_BLOCK_BYTES)
    a_direct, packs_a, b_direct = a_mode.equals(DIRECT), a_mode.equals(COPY), b_mode.equals(DIRECT)
    # Where rows of A are packed for all panels at once, a unit has all of them.
    each = (packs_a & (group >= panels)).choose(panels, 1)
    low, high = low * each, high * each
    strips = buffer + b_direct.choose(0, group * run * columns * size)
    upwards = code.cell(0)

    def sweep(
        a: Word, row: Word, c_first: Word, start: Word, length: Word, first: Word, last: Word, right: Word, count: Word
    ) -> None:
        """All rows of some panels for one run of k, from row `row` of C on; upwards each second time, as the rows of A
        that were last are still in the second cache."""
        right_k, right_panel = b_direct.choose(b_k, columns), b_direct.choose(b_n, length) * columns
        bands, turned = code.quotient(count + tall - 1, tall), upwards.now.differs(0)
        upwards.set(1 - upwards.now)
        with code.loop(0, bands) as band:
            top = turned.choose(bands - 1 - band, band) * tall
            height = (count - top).least(tall)
            source = a + (top * a_m + start * a_k) * size
            if shape == NARROW:
                with code.when(packs_a):
                    _pack_strips(code, lane, source, a_k, strips, length, height)
            left, left_m = packs_a.choose(strips, source), a_direct.choose(a_m, 1)
            left_k, left_tile = packs_a.choose(shape.rows, a_k), packs_a.choose(_strip_length(length), a_m) * shape.rows
            whole = height.quotient(shape.rows)
            rest = height - whole * shape.rows
            # Where one or two rows are left, these and the tile above are two short tiles; packed rows stay together.
            split = a_direct & (rest > 0) & (rest <= 2 * SHORT_ROWS - shape.rows) & (whole > 0)
            whole = whole - split.number()
            step = (rest > SHORT_ROWS).choose(shape.rows, SHORT_ROWS)
            with code.loop(first, last) as panel:
                b_at, there = right + (panel - first) * right_panel * size, n - panel * columns
                if use == APART:
                    behind = (start + length >= k).number()
                else:
                    behind = (added.differs(0) & (start + length >= k)).choose(added + panel * columns * size, 0)
                c_at, begin = c_first + (top * c_m + panel * columns) * size, start.equals(0).number()

                def tile(i: Word, rows: Word, a_at: Word) -> None:
                    operands = a_at, left_m, left_k, b_at, right_k, c_at + i * c_m * size, c_m
                    call_tile(code, lane, *operands, length, begin, rows, there, behind, tile=shape, use=use)

                def column() -> None:
                    function = add_column(code.module, lane, *shape, use)
                    operands = left, left_m, left_k, left_tile, b_at, right_k, c_at, c_m
                    code.call(function, *operands, length, begin, whole, behind)

                def tiles() -> None:
                    with code.loop(0, whole) as i:
                        tile(i * shape.rows, code.word(shape.rows), left + i * left_tile * size)

                code.either(there >= columns, column, tiles)
                with code.loop(whole * shape.rows, height, step) as i:
                    a_at = left + a_direct.choose(i * a_m, whole * left_tile) * size
                    tile(i, (height - i).least(step), a_at)
            # All panels of a row at once: the CPU brings what lies along a row of the gate before it is asked for.
            with code.when(gate.differs(0) & (start + length >= k)):
                at = c_first + (top * c_m + first * columns) * size
                gate_at = gate + ((row + top) * gate_m + first * columns) * size
                there = ((last - first) * columns).least(n - first * columns)
                code.call(add_gate(code.module, lane, shape.vectors), at, c_m, gate_at, gate_m, height, there, gate_use)

    first_block, last_block = code.quotient(low, panels), code.quotient(high + panels - 1, panels)
    first_batch, last_batch = code.quotient(first_block, parts), code.quotient(last_block - 1, parts)
    # Whole parts of the rows that follow one another are gone through as one, with panels that are packed once.
    whole = (first_block * panels).equals(low) & (last_block * panels).equals(high)
    whole_batches = (first_batch * parts).equals(first_block) & (last_batch * parts + parts).equals(last_block)
    one_batch = first_batch.equals(last_batch)
    together = (whole & one_batch).choose(last_block - first_block, (whole & whole_batches).choose(parts, 1))
    with code.loop(first_block, last_block, together) as block:
        batch = code.quotient(block, parts)
        i = (block - batch * parts) * rows
        a_at = a + (batch * a_batch + i * a_m) * size
        c_at = c + (batch * c_batch + i * c_m) * size
        end = (high - block * panels).least(panels)
        with (
            code.loop((low - block * panels).most(0), end, group) as first,
            code.loop(0, k.most(1), run) as start,
        ):
            last, length = end.least(first + group), (k - start).least(run)
            b_at = b + (batch * b_batch + start * b_k + first * columns * b_n) * size
            operand = b_mode, b_at, b_k, b_n
            pack_panels(code, lane, *operand, buffer, length, n - first * columns, last - first, vectors=shape.vectors)
            there = (rows * together).least(m - i)
            sweep(a_at, i, c_at, start, length, first, last, b_direct.choose(b_at, buffer), there)


def _pack(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """Panels of B into memory, one after another, the last one filled up with zeros."""
    b, c, n, k, b_k, b_n, mode = code.slots(p, B, C, N, K, B_K, B_N, B_MODE)
    columns, size = TILE_VECTORS * lane.count, lane.size
    with code.loop(low, high) as panel:
        out, left = c + panel * k * columns * size, n - panel * columns
        source = b + panel * columns * b_n * size
        pack_panels(code, lane, mode, source, b_k, b_n, out, k, left, code.word(1))
        # What packs columns writes whole vectors.
        with code.when(left < columns), code.loop(0, k) as row, code.loop(left, columns) as column:
            code.store(out, row * columns + column, Word(code.builder, ir.Constant(lane.kind, 0.0)))


def _strips(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """All columns of A into strips of rows, as many rows a unit as are packed together."""
    a, c, m, k, a_k = code.slots(p, A, C, M, K, A_K)
    together = strip_rows(lane.size)
    with code.loop(low * together, high * together, together) as i:
        out = c + i * _strip_length(k) * lane.size
        _pack_strips(code, lane, a + i * lane.size, a_k, out, k, (m - i).least(together))


def _thin(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """One row of C at a time, wide panels of B in place."""
    a, b, c, m, n, k, a_m, a_k, b_k, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_K, C_M)
    a_batch, b_batch, c_batch, added = code.slots(p, A_BATCH, B_BATCH, C_BATCH, ADDED)
    columns = THIN_VECTORS * lane.count
    panels = (n + columns - 1).quotient(columns)
    tiles = [add_tile(code.module, lane, 1, vectors, ENDING) for vectors in (1, THIN_VECTORS // 2, THIN_VECTORS)]
    tiles.append(add_tile(code.module, lane, 1, THIN_VECTORS, ENDING, THIN_AHEAD))
    is_far = k * b_k * lane.size >= THIN_FAR
    with code.loop(low, high) as unit:
        row = unit.quotient(panels)
        batch = row.quotient(m)
        i, j = row - batch * m, (unit - row * panels) * columns
        a_at = a + (batch * a_batch + i * a_m) * lane.size
        b_at = b + (batch * b_batch + j) * lane.size
        c_at = c + (batch * c_batch + i * c_m + j) * lane.size
        bias = added.differs(0).choose(added + j * lane.size, 0)
        left = n - j
        one, some, many, asking = (
            partial(code.call, tile, a_at, 0, a_k, b_at, b_k, c_at, c_m, k, 1, 1, left, bias) for tile in tiles
        )
        # Vectors that are masked altogether take their time, too.
        wide = partial(code.either, is_far, asking, many)
        code.either(left <= lane.count, one, partial(code.either, left <= columns // 2, some, wide))


def _dots(lane: Lane, vectors: int, by_lines: bool, code: Code, p: Word, low: Word, high: Word) -> None:
    """Few rows of A against contiguous columns of B, nothing packed; one row against `vectors` of columns at once, if
    units are so wide.
    """
    a, b, c, m, n, k, a_m, a_k, b_n, c_m = code.slots(p, A, B, C, M, N, K, A_M, A_K, B_N, C_M)
    a_batch, b_batch, c_batch, width, added = code.slots(p, A_BATCH, B_BATCH, C_BATCH, GROUP, ADDED)
    panels = (n + width - 1).quotient(width)
    with code.loop(low, high) as unit:
        batch = unit.quotient(panels)
        j = (unit - batch * panels) * width
        a_at = a + batch * a_batch * lane.size
        b_at = b + (batch * b_batch + j * b_n) * lane.size
        c_at = c + (batch * c_batch + j) * lane.size

        def bias(column: Word) -> Word:
            return added.differs(0).choose(added + column * lane.size, 0)

        def columns(first: Any) -> None:
            places = (b_at + first * b_n * lane.size, b_n, c_at + first * lane.size, c_m)
            left = n - j - first
            code.call(add_dots(code.module, lane, DOT_ROWS), a_at, a_m, a_k, *places, k, m, left, bias(j + first))

        def row() -> None:
            code.call(add_row_dots(code.module, lane, vectors, by_lines), a_at, b_at, b_n, c_at, k, bias(j))

        def some() -> None:
            with code.loop(0, width.least(n - j), lane.count) as first:
                columns(first)

        code.either(width.equals(vectors * lane.count) & (n - j >= width), row, some)


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


panel_f32 = native_kernel("panel_f32", partial(_panel, F32, NARROW))
panel_f64 = native_kernel("panel_f64", partial(_panel, F64, NARROW))
wide_f32 = native_kernel("wide_f32", partial(_panel, F32, WIDE))
wide_f64 = native_kernel("wide_f64", partial(_panel, F64, WIDE))
distances_f32 = native_kernel("distances_f32", partial(_panel, F32, NARROW, use=APART))
distances_f64 = native_kernel("distances_f64", partial(_panel, F64, NARROW, use=APART))
pack_f32 = native_kernel("pack_f32", partial(_pack, F32))
pack_f64 = native_kernel("pack_f64", partial(_pack, F64))
strips_f32 = native_kernel("strips_f32", partial(_strips, F32))
strips_f64 = native_kernel("strips_f64", partial(_strips, F64))
thin_f32 = native_kernel("thin_f32", partial(_thin, F32))
thin_f64 = native_kernel("thin_f64", partial(_thin, F64))
dots_f32 = native_kernel("dots_f32", partial(_dots, F32, ROW_VECTORS, False))
dots_f64 = native_kernel("dots_f64", partial(_dots, F64, ROW_VECTORS, False))
lines_f32 = native_kernel("lines_f32", partial(_dots, F32, ROW_VECTORS, True))
lines_f64 = native_kernel("lines_f64", partial(_dots, F64, ROW_VECTORS, True))
pages_f32 = native_kernel("pages_f32", partial(_dots, F32, 1, True))
pages_f64 = native_kernel("pages_f64", partial(_dots, F64, 1, True))
product_8 = native_kernel("product_8", partial(_integer, ir.IntType(8)), by_hand=False)
product_16 = native_kernel("product_16", partial(_integer, ir.IntType(16)), by_hand=False)
product_32 = native_kernel("product_32", partial(_integer, ir.IntType(32)), by_hand=False)
product_64 = native_kernel("product_64", partial(_integer, ir.IntType(64)), by_hand=False)


def gemm_panel_f32(p: Any, lo: int, hi: int) -> Any:
    """Panels of B in place or packed, float32."""
    return panel_f32(p, lo, hi)


def gemm_panel_f64(p: Any, lo: int, hi: int) -> Any:
    """Panels of B in place or packed, float64."""
    return panel_f64(p, lo, hi)


def gemm_wide_f32(p: Any, lo: int, hi: int) -> Any:
    """The same by wide tiles, float32."""
    return wide_f32(p, lo, hi)


def gemm_wide_f64(p: Any, lo: int, hi: int) -> Any:
    """The same by wide tiles, float64."""
    return wide_f64(p, lo, hi)


def gemm_distances_f32(p: Any, lo: int, hi: int) -> Any:
    """Distances of rows of A and columns of B, float32."""
    return distances_f32(p, lo, hi)


def gemm_distances_f64(p: Any, lo: int, hi: int) -> Any:
    """Distances of rows of A and columns of B, float64."""
    return distances_f64(p, lo, hi)


def gemm_pack_f32(p: Any, lo: int, hi: int) -> Any:
    """A matrix into panels, float32."""
    return pack_f32(p, lo, hi)


def gemm_pack_f64(p: Any, lo: int, hi: int) -> Any:
    """A matrix into panels, float64."""
    return pack_f64(p, lo, hi)


def gemm_strips_f32(p: Any, lo: int, hi: int) -> Any:
    """The transpose of a matrix into strips, float32."""
    return strips_f32(p, lo, hi)


def gemm_strips_f64(p: Any, lo: int, hi: int) -> Any:
    """The transpose of a matrix into strips, float64."""
    return strips_f64(p, lo, hi)


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


def gemm_lines_f32(p: Any, lo: int, hi: int) -> Any:
    """One row against many long columns of B, met by lines, float32."""
    return lines_f32(p, lo, hi)


def gemm_lines_f64(p: Any, lo: int, hi: int) -> Any:
    """One row against many long columns of B, met by lines, float64."""
    return lines_f64(p, lo, hi)


def gemm_pages_f32(p: Any, lo: int, hi: int) -> Any:
    """One row against many long columns of B, whole pages apart, float32."""
    return pages_f32(p, lo, hi)


def gemm_pages_f64(p: Any, lo: int, hi: int) -> Any:
    """One row against many long columns of B, whole pages apart, float64."""
    return pages_f64(p, lo, hi)


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
