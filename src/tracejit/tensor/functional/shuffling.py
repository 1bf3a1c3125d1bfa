"""Elements moved between and within the channels of an image."""

from __future__ import annotations

from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.tensor import Tensor


def _image(input: Tensor, factor: int, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What comes before an image, and its channels, height and width."""
    shape = input._shape
    if len(shape) < 3:
        raise RuntimeError(f"{name} expects input to have at least 3 dimensions, but got {len(shape)}")
    if factor < 1:
        raise RuntimeError(f"{name} expects a factor of at least 1, but got {factor}")
    return shape[:-3], shape[-3:]


@composite
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Any:
    """Images made larger by elements of their channels.

    Shape: (*, C * r * r, H, W) to (*, C, H * r, W * r). Raises: RuntimeError for sizes that do not fit.

    >>> import tracejit as tj
    >>> tj.nn.functional.pixel_shuffle(tj.arange(8.0).reshape(1, 4, 1, 2), 2)
    tensor([[[[0., 2., 1., 3.],
              [4., 6., 5., 7.]]]])
    """
    r = upscale_factor
    lead, (channels, high, wide) = _image(input, r, "pixel_shuffle")
    if channels % (r * r):
        raise RuntimeError(
            f"pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={channels} is not divisible by {r * r}"
        )
    n = len(lead)
    cut = apply(ops.reshape, (input,), ((*lead, channels // (r * r), r, r, high, wide),))
    moved = apply(ops.permute, (cut,), ((*range(n), n, n + 3, n + 1, n + 4, n + 2),))
    return shaped(apply(ops.copy, (moved,)), (*lead, channels // (r * r), high * r, wide * r))


@composite
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Any:
    """Images made smaller, their elements to channels: the inverse of `pixel_shuffle`.

    Shape: (*, C, H * r, W * r) to (*, C * r * r, H, W). Raises: RuntimeError for sizes that do not fit.

    >>> import tracejit as tj
    >>> tj.nn.functional.pixel_unshuffle(tj.arange(4.0).reshape(1, 1, 2, 2), 2).shape
    tracejit.Size([1, 4, 1, 1])
    """
    r = downscale_factor
    lead, (channels, high, wide) = _image(input, r, "pixel_unshuffle")
    if high % r or wide % r:
        raise RuntimeError(
            f"pixel_unshuffle expects height and width to be divisible by downscale_factor, but {high} x {wide} is not "
            f"by {r}"
        )
    n = len(lead)
    cut = apply(ops.reshape, (input,), ((*lead, channels, high // r, r, wide // r, r),))
    moved = apply(ops.permute, (cut,), ((*range(n), n, n + 2, n + 4, n + 1, n + 3),))
    return shaped(apply(ops.copy, (moved,)), (*lead, channels * r * r, high // r, wide // r))


@composite
def channel_shuffle(input: Tensor, groups: int) -> Any:
    """Channels (dimension 1) dealt out from groups in turn.

    Shape: (N, C, *). Raises: RuntimeError for fewer than 3 dimensions or channels that the groups do not divide.
    Source: Zhang et al., ShuffleNet (2018).
    """
    shape = input._shape
    if len(shape) < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(shape)}")
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    if shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {shape[1]} channels and {groups} groups."
        )
    cut = apply(ops.reshape, (input,), ((shape[0], groups, shape[1] // groups, *shape[2:]),))
    moved = apply(ops.permute, (cut,), ((0, 2, 1, *range(3, len(shape) + 1)),))
    return shaped(apply(ops.copy, (moved,)), tuple(shape))
