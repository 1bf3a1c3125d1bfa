"""Gradients that a replay gives to their tensors, call by call in the same memory.

In: the tensors and what the program writes for them. Out: where the program writes, the gradients on their tensors.
Must not know: the text of the replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getrefcount
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.runtime.arrays import empty
from tracejit.runtime.blocks import Lease
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.objects import slot_place
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.replay.words import NEVER, hold, sole_words, table

_HOLDERS = 3
"""The references to a gradient, its array or its memory where these are looked at: one that holds it, a name, the call
that counts."""


class Gradients:
    """The gradients of one replay: (tensor, output of the program, type, changes in place) of each.

    They are `changing` if the program changes one in place. `tables` has the table that holds as long as the tensors,
    and nobody else, have the gradients that they were given: the next call may write into these.
    """

    def __init__(self, executable: Executable, handed: Sequence[tuple[Any, int, Aval, int]]) -> None:
        self.tables: list[np.ndarray] = [NEVER]
        self._executable = executable
        self._handed = handed
        self._alone = NEVER
        self._grads: list[Tensor] = []
        self._arrays: list[np.ndarray] = []
        self._fields: list[Any] = []
        self.changing = any(changes for *_, changes in handed)
        self._leaves = [leaf for leaf, *_ in handed]
        self._cells: list[tuple[list[int], int]] = []

    def forget(self) -> None:
        """Whatever holds, the next call needs gradients of its own."""
        self.tables[0] = NEVER

    def adopt(self) -> bool:
        """Take the gradients that the tensors have for those of this replay, if they have them alone; whether they do.

        They are those of a call that was followed, or that found its guards changed: a new set would be beside them.
        """
        self.let_go()
        if not all(_is_plain(leaf._grad, aval, changes) for leaf, _, aval, changes in self._handed):
            return False
        for leaf, at, _, changes in self._handed:
            self._take_in(leaf._grad, at, changes)
        self.watch()
        return not hold(self.tables[0])

    def renew(self) -> None:
        """Make the gradients that this call will give."""
        self.let_go()
        for _, at, aval, changes in self._handed:
            t: Tensor = Tensor.__new__(Tensor)
            t._array, t._dtype, t._requires_grad = empty(aval.shape, aval.dtype.np), aval.dtype, False
            t._node = t._grad = t._cell = t._base = t._hooks = None
            self._take_in(t, at, changes)

    def let_go(self) -> None:
        """Keep none of the gradients that were given."""
        self.forget()
        for held in (self._grads, self._arrays, self._fields, self._cells):
            held.clear()

    def _take_in(self, t: Tensor, at: int, changes: int) -> None:
        """Have the program write one of its outputs into a gradient."""
        self._executable.pointers[len(self._executable.inputs) + at] = ENTRY.address_of(t._array)
        if changes:
            self._cells.append((t._share(), changes))
        self._grads.append(t)
        self._arrays.append(t._array)

    def watch(self) -> None:
        """Note that the gradients just given belong to nobody else."""
        words: list[tuple[int, int]] = []
        alone: list[tuple[int, int]] = []
        for leaf, t in zip(self._leaves, self._grads, strict=True):
            # Held by the list here and by the leaf: the variable of this loop is gone when somebody looks.
            self._fields.append(t.__dict__)
            found = sole_words(t, self._fields[-1], 2)
            on_leaf = (id(leaf) + slot_place(type(leaf), "_grad"), id(t))
            if found is None or hold(table([on_leaf])):
                return
            words += [on_leaf, *found]
            alone += [(id(t), 1), *found[1:]]
        self.tables[0], self._alone = table(words), table(alone)

    def take(self) -> bool:
        """Take the gradients from their tensors, so that no other thread gets one that is being written.

        Whether none had got one; else they are back.
        """
        for leaf in self._leaves:
            leaf._grad = None
        if not hold(self._alone):
            return True
        self.give()
        return False

    def give(self) -> None:
        """Give the gradients to their tensors."""
        for leaf, t in zip(self._leaves, self._grads, strict=True):
            leaf._grad = t
        # Versions are those of new ones, whatever somebody did with the former.
        for cell, changes in self._cells:
            cell[0] = changes


def _is_plain(t: Any, aval: Aval, changes: int) -> bool:
    """Whether what a tensor has as its gradient is like one that a replay makes, in memory that no other array has."""
    if type(t) is not Tensor or t._dtype is not aval.dtype or t._requires_grad:
        return False
    if t._node is not None or t._grad is not None or t._base is not None or t._hooks is not None:
        return False
    array = t._array
    # The version of one that is not changed in place is that of a new one.
    if type(array) is not np.ndarray or array.shape != aval.shape or (t._cell is not None and not changes):
        return False
    base = array.base
    return (
        array.flags.c_contiguous
        and array.flags.writeable
        and getrefcount(t) == _HOLDERS
        and getrefcount(array) == _HOLDERS
        and (base is None or (getrefcount(base) == _HOLDERS and isinstance(base, (np.ndarray, Lease))))
    )
