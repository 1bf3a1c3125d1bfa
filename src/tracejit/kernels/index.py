"""Kernels that address elements through an index operand: take, gather, scatter, add, copy.

An index is checked by a launch of its own before anything is written, so an index out of range leaves the
result unwritten. Adding is sequential for each destination, in ascending order of the index operand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.dtypes import BY_NAME
from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import (
    index_name,
    instantiate,
    lanes,
    launched,
    move_name,
    product,
    require_contiguous,
    require_same_dtype,
    short_name,
)

_CHECK = """
def $name(p, lo, hi):
    # Slots: index, smallest and one more than the greatest value allowed.
    index = load_arg(p, 0)
    low = load_arg(p, 1)
    high = load_arg(p, 2)
    wrong = 0
    for i in range(lo, hi):
        j = load_$i(index, i)
        wrong |= (j < low) | (j >= high)
    return wrong
"""

_WRAP = """
def $name(p, lo, hi):
    # Slots: index, out, size.
    index = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    for i in range(lo, hi):
        j = load_$i(index, i)
        store_i64(out, i, j + size if j < 0 else j)
    return 0
"""

_PLACES = """
def $name(p, lo, hi):
    # Slots: mask, out, elements, how many hold. One unit is all of it.
    mask = load_arg(p, 0)
    out = load_arg(p, 1)
    size = load_arg(p, 2)
    count = load_arg(p, 3)
    k = 0
    for i in range(0, size):
        if load_$t(mask, i):
            if k < count:
                store_i64(out, k, i)
            k += 1
    return 0
"""

_COPY = """
def $name(p, lo, hi):
    # Slots: x, out.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    if x != out:
        for i in range(lo, hi):
            store_$t(out, i, load_$t(x, i))
    return 0
"""

_TAKE = """
def $name(p, lo, hi):
    # Slots: x, index, out, size, n, inner. A unit is one element of out, seen as [outer, n, inner].
    x = load_arg(p, 0)
    index = load_arg(p, 1)
    out = load_arg(p, 2)
    size = load_arg(p, 3)
    n = load_arg(p, 4)
    inner = load_arg(p, 5)
    row = lo // inner
    o = row // n
    j = row - o * n
    u = lo
    while u < hi:
        start = row * inner
        stop = min(hi, start + inner)
        shift = (o * size + load_$i(index, j)) * inner - start
        for e in range(u, stop):
            store_${t}_s(out, e, load_${t}_s(x, e + shift, 0, 2), 1, 2)
        u = stop
        row += 1
        j += 1
        if j == n:
            j = 0
            o += 1
    return 0
"""

_GATHER = """
def $name(p, lo, hi):
    # Slots: x, index, out, stride of x along the dimension, length of the innermost axis and x's stride in it,
    # number of other axes, and of each of these, outermost first, its length and x's stride.
    x = load_arg(p, 0)
    index = load_arg(p, 1)
    out = load_arg(p, 2)
    along = load_arg(p, 3)
    run = load_arg(p, 4)
    step = load_arg(p, 5)
    axes = load_arg(p, 6)
    u = lo
    while u < hi:
        rest = u // run
        start = rest * run
        stop = min(hi, start + run)
        origin = 0
        for k in range(axes):
            slot = 7 + 2 * (axes - 1 - k)
            length = load_arg(p, slot)
            above = rest // length
            origin += (rest - above * length) * load_arg(p, slot + 1)
            rest = above
        for e in range(u, stop):
            store_$t(out, e, load_$t(x, origin + (e - start) * step + load_$i(index, e) * along))
        u = stop
    return 0
