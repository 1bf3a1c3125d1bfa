"""Siblings: groups that read the same memory, and of which none needs another, become one that reads it once.

In: a partition whose groups are known with all that they wait for. Out: fewer groups, and for siblings that stay apart
the reason.
Must not know: kernel text, places in memory.

Only groups that can begin at the same stage are put together, if need be since the one can wait: it reads nothing large
besides, and what comes after it, which reads nothing large either, can wait as well. So the last stage comes no later,
nothing large is kept longer, and no path leads out of a group and back: every path goes from an earlier stage to a
later one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import Cut, Partition
from tracejit.schedule.spaces import BLOCKS, CALL, LOOP, ROW, Group
from tracejit.schedule.strands import Parting, Partings, joined
from tracejit.schedule.values import Value, unfold, whole, writers
from tracejit.symbols import present

_NEEDS = "the one waits for the other"
_STAGE = "the one can begin before the other"
_PLACES = "they read it in different order"
_DEAR = "each of them is busy with elementary functions, which want all registers"
_CUTS = "the one goes through memory in one loop, the other in several"
_PARTS = "threads do not part the two alike"


class Siblings:
    """Puts siblings together. `before` says what must be done right before each group, `followed` which of these read
    memory that it writes over, `lengths` how many stages it takes, `partings` how it can be parted, `targets` which
    values the caller wants; all of them are kept up to date.

    An island that has a sibling is planned value by value, as it would be by itself: `opened` are its values then.
    """

    def __init__(
        self,
        partition: Partition,
        readers: dict[Value, list[Value]],
        before: dict[Group, set[Group]],
        followed: dict[Group, set[Group]],
        lengths: dict[Group, int],
        partings: dict[Group, Parting | None],
        ways: Partings,
        targets: dict[Value, int],
    ) -> None:
        self._partition = partition
        self._readers = readers
        self._before = before
        self._followed = followed
        self._lengths = lengths
        self._partings = partings
        self._ways = ways
        self._targets = targets
        self.opened: dict[Value, list[Value]] = {}
        self._stage: dict[Group, int] = {}
        self._stages = 0
        self._after: dict[Group, list[Group]] = {}
        """What comes right after each group."""
        self._in_place_of: dict[Group, Group] = {}
        self._apart: list[tuple[Value, Value, Value, str]] = []
        """What is read, who else reads it, who reads it, and why the two are apart."""
        self._run()

    @property
    def cuts(self) -> list[Cut]:
        """Why siblings are apart, one reason for two groups."""
        found: dict[tuple[Group, Group], Cut] = {}
        for source, first, member, reason in self._apart:
            pair = self._group(first), self._group(member)
            if pair[0] is not pair[1]:
                too = f"{_reader(first, source)} reads it too, but {reason}"
                consumer = self.opened[member][0] if member in self.opened else member
                found.setdefault(pair, Cut(source, consumer, too, _reader(member, source)))
        return list(found.values())

    def _group(self, member: Value) -> Group:
        """The group that a value is in, or an island's values are."""
        return self._partition.group_of[self.opened[member][0] if member in self.opened else member]

    def _run(self) -> None:
        for source, members in self._shared():
            known: dict[Hashable, Value] = {}
            last: Value | None = None
            # Siblings begin at one stage: those that do are neighbours then.
            for member in sorted(members, key=lambda member: self._stage_of(self._group(member))):
                form = self._form(member, source)
                first = known.setdefault(form, member)
                group, other = self._group(first), self._group(member)
                if first is not member and group is not other:
                    reason = self._refusal(group, other)
                    if reason is None:
                        self._merge(group, other)
                    else:
                        # The next one may come at the stage of this one.
                        known[form] = member
                        self._apart.append((source, first, member, reason))
                elif first is member and last is not None:
                    self._apart.append((source, last, member, self._difference(last, member)))
                last = member
        if self._in_place_of:
            self._rename()
        for island, values in self.opened.items():
            # Memory that it reads still has the island for a reader.
            self._partition.group_of[island] = self._partition.group_of[values[0]]

    def _shared(self) -> Iterator[tuple[Value, list[Value]]]:
        """What several groups read, with one reader in each, and is worth to be read once."""
        # Opening an island enters its readers anew.
        for source, members in list(self._readers.items()):
            if len(members) < 2 or source.kind == kinds.VIRTUAL:
                continue
            nbytes = source.numel * source.dtype.itemsize
            if not cost.is_read_once(nbytes, 0):
                continue
            makers = {self._group(w) for w in writers(source) if w in self._partition.group_of}
            reader: dict[Group, Value] = {}
            for member in members:
                group = self._group(member)
                if group in reader or group.kind == CALL or group in makers:
                    continue
                if group.kind not in (ROW, BLOCKS) or cost.is_read_once(nbytes, group.unit):
                    reader[group] = member
            if len(reader) > 1:
                yield source, list(reader.values())

    def _form(self, member: Value, source: Value) -> Hashable:
        """What groups must have in common besides the source: how they go through memory, and through the source."""
        group = self._group(member)
        read = next(read for read in member.reads if read.source is source)
        shape = read.shape if member.kind == kinds.REDUCTION else member.shape
        places = () if read.picked is None else (read.picked.source, read.picked.offset, read.picked.over(shape))
        return group.kind, group.outer, group.unit, group.layout, read.offset, read.over(shape), read.along, places

    def _difference(self, first: Value, member: Value) -> str:
        """Why groups of different forms are apart."""
        group, other = self._group(first), self._group(member)
        if group.kind != other.kind:
            return f"a {group.kind} kernel and a {other.kind} kernel do not go through memory alike"
        if (group.outer, group.unit, group.layout) == (other.outer, other.unit, other.layout):
            return _PLACES
        if group.kind == LOOP:
            return f"the one has {present(group.numel)} elements, the other {present(other.numel)}"
        return "the two reduce over different dimensions"

    def _refusal(self, group: Group, other: Group) -> str | None:
        """Why two groups of one form that read the same are apart, or None."""
        if self._stage[group] != self._stage[other]:
            if group.behind >> other.number & 1 or other.behind >> group.number & 1:
                return _NEEDS
            early, late = sorted((group, other), key=self._stage.__getitem__)
            if not self._wait(early, late):
                return _STAGE
        for one in (group, other):
            if one.members[0].body is not None:
                self._open(one)
        if group.kind == LOOP and not (group.cuts == other.cuts or _goes_along(group, other)):
            return _CUTS
        if group.kind == LOOP and all(any(map(cost.is_elementary, one.members)) for one in (group, other)):
            return _DEAR
        if not _part_alike(self._partings[group], self._partings[other], group.numel):
            return _PARTS
        return self._partition.sibling_refusal(group, other)

    def _open(self, group: Group) -> None:
        """Puts the values of an island in its place."""
        island = group.members[0]
        assert island.body is not None
        values = self.opened[island] = unfold(island)
        group.members, group.full = values, set(values)
        for k, value in enumerate(values):
            value.index = island.index + k
            self._partition.group_of[value] = group
        if self._partings[group] is not None:
            self._partings[group] = self._ways.of(group)
        for k, result in zip(island.body.results, island.results, strict=True):
            value = values[k]
            if result in self._targets:
                self._targets[value] = self._targets.pop(result)
            # Only copies to where the caller wants them read results.
            for copy in self._readers.pop(result, ()):
                copy.args = copy.reads = (whole(value),)
                self._readers.setdefault(value, []).append(copy)

    def _wait(self, early: Group, late: Group) -> bool:
        """Has a group begin with another one if it can: nothing large is kept longer, and the last stage is the last.
        """
        if any(self._is_held(source, late) for source in early.outside - late.outside):
            return False
        begin = self._stage[late]
        stage = {early: begin}
        done = begin + max(self._lengths[early], self._lengths[late])
        if not all(self._put_off(group, done, late, stage) for group in (early, late)):
            return False
        self._stage.update(stage)
        return True

    def _put_off(self, group: Group, done: int, late: Group, stage: dict[Group, int]) -> bool:
        """Finds the `stage` of all that comes after a group if that is done so late; False if one cannot wait."""
        for after in self._after.get(group, ()):
            later = self._in_place_of.get(after, after)
            if stage.get(later, self._stage[later]) >= done:
                continue
            end = done + self._lengths[later]
            if end > self._stages or any(self._is_held(source, late) for source in later.outside):
                return False
            stage[later] = done
            if not self._put_off(later, end, late, stage):
                return False
        return True

    @staticmethod
    def _is_held(source: Value, group: Group) -> bool:
        """Whether a value takes memory worth a thought beside what a group goes through."""
        large = source.kind not in (kinds.INPUT, kinds.VIRTUAL)
        return large and not cost.is_small_beside(present(source.numel), present(group.numel))

    def _stage_of(self, group: Group) -> int:
        """The first stage at which a group can begin."""
        if not self._stage:
            self._measure()
        return self._stage[group]

    def _measure(self) -> None:
        """Finds the first stage at which each group can begin."""
        left = {group: len(found) for group, found in self._before.items()}
        after = self._after
        for group, found in self._before.items():
            for earlier in found:
                after.setdefault(earlier, []).append(group)
        stage = self._stage
        ready = [group for group, count in left.items() if not count]
        stage.update(dict.fromkeys(ready, 0))
        for group in ready:
            done = stage[group] + self._lengths[group]
            for later in after.get(group, ()):
                stage[later] = max(stage.get(later, 0), done)
                left[later] -= 1
                if not left[later]:
                    ready.append(later)
        self._stages = max((stage[group] + self._lengths[group] for group in stage), default=0)

    def _merge(self, group: Group, other: Group) -> None:
        self._partition.join(group, other)
        self._before[group] |= self._before.pop(other)
        if other in self._followed:
            self._followed.setdefault(group, set()).update(self._followed.pop(other))
        self._lengths[group] = max(self._lengths[group], self._lengths.pop(other))
        one, way = self._partings[group], self._partings.pop(other)
        if one is not None and way is not None:
            # Cuts may make squares of what the two read.
            self._partings[group] = self._ways.of(group) if group.cuts else joined(one, way)
        self._after.setdefault(group, []).extend(self._after.pop(other, ()))
        for gone, now in self._in_place_of.items():
            if now is other:
                self._in_place_of[gone] = group
        self._in_place_of[other] = group

    def _rename(self) -> None:
        """Puts groups in the place of those that are part of them now, and finds out anew what lies behind each."""
        gone = self._in_place_of
        for found in (*self._before.values(), *self._followed.values()):
            for other in found & gone.keys():
                found.remove(other)
                found.add(gone[other])
        for group in sorted(self._before, key=self._stage.__getitem__):
            group.behind = 0
            for earlier in self._before[group]:
                group.behind |= earlier.behind | 1 << earlier.number


