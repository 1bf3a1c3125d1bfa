"""Elementary functions: our own polynomials, so that eager and compiled programs have the same bits.

The NumPy functions are oracles for tests to a tolerance, not what runs.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLW0108 - the names of a rule's parameters say what it needs
from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Number
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.elementwise import elementwise, zeros
from tracejit.ops.record import Op, ops


def _elementary(work: float, numpy: Callable[..., Any], rule: Callable[..., Any], **facets: Any) -> Any:
    def enter(signature: Callable[..., Any]) -> Op:
        text = signature.__name__ + "_{t}({x})"
        return elementwise(numpy=numpy, kinds="f", expr=text, work=work, vjp={"x": rule}, **facets)(signature)

    return enter


@_elementary(16, np.exp, lambda ct, out: ops.mul(ct, out))
def exp(x):
    """e to the power of the element.

    Edge: infinity above the type's range, 0 below it; exactly 1 at 0.
    """


@_elementary(16, np.exp2, lambda ct, out: ops.mul(ct, ops.mul(out, 0.6931471805599453)))
def exp2(x):
    """2 to the power of the element."""


@_elementary(20, np.expm1, lambda ct, out: ops.mul(ct, ops.add(out, 1)))
def expm1(x):
    """exp(x) - 1, accurate near zero."""


@_elementary(30, np.log, lambda ct, x: ops.div(ct, x), sample=(0.1, 5.0))
def log(x):
    """Natural logarithm.

    Edge: -infinity at 0, NaN below.
    """


@_elementary(30, np.log1p, lambda ct, x: ops.div(ct, ops.add(x, 1)), sample=(-0.5, 3.0))
def log1p(x):
    """log(1 + x), accurate near zero.

    Edge: -infinity at -1, NaN below.
    """


@_elementary(36, np.log2, lambda ct, x: ops.div(ct, ops.mul(x, 0.6931471805599453)), sample=(0.1, 5.0))
def log2(x):
    """Logarithm to base 2."""


@_elementary(36, np.log10, lambda ct, x: ops.div(ct, ops.mul(x, 2.302585092994046)), sample=(0.1, 5.0))
def log10(x):
    """Logarithm to base 10."""


@_elementary(120, np.sin, lambda ct, x: ops.mul(ct, ops.cos(x)))
def sin(x):
    """Sine.

    Edge: NaN at infinities; 0 for float64 from 2**45 on, where the digits of pi at hand end.
    """


@_elementary(120, np.cos, lambda ct, x: ops.neg(ops.mul(ct, ops.sin(x))))
def cos(x):
    """Cosine.

    Edge: NaN at infinities; 1 or -1 for float64 from 2**45 on, where the digits of pi at hand end.
    """


@_elementary(180, np.tan, lambda ct, out: ops.mul(ct, ops.add(ops.mul(out, out), 1)), sample=(-1.2, 1.2))
def tan(x):
    """Tangent.

    Edge: NaN at infinities; 0 for float64 from 2**45 on, where the digits of pi at hand end.
    """


@_elementary(25, np.tanh, lambda ct, out: ops.mul(ct, ops.sub(1, ops.mul(out, out))))
def tanh(x):
    """Hyperbolic tangent.

    Edge: exactly -1 or 1 at infinities, -0.0 of -0.0.
    """


@_elementary(23, lambda x: 1 / (1 + np.exp(-x)), lambda ct, out: ops.mul(ct, ops.mul(ops.sub(1, out), out)))
def sigmoid(x):
    """1 / (1 + exp(-x))."""


_scalar_erf = np.vectorize(math.erf, otypes=[np.float64])


def _erf(x: Any) -> Any:
    return _scalar_erf(np.asarray(x, np.float64)).astype(x.dtype)


@_elementary(48, _erf, lambda ct, x: ops.mul(ct, ops.mul(ops.exp(ops.neg(ops.mul(x, x))), 1.1283791670955126)))
def erf(x):
    """The error function."""


_scalar_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _erfc(x: Any) -> Any:
    return _scalar_erfc(np.asarray(x, np.float64)).astype(x.dtype)


@_elementary(
    300, _erfc, lambda ct, x: ops.mul(ct, ops.mul(ops.exp(ops.neg(ops.mul(x, x))), -1.1283791670955126))
)
def erfc(x):
    """1 - erf(x), accurate where that is near 0."""


def _erfinv_of(x: float) -> float:
    """Newton on erf, or on log(erfc) where x is near 1."""
    size = abs(x)
    if not 0 < size < 1:
        return x if size == 0 else math.copysign(math.inf, x) if size == 1 else math.nan
    w = -math.log((1 - size) * (1 + size))
    y = math.sqrt(w) * 0.9 if w > 1 else size * 0.886
    for _ in range(12):
        rest = math.erfc(y)
        step = size - math.erf(y) if size < 0.5 else rest * math.log(rest / (1 - size))
        y += step * math.exp(y * y) * 0.8862269254527580
    return math.copysign(y, x)


_scalar_erfinv = np.vectorize(_erfinv_of, otypes=[np.float64])


def _erfinv(x: Any) -> Any:
    return _scalar_erfinv(np.asarray(x, np.float64)).astype(x.dtype)


@_elementary(
    130,
    _erfinv,
    lambda ct, out: ops.mul(ct, ops.mul(ops.exp(ops.mul(out, out)), 0.8862269254527580)),
    sample=(-0.9, 0.9),
)
def erfinv(x):
    """The number whose error function is the element.

    Edge: infinite at -1 and 1, NaN beyond.
    """


def _share(x: Any) -> Any:
    """The normal distribution's share below x."""
    return ops.mul(ops.add(ops.erf(ops.mul(x, 0.7071067811865476)), 1.0), 0.5)


