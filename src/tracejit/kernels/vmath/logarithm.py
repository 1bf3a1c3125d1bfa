"""log and its relatives: log2, log10, log1p, pow.

Source: the reduction to [sqrt(1/2), sqrt(2)] and log(1 + f) = 2 atanh(f / (2 + f)); double-word arithmetic after
Dekker (1971) for pow.
"""

from __future__ import annotations

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.exponential import clamp, expm1_reduced
from tracejit.kernels.vmath.expression import (
    FORMATS,
    V,
    fast_two_sum,
    integer_to_float,
    nearest_integer,
    polynomial,
    polynomial_in_pairs,
    power_of_biased,
    power_of_two,
    scale_by_whole,
    two_product,
)

_SQRT_HALF_BITS = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}
# log 2 with so few bits that any exponent times it is exact, and the rest
_LN2_SHORT = (0.6931471803691238, 1.9082149292705877e-10)


def exponent_and_fraction(x: V) -> tuple[V, V]:
    """(k, m) with x = 2**k m and sqrt(1/2) <= m < sqrt(2), k an integer value, for normal x > 0."""
    form = FORMATS[x.width]
    offset = _SQRT_HALF_BITS[x.width]
    bits = x.bits() + (form.one_bits - offset)
    k = (bits >> form.mantissa) - form.bias
    return k, ((bits & ((1 << form.mantissa) - 1)) + offset).from_bits()


def exponent_and_fraction_any(x: V) -> tuple[V, V]:
    """`exponent_and_fraction` as floats, for x > 0 that may be subnormal."""
    form = FORMATS[x.width]
    small = x < form.tiny
    up = form.mantissa + 2
    k, m = exponent_and_fraction(small.where(x * 2.0**up, x))
    return integer_to_float(k - small.choose(k, up, 0)), m


def log1p_tail(f: V) -> V:
    """log(1 + f) - f for sqrt(1/2) <= 1 + f <= sqrt(2)."""
    if f.width == 32:
        return polynomial_in_pairs(f, c.LOG[32]).fma(f, -0.5) * (f * f)
    s = f / (f + 2.0)
    z = s * s
    half_square = 0.5 * f * f
    return s.fma(half_square + polynomial(z, c.LOG_S[64]) * z, -half_square)


def _log_edges(x: V, inner: V, zero: float = 0.0) -> V:
    """`inner`, but -inf at `zero`, nan below it, and x itself for inf and nan."""
    form = FORMATS[x.width]
    outer = x.equals(zero).where(x.const(-form.inf), (x < zero).where(x.const(form.nan), x))
    return ((x > zero) & (x < form.inf)).where(inner, outer)


def log(x: V) -> V:
    """Natural logarithm."""
    high, low = c.LN2[x.width]
    k, m = exponent_and_fraction_any(x)
    f = m - 1.0
    return _log_edges(x, k.fma(high, f + k.fma(low, log1p_tail(f))))


def _log_scaled(f: V, scale: tuple[float, ...]) -> tuple[V, V]:
    """log(1 + f) * scale as a sum of two floats."""
    high, low = two_product(f, scale[0])
    return high, low + f.fma(scale[1], log1p_tail(f) * scale[0])


def log2(x: V) -> V:
    """Logarithm to base 2, exact for powers of two."""
    k, m = exponent_and_fraction_any(x)
    high, low = _log_scaled(m - 1.0, c.LOG2_E[x.width])
    return _log_edges(x, k + (high + low))


def log10(x: V) -> V:
    """Logarithm to base 10."""
    k, m = exponent_and_fraction_any(x)
    high, low = _log_scaled(m - 1.0, c.LOG10_E[x.width])
    scale = c.LOG10_2[x.width]
    return _log_edges(x, k.fma(scale[0], high + k.fma(scale[1], low)))


def log1p(x: V) -> V:
    """log(1 + x) without cancellation."""
    high, low = c.LN2[x.width]
    exponent, m = exponent_and_fraction(x + 1.0)
    scale = power_of_two(-exponent)
    # (1 + x) 2**-k - 1 with one rounding; for large x the one is lost anyway and the scale may not exist
    f = (exponent > 60).where(m - 1.0, x.fma(scale, scale - 1.0))
    k = integer_to_float(exponent)
    inner = k.fma(high, f + k.fma(low, log1p_tail(f)))
    inner = (x.abs() < 2.0 ** -(56 if x.width == 64 else 26)).where(x, inner)
    return _log_edges(x, inner, zero=-1.0)


