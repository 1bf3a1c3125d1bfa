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

from tracejit.kernels.emit import I64, emit_loop, integers, internal_function
from tracejit.kernels.vectors import F32, I8, I32, VectorBuilder

SIDE, DEPTH = 16, 32
"""Rows (of B and C columns) of a tile, places of k."""

ROW_BYTES = 64
TILE_BYTES = SIDE * ROW_BYTES

SQUARE = 2 * SIDE
"""Rows and columns of C that are computed at once: two tiles of A and two of B make four of C, and there are eight."""



class _Bfloat(ir.Type):
    """LLVM's bfloat, which only the instruction that makes it is asked for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


_BFLOAT = _Bfloat()
_I16 = ir.IntType(16)
_WORDS = ir.VectorType(I32, SIDE)
_SINGLES = ir.VectorType(ir.FloatType(), SIDE)
_HALVES = ir.VectorType(_I16, SIDE)
_ALL_HALVES = ir.VectorType(_I16, DEPTH)
_NAMES = {_WORDS: "v16i32", _SINGLES: "v16f32", _HALVES: "v16i16", _ALL_HALVES: "v32i16"}
_SIZES = {_WORDS: 4, _SINGLES: 4, _HALVES: 2, _ALL_HALVES: 2}

_TALLEST = 12
"""Rows whose sums are in registers at once, without tiles."""

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
    spread = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), integers(*[0] * kind.count))
    return builder.icmp_signed("<", integers(*range(kind.count), bits=lane.width), spread)


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


def _shortened(builder: Any, low: Any, high: Any) -> Any:
    """The floats of two vectors, one after the other, as bfloat16.

    The instruction takes subnormal numbers for zeros, as the one that multiplies does with those of bfloat16.
    """
    kind = ir.VectorType(_BFLOAT, DEPTH)
    found = _call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", kind, high, low)
    return builder.bitcast(found, _ALL_HALVES)


def _along(builder: Any, source: Any, size: int, count: Any) -> Any:
    """32 places of k, which lie side by side, as words; those from `count` on, if it is given, are 0."""

    def part(kind: Any, first: int) -> Any:
        mask = None if count is None else _first(builder, builder.sub(count, I64(first)), kind)
        return _load(builder, builder.add(source, I64(first * size)), kind, mask)

    halves = part(_ALL_HALVES, 0) if size == 2 else _shortened(builder, part(_SINGLES, 0), part(_SINGLES, SIDE))
    return builder.bitcast(halves, _WORDS)


def _across(builder: Any, source: Any, step: Any, size: int, counts: list[Any] | None) -> Any:
    """Two places of k of 16 columns (rows of A), which lie side by side, as words; 0 where they are not there."""
    kind = _HALVES if size == 2 else _SINGLES
    loaded = []
    for place in range(2):
        mask = None if counts is None else _first(builder, counts[place], kind)
        loaded.append(_load(builder, builder.add(source, step) if place else source, kind, mask))
    order = [place + SIDE * odd for place in range(SIDE) for odd in range(2)]
    indices = integers(*order)
    if size == 2:
        return builder.bitcast(builder.shuffle_vector(*loaded, indices), _WORDS)
    halves = _shortened(builder, *loaded)
    return builder.bitcast(builder.shuffle_vector(halves, ir.Constant(_ALL_HALVES, ir.Undefined), indices), _WORDS)


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
                    words = _across(builder, at, step, size, None if whole else counts)
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
    """C = or += A @ B for `rows` and `columns` tiles, 1 or 2 of each, as float32.

    Arguments: a, b, sums, begin, c, c_row, steps. Two tiles of A, and of B, lie one after another for each step of 32
    places of k. `begin` other than 0 starts from 0, else from the sums, whose rows have 32 places. Rows of C, which may
    be the sums, are `c_row` apart.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, b, sums, begin, c, c_row, steps = arguments
        places = [(i, j) for i in range(rows) for j in range(columns)]

        def each(name: str, start: Any, row: Any) -> None:
            down = builder.mul(row, I64(SIDE))
            for i, j in places:
                place = builder.add(builder.add(start, down) if i else start, I64(j * ROW_BYTES))
                _call(builder, name, ir.VoidType(), I8(_C_TILES[i][j]), _pointer(builder, place, I8), row)

        with builder.if_else(builder.icmp_signed("!=", begin, I64(0))) as (then, otherwise):
            with then:
                for i, j in places:
                    _call(builder, "llvm.x86.tilezero", ir.VoidType(), I8(_C_TILES[i][j]))
            with otherwise:
                each("llvm.x86.tileloadd64", sums, I64(2 * ROW_BYTES))

        def load(tile: int, address: Any, index: int) -> None:
            place = _pointer(builder, builder.add(address, I64(index * TILE_BYTES)), I8)
            _call(builder, "llvm.x86.tileloadd64", ir.VoidType(), I8(tile), place, I64(ROW_BYTES))

        def step(state: list[Any]) -> list[Any]:
            a_at, b_at = state
            for i, j in places:
                if j == 0:
                    load(_A_TILES[i], a_at, i)
                if i == 0:
                    load(_B_TILES[j], b_at, j)
                tiles = (I8(tile) for tile in (_C_TILES[i][j], _A_TILES[i], _B_TILES[j]))
                _call(builder, "llvm.x86.tdpbf16ps", ir.VoidType(), *tiles)
            return [builder.add(at, I64(2 * TILE_BYTES)) for at in state]

        emit_loop(builder, steps, [a, b], step, rolled=True)
        each("llvm.x86.tilestored64", c, c_row)

    return internal_function(module, f"square_{rows}x{columns}", 7, body)


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
                parts = [_shortened(builder, *parts)]
            for part, first, mask in zip(parts, firsts, masks, strict=True):
                _store(builder, part, builder.add(target, I64(first * size)), mask)
            return [builder.add(at, I64(2 * ROW_BYTES)), builder.add(target, c_row)]

        emit_loop(builder, rows, [source, c], row)

    return internal_function(module, f"write_{'single' if size == 4 else 'short'}", 5, body)


