"""Scalar texts: types, rounding and wrapping."""

from __future__ import annotations

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.ops import ops


def test_each_type_computes_in_its_own() -> None:
    add = ops.add
    assert expression.apply(add, [("x", dtypes.float32), ("y", dtypes.float32)], dtypes.float32, ()) == "x + y"
    assert expression.apply(add, [("x", dtypes.int8), ("y", dtypes.int8)], dtypes.int8, ()) == "int8(x + y)"
    assert expression.apply(add, [("x", dtypes.bool), ("y", dtypes.bool)], dtypes.bool, ()) == "x | y"
    half = [("x", dtypes.float16), ("y", dtypes.float16)]
    assert expression.apply(add, half, dtypes.float16, ()) == "round_f16(x + y)"
    assert expression.apply(ops.exp, half[:1], dtypes.float16, ()) == "round_f16(exp_f32(x))"


def test_casts() -> None:
    assert expression.cast("x", dtypes.float32, dtypes.float32) == "x"
    assert expression.cast("x", dtypes.float64, dtypes.float16) == "half_f64(x)"
    assert expression.cast("x", dtypes.int64, dtypes.float16) == "round_f16(float32(x))"
    assert expression.cast("x", dtypes.float32, dtypes.bool) == "x != 0"


def test_numbers() -> None:
    assert expression.number(3, True, dtypes.float32) == "float32(arg_f64(p, 3))"
    assert expression.number(3, False, dtypes.float32) == "float32(load_arg(p, 3))"
    assert expression.number(0, True, dtypes.float16) == "half_f64(arg_f64(p, 0))"
    assert expression.number(0, False, dtypes.bool) == "load_arg(p, 0) != 0"
