"""Maximum and average over windows of the last two axes (NCHW or CHW), and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tracejit.dtypes import BY_NAME
from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.pool_planes import by_planes, mean_launch
from tracejit.kernels.pool_vectors import (
    WIDEST_STRIDE,
    max_pool2d_inside_f32,
    max_pool2d_inside_f64,
    max_pool2d_padded_f32,
    max_pool2d_padded_f64,
)
from tracejit.kernels.template import (
    instantiate,
    launched,
    product,
    require_contiguous,
    require_same_dtype,
    short_name,
)
from tracejit.kernels.vectors import TARGET

Pair = tuple[int, int]

# Taps are brought side by side, with the lowest value where they lie in the padding, and then compared in whole
# groups of 16: a loop over strided taps is not vectorised, and a branch for each comparison is mispredicted.
_MAX = """
def $name(p, lo, hi):
    # A unit is one row of the output; it is done in tiles of 256 columns.
    x = load_arg(p, 0)
    values = load_arg(p, 1)
    indices = load_arg(p, 2)
    height = load_arg(p, 3)
    width = load_arg(p, 4)
    out_height = load_arg(p, 5)
    out_width = load_arg(p, 6)
    kernel_h = load_arg(p, 7)
    kernel_w = load_arg(p, 8)
    stride_h = load_arg(p, 9)
    stride_w = load_arg(p, 10)
    pad_h = load_arg(p, 11)
    pad_w = load_arg(p, 12)
    dilation_h = load_arg(p, 13)
    dilation_w = load_arg(p, 14)
    lowest = $lowest
    taps = stack_$a(256)
    best = stack_$a(256)
    place = stack_i64(256)
    for u in range(lo, hi):
        plane = u // out_height
        top = (u - plane * out_height) * stride_h - pad_h
        base = plane * height * width
        inside = top
        while inside < 0:
            inside += dilation_h
        inside = min(inside, height - 1) * width
        for tile in range(0, out_width, 256):
            e = u * out_width + tile
            columns = min(256, out_width - tile)
            padded = (columns + 15) // 16 * 16
            for c in range(padded):
                store_$a(best, c, lowest)
                w = (tile + c) * stride_w - pad_w
                while w < 0:
                    w += dilation_w
                store_i64(place, c, inside + min(w, width - 1))
            for i in range(kernel_h):
                h = top + i * dilation_h
                if h >= 0 and h < height:
                    for j in range(kernel_w):
                        left = tile * stride_w + j * dilation_w - pad_w
                        first = min(columns, (stride_w - 1 - min(left, 0)) // stride_w)
                        stop = max(first, min(columns, (width - 1 - left) // stride_w + 1))
                        at = h * width + left
                        for c in range(first):
                            store_$a(taps, c, lowest)
                        for c in range(first, stop):
                            store_$a(taps, c, load_$t(x, base + at + c * stride_w))
                        for c in range(stop, padded):
                            store_$a(taps, c, lowest)
                        for group in range(0, padded, 16):
                            for c in range(group, group + 16):
                                v = load_${a}_s(taps, c, 0, 3)
                                before = load_${a}_s(best, c, 1, 3)
                                held = load_i64_s(place, c, 2, 3)
                                # NaN is taken whenever it comes, and nothing is greater than it.
                                higher = (v > before) | (v != v)
                                store_${a}_s(best, c, v if higher else before, 1, 3)
                                store_i64_s(place, c, at + c * stride_w if higher else held, 2, 3)
            for c in range(columns):
                store_$t(values, e + c, load_$a(best, c))
                store_i64(indices, e + c, load_i64(place, c))
    return 0
"""

_BY_VECTORS: dict[tuple[str, bool], Callable[..., Any]] = {
    ("f32", True): max_pool2d_inside_f32,
    ("f64", True): max_pool2d_inside_f64,
    ("f32", False): max_pool2d_padded_f32,
    ("f64", False): max_pool2d_padded_f64,
}
"""Kernels by type, and whether all windows lie inside their planes and close together."""
_MANY = 1 << 30
"""Elements between the ends of a window from which on they are not counted in 32 bits."""

# A plane is in the first cache while it is set to zero and added to.
_MAX_GRAD = """
def $name(p, lo, hi):
    # Slots: ct, indices, dx, elements of a plane of dx, windows of one. A unit is a plane.
    ct = load_arg(p, 0)
    index = load_arg(p, 1)
    dx = load_arg(p, 2)
    size = load_arg(p, 3)
    n = load_arg(p, 4)
    for u in range(lo, hi):
        first = u * size
        for k in range(first, first + size):
            store_$t(dx, k, 0.0)
        # Somebody may have written to the places.
        wrong = 0
        for e in range(u * n, u * n + n):
            at = load_i64(index, e)
            wrong |= (at < 0) | (at >= size)
        for e in range(u * n, u * n + n):
            at = load_i64(index, e)
            if wrong == 0 or (at >= 0 and at < size):
                to = first + at
                store_$t(dx, to, load_$t(ct, e) + $before)
    return 0
"""

_AVG = """
def $name(p, lo, hi):
    # A unit is one row of the output; it is summed in tiles of 256 columns.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    height = load_arg(p, 2)
    width = load_arg(p, 3)
    out_height = load_arg(p, 4)
    out_width = load_arg(p, 5)
    kernel_h = load_arg(p, 6)
    kernel_w = load_arg(p, 7)
    stride_h = load_arg(p, 8)
    stride_w = load_arg(p, 9)
    pad_h = load_arg(p, 10)
    pad_w = load_arg(p, 11)
    margin_h = load_arg(p, 12)
    margin_w = load_arg(p, 13)
    divisor = load_arg(p, 14)
    sums = stack_$a(256)
    for u in range(lo, hi):
        plane = u // out_height
        top = (u - plane * out_height) * stride_h - pad_h
        rows = min(top + kernel_h, height + margin_h) - max(top, -margin_h)
        for tile in range(0, out_width, 256):
            columns = min(256, out_width - tile)
            for c in range(columns):
                store_$a(sums, c, 0.0)
            for h in range(max(top, 0), min(top + kernel_h, height)):
                line = (plane * height + h) * width
                for j in range(kernel_w):
                    left = tile * stride_w + j - pad_w
                    first = (stride_w - 1 - min(left, 0)) // stride_w
                    last = min(columns - 1, (width - 1 - left) // stride_w)
                    for c in range(first, last + 1):
                        v = load_${t}_s(x, line + left + c * stride_w, 0, 2)
                        store_${a}_s(sums, c, load_${a}_s(sums, c, 1, 2) + v, 1, 2)
            for c in range(columns):
                left = (tile + c) * stride_w - pad_w
                count = divisor
                if divisor == 0:
                    count = rows * (min(left + kernel_w, width + margin_w) - max(left, -margin_w))
                store_$t(out, u * out_width + tile + c, load_$a(sums, c) / $kind(count))
    return 0
"""

_AVG_GRAD = """
def $name(p, lo, hi):
    # A unit is one row of dx; it is summed in tiles of 256 columns, window after window.
    ct = load_arg(p, 0)
    dx = load_arg(p, 1)
    height = load_arg(p, 2)
    width = load_arg(p, 3)
    out_height = load_arg(p, 4)
    out_width = load_arg(p, 5)
    kernel_h = load_arg(p, 6)
    kernel_w = load_arg(p, 7)
    stride_h = load_arg(p, 8)
    stride_w = load_arg(p, 9)
    pad_h = load_arg(p, 10)
    pad_w = load_arg(p, 11)
    margin_h = load_arg(p, 12)
    margin_w = load_arg(p, 13)
    divisor = load_arg(p, 14)
    sums = stack_$a(256)
    shares = stack_$a(256)
    for u in range(lo, hi):
        plane = u // height
        h = u - plane * height
        above = max(0, (h + pad_h - kernel_h + stride_h) // stride_h)
        below = min(out_height, (h + pad_h) // stride_h + 1)
        for tile in range(0, width, 256):
            stop = min(width, tile + 256)
            for c in range(256):
                store_$a(sums, c, 0.0)
            before = max(0, (tile + pad_w - kernel_w + stride_w) // stride_w)
            behind = min(out_width, (stop - 1 + pad_w) // stride_w + 1)
            for row in range(above, below):
                top = row * stride_h - pad_h
                rows = min(top + kernel_h, height + margin_h) - max(top, -margin_h)
                line = (plane * out_height + row) * out_width
                for start in range(before, behind, 256):
                    end = min(behind, start + 256)
                    for c in range(start, end):
                        left = c * stride_w - pad_w
                        count = divisor
                        if divisor == 0:
                            count = rows * (min(left + kernel_w, width + margin_w) - max(left, -margin_w))
                        store_$a(shares, c - start, load_$t(ct, line + c) / $kind(count))
                    # Taps from the last to the first: an element then gets its windows' shares in ascending order.
                    for back in range(kernel_w):
                        shift = kernel_w - 1 - back - pad_w
                        first = max(start, (tile - shift + stride_w - 1) // stride_w)
                        last = min(end, (stop - 1 - shift) // stride_w + 1)
                        for c in range(first, last):
                            w = c * stride_w + shift - tile
                            share = load_${a}_s(shares, c - start, 0, 2)
                            store_${a}_s(sums, w, load_${a}_s(sums, w, 1, 2) + share, 1, 2)
            for w in range(tile, stop):
                store_$t(dx, u * width + w, load_$a(sums, w - tile))
    return 0
"""


def _extent(what: str, size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows fit into one axis."""
    if kernel <= 0 or stride <= 0 or dilation <= 0:
        raise ValueError(
            f"{what}: kernel size, stride and dilation should be greater than zero, "
            f"but got kernel size {kernel}, stride {stride}, dilation {dilation}"
        )
    if padding < 0 or padding > kernel // 2:
        raise ValueError(
            f"{what}: pad should be at least zero and at most half of kernel size, "
            f"but got pad={padding} and kernel_size={kernel}"
        )
    free = size + 2 * padding - (kernel - 1) * dilation - 1
    count = (free + (stride - 1 if ceil_mode else 0)) // stride + 1
    # A last window that would start in the padding behind the input is left out.
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def pool_output_shape(
    shape: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    what: str = "pool2d",
) -> tuple[int, ...]:
    """Shape of the windows' results over the last two of three or four axes.

    Edge: with `ceil_mode` a window may reach beyond the padding, but must start inside input or left padding.
    Raises: ValueError for a shape or window that gives no result, with `what` in the message.

    >>> pool_output_shape((8, 3, 7, 8), (2, 2), (2, 2)), pool_output_shape((3, 7, 8), (2, 2), (2, 2), ceil_mode=True)
    ((8, 3, 3, 4), (3, 4, 4))
    """
    if len(shape) not in (3, 4) or not all(shape[-3:]):
        raise ValueError(
            f"{what}: expected 3D or 4D (batch mode) tensor with non-zero dimensions apart from the batch, "
            f"got {list(shape)}"
        )
    sizes = tuple(
        _extent(what, shape[axis - 2], kernel[axis], stride[axis], padding[axis], dilation[axis], ceil_mode)
        for axis in (0, 1)
    )
    if min(sizes) < 1:
        raise ValueError(
            f"{what}: given input size {list(shape[-3:])}, calculated output size {[shape[-3], *sizes]}; "
            "output size is too small"
        )
    return (*shape[:-2], *sizes)


def _require_shape(what: str, name: str, operand: Operand, shape: tuple[int, ...]) -> None:
    if operand.shape != shape:
        raise ValueError(f"{what}: expected {name} of shape {list(shape)}, got {list(operand.shape)}")


def plan_max_pool2d(
    x: Operand,
    values: Operand,
    indices: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Launch, ...]:
    """Launches for the maximum of each window and its place. Operands: x, values, indices.

    Shape: values and indices as `pool_output_shape` says.
    DType: any but bool; indices int64, each the place h * W + w in its plane.
    Edge: of equal elements the first; of several NaN the last; a window that a dilation carries past every element
    gives the lowest value and some place inside.
    """
    what = "max_pool2d"
    require_contiguous(what, x, values, indices)
    require_same_dtype(what, x, values)
    shape = pool_output_shape(x.shape, kernel, stride, padding, dilation, ceil_mode, what)
    _require_shape(what, "values", values, shape)
    _require_shape(what, "indices", indices, shape)
    short = short_name(x)
    if short == "b1" or indices.dtype != "int64":
        raise TypeError(f"{what}: expected numeric x and int64 indices, got {x.dtype} and {indices.dtype}")
    floating = BY_NAME[x.dtype].is_floating_point
    lowest: int | float = (
        -math.inf if floating else (0 if short == "u8" else -(1 << (8 * BY_NAME[x.dtype].itemsize - 1)))
    )
    wide = _sums_in(short)["a"] if floating else "i64"
    sizes = (*x.shape[-2:], *shape[-2:], *kernel, *stride)
    units = product(shape[:-1])
    is_plain = dilation == (1, 1) and (kernel[0] + 1) * x.shape[-1] < _MANY
    if is_plain and floating and wide == short:
        inside = stride[1] <= WIDEST_STRIDE and all(
            p == 0 and (n - 1) * s + k <= size
            for p, n, s, k, size in zip(padding, shape[-2:], stride, kernel, x.shape[-2:], strict=True)
        )
        slots: tuple[Any, ...] = (Ptr(0), Ptr(1), Ptr(2), *sizes, *padding, product(x.shape))
        vectors = -(-shape[-1] * BY_NAME[x.dtype].itemsize // TARGET.vector_bytes)
        cost = 3.0 + vectors * (2.0 + 1.5 * kernel[0] * kernel[1])
        launch = Launch(_BY_VECTORS[short, inside], slots, units, cost)
        return launched(by_planes(launch, x, values, indices))
    function = instantiate(
        _MAX, f"max_pool2d_{short}", t=short, a=wide, lowest="arg_f64(p, 15)" if floating else "load_arg(p, 15)"
    )
    slots = (Ptr(0), Ptr(1), Ptr(2), *sizes, *padding, *dilation, lowest)
    launch = Launch(function, slots, units, shape[-1] * (4.0 + 0.6 * kernel[0] * kernel[1]))
    return launched(by_planes(launch, x, values, indices))


def plan_max_pool2d_grad(
    ct: Operand, indices: Operand, dx: Operand, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Launch, ...]:
    """Launches for the gradient of max_pool2d in its input. Operands: ct, indices, dx.

    Shape: ct and indices have the shape of max_pool2d's results, dx of its input.
    DType: floating point, and int64; types of 16 bits are rounded after each addition.
    Edge: an element that is the maximum of several windows gets their gradients in the windows' row-major order;
    indices are taken for what max_pool2d gave, and one outside of its plane gives nothing.
    """
    what = "max_pool2d_grad"
    require_contiguous(what, ct, indices, dx)
    require_same_dtype(what, ct, dx)
    _require_shape(what, "indices", indices, ct.shape)
    if not BY_NAME[ct.dtype].is_floating_point or indices.dtype != "int64":
        raise TypeError(f"{what}: expected floating point ct and int64 indices, got {ct.dtype} and {indices.dtype}")
    short = short_name(ct)
    size, n = product(dx.shape[-2:]), product(ct.shape[-2:])
    # What is added to 0 loses the sign of -0.0.
    apart = dilation == (1, 1) and kernel[0] <= stride[0] and kernel[1] <= stride[1]
    before, stem = ("0.0", f"{what}_apart") if apart else (f"load_{short}(dx, to)", what)
    function = instantiate(_MAX_GRAD, f"{stem}_{short}", t=short, before=before)
    launch = Launch(function, (Ptr(0), Ptr(1), Ptr(2), size, n), product(dx.shape[:-2]), 5.0 + 0.06 * size + 0.3 * n)
    return launched(by_planes(launch, ct, indices, dx))


def _avg_slots(
    what: str,
    x: Operand,
    out: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
) -> tuple[int, ...]:
    """The checked sizes of an average's windows, as both of its kernels take them."""
    require_contiguous(what, x, out)
    require_same_dtype(what, x, out)
    if not BY_NAME[x.dtype].is_floating_point:
        raise TypeError(f"{what}: expected a floating point dtype, got {x.dtype}")
    shape = pool_output_shape(x.shape, kernel, stride, padding, (1, 1), ceil_mode, what)
    _require_shape(what, "result", out, shape)
    margin = padding if count_include_pad else (0, 0)
    return (*x.shape[-2:], *shape[-2:], *kernel, *stride, *padding, *margin, divisor)


def _sums_in(short: str) -> dict[str, str]:
    """The type in which a dtype's windows are summed, as the texts name it."""
    return {"a": "f64", "kind": "float64"} if short == "f64" else {"a": "f32", "kind": "float32"}


def plan_avg_pool2d(
    x: Operand,
    out: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int = 0,
) -> tuple[Launch, ...]:
    """Launches for the mean of each window. Operands: x, out.

    Shape: out as `pool_output_shape` says.
    DType: floating point; types of 16 bits are summed in float32.
    Edge: a sum goes row by row through its window; it is divided by `divisor`, or if that is 0 by the number of
    elements, which counts padding unless told otherwise, but never what lies beyond it.
    """
    sizes = _avg_slots("avg_pool2d", x, out, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    turned = mean_launch(x, out, sizes, False)
    if turned is not None:
        return launched(turned)
    short = short_name(x)
    function = instantiate(_AVG, f"avg_pool2d_{short}", t=short, **_sums_in(short))
    cost = out.shape[-1] * (2.0 + 0.4 * kernel[0] * kernel[1])
    return launched(by_planes(Launch(function, (Ptr(0), Ptr(1), *sizes), product(out.shape[:-1]), cost), x, out))


def plan_avg_pool2d_grad(
    ct: Operand,
    dx: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int = 0,
) -> tuple[Launch, ...]:
    """Launches for the gradient of avg_pool2d in its input. Operands: ct, dx.

    Shape: ct has the shape of avg_pool2d's result, dx of its input.
    DType: floating point; types of 16 bits are summed in float32.
    Edge: shares are added in the windows' row-major order.
    """
    sizes = _avg_slots(
        "avg_pool2d_grad", dx, ct, kernel, stride, padding, ceil_mode, count_include_pad, divisor
    )
    turned = mean_launch(ct, dx, sizes, True)
    if turned is not None:
        return launched(turned)
    short = short_name(dx)
    function = instantiate(_AVG_GRAD, f"avg_pool2d_grad_{short}", t=short, **_sums_in(short))
    windows = (kernel[0] / stride[0]) * (kernel[1] / stride[1])
    cost = dx.shape[-1] * (1.7 + 0.3 * windows)
    return launched(by_planes(Launch(function, (Ptr(0), Ptr(1), *sizes), product(dx.shape[:-1]), cost), ct, dx))
