"""erf, its complement and its inverse, and GELU.

Source: erf(x) = 1 - exp(-g(x)) with g = -log(erfc(x)); Shepherd and Laframboise, "Chebyshev approximation of
(1 + 2x) exp(x**2) erfc x" (1981), for the variable (x - 3.75) / (x + 3.75); Giles, "Approximating the erfinv function"
(2010), for the variable w = -log(1 - x**2). The polynomials are fits of this project.
"""

from __future__ import annotations

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.exponential import exp, expm1_reduced, reduce_by_log2
from tracejit.kernels.vmath.expression import FORMATS, V, polynomial, polynomial_in_pairs, power_of_biased, two_product
from tracejit.kernels.vmath.logarithm import log

# Beyond this erf rounds to one.
_ERF_ONE = {32: 4.0, 64: 6.0}
# Beyond this erfc is zero.
_ERFC_ZERO = 28.0


def erf(x: V) -> V:
    """Error function."""
    magnitude = x.abs()
    z = x * x
    small = polynomial_in_pairs(z, c.ERF[x.width]).fma(x, x)
    limit = _ERF_ONE[x.width]
    limited = (magnitude > limit).where(x.const(limit), magnitude)
    coefficients = c.ERFC_LOG_32[32] if x.width == 32 else c.ERFC_LOG_64[64]
    r, _, n = reduce_by_log2(-polynomial_in_pairs(limited - 2.0, coefficients), FORMATS[x.width].bias)
    scale = power_of_biased(n)
    large = (1.0 - scale) - expm1_reduced(r) * scale
    return (magnitude < 1.0).where(small, large.with_sign(x))


def erfc(x: V) -> V:
    """1 - erf(x) without cancellation."""
    if x.width == 32:
        return erfc(x.widen()).narrow()
    magnitude = x.abs()
    small = 1.0 - polynomial(x * x, c.ERF[64]).fma(x, x)
    limited = (magnitude > _ERFC_ZERO).where(x.const(_ERFC_ZERO), magnitude)
    square, low = two_product(limited, limited)
    decay = exp(-square)
    doubled = limited + limited
    divisor = doubled + 1.0
    divisor_low = 1.0 - (divisor - doubled)
    inverse = 1.0 / divisor
    product, product_low = two_product(polynomial((limited - 3.75) / (limited + 3.75), c.ERFC[64]), decay)
    quotient = product * inverse
    # What the product, the quotient, the divisor and the square lost: each alone is half a unit.
    lost = (-quotient).fma(divisor, product) + (product_low - product * low - quotient * divisor_low)
    tail = lost.fma(inverse, quotient)
    return (magnitude < 0.5).where(small, (x < 0.0).where(2.0 - tail, tail))


def gelu(x: V) -> V:
    """x times the normal distribution's share below x, in steps that a graph can take one by one."""
    return x * ((erf(x * 0.7071067811865476) + 1.0) * 0.5)


def _leading_and_rest(t: V, coefficients: tuple[float, ...]) -> tuple[V, V]:
    """A polynomial as its lowest coefficient and the rest; that coefficient comes in two parts."""
    return t.const(coefficients[0]), polynomial(t, coefficients[2:]).fma(t, coefficients[1])


def erfinv(x: V) -> V:
    """Inverse of the error function; inf at 1, nan beyond."""
    form = FORMATS[x.width]
    magnitude = x.abs()
    w = -log((1.0 - magnitude) * (magnitude + 1.0))
    root = w.sqrt()
    if x.width == 32:
        low = w < 5.0
        leading, rest = _leading_and_rest(w - 1.5, c.ERFINV_LOW[32])
        leading_far, rest_far = _leading_and_rest(root - 2.5, c.ERFINV_HIGH[32])
    else:
        low = w < 6.25
        leading, rest = _leading_and_rest(w - 3.125, c.ERFINV_A[64])
        leading_far, rest_far = _leading_and_rest(root - 3.25, c.ERFINV_B[64])
        leading_last, rest_last = _leading_and_rest(root - 5.0, c.ERFINV_C[64])
        near = w < 16.0
        leading_far, rest_far = near.where(leading_far, leading_last), near.where(rest_far, rest_last)
    leading, rest = low.where(leading, leading_far), low.where(rest, rest_far)
    result = magnitude.fma(leading, magnitude * rest)
    result = magnitude.equals(1.0).where(x.const(form.inf), result)
    return (magnitude <= 1.0).where(result, form.nan).copysign(x)