_PAIRS = ROW_BYTES // 4
"""Words of two places of k in a row of a tile of A, rows of one of B."""


def add_square_by_vectors(module: Any, rows: int, columns: int) -> Any:
    """The same without tiles (AVX512-BF16): the operands are as they are for tiles, the order is another.

    Twelve rows and two vectors of columns are in registers, so that 14 loads go with 24 multiplications.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, b, sums, begin, c, c_row, steps = arguments
        zeros = ir.Constant(_SINGLES, None)
        is_first = builder.icmp_signed("!=", begin, I64(0))
        for top in range(0, rows * SIDE, _TALLEST):
            lines = range(top, min(top + _TALLEST, rows * SIDE))
            places = [(line, j) for line in lines for j in range(columns)]

            def address(start: Any, row: Any, line: int, j: int) -> Any:
                return builder.add(builder.add(start, builder.mul(row, I64(line))), I64(j * ROW_BYTES))

            begun = []
            for line, j in places:
                # The sums are there whether they are begun or not.
                found = _load(builder, address(sums, I64(2 * ROW_BYTES), line, j), _SINGLES)
                begun.append(builder.select(is_first, zeros, found))

            def pair(state: list[Any], lines: range = lines) -> list[Any]:
                a_at, b_at, *found = state
                vectors = [_load(builder, builder.add(b_at, I64(j * TILE_BYTES)), _WORDS) for j in range(columns)]
                added = []
                for index, line in enumerate(lines):
                    word = builder.load(_pointer(builder, builder.add(a_at, I64(line * ROW_BYTES)), I32), align=4)
                    one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, I32(0))
                    spread = builder.shuffle_vector(one, ir.Constant(_WORDS, ir.Undefined), integers(*[0] * SIDE))
                    for j, vector in enumerate(vectors):
                        added.append(_multiplied(builder, found[index * columns + j], spread, vector))
                return [builder.add(a_at, I64(4)), builder.add(b_at, I64(ROW_BYTES)), *added]

            def step(state: list[Any], pair: Any = pair) -> list[Any]:
                a_at, b_at, *found = emit_loop(builder, I64(_PAIRS), state, pair)
                return [builder.add(a_at, I64(2 * TILE_BYTES - ROW_BYTES)), builder.add(b_at, I64(TILE_BYTES)), *found]

            _, _, *found = emit_loop(builder, steps, [a, b, *begun], step, rolled=True)
            for (line, j), value in zip(places, found, strict=True):
                target = _pointer(builder, address(c, c_row, line, j), _SINGLES)
                builder.store(value, target, align=4)

    return internal_function(module, f"square_by_vectors_{rows}x{columns}", 7, body)


def _multiplied(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """The products of pairs added to what there is, those of the odd places first."""
    kind = ir.VectorType(_BFLOAT, DEPTH)
    operands = (builder.bitcast(x, kind) for x in (left, right))
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _SINGLES, total, *operands)
