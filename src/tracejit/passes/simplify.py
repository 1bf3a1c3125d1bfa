"""Algebraic rules. In strict mode only those run that keep every bit, so what is missing here is missing on purpose:
x + 0 turns -0.0 into 0.0, x * 0 is NaN for infinities, -(x - y) is not y - x at zero, not (x < y) is not x >= y at
NaN, and of two equal zeros `maximum` takes the second, so its operands do not change places.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tracejit import dtypes
from tracejit.ir.node import CONST, INPUT, Node, apply, const_value, make
from tracejit.ir.pattern import EXACT, FAST, FINITE, Rule, held_exactly
from tracejit.ops.record import Op, ops


def _second(x: Node, y: Node, out: Node) -> Node | None:
    """A number goes to the second place, so that rules and equal nodes find it there."""
    return apply(out.op, y, x) if x.is_number and not y.is_number else None  # type: ignore[arg-type]


def _reciprocal(x: Node, c: Node, out: Node) -> Node | None:
    """Division by a power of two, whose reciprocal is exact and not subnormal."""
    if c.op != CONST or const_value(c) == 0 or not math.isfinite(const_value(c)):
        return None
    fraction, exponent = math.frexp(const_value(c))
    if abs(fraction) != 0.5 or not -_RANGE[out.dtype] < exponent < _RANGE[out.dtype]:
        return None
    return apply(ops.mul, x, 1.0 / const_value(c))


_RANGE = {dtypes.float16: 14, dtypes.bfloat16: 126, dtypes.float32: 126, dtypes.float64: 1022}


def _by_minus(op: Op) -> Callable[[Node, Node], Node | None]:
    """The sign goes into the number."""
    return lambda x, c: apply(op, x, -float(const_value(c))) if c.op == CONST else None


def _cast_chain(x: Node, a: dtypes.dtype, b: dtypes.dtype) -> Node | None:
    """One cast for two, if the first loses nothing and the second does not depend on where it comes from.

    What a float outside the range of an integer type turns into depends on the float's type.
    """
    if x.is_number or not held_exactly(x.dtype, a) or (x.dtype.is_floating_point and b.category == dtypes.INT):
        return None
    return apply(ops.cast, x, dtype=b)


def _gelu_by_steps(x: Node) -> Node | None:
    """What `gelu` computes, unless its steps are those of a wider type."""
    if x.dtype in dtypes.HALVES:
        return None
    grown = apply(ops.add, apply(ops.erf, apply(ops.mul, x, math.sqrt(0.5))), 1.0)
    return apply(ops.mul, x, apply(ops.mul, grown, 0.5))


def _narrow(x: Node, out: Node) -> Node | None:
    """Operands of a product as they were before they were widened: it rounds them to what they are."""
    args = [x if a.op is ops.cast and a.args[0] is x else a for a in out.args]
    return make(ops.bfloat16_matmul, tuple(args), out.attrs) if not x.is_number and x.dtype is dtypes.bfloat16 else None


def _picked(x: Node, index: Node, n: int, a: tuple[int, ...], b: tuple[int, ...], d: int, out: Node) -> Node | None:
    """The one element that a sum of one element and zeros is, looked up if it is in memory.

    What is computed first is chosen from while it is: looking it up would need all of it in memory. The zeros turn -0.0
    into 0.0.
    """
    along = tuple(n if k == d else 1 for k in range(len(x.shape)))
    if x.op != INPUT or n == 1 or n != x.shape[d] or a != along or b != (*x.shape[:d], 1, *x.shape[d + 1 :]):
        return None
    element = apply(ops.gather, x, apply(ops.reshape, index, shape=b), dim=d)
    return apply(ops.add, apply(ops.reshape, element, shape=out.shape), 0.0)


RULES: tuple[Rule, ...] = (
    *(
        Rule(
            f"{op.name}: number second",
            EXACT,
            f"{op.name}(x, y)",
            _second,
            numbers=("x",),
            examples=({"x": 2}, {"x": 0}),
        )
        for op in (ops.add, ops.mul, ops.eq, ops.ne)
    ),
    Rule("x * 1", EXACT, "mul(x, 1)", "x"),
    Rule("x * -1", EXACT, "mul(x, -1)", "neg(x)", kinds="f"),
    Rule("x / 1", EXACT, "div(x, 1)", "x", kinds="f"),
    Rule("x / 2**k", EXACT, "div(x, c)", _reciprocal, "f", ("c",), examples=({"c": 8}, {"c": -0.25}, {"c": 2.0**100})),
    Rule("x - 0", EXACT, "sub(x, 0)", "x", kinds="if"),
    Rule("x + -0.0", EXACT, "add(x, -0.0)", "x", kinds="f"),
    Rule("x + 0 + 0", EXACT, "add(add(x, 0.0), 0.0)", "add(x, 0.0)", kinds="f"),
    Rule("x + 0 of integers", EXACT, "add(x, 0)", "x", kinds="bi"),
    Rule("0 - x of integers", EXACT, "sub(0, x)", "neg(x)", kinds="i"),
    Rule("-0.0 - x", EXACT, "sub(-0.0, x)", "neg(x)", kinds="f"),
    Rule("-(-x)", EXACT, "neg(neg(x))", "x", kinds="if"),
    Rule("x + -y", EXACT, "add(x, neg(y)) | add(neg(y), x)", "sub(x, y)", kinds="if"),
    Rule("x - -y", EXACT, "sub(x, neg(y))", "add(x, y)", kinds="if"),
    *(
        Rule(
            f"neg and {op.name} by a number",
            EXACT,
            f"neg({op.name}(x, c)) | {op.name}(neg(x), c)",
            _by_minus(op),
            kinds="f",
            examples=({"c": 2}, {"c": 0}, {"c": -0.1}, {"c": math.inf}),
        )
        for op in (ops.mul, ops.div)
    ),
    Rule(
        "gelu written out, so that its slope shares what it can",
        EXACT,
        "gelu(x)",
        _gelu_by_steps,
        kinds="f",
    ),
    Rule("copy: graphs have values, not memory", EXACT, "copy(x)", "x"),
    Rule("-x * -y", EXACT, "mul(neg(x), neg(y))", "mul(x, y)", kinds="if"),
    Rule("-x / -y", EXACT, "div(neg(x), neg(y))", "div(x, y)", kinds="f"),
    Rule("abs of abs", EXACT, "abs(abs(x))", "abs(x)", kinds="if"),
    Rule("abs of -x", EXACT, "abs(neg(x))", lambda x: apply(ops.abs, x) if x.dtype.is_signed else None, kinds="if"),
    Rule("relu of relu", EXACT, "relu(relu(x))", "relu(x)", kinds="if"),
    Rule(
        "sum of what is chosen by its place",
        EXACT,
        "sum(where(eq(reshape(iota(size=n), shape=a), reshape(take(iota(size=n), index, dim=_dim), shape=b)), x, 0), "
        "dim=d)",
        _picked,
        kinds="f",
        examples=(
            {"x": (9, 4), "index": ((9,), dtypes.int64), "n": 4, "a": (1, 4), "b": (9, 1), "d": 1, "_dim": 0},
            {"x": (3, 5, 7), "index": ((21,), dtypes.int64), "n": 5, "a": (1, 5, 1), "b": (3, 1, 7), "d": 1, "_dim": 0},
        ),
    ),
    Rule("where of equals", EXACT, "where(_c, x, x)", "x", examples=({"_c": ((400,), dtypes.bool)},)),
    Rule("where true", EXACT, "where(full(1, dtype=_d), x, _y)", "x", examples=({"_d": dtypes.bool},)),
    Rule("where false", EXACT, "where(full(0, dtype=_d), _x, y)", "y", examples=({"_d": dtypes.bool},)),
    Rule(
        "where not",
        EXACT,
        "where(bitwise_not(c), x, y)",
        "where(c, y, x)",
        examples=({"c": ((400,), dtypes.bool)},),
    ),
    Rule("not not", EXACT, "bitwise_not(bitwise_not(x))", "x", kinds="bi"),
    Rule("not equal", EXACT, "bitwise_not(eq(x, y))", "ne(x, y)", kinds="b"),
    Rule("not unequal", EXACT, "bitwise_not(ne(x, y))", "eq(x, y)", kinds="b"),
    *(
        Rule(f"{op.name} of equals", EXACT, f"{op.name}(x, x)", "x", kinds=op.kinds)
        for op in (ops.maximum, ops.minimum, ops.bitwise_and, ops.bitwise_or)
    ),
    Rule(
        "cast to the same type",
        EXACT,
        "cast(x, dtype=d)",
        lambda x, d: x if not x.is_number and x.dtype is d else None,
        examples=({"x": ((5,), dtypes.float32), "d": dtypes.float32},),
    ),
    Rule(
        "cast of cast",
        EXACT,
        "cast(cast(x, dtype=a), dtype=b)",
        _cast_chain,
        examples=tuple(
            {"x": ((9,), x), "a": a, "b": b}
            for x, a, b in (
                (dtypes.float32, dtypes.float64, dtypes.float32),
                (dtypes.float16, dtypes.float32, dtypes.bool),
                (dtypes.bfloat16, dtypes.float32, dtypes.float16),
                (dtypes.int32, dtypes.float64, dtypes.float32),
                (dtypes.int32, dtypes.int64, dtypes.int8),
                (dtypes.bool, dtypes.int64, dtypes.float32),
                (dtypes.uint8, dtypes.int16, dtypes.float16),
            )
        ),
    ),
    Rule(
        "bfloat16 product of what was widened",
        EXACT,
        "bfloat16_matmul(cast(x, dtype=_a), _y, single=_s) | bfloat16_matmul(_y, cast(x, dtype=_a), single=_s)",
        _narrow,
        examples=tuple(
            {"x": ((5, 5), dtypes.bfloat16), "_a": dtypes.float32, "_y": ((5, 5), y), "_s": single}
            for y in (dtypes.float32, dtypes.bfloat16)
            for single in (True, False)
        ),
    ),
    Rule("x + 0", FINITE, "add(x, 0)", "x", kinds="f"),
    Rule("x * 0", FINITE, "mul(_x, 0)", "0", kinds="f"),
    Rule("x - x", FINITE, "sub(x, x)", "0", kinds="f"),
    Rule("x / x", FAST, "div(x, x)", "1", kinds="f"),
    Rule("x * y / y", FAST, "div(mul(x, y), y)", "x", kinds="f"),
    Rule("x + y - y", FAST, "sub(add(x, y), y)", "x", kinds="f"),
)
