"""sin, cos, tan and their inverses.

Source: Cody and Waite (reduction by multiples of pi/2 with parts of pi/2), Payne and Hanek, "Radian reduction for
trigonometric functions" (1983), for float32.
"""

from __future__ import annotations

import math

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.expression import FORMATS, V, nearest_integer, polynomial, two_product, two_sum

# Up to here the parts of pi/2 reduce float64 arguments to full accuracy.
FLOAT64_BOUND = 2.0**45


def _reduce_32(magnitude: V) -> tuple[V, V]:
    """(r, q) with |x| = r + q pi/2 modulo 2 pi, r float64, by the bits of 2/pi that matter for this exponent."""
    bits = magnitude.bits()
    mantissa = (bits & 0x7FFFFF) | 0x800000
    # 2/pi is shifted so that what stays above bit 63 of the product is a multiple of 2 pi
    count = (bits >> 23) - 120
    words = [count.const(word) for word in c.TWO_OVER_PI_WORDS]
    by_128 = ~(count & 128).equals(0)
    by_64 = ~(count & 64).equals(0)
    by_32 = ~(count & 32).equals(0)
    wide = [by_64.where(words[i + 2], words[i]) for i in range(5)]
    wide = [by_128.where(words[i + 4], wide[i]) for i in range(4)] + [wide[4]]
    near = [by_32.where(wide[i + 1], wide[i]) for i in range(4)]
    high, middle, low = (near[i].funnel_left(near[i + 1], count) for i in range(3))
    # of the highest product only the low half counts: a 32-bit multiplication is cheaper
    top = (mantissa * high).widen() << 32
    factor = mantissa.widen()
    # quarter turns as fixed point: 2 bits whole, 62 bits fraction
    turns = top + factor * middle.widen() + ((factor * low.widen()) >> 32)
    quarters = (turns + (1 << 61)) >> 62
    fraction = turns - (quarters << 62)
    return fraction.to_float() * (math.pi * 2.0**-63), quarters.narrow()


def _reduce_64(magnitude: V) -> tuple[V, V, V]:
    """(r, r_low, q) with |x| = r + r_low + q pi/2."""
    first, second, third, _ = c.HALF_PI[64]
    whole, q = nearest_integer(magnitude, c.TWO_OVER_PI[64][0])
    start = whole.fma(-first, magnitude)
    product, product_low = two_product(whole, second)
    high, high_low = two_sum(start, -product)
    low = whole.fma(-third, high_low - product_low)
    r, _ = two_sum(high, low)
    return r, (high - r) + low, q


def _sin_cos(magnitude: V) -> tuple[V, V, V]:
    """(sin r, cos r, q) of the reduced argument; nan for inf and nan."""
    form = FORMATS[magnitude.width]
    if magnitude.width == 32:
        wide, q = _reduce_32(magnitude)
        small = magnitude < math.pi / 4
        r = small.where(magnitude, wide.narrow())
        q = small.choose(q, 0, q)
        r = (magnitude < form.inf).where(r, form.nan)
        z = r * r
        half = z * 0.5
        top = 1.0 - half
        cosine = top + (polynomial(z, c.COS[32]) * z).fma(z, (1.0 - top) - half)
        return (polynomial(z, c.SIN[32]) * z).fma(r, r), cosine, q
    r, low, q = _reduce_64(magnitude)
    inside = magnitude < FLOAT64_BOUND
    r = inside.where(r, magnitude - magnitude)
    low = inside.where(low, 0.0)
    z = r * r
    half = z * 0.5
    sine = r + (polynomial(z, c.SIN[64]) * z).fma(r, low * (1.0 - half))
    top = 1.0 - half
    tail = (polynomial(z, c.COS[64]) * z).fma(z, (1.0 - top) - half) - r * low
    return sine, top + tail, q


def _with_sign(value: V, sign: V) -> V:
    """`value` with its sign flipped where bit 1 of the integer `sign` is set."""
    width = value.width
    return (value.bits() ^ ((sign << (width - 2)) & (1 << (width - 1)))).from_bits()


def sin(x: V) -> V:
    """Sine."""
    sine, cosine, q = _sin_cos(x.abs())
    odd = ~(q & 1).equals(0)
    value = _with_sign(odd.where(cosine, sine), q)
    return (value.bits() ^ (x.bits() & (1 << (x.width - 1)))).from_bits()


def cos(x: V) -> V:
    """Cosine."""
    sine, cosine, q = _sin_cos(x.abs())
    odd = ~(q & 1).equals(0)
    return _with_sign(odd.where(sine, cosine), q + 1)


def tan(x: V) -> V:
    """Tangent; float32 divides in float64."""
    magnitude = x.abs()
    if x.width == 32:
        wide, q = _reduce_32(magnitude)
        small = magnitude < math.pi / 4
        r = small.where(magnitude.widen(), wide)
        q = small.choose(q, 0, q)
        r = (magnitude < FORMATS[32].inf).where(r, math.nan)
        z = r * r
        sine = (polynomial(z, c.SIN[64][:5]) * z).fma(r, r)
        cosine = polynomial(z, c.COS[64][:5]).fma(z, -0.5).fma(z, 1.0)
    else:
        sine, cosine, q = _sin_cos(magnitude)
    odd = ~(q & 1).equals(0)
    value = odd.where(-cosine, sine) / odd.where(sine, cosine)
    if x.width == 32:
        value = value.narrow()
    return (value.bits() ^ (x.bits() & (1 << (x.width - 1)))).from_bits()


