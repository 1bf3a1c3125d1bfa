"""Tiles of strided operands, turned so that their rows are contiguous: a transposed read goes line by line through
memory. Where that makes rows of a few elements each, whole vectors are woven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types

from tracejit.kernels.code import Code, Word
from tracejit.kernels.emit import I64, internal_function
from tracejit.kernels.memory import named_intrinsic
from tracejit.kernels.vectors import F32, F64, TARGET, Lane, VectorBuilder

TILE_BYTES, TILE_PITCH = 256, 64
"""Bytes that a tile has of each row of what is turned, four lines of memory, and elements from row to row of a tile."""
WOVEN = (2, 3, 4, 8)
"""How many rows are woven into one, an element of each in turn."""
TILED = {4: "f32", 8: "f64"}
"""How elements of a size in bytes are moved; smaller ones are read one by one."""


def _add_block(module: Any, lane: Lane) -> Any:
    """tile[r, c] = source[c, r] for as many rows and columns as a vector has elements.

    Arguments: source, bytes from row to row of it, tile.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        source, step, tile = arguments
        v = VectorBuilder(builder, lane)
        rows = [(builder.add(source, builder.mul(step, I64(c))), I64(0)) for c in range(v.width)]
        for r, column in enumerate(v.load_lines_transposed(rows)):
            v.store(column, tile, I64(r * TILE_PITCH * lane.size))

    return internal_function(module, f"turn_block_{lane.name}", 3, body)


def _add_turn(module: Any, lane: Lane) -> Any:
    """tile[r, c] = source[c, r] for `columns` rows of the source, `stride` elements apart, and `rows` places in each.

    Arguments: source, stride, tile, rows, columns. Whole blocks of the tile are written.
    """
    block, width = _add_block(module, lane), lane.count

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, stride, tile, rows, columns = (Word(builder, a) for a in arguments)
        step = stride * lane.size
        beside = code.buffer(width * TARGET.vector_bytes)
        with code.loop(0, columns, width) as c, code.loop(0, rows, width) as r:
            at, target = source + c * step + r * lane.size, tile + (r * TILE_PITCH + c) * lane.size

            def part() -> None:
                # What is there of a block, each row of which fills a vector.
                mask = v.mask((rows - r).value)
                with code.loop(0, (columns - c).least(width)) as row:
                    v.store(v.load_masked((at + row * step).value, mask), (beside + row * TARGET.vector_bytes).value)
                code.call(block, beside, TARGET.vector_bytes, target)

            whole = ((rows - r) >= width) & ((columns - c) >= width)
            code.either(whole, lambda: code.call(block, at, step, target), part)

    return internal_function(module, f"turn_{lane.name}", 5, body)


def _woven(v: VectorBuilder, rows: list[Any]) -> list[Any]:
    """Vectors as one row with an element of each in turn."""
    if len(rows) % 2 == 0:
        rows = _woven(v, rows[::2]) + _woven(v, rows[1::2]) if len(rows) > 2 else rows
        half = len(rows) // 2
        return [row for pair in zip(rows[:half], rows[half:], strict=True) for row in v.zipped(*pair)]
    return rows if len(rows) == 1 else v.zipped_three(rows)


def _add_weave(module: Any, lane: Lane) -> Any:
    """target[r * columns + c] = source[c, r] for `columns` rows of the source, one of WOVEN, `stride` elements apart.

    Arguments: source, stride, target, rows, columns. Whole vectors are written.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, lane)
        source, stride, target, rows, columns = (Word(builder, a) for a in arguments)
        for count in WOVEN:
            with code.when(columns.equals(count)), code.loop(0, rows, lane.count) as r:
                mask = v.mask((rows - r).value)
                places = [source + (stride * c + r) * lane.size for c in range(count)]
                for k, vector in enumerate(_woven(v, [v.load_masked(at.value, mask) for at in places])):
                    v.store(vector, (target + (r * count + k * lane.count) * lane.size).value)

    return internal_function(module, f"weave_{lane.name}", 5, body)


def _add_ask(module: Any) -> Any:
    """Asks the second cache for `count` lines of memory, from `address` on in steps of so many bytes."""

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code, v = Code(builder), VectorBuilder(builder, F32)
        address, step, count = (Word(builder, a) for a in arguments)
        with code.loop(0, count) as line:
            v.prefetch((address + line * step).value, written=False, nearest=False)

    return internal_function(module, "ask_lines", 3, body)


def _ask_lines(typingctx: Any, address: Any, step: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_add_ask(builder.module), args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


ask_lines = named_intrinsic(
    _ask_lines, "ask_lines", "Asks for `count` lines, `step` bytes apart, to be read later; they need not be memory."
)


def define_filling(name: str, add: Callable[[Any, Lane], Any], lane: Lane, doc: str) -> Any:
    """The intrinsic of a vector function that fills rows of places from elements that lie `stride` apart."""

    def fill(typingctx: Any, source: Any, stride: Any, target: Any, rows: Any, columns: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.call(add(builder.module, lane), args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return named_intrinsic(fill, f"{name}_{lane.name}", f"Fills `rows` rows of `columns` {lane.name} elements: {doc}.")


_ALONG = "from what lies `stride` elements apart along a row and side by side along a column"
turn_f32, turn_f64 = (define_filling("turn", _add_turn, lane, f"a tile, {_ALONG}") for lane in (F32, F64))
weave_f32, weave_f64 = (
    define_filling("weave", _add_weave, lane, f"rows that follow one another, {_ALONG}") for lane in (F32, F64)
)
