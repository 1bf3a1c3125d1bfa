"""Kernels of products on tiles (AMX): packing operands in the order of tiles, multiplying what is packed.

All of packing reads one argument block, all of multiplying another, see the slots below, which `square` fills. Sizes
count elements, distances bytes. Units are parts of the batch, of rows and of columns; none depends on another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.gemm_code import Code, Word, native_kernel
from tracejit.kernels.square_vectors import (
    DEPTH,
    ROW_BYTES,
    SIDE,
    SQUARE,
    TILE_BYTES,
    add_fill,
    add_square,
    add_write,
    configure_tiles,
    release_tiles,
)

(SOURCE, OUT, OUT_AT, LINES, PLACES, BATCH, LINE, PLACE, TURNED, TOGETHER) = range(10)
"""Slots of packing: addresses, how far behind the second it begins; lines (rows of A or columns of B), places of k;
distances of a batch, a line, a place of k; whether tiles are turned, and how many a unit fills side by side."""

(A, A_AT, B, B_AT, C, M, N, K) = range(8)
(A_BATCH, A_SQUARE, A_TILE, A_ROW, A_STEP, B_BATCH, B_SQUARE, C_BATCH, C_ROW, HIGH, WIDE) = range(8, 19)
"""Slots of multiplying: addresses, and how far behind them it begins; sizes; distances of a batch, of 32 rows, of a
tile, of a row and of 32 places of k; of a batch and of 32 columns; of a batch and of a row; squares of a unit."""

STEP_BYTES = 2 * TILE_BYTES
"""What 32 places of k of a square's rows or columns take."""

_SHORT, _SINGLE = 2, 4
_ALONG, _ACROSS, _NEITHER = "along", "across", "neither"


def _fill(code: Code, size: int, along: bool, turned: Word, *operands: Word) -> None:
    """One tile."""

    def kind(turn: bool) -> None:
        code.call(add_fill(code.module, size, along=along, turned=turn), *operands)

    code.either(turned.differs(0), lambda: kind(True), lambda: kind(False))


def _gathered(code: Code, size: int, buffer: Word, source: Word, line: Word, place: Word, left: Word, k: Word) -> None:
    """Copies a tile's elements, of which none are side by side, into lines of 32 places of k."""
    kind = ir.IntType(8 * size)
    with code.loop(0, left.least(SIDE)) as i, code.loop(0, k.least(DEPTH)) as j:
        code.store(buffer, i * DEPTH + j, code.load(source + i * line + j * place, 0, kind))


def _pack(size: int, way: str, code: Code, p: Word, low: Word, high: Word) -> None:
    """Tiles side by side, over all of k. Two of them are a square's, which lie one after another, then the next places
    of k."""
    source, out, out_at, lines, places, batches, line, place, turned, together = code.slots(
        p, SOURCE, OUT, OUT_AT, LINES, PLACES, BATCH, LINE, PLACE, TURNED, TOGETHER
    )
    steps = (places + (DEPTH - 1)).quotient(DEPTH)
    squares = (lines + (SQUARE - 1)).quotient(SQUARE)
    groups = (lines + (SIDE - 1)).quotient(SIDE) + (together - 1)
    groups = groups.quotient(together)
    buffer = code.buffer(SIDE * DEPTH * size) if way == _NEITHER else out
    with code.loop(low, high) as unit:
        batch = unit.quotient(groups)
        first = (unit - batch * groups) * together
        end = (first + together).least((lines + (SIDE - 1)).quotient(SIDE))
        begin = source + batch * batches
        target = out + out_at + batch * squares * steps * STEP_BYTES

        def tile(step: Word, index: Word) -> None:
            at = begin + index * SIDE * line + step * DEPTH * place
            square = index.quotient(2)
            into = target + (square * steps + step) * STEP_BYTES + (index - square * 2) * TILE_BYTES
            left, k = lines - index * SIDE, places - step * DEPTH
            if way == _NEITHER:
                _gathered(code, size, buffer, at, line, place, left, k)
                _fill(code, size, True, turned, buffer, code.word(DEPTH * size), into, left, k)
            else:
                _fill(code, size, way == _ALONG, turned, at, line if way == _ALONG else place, into, left, k)

        if way == _ACROSS:
            # A row of memory after the other.
            with code.loop(0, steps) as step, code.loop(first, end) as index:
                tile(step, index)
        else:
            with code.loop(first, end) as index, code.loop(0, steps) as step:
                tile(step, index)


