"""Operations on one element of each operand at a time.

Operands broadcast; all tensors of a call have one type (fronts cast before), numbers take it.
`expr` is written over the operands and `{t}`, the short name of the computing type; names in it
are those of `kernels.scalar` and `kernels.vmath`.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLW0108 - the names of a rule's parameters say what it needs
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import Op, ops
from tracejit.shapes import broadcast


def _typed(name: str, result: dtypes.dtype | None, skip: int) -> Callable[..., Aval]:
    """The typing rule: broadcast shapes, one type of operands (the first `skip` apart), which is the result's too if
    `result` is None."""

    def infer(*args: Any) -> Aval:
        shape: tuple[int, ...] = ()
        kind = None
        known = None
        for i, a in enumerate(args):
            if type(a) is Aval:
                if known is not a:
                    shape = a.shape if known is None else broadcast(shape, a.shape)
                    known = a
                if i >= skip:
                    if kind is not None and a.dtype is not kind:
                        raise TypeError(f"{name}: operands of types {kind} and {a.dtype}")
                    kind = a.dtype
        if kind is None:
            if result is None:
                raise TypeError(f"{name}: no operand is a tensor")
            kind = result
        kind = result or kind
        # One object where types are the same: what is made anew of others need not be typed again.
        return known if known is not None and known.shape is shape and known.dtype is kind else Aval(shape, kind)

    return infer


def elementwise(
    *, numpy: Callable[..., Any], result: dtypes.dtype | None = None, skip: int = 0, **facets: Any
) -> Callable[[Callable[..., Any]], Op]:
    """Define an elementwise operation; `result` is its type if it is not that of the operands."""

    def enter(signature: Callable[..., Any]) -> Op:
        infer = facets.pop("infer", None) or _typed(signature.__name__, result, skip)
        return ops.enter(Op(signature, "elementwise", infer, numpy, **facets))

    return enter


def zeros(aval: Aval) -> Any:
    """The gradient of a step function: unlike ct * 0 it is zero for an infinite or undefined `ct` too."""
    return ops.full(0, shape=aval.shape, dtype=aval.dtype)


_NOT_FLOAT = "the result is not of a floating point type"
_STEPS = {"x": lambda x_aval: zeros(x_aval), "y": lambda y_aval: zeros(y_aval)}


# --- exact arithmetic -------------------------------------------------------------------------------------------------


@elementwise(
    numpy=np.add,
    exact=True,
    expr={"f": "{x} + {y}", "i": "{x} + {y}", "b": "{x} | {y}"},
    vjp={"x": lambda ct: ct, "y": lambda ct: ct},
)
def add(x, y):
    """Sum; of two bools their disjunction."""


@elementwise(
    numpy=np.subtract,
    exact=True,
    kinds="if",
    expr="{x} - {y}",
    vjp={"x": lambda ct: ct, "y": lambda ct: ops.neg(ct)},
)
def sub(x, y):
    """Difference.

    DType: not of bools, as in PyTorch.
    """


@elementwise(
    numpy=np.multiply,
    exact=True,
    wide_numbers=True,
    expr={"f": "{x} * {y}", "i": "{x} * {y}", "b": "{x} & {y}"},
    vjp={"x": lambda ct, y: ops.mul(ct, y), "y": lambda ct, x: ops.mul(ct, x)},
)
def mul(x, y):
    """Product; of two bools their conjunction."""


@elementwise(
    numpy=np.true_divide,
    exact=True,
    wide_numbers=True,
    kinds="f",
    expr="{x} / {y}",
    work=9,
    vjp={
        "x": lambda ct, y: ops.div(ct, y),
        "y": lambda ct, x, y: ops.neg(ops.div(ops.mul(ct, ops.div(x, y)), y)),
    },
)
def div(x, y):
    """Quotient of floating point numbers.

    Edge: x / 0 is an infinity of the sign of both, 0 / 0 is NaN; nothing is raised.
    """


@elementwise(numpy=np.negative, exact=True, kinds="if", expr="-{x}", vjp={"x": lambda ct: ops.neg(ct)})
def neg(x):
    """Negative.

    Edge: -0.0 of 0.0; the smallest integer of a type is its own negative.
    """


@elementwise(
    numpy=np.absolute,
    exact=True,
    kinds="if",
    expr="abs_{t}({x})",
    vjp={"x": lambda ct, x: ops.mul(ct, ops.sign(x))},
    smooth=False,
)
def abs(x):
    """Absolute value.

    Edge: 0.0 of -0.0; the gradient at 0 is 0.
    """


def _flush_denormal(x: Any) -> Any:
    if x.dtype == np.float16:
        return x.copy()
    return np.where(np.absolute(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x)


@elementwise(
    numpy=_flush_denormal,
    exact=True,
    kinds="f",
    expr="flush_denormal_{t}({x})",
    vjp={"x": lambda ct: ct},
    smooth=False,
)
def flush_denormal(x):
    """The element, or 0 where it is smaller than the smallest normal number of the type that is computed with.

    Edge: of float16, computed with in float32, every element stays.
    """


def _sign(x: Any) -> Any:
    return np.subtract(x > 0, x < 0, dtype=x.dtype)


@elementwise(
    numpy=_sign,
    exact=True,
    kinds="if",
    expr="sign_{t}({x})",
    vjp={"x": lambda x_aval: zeros(x_aval)},
    smooth=False,
)
def sign(x):
    """-1, 0 or 1; 0 for NaN.

    Edge: the gradient is 0 everywhere.
    """


@elementwise(
    numpy=np.sqrt,
    exact=True,
    kinds="f",
    expr="sqrt_{t}({x})",
    work=10,
    sample=(0.1, 4.0),
    vjp={"x": lambda ct, out: ops.div(ct, ops.mul(out, 2))},
)
def sqrt(x):
    """Square root.

    Edge: NaN below 0, -0.0 of -0.0.
    Source: correctly rounded.
    """


def _flat(numpy: Callable[..., Any], name: str) -> dict[str, Any]:
    return {
        "numpy": numpy,
        "exact": True,
        "kinds": "f",
        "expr": name + "_{t}({x})",
        "vjp": {"x": lambda x_aval: zeros(x_aval)},
        "smooth": False,
    }


@elementwise(**_flat(np.floor, "floor"))
def floor(x):
    """Largest integer not above.

    Edge: the gradient is 0 everywhere; -0.0, infinities and NaN stay.
    """


@elementwise(**_flat(np.ceil, "ceil"))
def ceil(x):
    """Smallest integer not below."""


@elementwise(**_flat(np.trunc, "trunc"))
def trunc(x):
    """Integer part."""


@elementwise(**_flat(np.rint, "rint"))
def round(x):
    """Nearest integer, ties to even.

    Edge: the gradient is 0 everywhere; what rounds to 0 keeps its sign.
    """


@elementwise(
    numpy=np.maximum,
    exact=False,
    expr={"f": "select(({x} > {y}) | ({x} != {x}), {x}, {y})", "i": "select({x} > {y}, {x}, {y})", "b": "{x} | {y}"},
    vjp={
        "x": lambda ct, x, y: _share(ct, x, y, ops.lt),
        "y": lambda ct, x, y: _share(ct, y, x, ops.lt),
    },
    smooth=False,
)
def maximum(x, y):
    """The larger element; NaN if either is.

    Edge: of two equal zeros the second; in a tie each operand gets half of the gradient.
    """


@elementwise(
    numpy=np.minimum,
    exact=False,
    expr={"f": "select(({x} < {y}) | ({x} != {x}), {x}, {y})", "i": "select({x} < {y}, {x}, {y})", "b": "{x} & {y}"},
    vjp={
        "x": lambda ct, x, y: _share(ct, x, y, ops.gt),
        "y": lambda ct, x, y: _share(ct, y, x, ops.gt),
    },
    smooth=False,
)
def minimum(x, y):
    """The smaller element; NaN if either is.

    Edge: of two equal zeros the second; in a tie each operand gets half of the gradient.
    """


def _share(ct: Any, x: Any, y: Any, loses: Any) -> Any:
    """The part of a maximum's or minimum's gradient that goes to `x`: nothing if it loses, half of it in a tie."""
    part = ops.where(ops.eq(x, y), ops.mul(ct, 0.5), ct)
    return ops.where(loses(x, y), 0, part)


@elementwise(
    # A sum with 0 makes 0 of -0.
    numpy=lambda x: np.maximum(x, x.dtype.type(0)) + x.dtype.type(0),
    exact=True,
    kinds="if",
    expr="select({x} <= 0, {t}(0), {x})",
    vjp={"x": lambda ct, out: ops.where(ops.le(out, 0), 0, ct)},
    smooth=False,
)
def relu(x):
    """The positive part.

    Edge: NaN stays, -0.0 becomes 0.0.
    """


# In row-major order: in its own, NumPy keeps strides along sizes of 1 that no result has.
@elementwise(numpy=lambda x: np.array(x, order="C"), exact=True, expr="{x}", vjp={"x": lambda ct: ct})
def copy(x):
    """The element itself, in memory of its own."""


# --- division and remainders: those of integers have no kernel text, they run where errors can be raised --------------


def _checked_divisor(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, y: Any) -> Any:
        # The divisor itself stays as it is: as an array, a number would widen the result.
        if not np.asarray(y).all():
            raise RuntimeError("ZeroDivisionError")
        return function(x, y)

    return run


def _integer_division(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        "numpy": _checked_divisor(function),
        "exact": True,
        "kinds": "i",
        "smooth": False,
        "nograd": _NOT_FLOAT,
        "sample": (0.5, 4.0),
    }


def _remainder(x: Any, y: Any) -> Any:
    rest = np.fmod(x, y)
    return np.where((rest != 0) & (np.less(y, 0) != (rest < 0)), rest + y, rest)


@elementwise(**_integer_division(np.floor_divide))
def floor_divide(x, y):
    """Integer quotient rounded towards minus infinity.

    Raises: RuntimeError for a division by zero.
    """


@elementwise(**_integer_division(_remainder))
def remainder(x, y):
    """Integer remainder with the sign of the divisor.

    Raises: RuntimeError for a division by zero.
    """


@elementwise(**_integer_division(np.fmod))
def fmod(x, y):
    """Integer remainder with the sign of the dividend.

    Raises: RuntimeError for a division by zero.
    """


def _float_division(function: Callable[..., Any], name: str) -> dict[str, Any]:
    return {
        "numpy": function,
        "kinds": "f",
        "expr": f"float_{name}_{{t}}({{x}}, {{y}})",
        "work": 45.0,
        "smooth": False,
        "sample": (0.5, 4.0),
    }


@elementwise(**_float_division(np.floor_divide, "floor_divide"), vjp=_STEPS)
def float_floor_divide(x, y):
    """Quotient rounded towards minus infinity. Edge: x / y for a divisor of 0."""


@elementwise(
    **_float_division(_remainder, "remainder"),
    vjp={"x": lambda ct: ct, "y": lambda ct, x, y: ops.neg(ops.mul(ct, ops.float_floor_divide(x, y)))},
)
def float_remainder(x, y):
    """Remainder with the sign of the divisor.

    Edge: a remainder of 0 has the sign of the dividend, unlike Python's; NaN for a divisor of 0.
    """


@elementwise(
    **_float_division(np.fmod, "fmod"),
    vjp={"x": lambda ct: ct, "y": lambda ct, x, y: ops.neg(ops.mul(ct, ops.trunc(ops.div(x, y))))},
)
def float_fmod(x, y):
    """Remainder with the sign of the dividend. Edge: NaN for a divisor of 0."""


def _floored(function: Callable[..., Any], name: str) -> dict[str, Any]:
    def run(x: Any, y: Any) -> Any:
        # NumPy's results where there are none are what is wanted: 0 for a divisor of 0, and the least number itself.
        with np.errstate(all="ignore"):
            return function(x, y)

    return {
        "numpy": run,
        "exact": True,
        "kinds": "i",
        "expr": {"i": f"floor_{name}_{{t}}({{x}}, {{y}})"},
        "work": 20.0,
        "smooth": False,
        "nograd": _NOT_FLOAT,
    }


@elementwise(**_floored(np.floor_divide, "quotient"))
def floor_quotient(x, y):
    """Integer quotient rounded towards minus infinity, by numbers of which somebody knows that they are not 0.

    Edge: 0 for a divisor of 0.
    """


@elementwise(**_floored(np.remainder, "rest"))
def floor_rest(x, y):
    """Integer remainder with the sign of the divisor, by numbers of which somebody knows that they are not 0.

    Edge: 0 for a divisor of 0.
    """


def _trunc_divide(x: Any, y: Any) -> Any:
    down = np.floor_divide(x, y)
    return np.add(down, (np.remainder(x, y) != 0) & (np.less(x, 0) != np.less(y, 0)), dtype=down.dtype)


@elementwise(**_integer_division(_trunc_divide))
def trunc_divide(x, y):
    """Integer quotient rounded towards zero.

    Raises: RuntimeError for a division by zero.
    """


# --- comparison and logic ---------------------------------------------------------------------------------------------


def _compare(numpy: Callable[..., Any], sign: str) -> dict[str, Any]:
    return {
        "numpy": numpy,
        "exact": True,
        "expr": "{x} " + sign + " {y}",
        "result": dtypes.bool,
        "smooth": False,
        "nograd": _NOT_FLOAT,
    }


@elementwise(**_compare(np.equal, "=="))
def eq(x, y):
    """Whether equal."""


@elementwise(**_compare(np.not_equal, "!="))
def ne(x, y):
    """Whether not equal."""


@elementwise(**_compare(np.less, "<"))
def lt(x, y):
    """Whether less."""


@elementwise(**_compare(np.less_equal, "<="))
def le(x, y):
    """Whether less or equal."""


@elementwise(**_compare(np.greater, ">"))
def gt(x, y):
    """Whether greater."""


@elementwise(**_compare(np.greater_equal, ">="))
def ge(x, y):
    """Whether greater or equal."""


@elementwise(numpy=np.bitwise_and, exact=True, kinds="bi", expr="{x} & {y}", smooth=False, nograd=_NOT_FLOAT)
def bitwise_and(x, y):
    """Bitwise conjunction; of bools the logical one."""


@elementwise(numpy=np.bitwise_or, exact=True, kinds="bi", expr="{x} | {y}", smooth=False, nograd=_NOT_FLOAT)
def bitwise_or(x, y):
    """Bitwise disjunction; of bools the logical one."""


@elementwise(numpy=np.bitwise_xor, exact=True, kinds="bi", expr="{x} ^ {y}", smooth=False, nograd=_NOT_FLOAT)
def bitwise_xor(x, y):
    """Bitwise exclusive or; of bools the logical one."""


@elementwise(
    numpy=np.bitwise_not,
    exact=True,
    kinds="bi",
    expr={"i": "~{x}", "b": "not_b1({x})"},
    smooth=False,
    nograd=_NOT_FLOAT,
)
def bitwise_not(x):
    """Bitwise complement; of a bool the negation."""


@elementwise(numpy=np.left_shift, exact=True, kinds="i", smooth=False, nograd=_NOT_FLOAT, sample=(0.0, 4.0))
def left_shift(x, y):
    """Bits moved up.

    Edge: undefined for a negative distance, as in PyTorch.
    """


@elementwise(numpy=np.right_shift, exact=True, kinds="i", smooth=False, nograd=_NOT_FLOAT, sample=(0.0, 4.0))
def right_shift(x, y):
    """Bits moved down, with the sign.

    Edge: undefined for a negative distance, as in PyTorch.
    """


def _where(cond: Any, x: Any, y: Any) -> Any:
    kind = next((a.dtype for a in (x, y) if isinstance(a, np.ndarray)), None)
    if kind is not None:
        x, y = (a if isinstance(a, np.ndarray) else kind.type(a) for a in (x, y))
    return np.where(cond, x, y)


@elementwise(
    numpy=_where,
    exact=True,
    skip=1,
    expr="select({cond}, {x}, {y})",
    vjp={
        "x": lambda ct, cond: ops.where(cond, ct, 0),
        "y": lambda ct, cond: ops.where(cond, 0, ct),
    },
)
def where(cond, x, y):
    """`x` where the condition holds, else `y`.

    DType: the condition is bool, `x` and `y` have one type.
    Edge: the gradient of what was not chosen is 0, also where the cotangent is NaN.
    """


def _cast_numpy(x: Any, dtype: dtypes.dtype) -> Any:
    return x.astype(dtype.np)


@elementwise(
    numpy=_cast_numpy,
    exact=True,
    infer=lambda x, dtype: Aval(x.shape, dtype),
    expr="cast",
    vjp={"x": lambda ct, x_aval: ops.cast(ct, dtype=x_aval.dtype)},
)
def cast(x, *, dtype):
    """The element in another type.

    DType: float to integer truncates, anything to bool is whether it is not 0, integers wrap.
    Edge: a float outside the integer type's range, or NaN, gives what the machine gives, as in PyTorch.
    """
