"""LLVM functions that products on tiles are made of (AMX): filling tiles, multiplying them, writing what comes out.

A tile is 16 rows of 64 bytes. One of A holds 16 rows and 32 places of k, as bfloat16; one of B 16 columns and 32 places
of k, a row of it two places of k of all columns side by side. Seen as words of 32 bits, each two places of k, one of A
is the transpose of what one of B would be. One of C has 16 rows and 16 columns of float32.

Each builder adds one internal function to the module that is being compiled and returns it; callers share it. All
arguments are int64, addresses and distances are in bytes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

from tracejit.kernels.emit import I64, Splat, emit_loop, internal_function
from tracejit.kernels.gemm_vectors import F32, I8, I32, VectorBuilder
from tracejit.kernels.memory import bfloat16_bits

SIDE, DEPTH = 16, 32
"""Rows (of B and C columns) of a tile, places of k."""

ROW_BYTES = 64
TILE_BYTES = SIDE * ROW_BYTES

SQUARE = 2 * SIDE
"""Rows and columns of C that are computed at once: two tiles of A and two of B make four of C, and there are eight."""

_I16 = ir.IntType(16)
_WORDS = ir.VectorType(I32, SIDE)
_SINGLES = ir.VectorType(ir.FloatType(), SIDE)
_HALVES = ir.VectorType(_I16, SIDE)
_ALL_HALVES = ir.VectorType(_I16, DEPTH)
_NAMES = {_WORDS: "v16i32", _SINGLES: "v16f32", _HALVES: "v16i16", _ALL_HALVES: "v32i16"}
_SIZES = {_WORDS: 4, _SINGLES: 4, _HALVES: 2, _ALL_HALVES: 2}

_C_TILES, _A_TILES, _B_TILES = ((0, 1), (2, 3)), (4, 5), (6, 7)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _first(builder: Any, count: Any, kind: Any) -> Any:
    """True in the first `count` lanes of vectors of a type, a count that may be anything."""
    lane = ir.IntType(8 * _SIZES[kind])
    lanes = ir.VectorType(lane, kind.count)
    most = I64(kind.count)
    few = builder.select(builder.icmp_signed("<", count, most), count, most)
    few = builder.select(builder.icmp_signed("<", few, I64(0)), I64(0), few)
    one = builder.insert_element(ir.Constant(lanes, ir.Undefined), builder.trunc(few, lane), I32(0))
    order = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    spread = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), order)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(kind.count))), spread)


def _load(builder: Any, address: Any, kind: Any, mask: Any = None) -> Any:
    """A vector; of one with a mask the other lanes are 0 and are not read."""
    pointer = _pointer(builder, address, kind)
    if mask is None:
        return builder.load(pointer, align=_SIZES[kind])
    zeros = ir.Constant(kind, None)
    return _call(builder, f"llvm.masked.load.{_NAMES[kind]}.p0", kind, pointer, I32(_SIZES[kind]), mask, zeros)


def _store(builder: Any, value: Any, address: Any, mask: Any) -> None:
    kind = value.type
    pointer = _pointer(builder, address, kind)
    name = f"llvm.masked.store.{_NAMES[kind]}.p0"
    _call(builder, name, ir.VoidType(), value, pointer, I32(_SIZES[kind]), mask)


def _rounded(builder: Any, singles: Any) -> Any:
    """Floats rounded to bfloat16, in the upper halves of words."""
    return bfloat16_bits(builder, singles, lambda number: Splat(_WORDS, number))


def _joined(builder: Any, low: Any, high: Any) -> Any:
    """The upper halves of the words of two vectors, one after the other."""
    order = ir.Constant(ir.VectorType(I32, DEPTH), list(range(1, 2 * DEPTH, 2)))
    return builder.shuffle_vector(builder.bitcast(low, _ALL_HALVES), builder.bitcast(high, _ALL_HALVES), order)


def _along(builder: Any, source: Any, size: int, count: Any) -> Any:
    """32 places of k, which lie side by side, as words; those from `count` on, if it is given, are 0."""

    def part(kind: Any, first: int) -> Any:
        mask = None if count is None else _first(builder, builder.sub(count, I64(first)), kind)
        return _load(builder, builder.add(source, I64(first * size)), kind, mask)

    if size == 2:
        return builder.bitcast(part(_ALL_HALVES, 0), _WORDS)
    low, high = (_rounded(builder, part(_SINGLES, first)) for first in (0, SIDE))
    return builder.bitcast(_joined(builder, low, high), _WORDS)


def _across(builder: Any, source: Any, step: Any, size: int, counts: tuple[Any, Any] | None) -> Any:
    """Two places of k of 16 columns (rows of A), which lie side by side, as words; 0 where they are not there."""
    words = []
    for place in range(2):
        kind = _HALVES if size == 2 else _SINGLES
        mask = None if counts is None else _first(builder, counts[place], kind)
        loaded = _load(builder, builder.add(source, step) if place else source, kind, mask)
        upper = builder.shl(builder.zext(loaded, _WORDS), Splat(_WORDS, 16)) if size == 2 else _rounded(builder, loaded)
        words.append(upper)
    return builder.or_(builder.lshr(words[0], Splat(_WORDS, 16)), words[1])


def add_fill(module: Any, size: int, *, along: bool, turned: bool) -> Any:
    """Fills one tile with elements of `size` bytes: bfloat16, or float32, which are rounded.

    Arguments: source, step, out, left, k. Of 16 lines (rows of A or columns of B) `left` are there, of 32 places of k
    `k`; the rest is 0. With `along` the places of k of a line lie side by side, and lines are `step` apart; without,
    the lines lie side by side, and places of k are `step` apart. `turned` says that the tile's words are the transpose
    of what is loaded: columns of B along k, rows of A across.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        source, step, out, left, k = arguments
        with builder.goto_entry_block():
            buffer = builder.alloca(ir.ArrayType(I8, TILE_BYTES))
            buffer.align = ROW_BYTES
        target = builder.ptrtoint(buffer, I64) if turned else out

        def lines(whole: bool) -> None:
            at = source
            for line in range(SIDE):
                if along:
                    there = builder.icmp_signed("<", I64(line), left)
                    words = _along(builder, at, size, None if whole else builder.select(there, k, I64(0)))
                    at = builder.add(at, step)
                else:
                    flags = [builder.icmp_signed("<", I64(2 * line + place), k) for place in range(2)]
                    counts = [builder.select(flag, left, I64(0)) for flag in flags]
                    words = _across(builder, at, step, size, None if whole else (counts[0], counts[1]))
                    at = builder.add(at, builder.shl(step, I64(1)))
                place = _pointer(builder, builder.add(target, I64(line * ROW_BYTES)), _WORDS)
                builder.store(words, place, align=ROW_BYTES)

        enough = (builder.icmp_signed(">=", left, I64(SIDE)), builder.icmp_signed(">=", k, I64(DEPTH)))
        with builder.if_else(builder.and_(*enough)) as (then, otherwise):
            with then:
                lines(whole=True)
            with otherwise:
                lines(whole=False)
        if turned:
            # As floats, which are only moved.
            v = VectorBuilder(builder, F32)
            rows = [(target, I64(line * ROW_BYTES)) for line in range(SIDE)]
            for line, column in enumerate(v.load_transposed(rows)):
                v.store(column, out, I64(line * ROW_BYTES))

    kind = "single" if size == 4 else "short"
    name = f"fill_{kind}_{'along' if along else 'across'}{'_turned' if turned else ''}"
    return internal_function(module, name, 5, body)


