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
    # Slots: x, out, size, inner, columns of a unit. x is seen as [outer, size, inner]; a unit is a column (o, c) of it,
    # or all columns of an o if they are few.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    inner = load_arg(p, 3)
    lo *= load_arg(p, 4)
    hi *= load_arg(p, 4)
    if inner <= $few:
        first = lo
        $several
        for u in range(first, hi):
            e = u // inner * (size - 1) * inner + u
            sofar = $first
            store_$t(out, e, sofar)
            for k in range(1, size):
                e += inner
                sofar = sofar $op load_$t(x, e)
                store_$t(out, e, sofar)
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
_CHAINS, _FEW = (4, 2), 8
"""Columns of floats that are gone through side by side, in sets of so many: each addition waits for the one before it.
Columns up to so many are done by one thread, as they are less than a line of memory."""


def _side_by_side(short: str, op: str) -> str:
    """The text for sets of columns, as long as there are whole ones."""
    lines = []
    for chains in _CHAINS:

        def each(depth: int, *texts: str, chains: int = chains) -> list[str]:
            return [" " * depth + text.replace("CHAIN", str(chain)) for text in texts for chain in range(chains)]

        begin = "eCHAIN = (u + CHAIN) // inner * (size - 1) * inner + u + CHAIN"
        lines += [
            f"{' ' * 8}begin = first",
            f"{' ' * 8}first = hi - (hi - begin) % {chains}",
            f"{' ' * 8}for u in range(begin, first, {chains}):",
            *each(12, begin, f"sCHAIN = load_{short}(x, eCHAIN)", f"store_{short}(out, eCHAIN, sCHAIN)"),
            f"{' ' * 12}at = 0",
            f"{' ' * 12}for k in range(1, size):",
            f"{' ' * 16}at += inner",
            *each(16, f"sCHAIN = sCHAIN {op} load_{short}(x, eCHAIN + at)", f"store_{short}(out, eCHAIN + at, sCHAIN)"),
        ]
    return "\n".join(lines).lstrip()


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
        if is_float and inner <= _FEW:
            each = 0.4
        sofar = f"load_{short}(x, e)" if is_float else f"load_{short}(x, e) {op} {_UNITS[op]}"
        several = _side_by_side(short, op) if is_float else ""
        function = instantiate(_SCAN, f"{what}_{short}", op=op, t=short, first=sofar, several=several, few=str(_FEW))
        columns = inner if 0 < inner <= _FEW else 1
        slots = (Ptr(0), Ptr(1), size, inner, columns)
        return launched(Launch(function, slots, outer * inner // columns if size else 0, columns * (2.0 + size * each)))
    return launched(Launch(function, (Ptr(0), Ptr(1), size, inner), outer * inner if size else 0, 2.0 + size * each))


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
