"""exp and its relatives: exp2, expm1, sinh, cosh, tanh, sigmoid.

Source: Cody and Waite, "Software Manual for the Elementary Functions" (reduction by multiples of log 2).
"""

from __future__ import annotations

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.expression import (
    FORMATS,
    V,
    nearest_integer,
    polynomial,
    power_of_biased,
    scale_by_whole,
    shrink_by_whole,
)

# Beyond these exp, sinh and cosh have overflowed or underflowed to zero for good.
_HIGHEST = {32: 90.0, 64: 711.0}
_LOWEST = {32: -104.0, 64: -745.25}
# The same for exp2.
_LIMIT2 = {32: 151.0, 64: 1076.0}
# Beyond this tanh rounds to one.
_TANH_ONE = {32: 10.0, 64: 22.0}


def clamp(x: V, low: float, high: float) -> V:
    """x limited to [low, high]; nan passes."""
    x = (x < low).where(x.const(low), x)
    return (x > high).where(x.const(high), x)


def remaining(x: V, low: float, high: float) -> tuple[V, V]:
    """Where a function of x is not zero for good, as it is below `low`; and x up to `high`, with 0 in other places.

    Computing such zeros by underflow takes ten times as long on many CPUs, and masks are full of them. AVX-512 sets
    places to 0 while it computes.
    """
    remains = x.not_below(low)
    return remains, remains.where((x > high).where(x.const(high), x), 0.0)


def reduce_by_log2(x: V, offset: int = 0) -> tuple[V, V, V]:
    """(r, n, n + offset) with x = r + n log 2 and |r| <= log(2) / 2; the first n is a float."""
    high, low = c.LN2[x.width]
    whole, n = nearest_integer(x, c.LOG2_E[x.width][0], offset)
    return whole.fma(-low, whole.fma(-high, x)), whole, n


def expm1_reduced(r: V) -> V:
    """exp(r) - 1 for |r| <= log(2) / 2."""
    return polynomial(r, c.EXP[r.width]).fma(r * r, r)


def exp_reduced(r: V) -> V:
    """exp(r) for |r| <= log(2) / 2."""
    return polynomial(r, (1.0, 1.0, *c.EXP[r.width]))


def exp(x: V, shift: int = 0) -> V:
    """exp(x) * 2**shift."""
    remains, x = remaining(x, _LOWEST[x.width], _HIGHEST[x.width])
    r, whole, n = reduce_by_log2(x, 2 * FORMATS[x.width].bias + shift)
    return remains.where(scale_by_whole(exp_reduced(r), whole + float(shift) if shift else whole, n), 0.0)


def exp2(x: V) -> V:
    """2**x."""
    limit = _LIMIT2[x.width]
    remains, x = remaining(x, -limit, limit)
    whole, n = nearest_integer(x, 1.0, 2 * FORMATS[x.width].bias)
    r = x - whole
    return remains.where(scale_by_whole(polynomial(r, c.EXP2[x.width]).fma(r, 1.0), whole, n), 0.0)


def expm1(x: V) -> V:
    """exp(x) - 1 without cancellation."""
    # at the upper limit it has overflowed, and 2**(n - 1) still exists
    r, _, n = reduce_by_log2(clamp(x, -40.0, 89.0 if x.width == 32 else 710.0), FORMATS[x.width].bias - 1)
    tail = polynomial(r, c.EXP[x.width]) * (r * r)
    high = r + tail
    low = tail - (high - r)
    half_scale = power_of_biased(n)
    result = (high.fma(half_scale, half_scale - 0.5) + low * half_scale) * 2.0
    return (x.abs() < 2.0 ** -(56 if x.width == 64 else 26)).where(x, result)


def _odd_small(x: V, coefficients: tuple[float, ...]) -> V:
    z = x * x
    return (polynomial(z, coefficients) * z).fma(x, x)


def sinh(x: V) -> V:
    """(exp(x) - exp(-x)) / 2."""
    magnitude = x.abs()
    half_exp = exp(magnitude, shift=-1)
    large = half_exp - 0.25 / half_exp
    return (magnitude < 1.0).where(_odd_small(x, c.SINH[x.width]), large.with_sign(x))


def cosh(x: V) -> V:
    """(exp(x) + exp(-x)) / 2."""
    half_exp = exp(x.abs(), shift=-1)
    return half_exp + 0.25 / half_exp


def tanh(x: V) -> V:
    """h / (1 + h) with the sign of x, where h = expm1(2|x|) / 2.

    Below 1/2 it is h - h (h / (1 + h)), which a rounding of the sum hardly moves.
    """
    magnitude = x.abs()
    limit = _TANH_ONE[x.width]
    magnitude = (magnitude > limit).where(x.const(limit), magnitude)
    # s = r / 2 with 2|x| = r + n log 2: halves and doubles are exact
    high, low = c.LN2[x.width]
    whole, n = nearest_integer(magnitude, 2.0 * c.LOG2_E[x.width][0], FORMATS[x.width].bias - 1)
    s = whole.fma(-low / 2.0, whole.fma(-high / 2.0, magnitude))
    doubled = [k * 2.0 ** (i + 2) for i, k in enumerate(c.EXP[x.width])]
    scale = power_of_biased(n)
    # n is not negative, so 2**(n - 1) - 1/2 is exact and cancels little; near 0 it is 0
    half = polynomial(s, doubled).fma(s * s, s + s).fma(scale, scale - 0.5)
    quotient = half / (half + 1.0)
    return (half < 0.5).where((-half).fma(quotient, half), quotient).with_sign(x)


def sigmoid(x: V) -> V:
    """1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows."""
    form = FORMATS[x.width]
    negative = -x.abs()
    remains = negative.not_below(_LOWEST[x.width])
    r, whole, n = reduce_by_log2(remains.where(negative, 0.0), form.bias + form.halfway)
    small = remains.where(shrink_by_whole(exp_reduced(r), whole, n), 0.0)
    total = small + 1.0
    # The sign's bit is what instructions choose by; for -0 both are the same.
    quotient = (x.bits() < 0).where(small, 1.0) / total
    # What the sum lost would cost most where `small` is, and the sum is near 1.
    return (-quotient).fma(small - (total - 1.0), quotient)
