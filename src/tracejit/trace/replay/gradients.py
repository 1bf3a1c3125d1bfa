"""Gradients that a replay gives to their tensors, call by call in the same memory.

In: the tensors and what the program writes for them. Out: where the program writes, the gradients on their tensors.
Must not know: the text of the replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.runtime.arrays import empty
from tracejit.runtime.blocks import BLOCKS
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.objects import slot_place
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.replay.words import NEVER, hold, sole_words, table

_FIRST_SETS = 4
"""New sets of gradients that the first replays make while guards settle. Later ones keep their memory, as somebody may
want one in each call."""


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
        self._new_sets = 0
        self._grads: list[Tensor] = []
        self._arrays: list[np.ndarray] = []
        self._fields: list[Any] = []
        self.changing = any(changes for *_, changes in handed)
        self._leaves = [leaf for leaf, *_ in handed]
        self._cells: list[tuple[list[int], int]] = []

    def forget(self) -> None:
        """Whatever holds, the next call needs gradients of its own."""
        self.tables[0] = NEVER

    def renew(self) -> None:
        """Make the gradients that this call will give."""
        self.forget()
        for held in (self._grads, self._arrays, self._fields, self._cells):
            held.clear()
        first = len(self._executable.inputs)
        for _, at, aval, changes in self._handed:
            array = empty(aval.shape, aval.dtype.np)
            self._executable.pointers[first + at] = ENTRY.address_of(array)
            t: Tensor = Tensor.__new__(Tensor)
            t._array, t._dtype, t._requires_grad = array, aval.dtype, False
            t._node = t._grad = t._cell = t._base = t._hooks = None
            if changes:
                self._cells.append((t._share(), changes))
            self._grads.append(t)
            self._arrays.append(array)

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
        if self._new_sets < _FIRST_SETS:
            # The set before is gone, and will not be needed.
            self._new_sets += 1
            BLOCKS.release()
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