def atan(x: V) -> V:
    """Inverse tangent."""
    return _atan_positive(x.abs(), x.const(1.0), None).copysign(x)


def atan2(y: V, x: V) -> V:
    """Angle of the point (x, y), with the special cases of C's atan2."""
    angle = _atan_positive(y.abs(), x.abs(), x.bits() < 0).copysign(y)
    return (x.equals(x) & y.equals(y)).where(angle, x + y)


def _atan_positive(y: V, x: V, mirrored: V | None) -> V:
    """atan(y / x) for y, x >= 0, or pi minus it where `mirrored`: the ratio is brought below tan(pi / 8)."""
    form = FORMATS[y.width]
    swapped = y > x
    small = swapped.where(x, y)
    large = swapped.where(y, x)
    if mirrored is not None:
        # keeps the sum below from overflowing
        shrink = (large > 2.0 ** (form.bias - 2)).choose(y, 0.25, 1.0)
        small, large = small * shrink, large * shrink
        # inf / inf stands for 1
        both = small.equals(form.inf)
        small, large = both.where(y.const(1.0), small), both.where(y.const(1.0), large)
    middle = small > large * (math.sqrt(2.0) - 1.0)
    top = middle.where(small - large, small)
    bottom = middle.where(small + large, large)
    ratio = top / bottom
    if mirrored is not None:
        # 0 / 0 stands for 0
        ratio = bottom.equals(0.0).where(y.const(0.0), ratio)
    # in the middle the numerator's, denominator's and quotient's rounding errors would add up to over one ulp
    top_low = small - (top + large)
    bottom_low = small - (bottom - large)
    remainder = (-ratio).fma(bottom, top) + (-ratio).fma(bottom_low, top_low)
    ratio_low = middle.where(remainder / bottom, 0.0)
    z = ratio * ratio
    tail = (polynomial(z, c.ATAN[y.width]) * z).fma(ratio, ratio_low)
    eighths, eighths_low = _eighths(y, middle, swapped, mirrored)
    flip = swapped if mirrored is None else swapped ^ mirrored
    ratio = flip.where(-ratio, ratio)
    tail = flip.where(-tail, tail)
    base = eighths + ratio
    # the rounding error of base (|eighths| >= |ratio|, or eighths is 0)
    return base + ((ratio - (base - eighths)) + (tail + eighths_low))


def _eighths(like: V, middle: V, swapped: V, mirrored: V | None) -> tuple[V, V]:
    """The multiple of pi/4 that the rest is added to, in two parts."""
    table = c.EIGHTHS[like.width]

    def pick(part: int) -> V:
        plain = middle.choose(like, table[1][part], table[0][part])
        turned = middle.choose(like, table[1][part], table[2][part])
        result = swapped.where(turned, plain)
        if mirrored is not None:
            back = swapped.where(
                middle.choose(like, table[3][part], table[2][part]),
                middle.choose(like, table[3][part], table[4][part]),
            )
            result = mirrored.where(back, result)
        return result

    return pick(0), pick(1)


def _asin_parts(magnitude: V) -> tuple[V, V, V]:
    """(beyond, s, s_tail): asin(|x|) = s + s_tail up to 1/2, beyond it pi/2 - 2 (s + s_tail)."""
    beyond = magnitude > 0.5
    z = beyond.where((1.0 - magnitude) * 0.5, magnitude * magnitude)
    s = beyond.where(z.sqrt(), magnitude)
    return beyond, s, polynomial(z, c.ASIN[magnitude.width]) * z * s


def asin(x: V) -> V:
    """Inverse sine."""
    beyond, s, tail = _asin_parts(x.abs())
    high, low = c.HALF_PI[x.width][:2]
    base = high - 2.0 * s
    correction = (high - base) - 2.0 * s
    large = base + (correction + (low - 2.0 * tail))
    return beyond.where(large, s + tail).copysign(x)


def acos(x: V) -> V:
    """Inverse cosine."""
    beyond, s, tail = _asin_parts(x.abs())
    half_pi, half_pi_low = c.HALF_PI[x.width][:2]
    turn, turn_low = c.EIGHTHS[x.width][4]
    negative = x < 0.0
    # inside: pi/2 -+ (s + tail); beyond: 2 (s + tail), or pi minus it
    step = beyond.where(2.0 * s, s)
    step_tail = beyond.where(2.0 * tail, tail)
    base_high = beyond.where(negative.choose(x, turn, 0.0), x.const(half_pi))
    base_low = beyond.where(negative.choose(x, turn_low, 0.0), x.const(half_pi_low))
    add = beyond ^ negative
    step = add.where(step, -step)
    step_tail = add.where(step_tail, -step_tail)
    total = base_high + step
    return total + ((step - (total - base_high)) + (step_tail + base_low))
