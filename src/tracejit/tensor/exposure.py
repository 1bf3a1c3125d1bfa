"""Memory that NumPy arrays show while a compiled region runs: a change in place must be there at once.

In: tensors whose memory becomes an array, or comes from one. Out: whether such an array is still there.
Must not know: regions.

A region computes when it ends or is asked for values, but nobody asks who reads an array.
"""

from __future__ import annotations

import weakref
from sys import getrefcount
from typing import Any

import numpy as np

from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor


class _Memory:
    """What arrays that are made of an array hold on to, however they are cut: NumPy looks through arrays only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


def expose(t: Tensor, array: np.ndarray) -> np.ndarray:
    """An array on a tensor's memory that a region gives away: it is known to be there as long as it is."""
    given = np.asarray(_Memory(array))
    _note(t, weakref.ref(given))
    return given


def note_owner(t: Tensor) -> None:
    """Note that a tensor of a region has the memory of an array, which somebody else may have as well."""
    if state.session is not None:
        owner = t._array.base
        # One is the tensor's, one this function's, one the question's.
        _note(t, lambda: owner if getrefcount(owner) > 3 else None)


def _note(t: Tensor, look: Any) -> None:
    if state.exposed is None:
        state.exposed = []
    state.exposed.append((t._share(), look))


def are_there() -> bool:
    """Whether any of the arrays that the running region knows of is still there; it forgets those that are not."""
    state.exposed = [noted for noted in state.exposed or () if noted[1]() is not None] or None
    return state.exposed is not None


def is_exposed(t: Any) -> bool:
    """Whether an array shows a tensor's memory, as far as the region that is running knows."""
    return any(cell is t._cell and look() is not None for cell, look in state.exposed or ())