def _gelu_gradient(ct: Any, x: Any) -> Any:
    """The slope is a value of its own: of the forward pass a backward pass needs nothing else."""
    density = ops.mul(ops.exp(ops.mul(ops.mul(x, x), -0.5)), 0.3989422804014327)
    return ops.mul(ct, ops.add(ops.mul(x, density), _share(x)))


@_elementary(52, lambda x: x * ((_erf(x * 0.7071067811865476) + 1) * 0.5), _gelu_gradient)
def gelu(x):
    """x * (erf(x * sqrt(1/2)) + 1) / 2, as these operations give it; compiled programs take them one by one."""


@_elementary(36, np.sinh, lambda ct, x: ops.mul(ct, ops.cosh(x)))
def sinh(x):
    """Hyperbolic sine."""


@_elementary(22, np.cosh, lambda ct, x: ops.mul(ct, ops.sinh(x)))
def cosh(x):
    """Hyperbolic cosine."""


@_elementary(50, np.arctan, lambda ct, x: ops.div(ct, ops.add(ops.mul(x, x), 1)))
def atan(x):
    """Inverse tangent."""


@_elementary(30, np.arcsin, lambda ct, x: ops.div(ct, ops.sqrt(ops.sub(1, ops.mul(x, x)))), sample=(-0.9, 0.9))
def asin(x):
    """Inverse sine."""


@_elementary(35, np.arccos, lambda ct, x: ops.neg(ops.div(ct, ops.sqrt(ops.sub(1, ops.mul(x, x))))), sample=(-0.9, 0.9))
def acos(x):
    """Inverse cosine."""


@_elementary(230, np.arcsinh, lambda ct, x: ops.div(ct, ops.sqrt(ops.add(ops.mul(x, x), 1))))
def asinh(x):
    """Inverse hyperbolic sine."""


@_elementary(
    210, np.arccosh, lambda ct, x: ops.div(ct, ops.sqrt(ops.sub(ops.mul(x, x), 1))), sample=(1.2, 5.0)
)
def acosh(x):
    """Inverse hyperbolic cosine.

    Edge: NaN below 1.
    """


@_elementary(170, np.arctanh, lambda ct, x: ops.div(ct, ops.sub(1, ops.mul(x, x))), sample=(-0.9, 0.9))
def atanh(x):
    """Inverse hyperbolic tangent.

    Edge: infinite at -1 and 1, NaN beyond.
    """


def _logit(x: Any) -> Any:
    wide = np.asarray(x, np.float64)
    return np.where(
        wide < 0.25, np.log(wide / (1 - wide)), np.log1p((2 * wide - 1) / (1 - wide))
    ).astype(x.dtype)


def _logit_gradient(ct: Any, x: Any) -> Any:
    inside = ops.bitwise_and(ops.ge(x, 0), ops.le(x, 1))
    return ops.where(inside, ops.div(ct, ops.mul(x, ops.sub(1, x))), math.nan)


@_elementary(260, _logit, _logit_gradient, sample=(0.1, 0.9))
def logit(x):
    """log(x / (1 - x)), the inverse of sigmoid.

    Edge: -infinity at 0, infinity at 1, NaN beyond; so is the gradient, but positive.
    """


def _is_number(x: Any) -> bool:
    return isinstance(x, Number)


def _pow_exponent(ct: Any, x: Any, y: Any, out: Any) -> Any:
    """d/dy x**y = out * log(x), taken as 0 at 0**y for y >= 0."""
    if _is_number(x):
        log = math.log(x) if x > 0 else -math.inf if x == 0 else math.nan
        slope = ops.mul(ct, ops.mul(out, log))
        return ops.where(ops.ge(y, 0), 0, slope) if x == 0 else slope
    level = ops.bitwise_and(ops.eq(x, 0), ops.ge(y, 0))
    return ops.where(level, 0, ops.mul(ct, ops.mul(out, ops.log(x))))


def _pow_base(ct: Any, x: Any, y: Any, x_aval: Aval) -> Any:
    """d/dx x**y = y * x**(y-1), which is 0 for exponent 0."""
    if _is_number(y):
        return ops.mul(ct, ops.mul(ops.pow(x, y - 1), y)) if y != 0 else zeros(x_aval)
    slope = ops.mul(ct, ops.mul(ops.pow(x, ops.sub(y, 1)), y))
    return ops.where(ops.eq(y, 0), 0, slope)


@elementwise(
    numpy=np.power,
    kinds="f",
    expr="pow_{t}({x}, {y})",
    work=190,
    sample=(0.3, 2.5),
    vjp={"x": _pow_base, "y": _pow_exponent},
)
def pow(x, y):
    """`x` to the power of `y`.

    Edge: 1 if `y` is 0 or `x` is 1, even beside NaN; NaN for negative `x` with a `y` that is no integer. The
        gradient in `y` is 0 at 0**y for y >= 0.
    """


def _over_norm(numerator: Any, x: Any, y: Any) -> Any:
    """numerator / (x*x + y*y), and 0 at the origin."""
    norm = ops.add(*(v * v if _is_number(v) else ops.mul(v, v) for v in (x, y)))
    return ops.where(ops.eq(norm, 0), 0, ops.div(numerator, norm))


@elementwise(
    numpy=np.arctan2,
    kinds="f",
    expr="atan2_{t}({x}, {y})",
    work=95,
    sample=(0.3, 2.5),
    vjp={
        "x": lambda ct, x, y: _over_norm(ops.mul(ct, y), x, y),
        "y": lambda ct, x, y: ops.neg(_over_norm(ops.mul(ct, x), x, y)),
    },
)
def atan2(x, y):
    """The angle of the point (y, x).

    Edge: the sign of `x` chooses between pi and -pi on the cut; the gradient at the origin is 0.
    """
