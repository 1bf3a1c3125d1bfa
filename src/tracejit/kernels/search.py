"""Places of values among elements that are in order.

In: how rows and values lie in memory. Out: the launch that finds the places.
Must not know: whether the rows are in order; a row that is not gives some place in it.
"""

from __future__ import annotations

from tracejit.dtypes import BY_NAME
from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import (
    instantiate,
    launched,
    product,
    require_contiguous,
    require_same_dtype,
    short_name,
)

_TOGETHER = 256
"""Values whose places are narrowed down together: each step of one waits for the step before, but not for the others,
and none is a branch (262,144 float32 among 1,000 take a millisecond, and 15 in PyTorch)."""

_SEARCH = """
def $name(p, lo, hi):
    # Slots: rows, x, out, the size of a row, how many values are looked for in each.
    rows = load_arg(p, 0)
    x = load_arg(p, 1)
    out = load_arg(p, 2)
    size = load_arg(p, 3)
    each = load_arg(p, 4)
    top = lo
    while top < hi:
        row = top // each
        bottom = min(min(top + $together, hi), (row + 1) * each)
        begin = row * size
        for u in range(top, bottom):
            store_i64_s(out, u, 0, 2, 3)
        left = size
        while left > 0:
            # Of the elements left, the half that ends before this one is passed if it is.
            half = (left + 1) >> 1
            for u in range(top, bottom):
                at = load_i64_s(out, u, 2, 3)
                a = load_${t}_s(rows, begin + at + half - 1, 0, 3)
                v = load_${t}_s(x, u, 1, 3)
                store_i64_s(out, u, select($passes, at + half, at), 2, 3)
            left -= half
        top = bottom
    return 0
"""


def plan_searchsorted(rows: Operand, x: Operand, out: Operand, right: bool) -> tuple[Launch, ...]:
    """The launch for how many elements of a row come before each value. Operands: rows, x, out.

    Shape: out has x's; rows is one row, or has one for the values along x's last dimension.
    DType: rows and x alike, integers or floats; out int64.
    Edge: NaN is beyond all elements; before no number comes a NaN of a row.
    Raises: ValueError for other shapes, TypeError for other types.
    Cost: the logarithm of a row's size, for each value.
    """
    require_contiguous("searchsorted", rows, x, out)
    require_same_dtype("searchsorted", rows, x)
    own = len(rows.shape) > 1
    if out.dtype != "int64" or out.shape != x.shape or not rows.shape or (own and rows.shape[:-1] != x.shape[:-1]):
        raise ValueError(
            f"searchsorted: expected rows for values, and int64 of out like them, got {list(rows.shape)}, "
            f"{list(x.shape)}, {list(out.shape)} and {out.dtype}"
        )
    short, units, size = short_name(x), product(x.shape), rows.shape[-1]
    passes = "a <= v" if right else "a < v"
    if BY_NAME[x.dtype].is_floating_point:
        passes = f"({passes}) | (v != v)"
    name = f"searchsorted_{'right' if right else 'left'}_{short}"
    function = instantiate(_SEARCH, name, t=short, passes=passes, together=str(_TOGETHER))
    each = x.shape[-1] if own else max(units, 1)
    slots = (Ptr(0), Ptr(1), Ptr(2), size, each)
    return launched(Launch(function, slots, units, 1.0 + 0.7 * size.bit_length(), grain=_TOGETHER))
