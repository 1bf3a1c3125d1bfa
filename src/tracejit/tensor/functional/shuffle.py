"""Channels and pixels in other places."""

from __future__ import annotations

from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.dispatch import apply
from tracejit.tensor.shaping import permute, reshape
from tracejit.tensor.tensor import Tensor


def _check(name: str, x: Tensor, what: str, factor: int) -> None:
    if len(x._shape) < 3:
        raise RuntimeError(
            f"{name} expects input to have at least 3 dimensions, but got input with {len(x._shape)} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{name} expects a positive {what}, but got {factor}")


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Any:
    """Squares of pixels out of channels.

    Shape: (*, C * r * r, H, W) gives (*, C, H * r, W * r). Raises: RuntimeError for sizes that do not fit.
    Source: Shi et al., Real-time single image and video super-resolution (2016).

    >>> import tracejit as tj
    >>> pixel_shuffle(tj.arange(4).reshape(4, 1, 1), 2)
    tensor([[[0, 1],
             [2, 3]]])
    """
    r = upscale_factor
    _check("pixel_shuffle", input, "upscale_factor", r)
    *lead, c, h, w = input._shape
    if c % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={c} is not divisible by {r * r}"
        )
    n = len(lead)
    apart = reshape(input, (*lead, c // (r * r), r, r, h, w))
    mixed = permute(apart, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return _laid_out(mixed, (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Any:
    """Channels out of squares of pixels: what undoes `pixel_shuffle`.

    Shape: (*, C, H * r, W * r) gives (*, C * r * r, H, W). Raises: RuntimeError for sizes that do not fit.
    """
    r = downscale_factor
    _check("pixel_unshuffle", input, "downscale_factor", r)
    *lead, c, h, w = input._shape
    for what, size, place in (("height", h, -2), ("width", w, -1)):
        if size % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {what} to be divisible by downscale_factor, but input.size({place})={size} "
                f"is not divisible by {r}"
            )
    n = len(lead)
    apart = reshape(input, (*lead, c, h // r, r, w // r, r))
    mixed = permute(apart, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return _laid_out(mixed, (*lead, c * r * r, h // r, w // r))


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
    apart = reshape(input, (shape[0], groups, shape[1] // groups, *shape[2:]))
    return _laid_out(permute(apart, (0, 2, 1, *range(3, len(shape) + 1))), shape)


def _laid_out(x: Tensor, shape: tuple[int, ...]) -> Any:
    """A copy in a shape of its own: the result never shares memory with the input, whatever the sizes."""
    return reshape(apply(ops.copy, (x,)), shape)