def pow(x: V, y: V) -> V:
    """x**y with the special cases of C's pow."""
    core = _pow_core_32 if x.width == 32 else _pow_core_64
    return _pow_edges(x, y, core(x.abs(), y))


def _pow_core_32(x: V, y: V) -> V:
    """x**y for x > 0 by float64, which float32's subnormals and range cannot trouble."""
    exponent, m = exponent_and_fraction(x.widen())
    k = integer_to_float(exponent)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    log_x = k.fma(c.LN2[64][0], (polynomial(z, c.LOG_S_SHORT[64]) * z).fma(s, s + s))
    product = clamp(y.widen() * log_x, -110.0, 95.0)
    whole, n = nearest_integer(product, c.LOG2_E[64][0], FORMATS[64].bias)
    r = whole.fma(-c.LN2[64][0], product)
    value = polynomial(r, c.EXP_SHORT[64]).fma(r * r, r) + 1.0
    return (value * power_of_biased(n)).narrow()


def _pow_core_64(x: V, y: V) -> V:
    """x**y for x > 0 with the logarithm in double words."""
    k, m = exponent_and_fraction_any(x)
    f = m - 1.0
    denominator = m + 1.0
    denominator_low = m - (denominator - 1.0)
    inverse = 1.0 / denominator
    # s + s_low = f / (m + 1)
    s = f * inverse
    s_low = ((-s).fma(denominator, f) - s * denominator_low) * inverse
    z, z_low = two_product(s, s)
    z_low = (s + s).fma(s_low, z_low)
    third, third_low = fast_two_sum(z.const(c.TWO_THIRDS[64][0]), z * polynomial(z, c.LOG_S_TAIL[64]))
    third_low = third_low + c.TWO_THIRDS[64][1]
    cube, cube_low = two_product(s, z)
    cube_low = cube_low + s.fma(z_low, s_low * z)
    term, term_low = two_product(cube, third)
    term_low = term_low + cube.fma(third_low, cube_low * third)
    fraction, fraction_low = fast_two_sum(s + s, term)
    fraction_low = fraction_low + (term_low + (s_low + s_low))
    total, total_low = fast_two_sum(k * _LN2_SHORT[0], fraction)
    total_low = total_low + k.fma(_LN2_SHORT[1], fraction_low)
    log_high, log_low = fast_two_sum(total, total_low)
    raw = log_high * y
    product = clamp(raw, -746.0, 711.0)
    # where the product was limited its error means nothing (it may be nan)
    product_low = raw.equals(product).where(log_high.fma(y, -raw) + log_low * y, 0.0)
    whole, n = nearest_integer(product, c.LOG2_E[64][0], 2 * FORMATS[64].bias)
    high, low = c.LN2[64]
    r = whole.fma(-high, product) + whole.fma(-low, product_low)
    return scale_by_whole(expm1_reduced(r) + 1.0, whole, n)


def _pow_edges(x: V, y: V, core: V) -> V:
    form = FORMATS[x.width]
    magnitude = x.abs()
    infinite_y = y.abs().equals(form.inf)
    whole = y.rint().equals(y)
    half = y * 0.5
    odd = whole & ~half.rint().equals(half)
    # x is 0 or inf, or y is infinite: the result is 0, inf, or 1 for |x| = 1
    grows = (magnitude > 1.0) ^ (y < 0.0)
    extreme = magnitude.equals(0.0) | magnitude.equals(form.inf) | infinite_y
    result = extreme.where(grows.where(x.const(form.inf), 0.0), core)
    result = (infinite_y & magnitude.equals(1.0)).where(x.const(1.0), result)
    negative = x.bits() < 0
    result = (odd & negative).where(-result, result)
    result = ((x < 0.0) & (x > -form.inf) & ~whole).where(x.const(form.nan), result)
    result = (x.equals(x) & y.equals(y)).where(result, x + y)
    return (y.equals(0.0) | x.equals(1.0)).where(x.const(1.0), result)
