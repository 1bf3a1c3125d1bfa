"""Cheap values that several kernels want are computed again by those that read them, not kept for them in memory.

In: a partition, the values that the caller wants, what reads each value, and inputs that are written in place. Out: the
partition with less to store.
Must not know: kernel text, memory.

A norm subtracts the mean before it adds up squares, again before it scales, and twice on the way back. What is kept for
that is as large as what it is made of: reading the latter and a mean for each row is no more than reading the former.
So it is with rows that an index picks, such as those of nodes for the edges of a graph: to pick them again is no more
than to read a copy of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import Partition
from tracejit.schedule.sink import is_cheap, reads_whole
from tracejit.schedule.spaces import CALL, LOOP, Group
from tracejit.schedule.values import Read, Value
from tracejit.symbols import present


@dataclass(slots=True)
class _Cone:
    """What a value is computed from again: `steps` in order, the value last, and the `reads` of memory that they do."""

    steps: list[Value] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    work: float = 0.0


class _Again:
    def __init__(
        self,
        partition: Partition,
        targets: Collection[Value],
        readers: dict[Value, list[Value]],
        changing: set[Value],
    ) -> None:
        self._partition = partition
        self._changing = changing
        self._targets = targets
        self._readers = readers
        # For a group and a value its copy; for a copy what it is one of.
        self._copies: dict[tuple[Group, Value], Value] = {}
        self._origin: dict[Value, Value] = {}
        self._again: set[Value] = set()
        self._gone: set[Value] = set()
        members = [v for group in partition.groups if group.kind != CALL for v in group.members if v in group.full]
        # What a value is made of is settled before it.
        for value in sorted(members, key=lambda v: v.index):
            self._try(value)
        again, gone = self._again, self._gone
        partition.cuts = [c for c in partition.cuts if c.producer not in again and c.consumer not in gone]

    def _try(self, value: Value) -> None:
        """Has all groups that want a value from memory compute it, if they all can and it pays."""
        if value in self._targets or not _is_light(value):
            return
        own = self._partition.group_of[value]
        outside = [r for r in self._readers.get(value, ()) if self._partition.group_of[r] is not own]
        if not outside:
            return
        cone = self._cone(value)
        places = dict.fromkeys(self._partition.group_of[r] for r in outside)
        if cone is None or not cost.is_computed_again(cone.work, len(places)):
            return
        if not all(reads_whole(r, value) for r in outside):
            return
        if all(self._fits(place, cone, value) for place in places):
            for place in places:
                self._compute(place, cone, value)
            self._again.add(value)
            self._drop(own, value)

    def _cone(self, value: Value) -> _Cone | None:
        """How a value is computed from memory; None if something on the way is not cheap, or not read in order."""
        cone = _Cone()
        return cone if self._enter(cone, value, value, set()) else None

    def _enter(self, cone: _Cone, step: Value, value: Value, known: set[Value]) -> bool:
        """Puts a step, and before it what it is computed from, into the cone of a value; False if that cannot be."""
        known.add(step)
        cone.work += cost.work(step)
        if _picks_rows(step):
            cone.steps.append(step)
            cone.reads += step.reads
            return all(self._is_kept(read.source) for read in step.reads)
        for read in step.reads:
            source = read.source
            if source in known:
                continue
            if source.kind == kinds.VIRTUAL:
                cone.work += cost.work(source)
            elif self._is_small(source, value):
                if not read.lies_along(step.shape):
                    return False
                cone.reads.append(read)
            elif not read.is_whole(value.numel):
                return False
            elif self._is_kept(source):
                cone.reads.append(read)
            elif not _is_light(source) or not self._enter(cone, source, value, known):
                return False
        cone.steps.append(step)
        return True

    def _is_small(self, source: Value, value: Value) -> bool:
        return cost.is_small_beside(present(source.numel), present(value.numel))

    def _is_kept(self, source: Value) -> bool:
        """Whether a value is in memory whatever becomes of those that are made of it."""
        if source.kind not in kinds.COMPUTED or source in self._targets:
            return True
        own = self._partition.group_of[source]
        return any(self._partition.group_of[r] is not own for r in self._readers.get(source, ()))

    def _fits(self, place: Group, cone: _Cone, value: Value) -> bool:
        """Whether a group can compute a value and loads no more than before."""
        if place.kind == CALL or place.members[0].body is not None or value.numel != place.numel:
            return False
        more = {read.source for read in cone.reads} - place.outside
        if not more.isdisjoint(self._changing):
            # It may be wanted after the change.
            return False
        large = [source for source in more if not self._is_small(source, value)]
        if sum(source.dtype.itemsize for source in large) > value.dtype.itemsize:
            return False
        cuts = (cuts for step in cone.steps for _, cuts in step.cuts)
        least = cost.SHORT_PICKED if any(map(_picks_rows, cone.steps)) else cost.SHORT_LOOP
        if not all(self._goes_along(place, found, least) for found in cuts):
            return False
        steps = [step for step in cone.steps if self._known(place, step) is None]
        return self._partition.refusal(place, steps) is None

    @staticmethod
    def _goes_along(place: Group, cuts: frozenset[int], least: int) -> bool:
        """Whether a loop has these cuts already, or they leave it rows of at least so many elements: a short one spends
        its time on what is one element for all of it.
        """
        if place.kind != LOOP:
            return present(place.unit) >= least
        return cuts <= place.cuts or present(min(cuts)) >= least

    def _compute(self, place: Group, cone: _Cone, value: Value) -> None:
        """Has a group compute a value, and those that it is made of, for itself."""
        own: dict[Value, Value] = {}
        for step in cone.steps:
            known = self._known(place, step)
            own[step] = self._copy(place, step, own) if known is None else known
        wanted = self._readers[value]
        for reader in [r for r in wanted if self._partition.group_of[r] is place]:
            reader.read_instead(own)
            wanted.remove(reader)
            self._readers.setdefault(own[value], []).append(reader)
        self._partition.renew(place)

    def _known(self, place: Group, step: Value) -> Value | None:
        """What a group computes already of that kind."""
        return self._copies.get((place, self._origin.get(step, step)))

    def _copy(self, place: Group, step: Value, own: dict[Value, Value]) -> Value:
        copy = Value(step.kind, step.op, step.shape, step.dtype, step.args, step.attrs, step.node, after=step.after)
        copy.index = step.index
        copy.read_instead(own)
        origin = self._origin[copy] = self._origin.get(step, step)
        self._copies[place, origin] = copy
        for read in copy.reads:
            self._readers.setdefault(read.source, []).append(copy)
        place.members.append(copy)
        place.members.sort(key=lambda v: v.index)
        place.full.add(copy)
        self._partition.group_of[copy] = place
        return copy

    def _drop(self, group: Group, value: Value) -> None:
        """Takes a value that nobody reads any more from its group, and so those that only it read."""
        rest = [value]
        while rest:
            unread = rest.pop()
            kept = unread not in group.full or unread in self._targets or self._readers.get(unread)
            if kept or not _is_light(unread):
                continue
            group.members.remove(unread)
            group.full.remove(unread)
            self._gone.add(unread)
            for read in unread.reads:
                self._readers[read.source].remove(unread)
                rest.append(read.source)
        if group.members:
            self._partition.renew(group)
        else:
            self._partition.groups.remove(group)


def _is_light(value: Value) -> bool:
    """Whether a value may be computed where it is read, or rows be picked there."""
    return is_cheap(value) or _picks_rows(value)


def _picks_rows(value: Value) -> bool:
    """Whether a value is long rows of another one that an index picks."""
    if value.kind != kinds.ELEMENTWISE or value.into is not None or len(value.reads) < 2:
        return False
    index = value.reads[0].picked
    return index is not None and cost.is_small_beside(present(index.source.numel), present(value.numel))


def compute_again(
    partition: Partition, targets: Collection[Value], readers: dict[Value, list[Value]], changing: set[Value]
) -> None:
    """Has groups compute for themselves what costs them less than its way through memory."""
    _Again(partition, targets, readers, changing)
    partition.forget_cuts()
