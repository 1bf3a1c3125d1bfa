"""Which slots of a segment stand for the same memory.

In: the events of a segment. Out: `Memory`. Must not know: programs, the tape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tracejit.trace.tree import Event, External, Step


def changed_by(events: list[Event], values: list[Any]) -> Iterator[Any]:
    """The tensors that some events change in place, as far as they are there."""
    for event in events:
        for target, _, _ in event.assigned:
            if values[target] is not None:
                yield values[target]


def is_changed(t: Any, events: list[Event], values: list[Any]) -> bool:
    """Whether the memory of a tensor is also that of one which some events change."""
    cell = t._cell
    return cell is not None and any(other._cell is cell for other in changed_by(events, values))


def shows_changed(t: Any, events: list[Event], values: list[Any]) -> bool:
    """Whether a tensor shows memory that some events change through an array it does not know of."""
    arrays = [other._array for other in changed_by(events, values) if other._array is not None]
    return any(np.may_share_memory(array, t._array) for array in arrays)


class Memory:
    """Which slots stand for the same memory, and which of them holds its last value."""

    def __init__(self, events: list[Event]) -> None:
        self.owner: dict[int, int] = {}
        self.final: dict[int, int] = {}
        self.made: dict[int, Step] = {}
        self.external: dict[int, External] = {}
        self.bumps: dict[int, int] = {}
        self.renamed: dict[int, int] = {}
        self.first: dict[int, int] = {}
        for event in events:
            self.external.update(event.binds)
            self.renamed.update(event.renewed)
            self.first.update({new: self.first.get(old, old) for old, new in event.renewed})
            self.renamed.update({target: new for target, new, _ in event.assigned})
            assigned = {new: target for target, new, _ in event.assigned}
            for step in event.steps:
                for out in step.outs:
                    self.made[out] = step
                    if out in assigned:
                        root = self.root(assigned[out])
                        self.owner[out] = root
                        self.final[root] = out
                        self.bumps[root] = self.bumps.get(root, 0) + 1
                    elif step.op is None:
                        self.owner[out] = self.root(step.args[0])

    def name(self, slot: int) -> int:
        """The newest slot of the tensor that got this one first: that of the last assignment to it."""
        while slot in self.renamed:
            slot = self.renamed[slot]
        return slot

    def is_bare(self, slot: int) -> bool:
        """Whether a tensor that a step made leads to no tensor with a step of the segment.

        As it has memory of its own, or shows memory from outside that is not changed.
        """
        root = self.root(slot)
        if root not in self.made:
            return False
        if not self.made[root].view:
            return True
        if root != slot:
            return False
        while slot in self.made and self.made[slot].view:
            slot = self.made[slot].args[0]
        return slot not in self.made and slot not in self.final

    def way(self, slot: int) -> list[int]:
        """The slots between a tensor and the one that has its memory, both with them."""
        found = [slot]
        while True:
            root = self.root(slot)
            if root != slot:
                found.append(root)
            if root not in self.made or not self.made[root].view:
                return found
            slot = self.made[root].args[0]
            found.append(slot)

    def root(self, slot: int) -> int:
        """The first slot of the memory that a slot stands for."""
        return self.owner.get(slot, slot)

    def last(self, root: int) -> int:
        """The slot of the memory's last value."""
        return self.final.get(root, root)
