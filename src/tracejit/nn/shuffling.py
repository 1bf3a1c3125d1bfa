"""PixelShuffle, PixelUnshuffle and ChannelShuffle: elements moved between and within the channels of an image."""

from __future__ import annotations

from tracejit.nn import functional as F
from tracejit.nn.module import Module
from tracejit.tensor import Tensor

__all__ = ["ChannelShuffle", "PixelShuffle", "PixelUnshuffle"]


class PixelShuffle(Module):
    """Images made larger by elements of their channels.

    Shape: ``(*, C * r * r, H, W)`` to ``(*, C, H * r, W * r)``. Source: Shi et al. 2016.

    >>> import tracejit as tj
    >>> tj.nn.PixelShuffle(2)(tj.ones(1, 12, 3, 4)).shape
    tracejit.Size([1, 3, 6, 8])
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Images made smaller, their elements to channels.

    Shape: ``(*, C, H * r, W * r)`` to ``(*, C * r * r, H, W)``.

    >>> import tracejit as tj
    >>> tj.nn.PixelUnshuffle(2)(tj.ones(1, 3, 6, 8)).shape
    tracejit.Size([1, 12, 3, 4])
    """

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Channels dealt out from groups in turn. Source: Zhang et al. 2018."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
