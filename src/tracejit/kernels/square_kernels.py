"""Kernels of products on tiles (AMX): packing operands in the order of tiles, multiplying what is packed.

All of packing reads one argument block, all of multiplying another, see the slots below, which `square` fills. Sizes
count elements, distances bytes. Units are parts of the batch, of rows and of columns; none depends on another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import llvmlite.ir as ir

from tracejit.cpu import has_tiles
from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.square_vectors import (
    DEPTH,
    ROW_BYTES,
    SIDE,
    SQUARE,
    TILE_BYTES,
    add_fill,
    add_square,
    add_square_by_vectors,
    add_write,
    configure_tiles,
    release_tiles,
)

(SOURCE, OUT, OUT_AT, LINES, PLACES, BATCH, LINE, PLACE, TURNED, TOGETHER) = range(10)
"""Slots of packing: addresses, how far behind the second it begins; lines (rows of A or columns of B), places of k;
distances of a batch, a line, a place of k; whether tiles are turned, and how many a unit fills side by side."""

(PACKED, B_AT, C, M, N, K, A_BATCH, B_BATCH, C_BATCH, C_ROW, TALL, WIDE, RUN) = range(13)
"""Slots of multiplying: where A begins, and how far behind it B; C; sizes; distances of batches, of a row of C; squares
of a unit down and along, steps of k that are gone through for all rows."""

STEP_BYTES = 2 * TILE_BYTES
"""What 32 places of k of a square's rows or columns take."""

MOST_TALL = 16
SUM_BYTES = SQUARE * SQUARE * 4
"""Squares below one another of a unit at most; what the sums of one take."""

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
    """Tiles side by side, over all of k: two of a square one after another, then those of the next places of k."""
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
    """Squares of C, of `size` bytes an element: for a part of the columns all of a part of the rows.

    For a run of k the columns stay in the first cache, as rows go past them; sums wait beside for the next.
    """
    a, b_at, c, m, n, k = code.slots(p, PACKED, B_AT, C, M, N, K)
    a_batch, b_batch, c_batch, c_row = code.slots(p, A_BATCH, B_BATCH, C_BATCH, C_ROW)
    tall, wide, run = code.slots(p, TALL, WIDE, RUN)
    steps = (k + (DEPTH - 1)).quotient(DEPTH)
    rows, columns = ((x + (SQUARE - 1)).quotient(SQUARE) for x in (m, n))
    down, along = (rows + (tall - 1)).quotient(tall), (columns + (wide - 1)).quotient(wide)
    buffer = code.buffer(MOST_TALL * SUM_BYTES)
    on_tiles = has_tiles()
    add = add_square if on_tiles else add_square_by_vectors
    if on_tiles:
        configure_tiles(code.builder)
    with code.loop(low, high) as unit:
        row = unit.quotient(along)
        batch = row.quotient(down)
        top, left = (row - batch * down) * tall, (unit - row * along) * wide
        a_from, b_from, c_to = a + batch * a_batch, a + b_at + batch * b_batch, c + batch * c_batch
        with (
            code.loop(left, columns.least(left + wide)) as j,
            # Without places of k there is a run, too: of zeros.
            code.loop(0, steps.most(1), run) as start,
            code.loop(top, rows.least(top + tall)) as i,
        ):
            sums, begin = buffer + (i - top) * SUM_BYTES, start.equals(0).number()
            operands = [x + (index * steps + start) * STEP_BYTES for x, index in ((a_from, i), (b_from, j))]
            length = (steps - start).least(run)
            high_left, wide_left = m - i * SQUARE, n - j * SQUARE
            target = c_to + i * SQUARE * c_row + j * (SQUARE * size)
            is_last = start + run >= steps

            def square(height: int, width: int, into: Word, pitch: Word | int) -> None:
                code.call(add(code.module, height, width), *operands, sums, begin, into, pitch, length)

            def part(height: int) -> None:
                pitch = 2 * ROW_BYTES
                code.either(
                    wide_left > SIDE, lambda: square(height, 2, sums, pitch), lambda: square(height, 1, sums, pitch)
                )

            def through_buffer() -> None:
                code.either(high_left > SIDE, lambda: part(2), lambda: part(1))
                with code.when(is_last):
                    write = add_write(code.module, size)
                    code.call(write, sums, target, c_row, high_left.least(SQUARE), wide_left.least(SQUARE))

            if size == _SINGLE:
                whole = is_last & (high_left >= SQUARE) & (wide_left >= SQUARE)
                code.either(whole, lambda: square(2, 2, target, c_row), through_buffer)
            else:
                through_buffer()
    if on_tiles:
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