"""

_SCATTER = """
def $name(p, lo, hi):
    # A unit is `together` lines of index along the dimension, side by side; lines never share a destination.
    # Slots: src, index, out, line length, strides along the dimension (out, index, src), number of lines that lie
    # side by side and strides from one to the next, `together`, number of other axes, and of each its length and
    # strides.
    src = load_arg(p, 0)
    index = load_arg(p, 1)
    out = load_arg(p, 2)
    n = load_arg(p, 3)
    out_along = load_arg(p, 4)
    index_along = load_arg(p, 5)
    src_along = load_arg(p, 6)
    run = load_arg(p, 7)
    out_step = load_arg(p, 8)
    index_step = load_arg(p, 9)
    src_step = load_arg(p, 10)
    together = load_arg(p, 11)
    axes = load_arg(p, 12)
    units = (run + together - 1) // together
    u = lo
    while u < hi:
        rest = u // units
        unit = u - rest * units
        taken = min(hi - u, units - unit)
        first = unit * together
        lines = min(taken * together, run - first)
        o = first * out_step
        i = first * index_step
        s = first * src_step
        for k in range(axes):
            slot = 13 + 4 * (axes - 1 - k)
            length = load_arg(p, slot)
            above = rest // length
            position = rest - above * length
            o += position * load_arg(p, slot + 1)
            i += position * load_arg(p, slot + 2)
            s += position * load_arg(p, slot + 3)
            rest = above
        if index_along == 1:
            for c in range(lines):
                for j in range(n):
                    to = o + c * out_step + load_$i(index, i + c * index_step + j) * out_along
                    at = s + c * src_step + j * src_along
                    store_$t(out, to, $value)
        else:
            for j in range(n):
                for c in range(lines):
                    to = o + c * out_step + load_$i(index, i + c * index_step + j * index_along) * out_along
                    at = s + c * src_step + j * src_along
                    store_$t(out, to, $value)
        u += taken
    return 0
"""

_ROWS = """
def $name(p, lo, hi):
    # Slots: src, index, out, n, size, inner, together. A unit is `together` columns of out, seen as
    # [outer, size, inner].
    src = load_arg(p, 0)
    index = load_arg(p, 1)
    out = load_arg(p, 2)
    n = load_arg(p, 3)
    size = load_arg(p, 4)
    inner = load_arg(p, 5)
    together = load_arg(p, 6)
    units = (inner + together - 1) // together
    u = lo
    while u < hi:
        o = u // units
        unit = u - o * units
        taken = min(hi - u, units - unit)
        first = unit * together
        columns = min(taken * together, inner - first)
        if columns == 1:
            for i in range(n):
                to = (o * size + load_$i(index, i)) * inner + first
                at = (o * n + i) * inner + first
                store_${t}_s(out, to, $value, 1, 2)
        else:
            for i in range(n):
                to_row = (o * size + load_$i(index, i)) * inner + first
                at_row = (o * n + i) * inner + first
                for c in range(columns):
                    to = to_row + c
                    at = at_row + c
                    store_${t}_s(out, to, $value, 1, 2)
        u += taken
    return 0
"""


_NEAR_BYTES = 256
"""Threads that write nearer to one another wait for each other's lines, which the processor fetches in pairs."""
_SHARES = 4
"""Shares of a row: each goes through the whole index, and reads a part of each line of memory that rows begin in."""


