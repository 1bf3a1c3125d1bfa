"""Elementwise functions of a few operations each."""

from __future__ import annotations

import math
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.arithmetic import (
    abs,
    add,
    div,
    eq,
    exp2,
    gt,
    isinf,
    le,
    log,
    log1p,
    logical_and,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    neg,
    of_floats,
    sin,
    sqrt,
    sub,
    trunc,
    where,
)
from tracejit.tensor.clamping import clamp
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.inplace import in_place
from tracejit.tensor.promote import floating, in_single, operand, result_type, tensor_of, to_dtype
from tracejit.tensor.tensor import Tensor, method


def _floats(name: str, *operands: Any) -> tuple[Any, ...]:
    """The tensors in their common type. Raises: TypeError for numbers, NotImplementedError for whole numbers."""
    for position, x in enumerate(operands):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}(): argument {position + 1} must be Tensor, not {type(x).__name__}")
    d = result_type(*operands)
    if not d.is_floating_point:
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{d.title}'")
    return tuple(to_dtype(x, d) for x in operands)


def _both_floating(name: str, x: Any, y: Any) -> tuple[Any, ...]:
    """Two operands, of which one may be a number, as tensors of a floating point type."""
    x, y = operand(x, name), operand(y, name)
    d = result_type(x, y)
    d = d if d.is_floating_point else dtypes.get_default_dtype()
    like = x if isinstance(x, Tensor) else tensor_of(y)
    return tuple(to_dtype(v, d) if isinstance(v, Tensor) else beside(like, ops.full, (v,), ((), d)) for v in (x, y))


@method()
def hypot(input: Tensor, other: Tensor) -> Any:
    """The root of the sum of both squares, without overflow.

    Edge: infinite where either is; where both are 0 the gradient is 0. Raises: NotImplementedError for whole numbers.

    >>> import tracejit as tj
    >>> hypot(tj.tensor([3.0]), tj.tensor([4.0]))
    tensor([5.])
    """
    return _hypot(*_floats("hypot", input, other))


@composite
@in_single
def _hypot(x: Tensor, y: Tensor) -> Any:
    large, small = maximum(abs(x), abs(y)), minimum(abs(x), abs(y))
    # Neither 0 / 0 nor inf / inf.
    plain = logical_and(gt(large, 0), lt(large, math.inf))
    ratio = where(plain, div(small, where(plain, large, 1)), 0)
    length = mul(large, sqrt(add(mul(ratio, ratio), 1)))
    return where(logical_or(isinf(x), isinf(y)), math.inf, length)


@method()
def xlogy(input: Any, other: Any) -> Any:
    """input * log(other), and 0 where the input is 0 unless the other is NaN.

    DType: promoted, whole numbers to the default float type.
    """
    return _xlogy(*_both_floating("xlogy", input, other))


@composite
@in_single
def _xlogy(x: Tensor, y: Tensor) -> Any:
    # Where the logarithm is not finite the product, and its gradient, would be NaN.
    lost = logical_and(eq(x, 0), logical_or(le(y, 0), eq(y, math.inf)))
    return where(lost, 0, mul(x, log(where(lost, 1, y))))


@method()
def heaviside(input: Tensor, values: Tensor) -> Any:
    """0 below 0, 1 above it, and `values` at 0.

    Shape: broadcast. Edge: of NaN 0. Raises: RuntimeError for two types.
    """
    if input._dtype is not values._dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    return where(eq(input, 0), values, to_dtype(gt(input, 0), input._dtype))


@method()
def copysign(input: Tensor, other: Any) -> Any:
    """The size of the input with the sign of the other, also that of a negative 0.

    DType: promoted, whole numbers to the default float type. Edge: the sign of a NaN counts as positive.
    """
    return _copysign(*_both_floating("copysign", input, other))


@composite
def _copysign(x: Tensor, y: Tensor) -> Any:
    size = abs(x)
    # The sign of a 0 shows in its reciprocal.
    negative = lt(where(eq(y, 0), apply(ops.div, (1.0, y)), y), 0)
    return where(negative.detach(), neg(size), size)


@method()
def logaddexp2(input: Tensor, other: Tensor) -> Any:
    """log2(2 ** input + 2 ** other) without overflow. Raises: NotImplementedError for whole numbers."""
    return _logaddexp2(*_floats("logaddexp2", input, other))


@composite
@in_single
def _logaddexp2(x: Tensor, y: Tensor) -> Any:
    top, low = maximum(x, y), minimum(x, y)
    gap = where(eq(top, low), 0.0, sub(low, top))
    return add(top, mul(log1p(exp2(gap)), 1.0 / math.log(2.0)))


@method()
def deg2rad(input: Tensor) -> Any:
    """Degrees as radians. DType: whole numbers to the default float type."""
    return mul(floating(input), math.pi / 180.0)


@method()
def rad2deg(input: Tensor) -> Any:
    """Radians as degrees. DType: whole numbers to the default float type."""
    return mul(floating(input), 180.0 / math.pi)


@method()
def frac(input: Tensor) -> Any:
    """What is left of each element without its whole part, with its sign. Raises: NotImplementedError for others."""
    (x,) = _floats("frac", input)
    return sub(x, trunc(x))


erfc = of_floats("erfc")
erfinv = of_floats("erfinv")
asinh = of_floats("asinh", "arcsinh")
acosh = of_floats("acosh", "arccosh")
atanh = of_floats("atanh", "arctanh")


@method()
def logit(input: Tensor, eps: float | None = None) -> Any:
    """log(x / (1 - x)), the inverse of sigmoid; with `eps` of the elements limited to [eps, 1 - eps].

    Shape: kept. DType: floats stay, others become the default float type. Edge: infinite at 0 and 1, NaN beyond.

    >>> import tracejit as tj
    >>> logit(tj.tensor([0.5, 0.75, 1.0]))
    tensor([0.0000, 1.0986,    inf])
    """
    x = floating(input)
    return apply(ops.logit, (x,)) if eps is None else _limited_logit(x, eps)


@in_single
def _limited_logit(x: Tensor, eps: float) -> Any:
    # NaN has a gradient of its own, which clamp does not let through.
    return apply(ops.logit, (apply(ops.where, (apply(ops.ne, (x, x)), x, clamp(x, eps, 1 - eps))),))


@method()
def sinc(input: Tensor) -> Any:
    """sin(pi x) / (pi x), and 1 at 0.

    Shape: kept. DType: floats stay, others become the default float type. Edge: NaN at infinities.

    >>> import tracejit as tj
    >>> sinc(tj.tensor([0.0, 0.5]))
    tensor([1.0000, 0.6366])
    """
    return _sinc(floating(input))


@composite
@in_single
def _sinc(x: Tensor) -> Any:
    zero = eq(x, 0)
    angle = mul(where(zero, 1.0, x), math.pi)
    return where(zero, 1.0, div(sin(angle), angle))


IN_PLACE = tuple(
    in_place(f)
    for f in (
        *(hypot, xlogy, heaviside, copysign, deg2rad, rad2deg, frac),
        *(erfc, erfinv, asinh, acosh, atanh, logit, sinc),
    )
)
for _name in ("sinh_", "cosh_", "tanh_"):
    setattr(Tensor, f"arc{_name}", getattr(Tensor, f"a{_name}"))
