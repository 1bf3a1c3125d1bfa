"""Unfold and Fold: windows of images as columns, and back."""

from __future__ import annotations

from tracejit.nn import functional as F
from tracejit.nn.module import Module
from tracejit.tensor import Tensor

__all__ = ["Fold", "Unfold"]

_Sizes = int | tuple[int, ...]


class Unfold(Module):
    """The windows of images as columns.

    Shape: ``(N, C, H, W)`` to ``(N, C * the elements of a window, windows)``, or without N.

    >>> import tracejit as tj
    >>> tj.nn.Unfold(2, stride=2)(tj.ones(1, 3, 4, 6)).shape
    tracejit.Size([1, 12, 6])
    """

    def __init__(self, kernel_size: _Sizes, dilation: _Sizes = 1, padding: _Sizes = 0, stride: _Sizes = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )


class Fold(Module):
    """Images of which each element is the sum of what columns have for it.

    Shape: ``(N, C * the elements of a window, windows)`` to ``(N, C, *output_size)``, or without N.

    >>> import tracejit as tj
    >>> tj.nn.Fold((4, 6), 2, stride=2)(tj.ones(1, 12, 6)).shape
    tracejit.Size([1, 3, 4, 6])
    """

    def __init__(
        self,
        output_size: _Sizes,
        kernel_size: _Sizes,
        dilation: _Sizes = 1,
        padding: _Sizes = 0,
        stride: _Sizes = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )
