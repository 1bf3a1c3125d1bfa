"""The kernel that looks at the weights of a draw."""

from __future__ import annotations

from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import (
    instantiate,
    launched,
    product,
    require_contiguous,
    require_same_dtype,
    short_name,
)

_CHECK = """
def $name(p, lo, hi):
    # Slots: x, out, n, least. A unit is a row.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    n = load_arg(p, 2)
    least = load_arg(p, 3)
    wrong = 0
    for u in range(lo, hi):
        above = 0
        for j in range(u * n, u * n + n):
            v = load_$t(x, j)
            # What is not finite has a difference to itself that is not 0.
            right = (v >= 0.0) & (v - v == 0.0)
            wrong |= 1 - right
            above += right & (v > 0.0)
            store_$t(out, j, v)
        wrong |= above < least
    return wrong
"""


def plan_check_weights(x: Operand, out: Operand, least: int) -> tuple[Launch, ...]:
    """The launch for a look at rows of weights, which are copied. Operands: x, out.

    Edge: fails with code 1 for a weight that is negative or not finite, and for a row with fewer than `least`, or none,
    above 0.
    """
    require_contiguous("check_weights", x, out)
    require_same_dtype("check_weights", x, out)
    if x.shape != out.shape or not x.shape:
        raise ValueError(f"check_weights: expected rows, got {list(x.shape)} and {list(out.shape)}")
    *outer, n = x.shape
    function = instantiate(_CHECK, f"check_weights_{short_name(x)}", t=short_name(x))
    return launched(Launch(function, (Ptr(0), Ptr(1), n, max(1, least)), product(outer), 1.0 * n, fails=True))
