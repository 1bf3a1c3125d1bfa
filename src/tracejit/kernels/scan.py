"""Running sums, products and linear recurrences along one axis, in sequential order."""

from __future__ import annotations

from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import (
    instantiate,
    lanes,
    launched,
    require_contiguous,
    require_same_dtype,
    short_name,
)

_SCAN = """
def $name(p, lo, hi):
    # Slots: x, out, size, inner. A unit is one column (o, c) of x, seen as [outer, size, inner].
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    inner = load_arg(p, 3)
    if inner == 1:
        first = lo
        $several
        for u in range(first, hi):
            e = u * size
            sofar = $first
            store_$t(out, e, sofar)
            for k in range(e + 1, e + size):
                sofar = sofar $op load_$t(x, k)
                store_$t(out, k, sofar)
        return 0
    u = lo
    while u < hi:
        o = u // inner
        first = u - o * inner
        columns = min(hi - u, inner - first)
        e = o * size * inner + first
        for c in range(columns):
            store_$t(out, e + c, load_$t(x, e + c))
        for row in range(1, size):
            e += inner
            for c in range(e, e + columns):
                store_${t}_s(out, c, load_${t}_s(out, c - inner, 1, 2) $op load_${t}_s(x, c, 0, 2), 1, 2)
        u += columns
    return 0
"""

_ONE_BY_ONE = """
def $name(p, lo, hi):
    # Slots: x, out, size, inner$slots. A unit is one column (o, c) of x, seen as [outer, size, inner]; what it carries
    # from step to step is in a register, in float32 for types of 16 bits, which out cannot hold.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    inner = load_arg(p, 3)
    $operand
    o = lo // inner
    c = lo - o * inner
    for u in range(lo, hi):
        e = o * size * inner + c
        sofar = load_$t(x, e)
        store_$t(out, e, sofar)
        for row in range(1, size):
            carried = $carried
            e += inner
            sofar = $next
            store_$t(out, e, sofar)
        c += 1
        if c == inner:
            c = 0
            o += 1
    return 0
"""

_UNITS = {"+": 0, "*": 1}
_ROWS = 4
"""Rows of floats that are gone through side by side: each addition waits for the one before it in its row."""


def _side_by_side(short: str, op: str) -> str:
    """The text for as many rows at a time as there are whole sets of."""

    def each(depth: int, *lines: str) -> list[str]:
        return [" " * depth + line.replace("ROW", str(row)) for line in lines for row in range(_ROWS)]

    lines = [
        f"first = hi - (hi - lo) % {_ROWS}",
        f"{' ' * 8}for u in range(lo, first, {_ROWS}):",
        *each(12, "eROW = (u + ROW) * size", f"sROW = load_{short}(x, eROW)", f"store_{short}(out, eROW, sROW)"),
        f"{' ' * 12}for k in range(1, size):",
        *each(16, f"sROW = sROW {op} load_{short}(x, eROW + k)", f"store_{short}(out, eROW + k, sROW)"),
    ]
    return "\n".join(lines)


def _plan(what: str, op: str, x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    require_contiguous(what, x, out)
    require_same_dtype(what, x, out)
    if out.shape != x.shape:
        raise ValueError(f"{what}: expected out of shape {list(x.shape)}, got {list(out.shape)}")
    short = short_name(x)
    if short == "b1":
        raise TypeError(f"{what}: expected a numeric dtype, got bool; cast to int64 first")
    outer, size, inner = lanes(what, x.shape, dim)
    half = short in ("f16", "bf16")
    each = 0.8 if inner == 1 or half else 0.2
    if half:
        step = f"carried {op} load_{short}(x, e)"
        function = instantiate(
            _ONE_BY_ONE, f"{what}_{short}", t=short, slots="", operand="", carried="sofar", next=step
        )
    else:
        # Integers run in 64 bits from the first on, whose type is then that of the rest.
        is_float = short in ("f32", "f64")
        if is_float and inner == 1:
            each = 0.4
        sofar = f"load_{short}(x, e)" if is_float else f"load_{short}(x, e) {op} {_UNITS[op]}"
        several = _side_by_side(short, op) if is_float else ""
        function = instantiate(_SCAN, f"{what}_{short}", op=op, t=short, first=sofar, several=several)
    units = outer * inner if size else 0
    return launched(Launch(function, (Ptr(0), Ptr(1), size, inner), units, 2.0 + size * each))


def plan_cumsum(x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for the running sum of x along `dim`, added in ascending order. Operands: x, out.

    Shape: out has x's shape.
    DType: numeric, of both alike; integers wrap around; types of 16 bits run in float32 and are
    rounded where they are stored.
    Edge: the first element is copied, so -0.0 stays; out must not overlap x.
    """
    return _plan("cumsum", "+", x, out, dim)


def plan_cumprod(x: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for the running product of x along `dim`, multiplied in ascending order. Operands: x, out.

    Shape: out has x's shape.
    DType: numeric, of both alike; integers wrap around; types of 16 bits run in float32 and are
    rounded where they are stored.
    Edge: the first element is copied; out must not overlap x.
    """
    return _plan("cumprod", "*", x, out, dim)


def plan_linear_recurrence(x: Operand, decay: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for out[k] = x[k] + decay[k - 1] * out[k - 1] along `dim`, in ascending order. Operands: x, decay, out.

    Shape: that of all operands.
    DType: floating, of all alike; types of 16 bits run in float32 and are rounded where they are stored.
    Edge: the first element is copied; out must overlap none of the others.
    """
    what = "linear_recurrence"
    require_contiguous(what, x, decay, out)
    require_same_dtype(what, x, decay, out)
    if not x.shape == decay.shape == out.shape:
        raise ValueError(f"{what}: expected one shape, got {[list(o.shape) for o in (x, decay, out)]}")
    outer, size, inner = lanes(what, x.shape, dim)
    short = short_name(x)
    function = instantiate(
        _ONE_BY_ONE,
        f"{what}_{short}",
        t=short,
        slots=", decay",
        operand="decay = load_arg(p, 4)",
        carried=f"sofar * load_{short}(decay, e)",
        next=f"load_{short}(x, e) + carried",
    )
    units = outer * inner if size else 0
    return launched(Launch(function, (Ptr(0), Ptr(2), size, inner, Ptr(1)), units, 2.0 + 1.5 * size))
