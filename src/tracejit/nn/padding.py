"""Layers that put more elements around sequences and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tracejit.nn import functional as F
from tracejit.nn.module import Module
from tracejit.nn.sizes import sizes
from tracejit.tensor import Tensor

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ZeroPad1d",
    "ZeroPad2d",
]


class _Pad(Module):
    """Elements around the last ``dimensions`` dimensions."""

    dimensions: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = sizes(padding, 2 * self.dimensions)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ReflectionPad1d(_Pad):
    """Sequences with what lies inside of the edge repeated around them.

    Shape: ``(N, C, L)`` or ``(C, L)``; ``padding`` is one number or (left, right).

    >>> import tracejit as tj
    >>> tj.nn.ReflectionPad1d((1, 2))(tj.ones(1, 3, 4)).shape
    tracejit.Size([1, 3, 7])
    """

    dimensions = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """Images with what lies inside of the edge repeated around them.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)``; ``padding`` is one number or (left, right, top, bottom).

    >>> import tracejit as tj
    >>> tj.nn.ReflectionPad2d(1)(tj.ones(1, 3, 4, 4)).shape
    tracejit.Size([1, 3, 6, 6])
    """

    dimensions = 2
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """Sequences with the edge repeated around them.

    Shape: ``(N, C, L)`` or ``(C, L)``; ``padding`` is one number or (left, right).

    >>> import tracejit as tj
    >>> tj.nn.ReplicationPad1d((1, 2))(tj.ones(1, 3, 4)).shape
    tracejit.Size([1, 3, 7])
    """

    dimensions = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """Images with the edge repeated around them.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)``; ``padding`` is one number or (left, right, top, bottom).

    >>> import tracejit as tj
    >>> tj.nn.ReplicationPad2d(1)(tj.ones(1, 3, 4, 4)).shape
    tracejit.Size([1, 3, 6, 6])
    """

    dimensions = 2
    mode = "replicate"


class CircularPad1d(_Pad):
    """Sequences with what lies at the other end repeated around them.

    Shape: ``(N, C, L)`` or ``(C, L)``; ``padding`` is one number or (left, right).

    >>> import tracejit as tj
    >>> tj.nn.CircularPad1d((1, 2))(tj.ones(1, 3, 4)).shape
    tracejit.Size([1, 3, 7])
    """

    dimensions = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """Images with what lies at the other end repeated around them.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)``; ``padding`` is one number or (left, right, top, bottom).

    >>> import tracejit as tj
    >>> tj.nn.CircularPad2d(1)(tj.ones(1, 3, 4, 4)).shape
    tracejit.Size([1, 3, 6, 6])
    """

    dimensions = 2
    mode = "circular"


class _ValuePad(_Pad):
    """One value around the last dimensions."""

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ValuePad):
    """Sequences with one value around them; ``padding`` is one number or (left, right).

    >>> import tracejit as tj
    >>> tj.nn.ConstantPad1d(1, 0.5)(tj.ones(1, 3, 4)).shape
    tracejit.Size([1, 3, 6])
    """

    dimensions = 1


class ZeroPad1d(ConstantPad1d):
    """Sequences with zeros around them; ``padding`` is one number or (left, right)."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad2d(_ValuePad):
    """Images with one value around them; ``padding`` is one number or (left, right, top, bottom).

    >>> import tracejit as tj
    >>> tj.nn.ConstantPad2d(1, 0.5)(tj.ones(1, 3, 4, 4)).shape
    tracejit.Size([1, 3, 6, 6])
    """

    dimensions = 2


class ZeroPad2d(ConstantPad2d):
    """Images with zeros around them; ``padding`` is one number or (left, right, top, bottom)."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"
