"""Pooling of images and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.ops.record import ops
from tracejit.ops.window import pool_size
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.functional.activation import floats
from tracejit.tensor.functional.convolution import Pair, pair
from tracejit.tensor.reducing import mean
from tracejit.tensor.shaping import cat, narrow, unsqueeze
from tracejit.tensor.tensor import Tensor


def _image(input: Tensor, name: str) -> tuple[Any, bool]:
    """A batch of images, and whether it was one."""
    floats(input, name)
    n = len(input._shape)
    if n not in (3, 4) or 0 in input._shape[-3:]:
        raise RuntimeError(
            f"{name}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but got: "
            f"{list(input._shape)}"
        )
    return (input, True) if n == 4 else (unsqueeze(input, 0), False)


def _as_sequences(out: Any) -> Any:
    return shaped(out, (*out._shape[:-2], out._shape[-1]))


def _unbatched(out: Any, batched: bool) -> Any:
    return out if batched else shaped(out, out._shape[1:])


def _windows(
    shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, name: str
) -> None:
    """Check what a pooling is to do.

    Raises: RuntimeError if a window cannot be placed.
    """
    if min(kernel) < 1:
        raise RuntimeError(f"{name}: kernel size should be greater than zero, but got {kernel}")
    if min(stride) < 1:
        raise RuntimeError(f"{name}: stride should not be zero")
    if min(dilation) < 1:
        raise RuntimeError(f"{name}: dilation should be greater than zero, but got {dilation}")
    if min(padding) < 0 or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise RuntimeError(
            f"{name}: pad should be at most half of effective kernel size, but got padding {padding} and kernel size "
            f"{kernel}"
        )
    out = [pool_size(shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in (0, 1)]
    if min(out) < 1:
        raise RuntimeError(
            f"Given input size: ({shape[1]}x{shape[2]}x{shape[3]}). Calculated output size: "
            f"({shape[1]}x{out[0]}x{out[1]}). Output size is too small"
        )


def _steps(kernel_size: Any, stride: Any) -> tuple[Pair, Pair]:
    kernel = pair(kernel_size, "kernel_size")
    given = stride is None or (isinstance(stride, Sequence) and not stride)
    return kernel, kernel if given else pair(stride, "stride")


@composite
def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window, with `return_indices` also its place in the flattened image.

    Shape: (N, C, H, W) or (C, H, W). Edge: NaN wins, of equals the first counts. Raises: RuntimeError for windows that
    do not fit.
    """
    x, batched = _image(input, "max_pool2d")
    kernel, steps = _steps(kernel_size, stride)
    low, spread = pair(padding, "padding"), pair(dilation, "dilation")
    _windows(x._shape, kernel, steps, low, spread, ceil_mode, "max_pool2d")
    values, indices = apply(ops.max_pool2d, (x,), (kernel, steps, low, spread, bool(ceil_mode)))
    if return_indices:
        return _unbatched(values, batched), _unbatched(indices, batched)
    return _unbatched(values, batched)


@composite
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of each window.

    Shape: (N, C, H, W) or (C, H, W). Raises: RuntimeError for windows that do not fit or a divisor of 0.
    """
    x, batched = _image(input, "avg_pool2d")
    kernel, steps = _steps(kernel_size, stride)
    low = pair(padding, "padding")
    _windows(x._shape, kernel, steps, low, (1, 1), ceil_mode, "avg_pool2d")
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    attrs = (kernel, steps, low, bool(ceil_mode), bool(count_include_pad), divisor_override or 0)
    return _unbatched(apply(ops.avg_pool2d, (x,), attrs), batched)


def _wide(x: Any, fill: int) -> Pair:
    """The window of a sequence as that of an image of height 1."""
    values = (x,) if hasattr(x, "__index__") else tuple(x)
    if len(values) != 1:
        raise RuntimeError(f"expected a single integer value or a list of 1 values, got {list(values)}")
    return (fill, values[0].__index__())


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of a sequence. Shape: (N, C, L) or (C, L)."""
    if len(input._shape) not in (2, 3):
        raise RuntimeError(f"max_pool1d() Expected 2D or 3D input tensor, but got {list(input._shape)}")
    found = max_pool2d(
        unsqueeze(input, -2),
        _wide(kernel_size, 1),
        None if stride is None else _wide(stride, 1),
        _wide(padding, 0),
        _wide(dilation, 1),
        ceil_mode,
        True,
    )
    values, indices = (_as_sequences(x) for x in found)
    return (values, indices) if return_indices else values


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window of a sequence. Shape: (N, C, L) or (C, L)."""
    if len(input._shape) not in (2, 3):
        raise RuntimeError(f"Expected 2D or 3D (batch mode) tensor for avg_pool1d, but got {list(input._shape)}")
    out = avg_pool2d(
        unsqueeze(input, -2),
        _wide(kernel_size, 1),
        None if stride is None else _wide(stride, 1),
        _wide(padding, 0),
        ceil_mode,
        count_include_pad,
    )
    return _as_sequences(out)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Any:
    """Means over parts that cut each image dimension into `output_size` pieces.

    Shape: (N, C, H, W) or (C, H, W); None keeps a size. Edge: parts overlap where sizes do not divide.
    Raises: RuntimeError for other dimensions or a negative size.
    """
    floats(input, "adaptive_avg_pool2d")
    shape = input._shape
    if len(shape) not in (3, 4):
        raise RuntimeError(f"adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got {list(shape)}")
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(sizes) != 2:
        raise RuntimeError("adaptive_avg_pool2d: output_size must be 2")
    high, wide = (old if new is None else new for old, new in zip(shape[-2:], sizes, strict=True))
    if high < 0 or wide < 0:
        raise RuntimeError("adaptive_avg_pool2d: elements of output_size must be greater than or equal to 0")
    if high and wide and shape[-2] % high == 0 and shape[-1] % wide == 0 and 0 not in shape[-2:]:
        if high == wide == 1:
            return mean(input, (-2, -1), True)
        return avg_pool2d(input, (shape[-2] // high, shape[-1] // wide))
    return means_of_parts(means_of_parts(input, -2, high), -1, wide)


@composite
def means_of_parts(x: Tensor, dim: int, count: int) -> Any:
    """The means of `count` parts that cut a dimension, which overlap where its size is no multiple."""
    size = x._shape[dim]
    if count == 0:
        return narrow(x, dim, 0, 0)
    pieces = []
    for i in range(count):
        start, stop = i * size // count, -(-(i + 1) * size // count)
        pieces.append(mean(narrow(x, dim, start, stop - start), dim, True))
    return cat(pieces, dim)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Any:
    """Means over parts that cut a sequence into `output_size` pieces. Shape: (N, C, L) or (C, L)."""
    size = output_size[0] if isinstance(output_size, Sequence) else output_size
    return _as_sequences(adaptive_avg_pool2d(unsqueeze(input, -2), (1, size)))
