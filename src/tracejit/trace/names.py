"""Names: which slot of a segment stands for a tensor, and for how long.

In: tensors as they are met and made. Out: slots.
Must not know: operations, events, how a segment ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracejit.tensor.tensor import Tensor
from tracejit.trace.passing import passing
from tracejit.trace.unit import Unit


class Names:
    """The names of a segment's tensors.

    A tensor that anybody but the recorder may still get is kept until the segment ends: `by_slot`. Fresh memory for
    each step would take as long as the steps, so the others go when the program's Python is done with them.
    """

    keeps_all = False
    """Whether what has a name is kept, whoever else still has it."""

    unit: Unit | None

    def forget(self) -> None:
        """Start with no name."""
        self.slots = 0
        self.named: dict[int, tuple[int, int]] = {}
        self.arrays: dict[int, int] = {}
        self.bound: set[int] = set()
        self.by_slot: dict[int, Tensor] = {}
        self.inner: list[tuple[int, Any]] = []
        """What a unit makes with a history, or as a view, by its slots: nobody else's before the unit has run."""
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.mutated: dict[int, Any] = {}
        self.kept: list[Any] = []

    def name(self, t: Tensor, slot: int) -> None:
        """Let a slot stand for a tensor from here on."""
        array = t._array
        self.named[id(t)] = (slot, t._version)
        self.arrays[id(array)] = slot
        plain = t._node is None and t._base is None
        if not self.keeps_all and (plain or self.unit is not None) and slot not in self.bound:
            # Nobody will ask for its history: it may go, and its memory be used again.
            self.shapes[slot] = array.shape
            look = passing(t, self.named)
            self.kept += (look, passing(array, self.arrays))
            if not plain:
                self.inner.append((slot, look))
            return
        self.by_slot[slot] = t
        self.kept.append(t)
        self.kept.append(array)

    def known(self, t: Tensor) -> int | None:
        """The slot of a tensor, None if it has none or its memory was changed behind the name."""
        found = self.named.get(id(t))
        if found is not None:
            return found[0] if found[1] == t._version else None
        slot = self.arrays.get(id(t._array))
        # A tensor from outside is itself: another one on the same memory takes a slot of its own.
        return None if slot in self.bound else slot

    def stale(self, t: Tensor) -> bool:
        """Whether the tensor's memory was changed in this segment through another tensor."""
        found = self.named.get(id(t))
        if found is not None:
            return found[1] != t._version
        return t._cell is not None and id(t._cell) in self.mutated

    def shape_of(self, slot: int) -> tuple[int, ...]:
        """The shape of a slot's tensor."""
        shape = self.shapes.get(slot)
        return self.by_slot[slot]._shape if shape is None else shape

    def new_slots(self, count: int) -> range:
        """The next slots."""
        first = self.slots
        self.slots += count
        return range(first, self.slots)

    def living(self) -> Iterator[tuple[int, Tensor]]:
        """The tensors that somebody may get, by their slots, those of a unit that is running as well."""
        yield from self.by_slot.items()
        for slot, look in self.inner:
            t = look()
            if t is not None:
                yield slot, t

    def leave(self) -> None:
        """The unit has run: what it made and is still there may be the program's."""
        self.unit = None
        for slot, look in self.inner:
            t = look()
            if t is not None:
                self.by_slot[slot] = t
                self.kept += (t, t._array)
        self.inner.clear()

    def slot(self, t: Tensor) -> int:
        """The slot of a tensor that has one."""
        slot = self.known(t)
        assert slot is not None
        return slot

    def exact(self, t: Tensor) -> int | None:
        """The slot that stands for a tensor itself, not only for its memory."""
        found = self.named.get(id(t))
        return None if found is None else found[0]

    def place_of(self, t: Tensor) -> int | None:
        """The slot of a tensor or of its memory, whatever became of it."""
        found = self.named.get(id(t))
        if found is not None:
            return found[0]
        return self.arrays.get(id(t._array))
