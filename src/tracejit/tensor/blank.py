"""Arrays that stand for values of which only shape and type matter: nobody looks into them, nobody writes to them.

In: shapes, types, strides. Out: arrays.
Must not know: what they stand for.

All are on one memory, which is never touched, so it takes no pages: those of a long loop would take gigabytes, and to
get and give back some large ones takes longer than to compute them.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np


class _Memory:
    def __init__(self) -> None:
        self.whole = np.empty(0, np.uint8)

    def at_least(self, nbytes: int) -> np.ndarray:
        """Memory of so many bytes and more. Arrays that were made before keep theirs."""
        memory = self.whole
        if nbytes > memory.nbytes:
            memory = self.whole = np.empty(nbytes, np.uint8)
        return memory


_MEMORY = _Memory()


def blank(shape: tuple[int, ...], kind: Any, strides: tuple[int, ...] | None = None) -> np.ndarray:
    """An array of this shape and type that nobody looks into.

    Raises: ValueError for strides below 0.

    >>> blank((2, 3), np.float32).shape, blank((2, 3), np.float32, (4, 8)).strides
    ((2, 3), (4, 8))
    """
    kind = np.dtype(kind)
    if strides is None:
        return np.ndarray(shape, kind, _MEMORY.at_least(prod(shape) * kind.itemsize))
    room = sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)]) + kind.itemsize
    return np.ndarray(shape, kind, _MEMORY.at_least(max(room, 0)), 0, strides)
