"""What is known of a value before it is computed."""

from __future__ import annotations

from typing import NamedTuple

from tracejit.dtypes import dtype
from tracejit.symbols import text


class Aval(NamedTuple):
    """Shape and element type of a value."""

    shape: tuple[int, ...]
    dtype: dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n

    def __repr__(self) -> str:
        # Not by `str`: a size that stays open is fixed by that.
        return f"{self.dtype.short}[{','.join(map(text, self.shape))}]"