def _goes_along(group: Group, other: Group) -> bool:
    """Whether the loops of one of two groups serve the other as well: long ones along the rows of memory."""
    more, less = (group, other) if len(group.cuts) > len(other.cuts) else (other, group)
    if not less.cuts < more.cuts or present(min(more.cuts)) < cost.SHORT_LOOP:
        return False
    return all(read.lies_along(member.shape) for member in more.members for read in member.reads)


def _reader(member: Value, source: Value) -> str:
    """The name of the operation that reads something: that of an island's first one."""
    if member.body is None:
        return member.name
    leaves = {-1 - k for k, read in enumerate(member.reads) if read.source is source}
    return next(op.name for op, _, _, operands in member.body.steps if not leaves.isdisjoint(operands))


def _part_alike(one: Parting | None, other: Parting | None, numel: int) -> bool:
    """Whether what can be part of a strand if it has the one parting can be so with both, or reading so many elements
    once is worth more.
    """
    if one is None or other is None:
        return one is other
    # A strand writes to no inputs of the program.
    across, across_too = (
        {v for v in way.touched - way.along if v.kind != kinds.INPUT and not cost.is_met_for(v.numel, numel)}
        for way in (one, other)
    )
    return across == across_too and max(one.parts, other.parts) % min(one.parts, other.parts) == 0
