"""Inverse hyperbolic functions, and that of sigmoid.

Source: Kahan, "Branch cuts for complex elementary functions" (1987), for arguments of log1p that do not cancel. What
is float32 is computed in float64.
"""

from __future__ import annotations

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.expression import FORMATS, V
from tracejit.kernels.vmath.logarithm import log, log1p

# From here on x + sqrt(x**2 + 1) and x + sqrt(x**2 - 1) are 2 x, whose square may overflow.
_DOUBLED = 2.0**28


def _log_of_sum(large: V, less_one: V, rest: V) -> V:
    """log(1 + less_one + rest), and where it is `large` log(2 (1 + less_one))."""
    doubled = large.where(less_one.const(c.LN2[64][0]), 0.0)
    return log1p(large.where(less_one, less_one + rest)) + doubled


def asinh(x: V) -> V:
    """Inverse hyperbolic sine."""
    if x.width == 32:
        return asinh(x.widen()).narrow()
    magnitude = x.abs()
    z = magnitude * magnitude
    large = magnitude > _DOUBLED
    less_one = large.where(magnitude - 1.0, magnitude)
    return _log_of_sum(large, less_one, z / ((z + 1.0).sqrt() + 1.0)).with_sign(x)


def acosh(x: V) -> V:
    """Inverse hyperbolic cosine; nan below 1."""
    if x.width == 32:
        return acosh(x.widen()).narrow()
    less_one = x - 1.0
    result = _log_of_sum(x > _DOUBLED, less_one, (less_one * (less_one + 2.0)).sqrt())
    return (x >= 1.0).where(result, FORMATS[64].nan)


def atanh(x: V) -> V:
    """Inverse hyperbolic tangent; infinite at 1 and -1, nan beyond."""
    if x.width == 32:
        return atanh(x.widen()).narrow()
    magnitude = x.abs()
    return (log1p((magnitude + magnitude) / (1.0 - magnitude)) * 0.5).copysign(x)


def logit(x: V) -> V:
    """log(x / (1 - x)); infinite at 0 and 1, nan beyond."""
    if x.width == 32:
        return logit(x.widen()).narrow()
    rest = 1.0 - x
    # From a quarter on 2 x - 1 is exact, and near a half the quotient is near 1.
    return (x < 0.25).where(log(x / rest), log1p((x + x - 1.0) / rest))
