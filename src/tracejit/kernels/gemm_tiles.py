"""The functions of gemm_vectors as numba intrinsics, for kernels of either float type.

Each takes `zero` first, a float of the element type, by which one kernel text serves float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from tracejit.kernels.gemm_vectors import (
    F32,
    F64,
    TARGET,
    Lane,
    add_copy,
    add_dots,
    add_segments,
    add_tile,
    add_transpose,
    add_zeros,
)

_LANES = {types.float32: F32, types.float64: F64}

TILE_ROWS = 8 if TARGET.registers == 32 else 6
TILE_VECTORS = 2
THIN_VECTORS = 8 if TARGET.registers == 32 else 4
DOT_GROUPS = 2
"""Rows and vectors of the product tile; vectors of the one-row tile; vectors of the dot tile."""


def _lane(name: str, zero: Any) -> Lane:
    lane = _LANES.get(zero)
    if lane is None:
        raise TypingError(f"{name}: the element type must be float32 or float64, got {zero}")
    return lane


def _call(add: Callable[[Any, Lane], Any], lane: Lane) -> Callable[..., Any]:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(add(builder.module, lane), args[1:])
        return context.get_dummy_value()

    return codegen


def make_tile(rows: int, vectors: int, indexed: bool = False) -> Any:
    """The intrinsic (zero, a, a_m, a_k, b, b_k, c, c_m, k, begin, m_left, n_left) of a product tile."""

    @intrinsic
    def tile(typingctx, zero, a, a_m, a_k, b, b_k, c, c_m, k, begin, m_left, n_left):  # type: ignore[no-untyped-def]
        lane = _lane("tile", zero)
        return types.void(zero, *[types.int64] * 11), _call(
            lambda module, lane: add_tile(module, lane, rows, vectors, indexed), lane
        )

    return tile


def make_dots(rows: int, groups: int) -> Any:
    """The intrinsic (zero, a, a_m, a_k, b, b_n, c, c_m, k, m_left, n_left) of a dot tile."""

    @intrinsic
    def dots(typingctx, zero, a, a_m, a_k, b, b_n, c, c_m, k, m_left, n_left):  # type: ignore[no-untyped-def]
        lane = _lane("dots", zero)
        return types.void(zero, *[types.int64] * 10), _call(
            lambda module, lane: add_dots(module, lane, rows, groups), lane
        )

    return dots


def make_copy(vectors: int) -> Any:
    """The intrinsic (zero, rows, rows_k, out, k, n_left) that copies rows into whole vectors."""

    @intrinsic
    def copy(typingctx, zero, rows, rows_k, out, k, n_left):  # type: ignore[no-untyped-def]
        lane = _lane("pack_rows", zero)
        return types.void(zero, *[types.int64] * 5), _call(lambda module, lane: add_copy(module, lane, vectors), lane)

    return copy


@intrinsic
def copy_segments(typingctx, zero, rows, rows_step, out, out_step, count, length):  # type: ignore[no-untyped-def]
    """Copies `count` rows of `length` elements, each row a step after the one before."""
    lane = _lane("copy_segments", zero)
    return types.void(zero, *[types.int64] * 6), _call(add_segments, lane)


@intrinsic
def clear_vectors(typingctx, zero, out, vectors):  # type: ignore[no-untyped-def]
    """Sets whole vectors to 0."""
    lane = _lane("clear_vectors", zero)
    return types.void(zero, types.int64, types.int64), _call(add_zeros, lane)


@intrinsic
def pack_columns(typingctx, zero, rows, rows_n, out, out_k, k, n_left):  # type: ignore[no-untyped-def]
    """Copies up to one vector's worth of rows into columns."""
    lane = _lane("pack_columns", zero)
    return types.void(zero, *[types.int64] * 6), _call(add_transpose, lane)


@intrinsic
def vector_lanes(typingctx, zero):  # type: ignore[no-untyped-def]
    """Elements of the type of `zero` in one vector register."""
    lane = _lane("vector_lanes", zero)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.int64, lane.count)

    return types.int64(zero), codegen


@intrinsic
def element_size(typingctx, zero):  # type: ignore[no-untyped-def]
    """Bytes of one element of the type of `zero`."""
    lane = _lane("element_size", zero)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.int64, lane.size)

    return types.int64(zero), codegen


tile_full = make_tile(TILE_ROWS, TILE_VECTORS)
tile_half = make_tile(TILE_ROWS // 2, TILE_VECTORS)
tile_thin = make_tile(1, THIN_VECTORS)
tile_narrow = make_tile(TILE_ROWS, 1)
dots_one = make_dots(1, DOT_GROUPS)
dots_four = make_dots(4, DOT_GROUPS)
tile_indexed = make_tile(TILE_ROWS, TILE_VECTORS, True)
tile_indexed_half = make_tile(TILE_ROWS // 2, TILE_VECTORS, True)
pack_rows = make_copy(TILE_VECTORS)


@intrinsic
def load_integer(typingctx, zero, address, index):  # type: ignore[no-untyped-def]
    """The integer of the type of `zero` at an address, as an int64 (modulo 2**64)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = builder.inttoptr(args[1], ir.IntType(zero.bitwidth).as_pointer())
        value = builder.load(builder.gep(base, [args[2]]))
        if zero.bitwidth == 64:
            return value
        return builder.sext(value, ir.IntType(64)) if zero.signed else builder.zext(value, ir.IntType(64))

    return types.int64(zero, types.int64, types.int64), codegen


@intrinsic
def store_integer(typingctx, zero, address, index, value):  # type: ignore[no-untyped-def]
    """Sets the integer of the type of `zero` at an address to an int64, modulo its range."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(zero.bitwidth)
        target = builder.gep(builder.inttoptr(args[1], kind.as_pointer()), [args[2]])
        builder.store(args[3] if zero.bitwidth == 64 else builder.trunc(args[3], kind), target)
        return context.get_dummy_value()

    return types.void(zero, types.int64, types.int64, types.int64), codegen


@intrinsic
def pack_element(typingctx, zero, source, source_index, target, target_index):  # type: ignore[no-untyped-def]
    """Copies one element of the type of `zero`."""
    lane = _lane("pack_element", zero)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = lane.kind.as_pointer()
        value = builder.load(builder.gep(builder.inttoptr(args[1], pointer), [args[2]]))
        builder.store(value, builder.gep(builder.inttoptr(args[3], pointer), [args[4]]))
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 4), codegen
