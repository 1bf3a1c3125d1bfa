"""Windows of images as columns of a matrix, and back."""

from __future__ import annotations

from itertools import product
from typing import Any

from tracejit.ops.record import ops
from tracejit.ops.window import conv_size
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.functional.convolution import Pair, pair
from tracejit.tensor.padding import pad
from tracejit.tensor.shaping import stack
from tracejit.tensor.tensor import Tensor


def _options(kernel_size: Any, dilation: Any, padding: Any, stride: Any, name: str) -> tuple[Pair, Pair, Pair, Pair]:
    kernel, spread = pair(kernel_size, "kernel_size"), pair(dilation, "dilation")
    around, step = pair(padding, "padding"), pair(stride, "stride")
    for what, least, given in (
        ("kernel size", 1, kernel), ("dilation", 1, spread), ("padding", 0, around), ("stride", 1, step)
    ):  # fmt: skip
        if min(given) < least:
            raise RuntimeError(f"{name}: {what} should be at least {least}, but got {given}")
    return kernel, spread, around, step


def _counts(size: tuple[int, ...], kernel: Pair, spread: Pair, around: Pair, step: Pair, name: str) -> Pair:
    """How many windows there are along each dimension of an image."""
    high, wide = (conv_size(size[i], kernel[i], step[i], around[i], spread[i]) for i in (0, 1))
    if high < 1 or wide < 1:
        raise RuntimeError(
            f"{name}: an image of {list(size)} with kernel size {kernel}, dilation {spread}, padding {around} and "
            f"stride {step} has {high} x {wide} windows, but there must be one"
        )
    return high, wide


@composite
def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The windows of images as columns.

    Shape: (N, C, H, W) to (N, C * the elements of a window, windows), or without N. Raises: RuntimeError for windows
    that do not fit.

    >>> import tracejit as tj
    >>> tj.nn.functional.unfold(tj.arange(9.0).reshape(1, 1, 3, 3), 2)
    tensor([[[0., 1., 3., 4.],
             [1., 2., 4., 5.],
             [3., 4., 6., 7.],
             [4., 5., 7., 8.]]])
    """
    kernel, spread, around, step = _options(kernel_size, dilation, padding, stride, "unfold")
    shape = input._shape
    if len(shape) not in (3, 4) or 0 in shape[-3:]:
        raise RuntimeError(
            f"unfold: Expected 3D or 4D (batch mode) tensor with possibly 0 batch size, but got: {list(shape)}"
        )
    lead, channels = shape[:-3], shape[-3]
    high, wide = _counts(shape[-2:], kernel, spread, around, step, "unfold")
    x = pad(input, (around[1], around[1], around[0], around[0])) if max(around) else input
    ones = (1,) * (len(lead) + 1)
    parts = [
        apply(ops.slice, (x,), ((*(0 for _ in ones), i, j), (*lead, channels, high, wide), (*ones, *step)))
        for i, j in product(range(0, kernel[0] * spread[0], spread[0]), range(0, kernel[1] * spread[1], spread[1]))
    ]
    columns = stack(parts, len(lead) + 1)
    return shaped(columns, (*lead, channels * len(parts), high * wide))


@composite
def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """Images of which each element is the sum of what columns have for it: the adjoint of `unfold`.

    Shape: (N, C * the elements of a window, windows) to (N, C, *output_size), or without N. Raises: RuntimeError for
    sizes that do not fit.

    >>> import tracejit as tj
    >>> tj.nn.functional.fold(tj.ones(1, 4, 4), (3, 3), 2)
    tensor([[[[1., 2., 1.],
              [2., 4., 2.],
              [1., 2., 1.]]]])
    """
    kernel, spread, around, step = _options(kernel_size, dilation, padding, stride, "fold")
    size = pair(output_size, "output_size")
    shape = input._shape
    if len(shape) not in (2, 3) or 0 in shape[-2:]:
        raise RuntimeError(
            f"fold: Expected 2D or 3D (batch mode) tensor with possibly 0 batch size, but got: {list(shape)}"
        )
    elements = kernel[0] * kernel[1]
    if shape[-2] % elements:
        raise RuntimeError(
            f"fold: Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"{shape[-2]} and kernel_size={kernel}"
        )
    high, wide = _counts(size, kernel, spread, around, step, "fold")
    if shape[-1] != high * wide:
        raise RuntimeError(
            f"fold: Given output_size={size}, expected size of input's dimension 2 to match the calculated number of "
            f"sliding blocks {high} * {wide} = {high * wide}, but got {shape[-1]}"
        )
    lead, channels = shape[:-2], shape[-2] // elements
    ones, zeros = (1,) * (len(lead) + 1), (0,) * (len(lead) + 1)
    columns = apply(ops.reshape, (input,), ((*lead, channels, elements, high, wide),))
    padded = (*lead, channels, size[0] + 2 * around[0], size[1] + 2 * around[1])
    total: Any = None
    for k, (i, j) in enumerate(product(range(kernel[0]), range(kernel[1]))):
        start, length = (*zeros, k, 0, 0), (*lead, channels, 1, high, wide)
        part = apply(ops.slice, (columns,), (start, length, (1,) * len(length)))
        part = apply(ops.reshape, (part,), ((*lead, channels, high, wide),))
        part = apply(ops.unslice, (part,), (padded, (*zeros, i * spread[0], j * spread[1]), (*ones, *step)))
        total = part if total is None else apply(ops.add, (total, part))
    if max(around):
        inside = apply(ops.slice, (total,), ((*zeros, *around), (*lead, channels, *size), (1,) * len(padded)))
        total = apply(ops.copy, (inside,))
    return total