def _multiply(size: int, code: Code, p: Word, low: Word, high: Word) -> None:
    """Squares of C, of `size` bytes an element: for a part of the columns all of a part of the rows."""
    a, a_at, b, b_at, c, m, n, k = code.slots(p, A, A_AT, B, B_AT, C, M, N, K)
    a_batch, a_square, a_tile, a_row, a_step = code.slots(p, A_BATCH, A_SQUARE, A_TILE, A_ROW, A_STEP)
    b_batch, b_square, c_batch, c_row, tall, wide = code.slots(p, B_BATCH, B_SQUARE, C_BATCH, C_ROW, HIGH, WIDE)
    steps = (k + (DEPTH - 1)).quotient(DEPTH)
    rows, columns = ((x + (SQUARE - 1)).quotient(SQUARE) for x in (m, n))
    down, along = (rows + (tall - 1)).quotient(tall), (columns + (wide - 1)).quotient(wide)
    buffer = code.buffer(SQUARE * 2 * ROW_BYTES)
    configure_tiles(code.builder)
    with code.loop(low, high) as unit:
        row = unit.quotient(along)
        batch = row.quotient(down)
        top, left = (row - batch * down) * tall, (unit - row * along) * wide
        with (
            code.loop(left, columns.least(left + wide)) as j,
            code.loop(top, rows.least(top + tall)) as i,
        ):
            a_from = a + a_at + batch * a_batch + i * a_square
            b_from = b + b_at + batch * b_batch + j * b_square
            c_to = c + batch * c_batch + i * SQUARE * c_row + j * (SQUARE * size)
            high_left, wide_left = m - i * SQUARE, n - j * SQUARE

            def square(height: int, width: int, into: Word, pitch: Word | int) -> None:
                function = add_square(code.module, height, width)
                code.call(function, a_from, a_row, a_tile, a_step, b_from, into, pitch, steps)

            def through_buffer() -> None:
                pitch = 2 * ROW_BYTES

                def part(height: int) -> None:
                    code.either(
                        wide_left > SIDE,
                        lambda: square(height, 2, buffer, pitch),
                        lambda: square(height, 1, buffer, pitch),
                    )

                code.either(high_left > SIDE, lambda: part(2), lambda: part(1))
                write = add_write(code.module, size)
                code.call(write, buffer, c_to, c_row, high_left.least(SQUARE), wide_left.least(SQUARE))

            if size == _SINGLE:
                whole = (high_left >= SQUARE) & (wide_left >= SQUARE)
                code.either(whole, lambda: square(2, 2, c_to, c_row), through_buffer)
            else:
                through_buffer()
    release_tiles(code.builder)


pack_along_f32 = native_kernel("pack_along_f32", partial(_pack, _SINGLE, _ALONG))
pack_along_bf16 = native_kernel("pack_along_bf16", partial(_pack, _SHORT, _ALONG))
pack_across_f32 = native_kernel("pack_across_f32", partial(_pack, _SINGLE, _ACROSS))
pack_across_bf16 = native_kernel("pack_across_bf16", partial(_pack, _SHORT, _ACROSS))
pack_gathered_f32 = native_kernel("pack_gathered_f32", partial(_pack, _SINGLE, _NEITHER))
pack_gathered_bf16 = native_kernel("pack_gathered_bf16", partial(_pack, _SHORT, _NEITHER))
multiply_f32 = native_kernel("multiply_f32", partial(_multiply, _SINGLE))
multiply_bf16 = native_kernel("multiply_bf16", partial(_multiply, _SHORT))


def square_along_f32(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix whose places of k lie side by side, float32 rounded to bfloat16."""
    return pack_along_f32(p, lo, hi)


def square_along_bf16(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix whose places of k lie side by side, bfloat16."""
    return pack_along_bf16(p, lo, hi)


def square_across_f32(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix whose rows of A or columns of B lie side by side, float32 rounded to bfloat16."""
    return pack_across_f32(p, lo, hi)


def square_across_bf16(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix whose rows of A or columns of B lie side by side, bfloat16."""
    return pack_across_bf16(p, lo, hi)


def square_gathered_f32(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix with gaps between all elements, float32 rounded to bfloat16."""
    return pack_gathered_f32(p, lo, hi)


def square_gathered_bf16(p: Any, lo: int, hi: int) -> Any:
    """Tiles of a matrix with gaps between all elements, bfloat16."""
    return pack_gathered_bf16(p, lo, hi)


def square_f32(p: Any, lo: int, hi: int) -> Any:
    """Products of packed bfloat16 on tiles, float32."""
    return multiply_f32(p, lo, hi)


def square_bf16(p: Any, lo: int, hi: int) -> Any:
    """Products of packed bfloat16 on tiles, rounded to bfloat16."""
    return multiply_bf16(p, lo, hi)
