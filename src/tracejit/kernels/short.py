"""Rows of a few elements that follow one another: many are folded side by side, and what is one for each of them, or
the same in all, is laid out element by element beside them.

A row is turned so that it is a lane, if it does not lie so, as windows do that begin at every element. Its elements are
folded as the tree of `kernels.fold`, without what the lanes that are missing would add to it, which is nothing: the
bits are those of one row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types

from tracejit.kernels.code import Code, Word
from tracejit.kernels.emit import I64, Splat, internal_function
from tracejit.kernels.fold import FLOATS, LANES, Kind, start_of, write_step
from tracejit.kernels.memory import named_intrinsic, require_literal
from tracejit.kernels.tiles import define_filling
from tracejit.kernels.vectors import F32, F64, TARGET, Lane, VectorBuilder

PIECE = 16
"""Bytes of a row that are turned at once: rows are folded by a function for their number of such pieces."""

_KINDS = tuple(zip(FLOATS, (F32, F64), strict=True))


def _tree(builder: Any, what: str, kind: Kind, columns: list[Any]) -> Any:
    """Folds the elements of rows, each with that half of the lanes of a fold on; of those missing nothing comes."""
    width = LANES
    while width > 1:
        width //= 2
        upper = columns[width:]
        folded = [write_step(builder, what, kind, low, high) for low, high in zip(columns, upper, strict=False)]
        columns = [*folded, *columns[len(folded) : width]]
    return columns[0]


def _add_fold(module: Any, what: str, kind: Kind, lane: Lane, pieces: int) -> Any:
    """target[r] = fold of source[r * pitch: r * pitch + count] for rows of so many pieces.

    Arguments: source, pitch, count, rows, target. Whole vectors are written.
    """
    width, per = lane.count, PIECE // lane.size
    room = pieces * PIECE

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, pitch, count, rows, target = (Word(builder, a) for a in arguments)
        nothing = Splat(lane.vector, start_of(what, kind))
        # Of the last piece there is at least the first element.
        first = (pieces - 1) * per
        there = [None if k <= first else v.spread((count > k).value) for k in range(pieces * per)]
        beside = code.buffer(width * room + TARGET.vector_bytes)
        with code.loop(0, rows, width) as r:
            left, at = rows - r, source + r * pitch * lane.size
            # Pieces may go past the end of a row, but not of the last one, behind which there may be no memory.
            inside = (left >= width) & ((left - width) * pitch + count >= pieces * per)
            with code.when(inside.equals(0)), code.loop(0, left.least(width)) as row:
                for k in range(0, pieces * per, width):
                    part = v.load_masked((at + (row * pitch + k) * lane.size).value, v.mask((count - k).value))
                    v.store(part, (beside + (row * room + k * lane.size)).value)
            place, step = inside.choose(at, beside), inside.choose(pitch * lane.size, room)
            starts = [(place + step * c).value for c in range(width)]
            columns: list[Any] = []
            while len(columns) < pieces * per:
                begin, some = I64(len(columns) * lane.size), min(v.pieces, pieces - len(columns) // per)
                if some == v.pieces:
                    # Sums of 4096 rows of 32 take 0.75 of the time that they would take in pieces.
                    columns += v.transposed([v.load(start, begin) for start in starts])
                else:
                    columns += v.load_transposed([(start, begin) for start in starts], some)
            columns = [
                x if mask is None else builder.select(mask, x, nothing)
                for x, mask in zip(columns, there, strict=True)
            ]
            v.store(_tree(builder, what, kind, columns), (target + r * lane.size).value)

    return internal_function(module, f"fold_rows_{what}_{kind.name}_{pieces}", 5, body)


def _add_beside(module: Any, what: str, kind: Kind, lane: Lane, pieces: int) -> Any:
    """target[r] = fold of the `count` elements source[r], source[r + step], ... of rows of so many pieces.

    Arguments: source, step, count, rows, target. Whole vectors are written.
    """
    width, per = lane.count, PIECE // lane.size

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, step, count, rows, target = (Word(builder, a) for a in arguments)
        nothing = Splat(lane.vector, start_of(what, kind))
        first = (pieces - 1) * per
        there = [None if k <= first else v.spread((count > k).value) for k in range(pieces * per)]
        # Places behind the end of a row stand for its last one, behind which there may be no memory.
        places = [(count - 1).least(k) * step * lane.size if there[k] is not None else step * (k * lane.size)
                  for k in range(pieces * per)]  # fmt: skip

        def fold(r: Word, mask: Any) -> None:
            at = source + r * lane.size
            columns = []
            for place, some in zip(places, there, strict=True):
                address = (at + place).value
                x = v.load(address) if mask is None else v.load_masked(address, mask)
                columns.append(x if some is None else builder.select(some, x, nothing))
            v.store(_tree(builder, what, kind, columns), (target + r * lane.size).value)

        whole = rows - rows % width
        with code.loop(0, whole, width) as r:
            fold(r, None)
        with code.when(whole < rows):
            fold(whole, v.mask((rows - whole).value))

    return internal_function(module, f"fold_beside_{what}_{kind.name}_{pieces}", 5, body)


def _define_fold(name: str, add: Callable[..., Any], what: str, kind: Kind, lane: Lane, where: str) -> Any:
    """The intrinsic of a fold of rows."""
    name = f"{name}_{what}_{kind.name}"

    def fold(typingctx: Any, source: Any, pitch: Any, count: Any, rows: Any, target: Any, pieces: Any) -> Any:
        number = require_literal(name, pieces)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.call(add(builder.module, what, kind, lane, number), args[:5])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, pieces), codegen

    doc = (
        f"The {what} of each of `rows` rows of `count` {kind.name}, at most {LANES}, {where}, to `target`, where there "
        f"is room for whole vectors; a row is `pieces` of {PIECE} bytes, a part counts."
    )
    return named_intrinsic(fold, name, doc)


def _folds_of_rows(what: str) -> list[Any]:
    where = "which begin `pitch` elements apart"
    return [_define_fold("fold_rows", _add_fold, what, k, x, where) for k, x in _KINDS]


def _folds_beside(what: str) -> list[Any]:
    where = "which lie side by side, their elements `pitch` apart"
    return [_define_fold("fold_beside", _add_beside, what, k, x, where) for k, x in _KINDS]


def _add_spread(module: Any, lane: Lane) -> Any:
    """target[r * columns + c] = source[r * stride] for `columns` places in each row.

    Arguments: source, stride, target, rows, columns. Whole vectors are written.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, stride, target, rows, columns = (Word(builder, a) for a in arguments)
        with code.loop(0, rows) as r:
            number = v.splat((source + r * stride * lane.size).value)
            with code.loop(0, columns, lane.count) as c:
                v.store(number, (target + (r * columns + c) * lane.size).value)

    return internal_function(module, f"spread_{lane.name}", 5, body)


