"""Adaptive pooling and norms of nn.functional that are built from other tensor operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tracejit.dtypes import float16, float32
from tracejit.tensor import Tensor, cat, clamp, rsqrt, sqrt
from tracejit.tensor import functional as TF

__all__ = ["adaptive_avg_pool2d", "dropout", "group_norm", "normalize", "rms_norm"]


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Average over windows that cut each image dimension into ``output_size`` parts.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)``; ``None`` keeps a size. Edge: parts overlap where sizes do not divide.
    Raises: RuntimeError for other dimensions or a negative size.
    """
    if input.dim() not in (3, 4):
        raise RuntimeError(f"adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got {tuple(input.shape)}")
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(sizes) != 2:
        raise RuntimeError("adaptive_avg_pool2d: output_size must be 2")
    high, wide = (old if new is None else new for old, new in zip(input.shape[-2:], sizes, strict=True))
    if high < 0 or wide < 0:
        raise RuntimeError("adaptive_avg_pool2d: elements of output_size must be greater than or equal to 0")
    if high and wide and input.shape[-2] % high == 0 and input.shape[-1] % wide == 0:
        rows, columns = input.shape[-2] // high, input.shape[-1] // wide
        if high == wide == 1:
            return input.mean((-2, -1), keepdim=True)
        return input.unflatten(-1, (wide, columns)).unflatten(-3, (high, rows)).mean((-3, -1))
    return _average_parts(_average_parts(input, -2, high), -1, wide)


def _average_parts(input: Tensor, dim: int, parts: int) -> Tensor:
    size = input.shape[dim]
    if parts == 0:
        return input.narrow(dim, 0, 0)
    averages = []
    for part in range(parts):
        start, stop = part * size // parts, -(-(part + 1) * size // parts)
        averages.append(input.narrow(dim, start, stop - start).mean(dim, keepdim=True))
    return cat(averages, dim)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels (dimension 1) within each example, then scale and shift each channel.

    Raises: RuntimeError for fewer than 2 dimensions or channels that the groups do not divide.
    """
    if input.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.dim()}")
    batch, channels = input.shape[0], input.shape[1]
    if num_groups <= 0 or channels % num_groups != 0:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{tuple(input.shape)} and num_groups={num_groups}"
        )
    count = math.prod(tuple(input.shape)[1:]) // num_groups
    grouped = input.reshape(batch, num_groups, count)
    result = TF.layer_norm(grouped, (count,), None, None, eps).reshape(tuple(input.shape))
    per_channel = (1, channels, *(1,) * (input.dim() - 2))
    if weight is not None:
        result = result * weight.reshape(per_channel)
    if bias is not None:
        result = result + bias.reshape(per_channel)
    return result


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root of the mean square over the last dimensions, then scale.

    Raises: RuntimeError where the last dimensions are not ``normalized_shape``.
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape)[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], "
            f"but got input of size{list(input.shape)}"
        )
    if eps is None:
        eps = 2.0**-10 if input.dtype == float16 else 2.0**-23 if input.dtype == float32 else 2.0**-52
    square = (input * input).mean(tuple(range(-len(shape), 0)), keepdim=True)
    result = input * rsqrt(square + eps)
    return result if weight is None else result * weight


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the norm along ``dim``, or by ``eps`` where that is larger.

    Raises: NotImplementedError for a norm other than the first and second.
    """
    if p == 2:
        # The square is cut, not the root: the root's slope at zero is infinite.
        return input / sqrt(clamp((input * input).sum(dim, keepdim=True), min=eps * eps))
    if p == 1:
        return input / clamp(input.abs().sum(dim, keepdim=True), min=eps)
    raise NotImplementedError(f"normalize: p={p} is not supported, only 1 and 2")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set each element to 0 with probability ``p`` and scale the others by ``1 / (1 - p)``.

    Raises: ValueError for ``p`` outside [0, 1].
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training:
        return input
    if inplace:
        return input.copy_(TF.dropout(input.clone(), p, True))
    return TF.dropout(input, p, True)