def _together(x: Operand, beside: int, apart: bool) -> int:
    """How many of `beside` elements that follow one another are for one thread; one if they are kept `apart`."""
    return 1 if apart else max(_NEAR_BYTES // BY_NAME[x.dtype].itemsize, -(-beside // _SHARES))


def _kernel(text: str, base: str, **blanks: str) -> Callable[..., Any]:
    return instantiate(text, "_".join((base, *(blanks[key] for key in ("t", "i") if key in blanks))), **blanks)


def check_launch(index: Operand, slot: Ptr, low: int, high: int) -> Launch:
    """A launch that writes nothing and returns 1 if an index is not in [low, high)."""
    function = _kernel(_CHECK, "check_index", i=short_name(index))
    return Launch(function, (slot, low, high), product(index.shape), 0.15, fails=True)


def plan_check_index(index: Operand, out: Operand, size: int) -> tuple[Launch, ...]:
    """Launches for a look at an index. Operands: index, and a result without elements.

    Edge: an index outside [0, size) fails with code 1.
    """
    index_name("check_index", index)
    require_contiguous("check_index", index, out)
    return launched(check_launch(index, Ptr(0), 0, size))


def _copy(x: Operand, source: Ptr, target: Ptr) -> Launch:
    """A launch that copies; nothing is done where both are one buffer."""
    return Launch(_kernel(_COPY, "copy", t=move_name(x)), (source, target), product(x.shape), 0.1, in_place=((0, 1),))


def plan_wrap_index(index: Operand, out: Operand, size: int) -> tuple[Launch, ...]:
    """Launches for an index without negative values: `size` is added to them. Operands: index, out.

    DType: index int64 or int32, out int64.
    Edge: an index outside [-size, size) fails with code 1.
    """
    name = index_name("index", index)
    require_contiguous("index", index, out)
    if out.dtype != "int64" or out.shape != index.shape:
        raise ValueError(f"index: expected int64{list(index.shape)} out, got {out.dtype}{list(out.shape)}")
    wrap = Launch(_kernel(_WRAP, "wrap_index", i=name), (Ptr(0), Ptr(1), size), product(index.shape), 0.2)
    return launched(check_launch(index, Ptr(0), -size, size), wrap)


def plan_true_places(mask: Operand, out: Operand, count: int) -> tuple[Launch, ...]:
    """Launches for the places of the elements of a mask that hold. Operands: mask, out.

    Edge: of other than `count` such elements, no more than `count` are written.
    """
    require_contiguous("true_places", mask, out)
    size = product(mask.shape)
    function = _kernel(_PLACES, "true_places", t=short_name(mask))
    return launched(Launch(function, (Ptr(0), Ptr(1), size, count), min(size, 1), 1.0 * max(size, 1)))


def plan_take(x: Operand, index: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for `x.index_select(dim, index)`. Operands: x, index, out.

    Shape: index (n,); out is x's shape with n in place of the size of `dim`.
    Edge: an index outside [0, size) fails with code 1.
    """
    name = index_name("index_select", index)
    require_contiguous("index_select", x, index, out)
    require_same_dtype("index_select", x, out)
    outer, size, inner = lanes("index_select", x.shape, dim)
    n = product(index.shape)
    if len(index.shape) > 1 or product(out.shape) != outer * n * inner:
        raise ValueError(
            f"index_select: index of shape {list(index.shape)} on dim {dim} of {list(x.shape)} "
            f"does not give {list(out.shape)}"
        )
    function = _kernel(_TAKE, "take", t=move_name(x), i=name)
    move = Launch(function, (Ptr(0), Ptr(1), Ptr(2), size, n, inner), outer * n * inner, 0.1 + 2.0 / max(1, inner))
    return launched(check_launch(index, Ptr(1), 0, size), move)


def _merged(lengths: list[int], *strides: list[int]) -> list[tuple[int, ...]]:
    """Axes (length, stride of each operand), outermost first, without those of length 1, and with neighbours
    joined to one axis where every operand goes through both in equal steps.
    """
    axes: list[tuple[int, ...]] = []
    for axis in zip(lengths, *strides, strict=True):
        if axis[0] == 1:
            continue
        if axes and all(outer == axis[0] * inner for outer, inner in zip(axes[-1][1:], axis[1:], strict=True)):
            axes[-1] = (axes[-1][0] * axis[0], *axis[1:])
        else:
            axes.append(axis)
    return axes or [(1,) + (0,) * len(strides)]


def _require_indexable(what: str, index: Operand, dim: int, **operands: Operand) -> int:
    """The dimension counted from the front; Raises: ValueError if index is larger than an operand."""
    ndim = max(1, len(index.shape))
    lanes(what, index.shape, dim)
    dim %= ndim
    for label, operand in operands.items():
        if len(operand.shape) != len(index.shape):
            raise ValueError(f"{what}: index and {label} must have the same number of dimensions")
        for axis, (small, large) in enumerate(zip(index.shape, operand.shape, strict=True)):
            if small > large and (axis != dim or label == "src"):
                raise ValueError(
                    f"{what}: expected index {list(index.shape)} to be no larger than {label} {list(operand.shape)}"
                    + ("" if label == "src" else f" apart from dimension {dim}")
                )
    return dim


def plan_gather(x: Operand, index: Operand, out: Operand, dim: int) -> tuple[Launch, ...]:
    """Launches for `x.gather(dim, index)`. Operands: x, index, out.

    Shape: out has index's shape, which may be smaller than x's apart from `dim`; x may have any strides.
    Edge: an index outside [0, size) fails with code 1.
    """
    name = index_name("gather", index)
    require_contiguous("gather", index, out)
    require_same_dtype("gather", x, out)
    dim = _require_indexable("gather", index, dim, x=x)
    strides = list(x.strides)
    size, along = (x.shape[dim], strides[dim]) if x.shape else (1, 0)
    if strides:
        strides[dim] = 0
    *others, (run, step) = _merged(list(index.shape), strides)
    slots: list[int | float | Ptr] = [Ptr(0), Ptr(1), Ptr(2), along, run, step, len(others)]
    for axis in others:
        slots += axis
    move = Launch(_kernel(_GATHER, "gather", t=move_name(x), i=name), tuple(slots), product(index.shape), 1.0)
    return launched(check_launch(index, Ptr(1), 0, size), move)


def _lines(
    what: str, function: Callable[..., Any], operands: tuple[Operand, ...], dim: int, apart: bool
) -> tuple[Launch, ...]:
    """Check, copy of x to out, and `function` over the lines of index. Operands: x, index, src, out."""
    x, index, src, out = operands
    require_contiguous(what, x, index, out)
    require_same_dtype(what, x, src, out)
    dim = _require_indexable(what, index, dim, x=x, src=src)
    size, n, alongs = 1, 1, (0, 0, 0)
    others: list[tuple[int, ...]] = []
    run: tuple[int, ...] = (1, 0, 0, 0)
    if index.shape:
        size, n, alongs = x.shape[dim], index.shape[dim], (out.strides[dim], index.strides[dim], src.strides[dim])
        kept = [axis for axis in range(len(index.shape)) if axis != dim]
        strides = [[operand.strides[axis] for axis in kept] for operand in (out, index, src)]
        *others, run = _merged([index.shape[axis] for axis in kept], *strides)
    # Lines that follow one another are read one by one.
    together = 1 if alongs[1] == 1 else _together(x, run[0], apart)
    slots: list[int | float | Ptr] = [Ptr(2), Ptr(1), Ptr(3), n, *alongs, *run, together, len(others)]
    for axis in others:
        slots += axis
    units = product([axis[0] for axis in others]) * -(-run[0] // together) if product(index.shape) else 0
    return launched(
        check_launch(index, Ptr(1), 0, size),
        _copy(x, Ptr(0), Ptr(3)),
        Launch(function, tuple(slots), units, 2.0 + n * min(run[0], together)),
    )


def _sum_of(out: str, src: str, short: str) -> str:
    """The text that adds a destination and a source: for bool, whether either is set."""
    return f"{out} {'|' if short == 'b1' else '+'} {src}"


def plan_scatter(
    x: Operand, index: Operand, src: Operand, out: Operand, dim: int, *, apart: bool = False
) -> tuple[Launch, ...]:
    """Launches for `x.scatter(dim, index, src)`. Operands: x, index, src, out; `apart` makes each line a unit.

    Shape: index may be smaller than src, and than x apart from `dim`; out has x's shape; src may have any strides.
    Edge: where an index occurs twice the last one, in row-major order, stays; an index outside [0, size) fails
    with code 1; out may be x's buffer if src is not.
    """
    move, name = move_name(x), index_name("scatter", index)
    function = _kernel(_SCATTER, "scatter", t=move, i=name, value=f"load_{move}(src, at)")
    return _lines("scatter", function, (x, index, src, out), dim, apart)


def plan_scatter_add(
    x: Operand, index: Operand, src: Operand, out: Operand, dim: int, *, apart: bool = False
) -> tuple[Launch, ...]:
    """Launches for `x.scatter_add(dim, index, src)`. Operands and `apart` as for scatter.

    Shape: as for scatter.
    DType: types of 16 bits are rounded after each addition; bool adds as a logical or.
    Edge: additions to one destination go in row-major order of index; an index outside [0, size) fails with
    code 1; out may be x's buffer if src is not.
    """
    short, name = short_name(x), index_name("scatter_add", index)
    value = _sum_of(f"load_{short}(out, to)", f"load_{short}(src, at)", short)
    function = _kernel(_SCATTER, "scatter_add", t=short, i=name, value=value)
    return _lines("scatter_add", function, (x, index, src, out), dim, apart)


def _rows(
    what: str, function: Callable[..., Any], operands: tuple[Operand, ...], dim: int, apart: bool
) -> tuple[Launch, ...]:
    """Check, copy of x to out, and `function` over the columns of out. Operands: x, index, src, out."""
    x, index, src, out = operands
    require_contiguous(what, x, index, src, out)
    require_same_dtype(what, x, src, out)
    outer, size, inner = lanes(what, x.shape, dim)
    n = product(index.shape)
    if len(index.shape) > 1 or product(src.shape) != outer * n * inner:
        raise ValueError(
            f"{what}: src of shape {list(src.shape)} and index of shape {list(index.shape)} "
            f"do not fit dim {dim} of {list(x.shape)}"
        )
    together = _together(x, inner, apart)
    slots = (Ptr(2), Ptr(1), Ptr(3), n, size, inner, together)
    units = outer * -(-inner // together) if n else 0
    return launched(
        check_launch(index, Ptr(1), 0, size),
        _copy(x, Ptr(0), Ptr(3)),
        Launch(function, slots, units, 2.0 + n * (1.2 + 0.05 * min(inner, together))),
    )


def plan_index_add(
    x: Operand, index: Operand, src: Operand, out: Operand, dim: int, *, apart: bool = False
) -> tuple[Launch, ...]:
    """Launches for `x.index_add(dim, index, src)`. Operands: x, index, src, out; `apart` makes each column a unit.

    Shape: index (n,); src is x's shape with n in place of the size of `dim`; out has x's shape.
    DType: types of 16 bits are rounded after each addition; bool adds as a logical or.
    Edge: rows are added in ascending order; an index outside [0, size) fails with code 1; out may be x's buffer
    if src is not.
    """
    short, name = short_name(x), index_name("index_add", index)
    value = _sum_of(f"load_{short}_s(out, to, 1, 2)", f"load_{short}_s(src, at, 0, 2)", short)
    function = _kernel(_ROWS, "index_add", t=short, i=name, value=value)
    return _rows("index_add", function, (x, index, src, out), dim, apart)


def plan_index_copy(
    x: Operand, index: Operand, src: Operand, out: Operand, dim: int, *, apart: bool = False
) -> tuple[Launch, ...]:
    """Launches for `x.index_copy(dim, index, src)`. Operands and `apart` as for index_add.

    Shape: as for index_add.
    Edge: of rows copied to one place the last stays; an index outside [0, size) fails with code 1; out may be
    x's buffer if src is not.
    """
    move, name = move_name(x), index_name("index_copy", index)
    function = _kernel(_ROWS, "index_copy", t=move, i=name, value=f"load_{move}_s(src, at, 0, 2)")
    return _rows("index_copy", function, (x, index, src, out), dim, apart)
