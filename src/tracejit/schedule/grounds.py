"""What is put into a part of a value is written into that value's memory, if nobody wants it as it was.

In: joined values, the groups that make and read them. Out: which joined value has the memory of what lies under it, its
ground, and is not given a copy of that.
Must not know: order, memory, kernel text.

`out[t] = h` in a loop over time gives a new value each time: all of `out` with a part changed. Copied, a loop's work
would grow with the square of its length, and a token put among the keys of a transformer would move all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from tracejit.ops.index import CHANGING
from tracejit.schedule import values as kinds
from tracejit.schedule.spaces import LOOP, Group
from tracejit.schedule.values import Read, Value

Order = tuple[set[Group], list[Group]]
"""The groups that write into a ground, and those that must be done before."""


class Grounds:
    """Finds the grounds; `under` are those that others lie on, `of` says which."""

    def __init__(
        self,
        groups: list[Group],
        group_of: dict[Value, Group],
        readers: dict[Value, list[Value]],
        targets: Collection[Value],
    ) -> None:
        self._groups, self._group_of, self._readers, self._targets = groups, group_of, readers, targets
        self.of: dict[Value, Value] = {}
        self.under: set[Value] = set()
        self._over: dict[Value, Value] = {}
        self._beside: dict[Value, list[tuple[Value, Value]]] = {}
        """By values: who reads which ground under one after it was written into, as it looks elsewhere."""

    def settle(self, values: Iterable[Value], follow: Callable[[set[Group], list[Group]], None]) -> list[Value]:
        """Lets joined values lie on others where that is safe; `follow` puts groups behind others.

        Gives the copies that are not made.
        """
        dropped: list[Value] = []
        for value in values:
            link = link_of(value)
            if link is None or link.ground.kind == kinds.INPUT or link.ground in self._targets:
                continue
            found = self.order(value, ())
            if found is not None:
                follow(*found)
                dropped += self.lay(value)
        return dropped

    def order(self, value: Value, others: Collection[Group]) -> Order | None:
        """Who writes into the ground of a value, and who must have read or made it before, these others too; None if
        that cannot be.

        Who comes behind a writer anyway may read the ground late, if this and all that lies on it leaves that alone.
        """
        link = link_of(value)
        assert link is not None
        ground, cover = link.ground, link.reader
        mine = {self._group_of[part] for part in self._parts(value) if link.stays or part is not cover}
        if (not link.stays and self._group_of[cover] in mine) or ground in self.under:
            return None
        early = {*others, *[self._group_of[part] for part in self._parts(ground)]}
        below, above = self._chain(ground, self.of), self._chain(value, self._over)
        for group in mine:
            own = [part for part in group.members if part.into is not None and part.into.source in above]
            reading = [(m, r.source) for m in group.members if m is not cover for r in m.reads if r.source in below]
            if not all(self._is_spared(m, source, own) for m, source in reading):
                return None
        beside: list[tuple[Value, Value]] = []
        for reader, source in [*((r, ground) for r in self._readers.get(ground, ())), *self._beside.get(ground, ())]:
            group = self._group_of[reader]
            if reader is cover or group in mine:
                continue
            if not _is_behind(group, mine):
                early.add(group)
            elif all(self._is_spared(reader, source, kinds.writers(one)) for one in above):
                beside.append((reader, source))
            else:
                return None
        early -= mine
        if any(_is_behind(group, mine) for group in early):
            return None
        self._beside[value] = beside
        return mine, sorted(early, key=lambda g: g.number)

    def shares(self, value: Value) -> bool:
        """Whether a value has one memory with others, so that nobody may give it another one."""
        return value in self.of or value in self.under

    def is_over(self, joined: Value, old: Value, mine: Collection[Group]) -> bool:
        """Whether the groups that join a value may do so over an old one that they read."""
        if self.shares(joined):
            return False
        readers = [reader for reader in self._readers.get(old, ()) if self._group_of[reader] in mine]
        return all(self._is_spared(reader, old, joined.parts) for reader in readers)

    def bottom(self, joined: Value) -> Value:
        """The lowest of those that a value lies on, itself if there is none."""
        while joined in self.of:
            joined = self.of[joined]
        return joined

    def lay(self, value: Value) -> list[Value]:
        """Lets a value lie on its ground: the copy that is not made, if there was one."""
        link = link_of(value)
        assert link is not None
        ground, cover = link.ground, link.reader
        self.of[value] = ground
        self._over[ground] = value
        self.under.add(ground)
        if link.stays:
            return []
        value.parts = tuple([part for part in value.parts if part is not cover])
        for part in value.parts:
            part.after = tuple([earlier for earlier in part.after if earlier is not cover])
        self._readers[ground] = [reader for reader in self._readers[ground] if reader is not cover]
        group = self._group_of.pop(cover)
        group.members.remove(cover)
        group.full.discard(cover)
        if not group.members:
            self._groups.remove(group)
        return [cover]

    def _parts(self, value: Value) -> list[Value]:
        """What puts a value into memory, its grounds included."""
        found = list(kinds.writers(value))
        while value in self.of:
            value = self.of[value]
            found += kinds.writers(value)
        return [part for part in found if part in self._group_of]

    def _is_spared(self, reader: Value, ground: Value, parts: Collection[Value]) -> bool:
        """Whether what is written into a ground changes nothing there that a reader has yet to read: it reads other
        places, or is in a loop that reads the places that it then writes.
        """
        group = self._group_of[reader]
        own = [part for part in parts if self._group_of.get(part) is group]
        return all(
            part.into is not None
            and (are_apart(read, part.into) or (own == [part] and group.kind == LOOP and _is_same(read, part.into)))
            for read in reader.reads
            if read.source is ground
            for part in parts
        )

    @staticmethod
    def _chain(value: Value, onward: Mapping[Value, Value]) -> dict[Value, None]:
        found = {value: None}
        while value in onward:
            value = onward[value]
            found[value] = None
        return found


def _is_behind(group: Group, writers: Collection[Group]) -> bool:
    return any(group.behind >> w.number & 1 for w in writers)


class Link(NamedTuple):
    """What a value could lie on, who reads it for that, and whether this reader stays."""

    ground: Value
    reader: Value
    stays: bool


_GROUNDS = (kinds.JOINED, kinds.RESULT, kinds.INPUT)


def link_of(value: Value) -> Link | None:
    """What a value is with a part changed: a joined value what it has a copy of, over which other parts are put, a
    result the operand that its operation begins with a copy of.
    """
    if value.kind == kinds.RESULT:
        return _link_of_result(value)
    if value.kind != kinds.JOINED or len(value.parts) < 2:
        return None
    first = value.parts[0]
    if first.op is not None or first.kind != kinds.ELEMENTWISE or first.numel != value.numel or first.after:
        return None
    (read,) = first.reads
    fits = read.source.kind in _GROUNDS and read.is_whole(value.numel)
    return Link(read.source, first, False) if fits and read.source.dtype is value.dtype else None


def _link_of_result(value: Value) -> Link | None:
    call = value.call
    # Sums that products are added to belong to strands, whose groups may not wait for readers.
    if call is None or call.op not in CHANGING:
        return None
    pairs = [[one.slots[slot].index for slot in pair] for one in call.launches for pair in one.in_place]
    made = [at for at, number in pairs if call.results[number - len(call.reads)] is value]
    if not made:
        return None
    read = call.reads[made[0]]
    again = sum(r.source is read.source for r in call.reads) > 1
    fits = read.source.kind in _GROUNDS and read.is_whole(value.numel) and read.source.numel == value.numel
    return Link(read.source, call, True) if fits and not again else None


def are_apart(one: Read, other: Read) -> bool:
    """Whether two reads of one memory have no element in common, as far as ranges of places show it: of all, or within
    what both repeat at a common distance, as columns of a matrix do.
    """
    if one.picked is not None or other.picked is not None:
        return False
    dims = [*one.over(one.shape), *other.over(other.shape)]
    for period in {0, *(abs(step) for _, step in dims if isinstance(step, int))}:
        (low, high), (begin, end) = _range(one, period), _range(other, period)
        fits = not period or (high < period and end < period)
        if fits and (high < begin or end < low):
            return True
    return False


def _range(read: Read, period: int) -> tuple[int, int]:
    """The first and the last place of a read, without steps of whole periods, counted within one; 0 is none."""
    low = high = read.offset
    for n, step in read.over(read.shape):
        if not period or step % period:
            low, high = low + min(0, (n - 1) * step), high + max(0, (n - 1) * step)
    start = low % period if period else low
    return start, start + high - low


def _is_same(one: Read, other: Read) -> bool:
    own = one.picked is None and other.picked is None and one.offset == other.offset
    return own and one.over(one.shape) == other.over(other.shape)


def memory(of: Mapping[Value, Value]) -> list[tuple[Value, Value]]:
    """The pairs of a value and its ground, the last values first."""
    return sorted(of.items(), key=lambda pair: -pair[0].index)