def configure_tiles(builder: Any) -> None:
    """Makes all eight tiles 16 rows of 64 bytes, in this thread."""
    name = "tile_shapes"
    table = builder.module.globals.get(name)
    if table is None:
        # Palette 1, then the bytes of a row of each tile from byte 16 on, as 16 bits, and its rows from byte 48 on.
        shapes = [1, *[0] * 15, *[ROW_BYTES, 0] * 8, *[0] * 16, *[SIDE] * 8, *[0] * 8]
        kind = ir.ArrayType(I8, len(shapes))
        table = ir.GlobalVariable(builder.module, kind, name)
        table.initializer = ir.Constant(kind, shapes)
        table.linkage, table.global_constant = "internal", True
    _call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), builder.bitcast(table, I8.as_pointer()))


def release_tiles(builder: Any) -> None:
    """Leaves no state of tiles in this thread, which the system would have to save whenever it stops."""
    _call(builder, "llvm.x86.tilerelease", ir.VoidType())


def add_square(module: Any, rows: int, columns: int) -> Any:
    """C = A @ B for `rows` and `columns` tiles, 1 or 2 of each, as float32.

    Arguments: a, a_row, a_tile, a_step, b, c, c_row, steps. Rows of a tile of A are `a_row` apart, its two tiles
    `a_tile`, those of the next 32 places of k `a_step`; tiles of B lie one after another, two for each step. Rows of C
    are `c_row` apart.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, a_row, a_tile, a_step, b, c, c_row, steps = arguments

        def tiled(name: str, tile: int, address: Any, row: Any) -> None:
            _call(builder, f"llvm.x86.{name}", ir.VoidType(), I8(tile), _pointer(builder, address, I8), row)

        places = [(i, j) for i in range(rows) for j in range(columns)]
        for i, j in places:
            _call(builder, "llvm.x86.tilezero", ir.VoidType(), I8(_C_TILES[i][j]))

        def step(state: list[Any]) -> list[Any]:
            a_at, b_at = state
            for i, j in places:
                if j == 0:
                    tiled("tileloadd64", _A_TILES[i], builder.add(a_at, a_tile) if i else a_at, a_row)
                if i == 0:
                    tiled("tileloadd64", _B_TILES[j], builder.add(b_at, I64(j * TILE_BYTES)), I64(ROW_BYTES))
                tiles = (I8(tile) for tile in (_C_TILES[i][j], _A_TILES[i], _B_TILES[j]))
                _call(builder, "llvm.x86.tdpbf16ps", ir.VoidType(), *tiles)
            return [builder.add(a_at, a_step), builder.add(b_at, I64(2 * TILE_BYTES))]

        emit_loop(builder, steps, [a, b], step, rolled=True)
        down = builder.mul(c_row, I64(SIDE))
        for i, j in places:
            row = builder.add(c, down) if i else c
            tiled("tilestored64", _C_TILES[i][j], builder.add(row, I64(j * ROW_BYTES)), c_row)

    return internal_function(module, f"square_{rows}x{columns}", 8, body)


def add_write(module: Any, size: int) -> Any:
    """Copies `rows` rows of `columns` floats, at most 32, to elements of `size` bytes: as they are, or rounded.

    Arguments: source, c, c_row, rows, columns. Rows of the source have 32 places.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        source, c, c_row, rows, columns = arguments
        firsts = (0, SIDE) if size == 4 else (0,)
        kind = _SINGLES if size == 4 else _ALL_HALVES
        masks = [_first(builder, builder.sub(columns, I64(first)), kind) for first in firsts]

        def row(state: list[Any]) -> list[Any]:
            at, target = state
            parts = [_load(builder, builder.add(at, I64(half * ROW_BYTES)), _SINGLES) for half in range(2)]
            if size == 2:
                parts = [_joined(builder, *(_rounded(builder, part) for part in parts))]
            for part, first, mask in zip(parts, firsts, masks, strict=True):
                _store(builder, part, builder.add(target, I64(first * size)), mask)
            return [builder.add(at, I64(2 * ROW_BYTES)), builder.add(target, c_row)]

        emit_loop(builder, rows, [source, c], row)

    return internal_function(module, f"write_{'single' if size == 4 else 'short'}", 5, body)
