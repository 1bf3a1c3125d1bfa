"""Convolution and pooling over images laid out as (batch, channel, height, width)."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import ops, record

Pair = tuple[int, int]


def conv_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Length of a convolution's output along one dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pool_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Length of a pooling's output along one dimension; with `ceil_mode` the last window must start inside."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def _conv_shape(x: Aval, w: Aval, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Aval:
    spatial = tuple(conv_size(x.shape[2 + i], w.shape[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    return Aval((x.shape[0], w.shape[0], *spatial), x.dtype)


def _patches(x: Any, kernel: Pair, out: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Any:
    """A view of the padded image as (n, c, kh, kw, oh, ow)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    n, c, h, w = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], x.shape[1], *kernel, *out),
        (n, c, h * dilation[0], w * dilation[1], h * stride[0], w * stride[1]),
    )


def _conv(x: Any, w: Any, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    shape = _conv_shape(x, w, stride, padding, dilation, groups).shape
    patches = _patches(x, w.shape[2:], (shape[2], shape[3]), stride, padding, dilation)
    n, c = x.shape[:2]
    grouped = patches.reshape(n, groups, c // groups, *patches.shape[2:])
    weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return np.einsum("ngcijyx,gocij->ngoyx", grouped, weights, optimize=True).reshape(shape).astype(x.dtype)


def _conv_input_grad(ct: Any, w: Any, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    n, channels = ct.shape[0], w.shape[1] * groups
    out = np.zeros((n, channels, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), ct.dtype)
    weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    grouped = ct.reshape(n, groups, ct.shape[1] // groups, *ct.shape[2:])
    taps = np.einsum("ngoyx,gocij->ngcijyx", grouped, weights, optimize=True)
    taps = taps.reshape(n, channels, *taps.shape[3:])
    oh, ow = ct.shape[2:]
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            y, x = i * dilation[0], j * dilation[1]
            out[:, :, y : y + oh * stride[0] : stride[0], x : x + ow * stride[1] : stride[1]][:, :, :oh, :ow] += taps[
                :, :, i, j
            ]
    return out[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]


def _conv_weight_grad(ct: Any, x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    patches = _patches(x, kernel, ct.shape[2:], stride, padding, dilation)
    n, c = x.shape[:2]
    grouped = patches.reshape(n, groups, c // groups, *patches.shape[2:])
    out = np.einsum(
        "ngoyx,ngcijyx->gocij", ct.reshape(n, groups, ct.shape[1] // groups, *ct.shape[2:]), grouped, optimize=True
    )
    return out.reshape(ct.shape[1], c // groups, *kernel).astype(x.dtype)


@record(
    family="library",
    infer=_conv_shape,
    numpy=_conv,
    kinds="f",
    vjp={
        "x": lambda ct, w, x_aval, stride, padding, dilation, groups: ops.conv2d_input_grad(
            ct, w, size=x_aval.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "w": lambda ct, x, w_aval, stride, padding, dilation, groups: ops.conv2d_weight_grad(
            ct, x, kernel=w_aval.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
)
def conv2d(x, w, *, stride, padding, dilation, groups):
    """Cross-correlation of images with filters (out channel, in channel / groups, height, width).

    Shape: (n, c, h, w) and (o, c / groups, kh, kw) give (n, o, oh, ow) with `conv_size` of each side.
    Cost: 2 * n * o * oh * ow * kh * kw * c / groups floating point operations.
    """


@record(
    family="library",
    infer=lambda y, w, size, stride, padding, dilation, groups: Aval(
        (y.shape[0], w.shape[1] * groups, *size), y.dtype
    ),
    numpy=_conv_input_grad,
    kinds="f",
    vjp={
        "y": lambda ct, w, stride, padding, dilation, groups: ops.conv2d(
            ct, w, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "w": lambda ct, y, w_aval, stride, padding, dilation, groups: ops.conv2d_weight_grad(
            y, ct, kernel=w_aval.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
)
def conv2d_input_grad(y, w, *, size, stride, padding, dilation, groups):
    """The adjoint of `conv2d` in its images: a gradient of the output carried back to the input's `size`."""


@record(
    family="library",
    infer=lambda y, x, kernel, stride, padding, dilation, groups: Aval(
        (y.shape[1], x.shape[1] // groups, *kernel), x.dtype
    ),
    numpy=_conv_weight_grad,
    kinds="f",
    vjp={
        "y": lambda ct, x, stride, padding, dilation, groups: ops.conv2d(
            x, ct, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "x": lambda ct, y, x_aval, stride, padding, dilation, groups: ops.conv2d_input_grad(
            y, ct, size=x_aval.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
)
def conv2d_weight_grad(y, x, *, kernel, stride, padding, dilation, groups):
    """The adjoint of `conv2d` in its filters: a gradient of the output against the images."""


def _pool_shape(x: Aval, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> tuple[int, ...]:
    spatial = tuple(
        pool_size(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in (0, 1)
    )
    return (*x.shape[:2], *spatial)


def _max_pool_avals(x: Aval, *attrs: Any) -> tuple[Aval, Aval]:
    shape = _pool_shape(x, *attrs)
    return Aval(shape, x.dtype), Aval(shape, dtypes.int64)


def _max_pool(
    x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> tuple[Any, Any]:
    shape = _pool_shape(x, kernel, stride, padding, dilation, ceil_mode)
    values, indices = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    height, width = x.shape[2:]
    for oy, ox in np.ndindex(*shape[2:]):
        ys = [y for i in range(kernel[0]) if 0 <= (y := oy * stride[0] - padding[0] + i * dilation[0]) < height]
        xs = [c for j in range(kernel[1]) if 0 <= (c := ox * stride[1] - padding[1] + j * dilation[1]) < width]
        window = x[:, :, ys][:, :, :, xs].reshape(*x.shape[:2], -1)
        place = window.argmax(-1)
        flat = np.array([y * width + c for y in ys for c in xs])
        values[:, :, oy, ox] = np.take_along_axis(window, place[..., None], -1)[..., 0]
        indices[:, :, oy, ox] = flat[place]
    return values, indices


def _plane(x: Any, shape: tuple[int, ...]) -> Any:
    return ops.reshape(x, shape=(shape[0] * shape[1], shape[2] * shape[3]))


def _max_pool_grad(y: Any, indices: Any, size: Pair, *windows: Pair) -> Any:
    planes = y.shape[0] * y.shape[1]
    out = np.zeros((planes, size[0] * size[1]), y.dtype)
    count = y.shape[2] * y.shape[3]
    places = indices.reshape(planes, count)
    plane, window = np.nonzero((places >= 0) & (places < out.shape[1]))
    np.add.at(out, (plane, places[plane, window]), y.reshape(planes, count)[plane, window])
    return out.reshape(*y.shape[:2], *size)


def _max_pool_gradient(
    ct: Any, indices: Any, x_aval: Aval, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Any:
    windows = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return ops.max_pool2d_grad(ct, indices, size=x_aval.shape[2:], **windows)


def _picked_maxima(ct: Any, indices: Any, y_aval: Aval, size: Pair) -> Any:
    shape = y_aval.shape
    picked = ops.gather(_plane(ct, (*shape[:2], *size)), _plane(indices, shape), dim=1)
    return ops.reshape(picked, shape=shape)


@record(
    family="library",
    infer=_max_pool_avals,
    numpy=_max_pool,
    kinds="f",
    results=("out", "indices"),
    vjp={"x": _max_pool_gradient},
    smooth=False,
)
def max_pool2d(x, *, kernel, stride, padding, dilation, ceil_mode):
    """Largest element of each window, and its place in the flattened image; NaN wins, the first of equals counts.

    Shape: (n, c, h, w) gives two of (n, c, oh, ow) with `pool_size` of each side.
    DType: that of `x`, and int64.
    """


@record(
    family="library",
    infer=lambda y, indices, size, *windows: Aval((*y.shape[:2], *size), y.dtype),
    numpy=_max_pool_grad,
    exact=True,
    stepwise=True,
    kinds="f",
    vjp={"y": _picked_maxima},
)
def max_pool2d_grad(y, indices, *, size, kernel, stride, padding, dilation):
    """The adjoint of `max_pool2d`: each window's gradient at the place that it gave, in the order of the windows.

    Edge: the places are taken for those that it gave; one outside of its plane, which somebody wrote there, gives
    nothing.
    """


def _window(o: int, kernel: int, stride: int, padding: int, size: int) -> tuple[int, int, int]:
    """First and last place of a window inside the image, and its length inside the padded image."""
    start = o * stride - padding
    stop = min(start + kernel, size + padding)
    return max(start, 0), min(stop, size), stop - start


def _avg_windows(shape: tuple[int, ...], size: Pair, attrs: tuple[Any, ...]) -> Any:
    kernel, stride, padding, _, count_include_pad, divisor = attrs
    for oy, ox in np.ndindex(*shape[2:]):
        y0, y1, full_y = _window(oy, kernel[0], stride[0], padding[0], size[0])
        x0, x1, full_x = _window(ox, kernel[1], stride[1], padding[1], size[1])
        count = divisor or (full_y * full_x if count_include_pad else (y1 - y0) * (x1 - x0))
        yield oy, ox, slice(y0, y1), slice(x0, x1), count


def _avg_shape(x: Any, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, *rest: Any) -> tuple[int, ...]:
    return _pool_shape(x, kernel, stride, padding, (1, 1), ceil_mode)


def _avg_pool(x: Any, *attrs: Any) -> Any:
    shape = _avg_shape(x, *attrs)
    out = np.empty(shape, x.dtype)
    for oy, ox, ys, xs, count in _avg_windows(shape, x.shape[2:], attrs):
        out[:, :, oy, ox] = x[:, :, ys, xs].sum((2, 3)) / count
    return out


def _avg_pool_grad(y: Any, size: Pair, *attrs: Any) -> Any:
    out = np.zeros((*y.shape[:2], *size), y.dtype)
    for oy, ox, ys, xs, count in _avg_windows(y.shape, size, attrs):
        out[:, :, ys, xs] += (y[:, :, oy, ox] / count)[:, :, None, None]
    return out


@record(
    family="library",
    infer=lambda x, *attrs: Aval(_avg_shape(x, *attrs), x.dtype),
    numpy=_avg_pool,
    kinds="f",
    vjp={
        "x": lambda ct,
        x_aval,
        kernel,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor: ops.avg_pool2d_grad(
            ct,
            size=x_aval.shape[2:],
            kernel=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor=divisor,
        )
    },
)
def avg_pool2d(x, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor):
    """Mean of each window; `divisor` (0: none) replaces the number of elements.

    Shape: (n, c, h, w) gives (n, c, oh, ow) with `pool_size` of each side.
    Edge: padding counts as elements that are 0 if `count_include_pad`.
    """


@record(
    family="library",
    infer=lambda y, size, *attrs: Aval((*y.shape[:2], *size), y.dtype),
    numpy=_avg_pool_grad,
    kinds="f",
    vjp={
        "y": lambda ct,
        kernel,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor: ops.avg_pool2d(
            ct,
            kernel=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor=divisor,
        )
    },
)
def avg_pool2d_grad(y, *, size, kernel, stride, padding, ceil_mode, count_include_pad, divisor):
    """The adjoint of `avg_pool2d`: each window's gradient shared by the elements of the window."""
