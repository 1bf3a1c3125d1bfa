"""Tensors whose sizes stay open: what stands for their arrays has a shape and no memory.

In: shapes and strides of `symbols.Size`. Out: tensors.
Must not know: what they stand for.

Unlike a pending tensor one has an array, which tells it from others; whatever wants to look into that gets an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np

from tracejit.dtypes import dtype
from tracejit.shapes import contiguous_strides
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.tensor import Tensor


class _Flags(NamedTuple):
    c_contiguous: bool
    writeable: bool


class Shade:
    """Stands for an array; `steps` are its strides in elements, None where these lie in order."""

    __slots__ = ("dtype", "flags", "shape", "steps", "strides")

    def __init__(
        self, shape: tuple[Any, ...], kind: np.dtype[Any], steps: tuple[Any, ...] | None, writeable: bool
    ) -> None:
        self.shape, self.dtype, self.steps = shape, kind, steps
        self.flags = _Flags(steps is None, writeable)
        self.strides = tuple([n * kind.itemsize for n in (contiguous_strides(shape) if steps is None else steps)])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a tensor whose sizes are open has no values")


def shaded(
    shape: tuple[Any, ...], kind: dtype, steps: tuple[Any, ...] | None = None, writeable: bool = True
) -> Tensor:
    """A leaf without memory.

    >>> from tracejit.dtypes import float32
    >>> from tracejit.symbols import Trail
    >>> n = Trail().symbol(5)
    >>> shaded((n, 3), float32).stride(), shaded((n, 3), float32)._array.strides
    ((3, 1), (12, 4))
    """
    return wrap(Shade(shape, kind.np, steps, writeable), kind)