def _add_repeat(module: Any, lane: Lane) -> Any:
    """target[r * columns + c] = source[c] for `columns` places, at most LANES, in each row.

    Arguments: source, stride, which is 1, target, rows, columns. Whole vectors are written.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, _, target, rows, columns = (Word(builder, a) for a in arguments)
        beside = code.buffer(LANES * lane.size + TARGET.vector_bytes)
        with code.loop(0, columns, lane.count) as c:
            part = v.load_masked((source + c * lane.size).value, v.mask((columns - c).value))
            v.store(part, (beside + c * lane.size).value)
        with code.loop(0, rows) as r, code.loop(0, columns, lane.count) as c:
            v.store(v.load((beside + c * lane.size).value), (target + (r * columns + c) * lane.size).value)

    return internal_function(module, f"repeat_{lane.name}", 5, body)


_EACH, _SAME = "the one of its row, of which they lie `stride` apart", "the same ones in each row"
fold_rows_sum_f32, fold_rows_sum_f64 = _folds_of_rows("sum")
fold_rows_prod_f32, fold_rows_prod_f64 = _folds_of_rows("prod")
fold_rows_amax_f32, fold_rows_amax_f64 = _folds_of_rows("amax")
fold_rows_amin_f32, fold_rows_amin_f64 = _folds_of_rows("amin")
fold_beside_sum_f32, fold_beside_sum_f64 = _folds_beside("sum")
fold_beside_prod_f32, fold_beside_prod_f64 = _folds_beside("prod")
fold_beside_amax_f32, fold_beside_amax_f64 = _folds_beside("amax")
fold_beside_amin_f32, fold_beside_amin_f64 = _folds_beside("amin")
spread_f32, spread_f64 = (define_filling("spread", _add_spread, lane, _EACH) for lane in (F32, F64))
repeat_f32, repeat_f64 = (define_filling("repeat", _add_repeat, lane, _SAME) for lane in (F32, F64))
