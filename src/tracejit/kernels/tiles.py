"""Tiles of strided operands, turned so that their rows are contiguous: a transposed read goes line by line through
memory.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from tracejit.kernels.emit import internal_function
from tracejit.kernels.gemm_code import Code, Word
from tracejit.kernels.gemm_packing import add_transpose
from tracejit.kernels.gemm_vectors import F32, F64, Lane

TILE_ROWS, TILE_COLUMNS = 64, 64
"""Rows and columns of a tile; a row of it takes TILE_COLUMNS elements."""
TILED = {4: "f32", 8: "f64"}
"""How elements of a size in bytes are moved; smaller ones are read one by one."""


def _add_turn(module: Any, lane: Lane) -> Any:
    """tile[r, c] = source[c, r] for `columns` rows of the source, `stride` elements apart, and `rows` places in each.

    Arguments: source, stride, tile, rows, columns.
    """
    transpose = add_transpose(module, lane)

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        code = Code(builder)
        source, stride, tile, rows, columns = (Word(builder, a) for a in arguments)
        with code.loop(0, columns, lane.count) as c:
            at = source + c * stride * lane.size
            code.call(transpose, at, stride, tile + c * lane.size, TILE_COLUMNS, rows, columns - c)

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
