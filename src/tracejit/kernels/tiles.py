"""Tiles of strided operands, turned so that their rows are contiguous: a transposed read goes line by line through
memory.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from tracejit.kernels.code import Code, Word
from tracejit.kernels.emit import I64, internal_function
from tracejit.kernels.vectors import F32, F64, TARGET, Lane, VectorBuilder

TILE_BYTES, TILE_PITCH = 256, 64
"""Bytes that a tile has of each row of what is turned, four lines of memory, and elements from row to row of a tile."""
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


def _define(lane: Lane) -> Any:
    def turn(typingctx: Any, source: Any, stride: Any, tile: Any, rows: Any, columns: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.call(_add_turn(builder.module, lane), args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    turn.__name__ = turn.__qualname__ = f"turn_{lane.name}"
    turn.__doc__ = (
        f"Fills `rows` rows and `columns` columns of a tile at an address from {lane.name} elements that lie `stride` "
        "apart along a row and side by side along a column."
    )
    return intrinsic(turn)


turn_f32, turn_f64 = _define(F32), _define(F64)
