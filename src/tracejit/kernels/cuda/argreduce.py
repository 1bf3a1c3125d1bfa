"""Index of the greatest or smallest element along one axis on a GPU: a block does a row, or a thread a column.

Keys are those of `kernels.argreduce`; of equal ones the first place is taken, so the order of folds changes nothing.
"""

from __future__ import annotations

import functools
from string import Template

from tracejit.kernels.argreduce import key_texts
from tracejit.kernels.cuda.launch import GpuLaunch
from tracejit.kernels.cuda.threads import WARP
from tracejit.kernels.launch import Operand, Ptr
from tracejit.kernels.template import lanes, require_contiguous, short_name

THREADS = 256
_WARPS = THREADS // WARP

_KEY = """v = load_${t}_g(x, $index, 0, 4) + $zero
        bits = $bits
        key = $key"""

_ROW = f"""def $name(p, lo, hi):
    # Slots: x, out, size. A block is one row of x, seen as [units, size].
    x, out, size = load_arg(p, 0), load_arg(p, 1), load_arg(p, 2)
    keys, places = shared(0, {_WARPS}), shared(1, {_WARPS})
    if lo >= hi:
        return 0
    best = $least
    at = size
    j = thread()
    while j < size:
        {_KEY}
        if key > best or (key == best and j < at):
            best = key
            at = j
        j += {THREADS}
$folds    if thread() % {WARP} == 0:
        store_i64_b(keys, thread() // {WARP}, best, 1, 4)
        store_i64_b(places, thread() // {WARP}, at, 2, 4)
    barrier()
    if thread() == 0:
        for k in range(1, {_WARPS}):
            other = load_i64_b(keys, k, 1, 4)
            there = load_i64_b(places, k, 2, 4)
            if other > best or (other == best and there < at):
                best = other
                at = there
        store_i64_g(out, lo, at, 3, 4)
    return 0
"""

_FOLD = """    other = down_i64(best, {distance})
    there = down_i64(at, {distance})
    if other > best or (other == best and there < at):
        best = other
        at = there
"""

_COLUMN = f"""def $name(p, lo, hi):
    # Slots: x, out, size, inner. A thread is one column (o, c) of x, seen as [outer, size, inner].
    x, out, size, inner = load_arg(p, 0), load_arg(p, 1), load_arg(p, 2), load_arg(p, 3)
    u = lo * {THREADS} + thread()
    if u >= hi:
        return 0
    o = u // inner
    start = o * size * inner + u - o * inner
    best = $least
    at = 0
    for row in range(size):
        {_KEY}
        if key > best:
            best = key
            at = row
    store_i64_g(out, u, at, 3, 4)
    return 0
"""


@functools.cache
def _text(what: str, short: str, is_row: bool) -> tuple[str, str]:
    name = f"cuda_{what}_{'row' if is_row else 'column'}_{short}"
    distances = [WARP >> k for k in range(1, WARP.bit_length())]
    folds = "".join(_FOLD.format(distance=distance) for distance in distances)
    index = "lo * size + j" if is_row else "start + row * inner"
    blanks = {**key_texts(what, short), "name": name, "folds": folds, "index": index}
    return name, Template(_ROW if is_row else _COLUMN).substitute(blanks)


def _launch(what: str, x: Operand, out: Operand, dim: int) -> tuple[GpuLaunch, ...]:
    require_contiguous(what, x, out)
    outer, size, inner = lanes(what, x.shape, dim)
    units, is_row = outer * inner, inner == 1
    name, text = _text(what, short_name(x), is_row)
    slots: tuple[int | float | Ptr, ...] = (Ptr(0), Ptr(1), size) if is_row else (Ptr(0), Ptr(1), size, inner)
    return (GpuLaunch(name, text, slots, units, units if is_row else -(-units // THREADS), THREADS),)


def launch_argmax(x: Operand, out: Operand, dim: int) -> tuple[GpuLaunch, ...]:
    """The launch for the index of the greatest element along `dim`, as on the CPU. Operands: x, out."""
    return _launch("argmax", x, out, dim)


def launch_argmin(x: Operand, out: Operand, dim: int) -> tuple[GpuLaunch, ...]:
    """The launch for the index of the smallest element along `dim`, as on the CPU. Operands: x, out."""
    return _launch("argmin", x, out, dim)
