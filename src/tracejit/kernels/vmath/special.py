"""erf and its inverse.

Source: erf(x) = 1 - exp(-g(x)) with g = -log(erfc(x)); Giles, "Approximating the erfinv function" (2010), for the
variable w = -log(1 - x**2). The polynomials are fits of this project.
"""

from __future__ import annotations

from tracejit.kernels.vmath import coefficients as c
from tracejit.kernels.vmath.exponential import expm1_reduced, reduce_by_log2
from tracejit.kernels.vmath.expression import FORMATS, V, polynomial, power_of_two
from tracejit.kernels.vmath.logarithm import log

# Beyond this erf rounds to one.
_ERF_ONE = {32: 4.0, 64: 6.0}


def erf(x: V) -> V:
    """Error function."""
    magnitude = x.abs()
    z = x * x
    small = polynomial(z, c.ERF[x.width]).fma(x, x)
    limit = _ERF_ONE[x.width]
    limited = (magnitude > limit).where(x.const(limit), magnitude)
    coefficients = c.ERFC_LOG_32[32] if x.width == 32 else c.ERFC_LOG_64[64]
    r, n = reduce_by_log2(-polynomial(limited - 2.0, coefficients))
    scale = power_of_two(n)
    large = (1.0 - scale) - expm1_reduced(r) * scale
    return (magnitude < 1.0).where(small, large.copysign(x))


def erfinv(x: V) -> V:
    """Inverse of the error function; inf at 1, nan beyond."""
    form = FORMATS[x.width]
    magnitude = x.abs()
    w = -log((1.0 - magnitude) * (magnitude + 1.0))
    root = w.sqrt()
    if x.width == 32:
        factor = (w < 5.0).where(
            polynomial(w - 2.5, c.ERFINV_LOW[32]),
            polynomial(root - 3.0, c.ERFINV_HIGH[32]),
        )
    else:
        factor = (w < 16.0).where(
            polynomial(root - 3.25, c.ERFINV_B[64]),
            polynomial(root - 5.0, c.ERFINV_C[64]),
        )
        factor = (w < 6.25).where(polynomial(w - 3.125, c.ERFINV_A[64]), factor)
    result = magnitude.equals(1.0).where(x.const(form.inf).copysign(x), factor * x)
    return (magnitude <= 1.0).where(result, form.nan)
