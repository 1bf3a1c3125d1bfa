"""Groups that differ in the memory that they work on alone, such as those of equal steps of a loop, have one text.

In: groups and their plan. Out: the same `KernelText`s as `generate` gives, written once for groups that are alike.
Must not know: what is in a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracejit.codegen.generate import generate
from tracejit.codegen.text import KernelText, Place
from tracejit.schedule.memory import Buffer
from tracejit.schedule.plan import Plan
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import VIRTUAL, Number, Read, Value


@dataclass(frozen=True, slots=True)
class _Nth:
    """Stands for the n-th of a group's places in memory."""

    number: int


class _Likeness:
    """What a group's texts depend on, and the places in memory that it works on, in an order that follows from that."""

    def __init__(self, group: Group, plan: Plan) -> None:
        self.places: dict[tuple[int, Any], int] = {}
        self.slots: list[Place] = []
        self._buffers: dict[int, int] = {}
        self._sources: dict[Value, int] = {}
        self._members = {value: k for k, value in enumerate(group.members)}
        self._plan = plan
        island = group.members[0]
        if island.body is not None:
            # A body is that of islands whose operands are alike in all but the memory that they are in.
            places = [self._place(plan.storage[r.source], r.offset * r.source.dtype.itemsize) for r in island.reads]
            places += [self._place(plan.storage[result], 0) for result in island.results]
            self.key: tuple[Any, ...] = (island.body, *places, *[v in plan.soon for v in island.results])
            return
        parts: list[Any] = [group.kind, group.outer, group.unit, group.layout, group.cuts]
        for value in group.members:
            parts += (value.kind, value.op, value.shape, value.dtype, value.attrs, value.layout, value in group.full)
            parts.append(value in plan.soon)
            for arg in value.args:
                parts += (arg.key, arg.kind) if isinstance(arg, Number) else self._read(arg)
            for buffer in (plan.storage.get(value), plan.partials.get(value)):
                parts += () if buffer is None else self._place(buffer, 0)
                # Tells what there is from what there is not.
                parts.append(buffer is None)
            if value.into is not None:
                parts += (*self._read(value.into), value.is_apart)
        self.key = tuple(parts)

    def _read(self, read: Read) -> tuple[Any, ...]:
        source = read.source
        inside = self._members.get(source)
        if inside is not None:
            return (inside, read.shape, read.strides, read.offset)
        # What is picked by is another operand.
        picks = (read.picked is not None, read.along)
        number = self._sources.setdefault(source, len(self._sources))
        if source.kind == VIRTUAL:
            made_of = [part for a in source.args if isinstance(a, Number) for part in (a.key, a.kind)]
            return (number, source.op, source.shape, source.dtype, *made_of, read.shape, read.strides, read.offset)
        place = self._place(self._plan.storage[source], read.offset * source.dtype.itemsize)
        return (number, *place, source.kind, source.shape, source.dtype, read.shape, read.strides, *picks)

    def _place(self, buffer: Buffer, offset: int) -> tuple[int, int]:
        at = (id(buffer), offset)
        number = self.places.get(at)
        if number is None:
            number = self.places[at] = len(self.slots)
            self.slots.append(Place(buffer, offset))
        return number, self._buffers.setdefault(id(buffer), len(self._buffers))


class Texts:
    """The kernels' texts of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[tuple[Any, ...], list[list[tuple[KernelText, list[Any]]]]] = {}

    def generate(self, group: Group) -> list[list[KernelText]]:
        """The kernels of a group that is no library call: a list for each of its stages."""
        like = _Likeness(group, self._plan)
        known = self._known.get(like.key)
        if known is None:
            made = generate(group, self._plan)
            self._known[like.key] = [[(kernel, _opened(kernel, like)) for kernel in together] for together in made]
            return made
        return [[kernel.over(_filled(slots, like)) for kernel, slots in together] for together in known]


def _opened(kernel: KernelText, like: _Likeness) -> list[Any]:
    """The argument slots of a kernel, with numbers in place of places in memory."""
    return [
        _Nth(like.places[id(slot.buffer), slot.offset]) if isinstance(slot, Place) else slot for slot in kernel.slots
    ]


def _filled(slots: list[Any], like: _Likeness) -> tuple[Any, ...]:
    return tuple([like.slots[slot.number] if isinstance(slot, _Nth) else slot for slot in slots])
