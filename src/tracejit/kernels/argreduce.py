"""Index of the greatest or smallest element along one axis.

Elements are compared as int64 keys that sort like the elements, NaN above all: integer maxima vectorise, and one
comparison settles NaN, signed zeros and the order of every dtype.
"""

from __future__ import annotations

from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import instantiate, lanes, launched, product, require_contiguous, short_name

_LEAST = "-0x8000000000000000"
_GREATEST = "0x7FFFFFFFFFFFFFFF"
# A float's bits sort like the float once those below the sign are flipped for negative numbers.
_FLOAT_KEY = f"bits ^ ((bits >> 63) & {_GREATEST})"

_ROW = """
def $name(p, lo, hi):
    # Slots: x, out, size. A unit is one row of x, seen as [units, size].
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    keys = stack_i64(256)
    for u in range(lo, hi):
        start = u * size
        best = $least
        found = 0
        for block in range(0, size, 256):
            n = min(256, size - block)
            top = $least
            for k in range(n):
                v = load_$t(x, start + block + k) + $zero
                bits = $bits
                key = $key
                store_i64(keys, k, key)
                top = max(top, key)
            if top > best:
                best = top
                at = 0
                while load_i64(keys, at) != top:
                    at += 1
                found = block + at
        store_i64(out, u, found)
    return 0
"""

_COLUMN = """
def $name(p, lo, hi):
    # Slots: x, out, size, inner. A unit is one column (o, c) of x, seen as [outer, size, inner].
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    inner = load_arg(p, 3)
    best = stack_i64(256)
    u = lo
    while u < hi:
        o = u // inner
        first = u - o * inner
        columns = min(256, min(hi - u, inner - first))
        for c in range(columns):
            store_i64(best, c, $least)
            store_i64(out, u + c, 0)
        start = o * size * inner + first
        for row in range(size):
            for c in range(columns):
                v = load_${t}_s(x, start + c, 0, 3) + $zero
                bits = $bits
                key = $key
                before = load_i64_s(best, c, 1, 3)
                store_i64_s(best, c, max(before, key), 1, 3)
                store_i64_s(out, u + c, row if key > before else load_i64_s(out, u + c, 2, 3), 2, 3)
            start += inner
        u += columns
    return 0
"""


def key_texts(what: str, short: str) -> dict[str, str]:
    """How the key of an element `v` is computed, as texts: what is added to it, its bits, the key, the least key."""
    flip = {"argmax": "", "argmin": "~"}[what]
    if short in ("f16", "bf16", "f32", "f64"):
        zero, bits, key = "0.0", "f64_bits(v)", f"{_GREATEST} if v != v else {flip}({_FLOAT_KEY})"
    else:
        zero, bits, key = "0", "v", f"{flip}bits"
    return {"t": short, "zero": zero, "bits": bits, "key": key, "least": _LEAST}


def _plan(what: str, x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    require_contiguous(what, x, out)
    outer, size, inner = lanes(what, x.shape, dim)
    if size == 0:
        raise ValueError(f"{what}: expected dim {dim} of {list(x.shape)} to have non-zero size")
    units = outer * inner
    if out.dtype != "int64" or product(out.shape) != units:
        raise ValueError(f"{what}: expected {units} int64 of out, got {out.dtype}{list(out.shape)}")
    short = short_name(x)
    blanks = key_texts(what, short)
    if inner == 1:
        function = instantiate(_ROW, f"{what}_row_{short}", **blanks)
        return launched(Launch(function, (Ptr(0), Ptr(1), size), units, 4.0 + 0.4 * size))
    function = instantiate(_COLUMN, f"{what}_column_{short}", **blanks)
    return launched(Launch(function, (Ptr(0), Ptr(1), size, inner), units, 1.0 + 0.25 * size))


def plan_argmax(x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for the index of the greatest element along `dim`. Operands: x, out.

    Shape: out is x's shape without `dim`, or with 1 in its place.
    DType: any; out int64.
    Edge: of equal elements the first; NaN counts as greatest; -0.0 equals 0.0.
    Raises: ValueError if the size of `dim` is 0.
    """
    return _plan("argmax", x, out, dim)


def plan_argmin(x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for the index of the smallest element along `dim`. Operands: x, out.

    Shape: out is x's shape without `dim`, or with 1 in its place.
    DType: any; out int64.
    Edge: of equal elements the first; NaN counts as smallest; -0.0 equals 0.0.
    Raises: ValueError if the size of `dim` is 0.
    """
    return _plan("argmin", x, out, dim)
