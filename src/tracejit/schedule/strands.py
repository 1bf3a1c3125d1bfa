"""Strands: stages that threads go through without meeting, each on its own part of the rows.

In: groups, with what they read and write. Out: what can be part of a strand.
Must not know: kernel text, addresses, the number of threads.

Rows of a batch go through layers, or through steps of a recurrence, without a look at each other. Threads that keep to
their rows find what they wrote in their own caches, and wait for nobody. Whatever looks at all rows, such as the
gradient of a weight, waits until the strand ends.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import compress
from math import gcd

from tracejit.schedule.spaces import CALL, LOOP, ROW, SCANS, Group
from tracejit.schedule.turned import is_turned, rows_of_matrix
from tracejit.schedule.values import REDUCTION, VIRTUAL, Read, Value


@dataclass(slots=True)
class Parting:
    """How a group's units can be parted: the k-th of `parts` equal parts of them reads and writes only the k-th part of
    the memory of what is `along`. `touched` is all that it reads or writes, `writes` what it writes.

    Nobody changes it: it is not frozen because it is made often.
    """

    parts: int
    along: frozenset[Value]
    touched: frozenset[Value]
    writes: frozenset[Value]


def _first_size(read: Read, shape: tuple[int, ...]) -> int:
    """The size of the read's first dimension over `shape` if that runs through the whole source, equal parts of it in
    order, and each of its steps stays in its own part; else 0.
    """
    dims = read.over(shape)
    if not dims or read.picked is not None:
        return 0
    (size, step), rest = dims[0], dims[1:]
    low = read.offset + sum((n - 1) * s for n, s in rest if s < 0)
    high = read.offset + sum((n - 1) * s for n, s in rest if s > 0)
    return size if step > 0 and size * step == read.source.numel and low >= 0 and high < step else 0


class _Accesses:
    """What a group reads and writes, while it is collected."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.along: set[Value] = set()
        self.across: set[Value] = set()

    def add(self, source: Value, size: int) -> None:
        """Takes note of an access that runs along a first dimension of this size, or along none."""
        if size > 1:
            self.parts = gcd(self.parts, size)
            self.along.add(source)
        else:
            self.across.add(source)

    def parting(self, writes: set[Value]) -> Parting | None:
        """What was found; None if there are no parts."""
        if self.parts < 2:
            return None
        along, touched = frozenset(self.along - self.across), frozenset(self.along | self.across)
        return Parting(self.parts, along, touched, frozenset(writes))


def parting(group: Group) -> Parting | None:
    """How a group can be parted, if it can. Edge: not to be asked where sizes are open, since it compares them."""
    if group.kind == CALL:
        return _parting_of_call(group.members[0])
    if group.kind not in (LOOP, ROW, *SCANS):
        return None
    inner = min(group.cuts, default=group.numel) if group.kind == LOOP else group.unit
    rows = group.layout[0] if group.kind in SCANS else group.numel // max(inner, 1)
    cut = rows > 1
    if is_turned(group):
        # A part has whole matrices.
        rows //= rows_of_matrix(group)
    found = _Accesses(rows if cut or group.kind != LOOP else group.numel)
    inside = frozenset(group.members)
    writes = set()
    for value in group.members:
        shape = value.reads[0].shape if value.kind == REDUCTION and value.reads else value.shape
        for read in value.reads:
            if read.source not in inside and read.source.kind != VIRTUAL:
                found.add(read.source, _first_size(read, shape))
        own = value
        if value.into is None:
            found.add(value, value.numel)
        else:
            own = value.into.source
            found.add(own, _first_size(value.into, value.shape))
        writes.add(own)
    return found.parting(writes)


def joined(one: Parting, other: Parting) -> Parting:
    """How a group can be parted that does what two others do."""
    touched = one.touched | other.touched
    across = (one.touched - one.along) | (other.touched - other.along)
    return Parting(gcd(one.parts, other.parts), touched - across, touched, one.writes | other.writes)


class Partings:
    """How the groups of one program can be parted, if they can; islands of a kind, and calls that are alike, are asked
    about once.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[int, list[bool]] | None] = {}

    def of(self, group: Group) -> Parting | None:
        """As `parting`."""
        first = group.members[0]
        if first.body is None and group.kind != CALL:
            return parting(group)
        writes = first.results if group.kind == CALL else group.members
        touched = [*[read.source for read in first.reads], *writes]
        # A body is that of islands whose operands are alike in all but the memory that they are in.
        key: Hashable = first.body or _likeness(first, touched)
        if key not in self._known:
            way = parting(group)
            self._known[key] = None if way is None else (way.parts, [value in way.along for value in touched])
        known = self._known[key]
        if known is None:
            return None
        parts, along = known
        return Parting(parts, frozenset(compress(touched, along)), frozenset(touched), frozenset(writes))


def _likeness(call: Value, touched: list[Value]) -> Hashable:
    """What the parting of a call follows from; calls of the same launches have operands of the same layouts."""
    return id(call.launches), *[(touched.index(r.source), r.source.numel, r.offset) for r in call.reads]


def _parting_of_call(call: Value) -> Parting | None:
    """How all launches of a call can be parted: part k of one needs no more than part k of those before."""
    launches = call.launches
    if not launches or any(launch.parts < 2 for launch in launches):
        return None
    found = _Accesses(gcd(*(launch.parts for launch in launches)))

    along = set(launches[0].along).intersection(*[launch.along for launch in launches[1:]])
    for k, read in enumerate(call.reads):
        size = _first_size(read, read.shape) if k in along else 0
        if size % found.parts:
            size = 0
        found.add(read.source, found.parts if size else 0)
    for k, result in enumerate(call.results, len(call.reads)):
        found.add(result, found.parts if k in along else 0)
    return found.parting(set(call.results))


class Strand:
    """Groups whose stages threads may go through without meeting; each of them can be parted into `parts`."""

    def __init__(self) -> None:
        self.groups: set[Group] = set()
        self.parts = 0
        self._along: set[Value] = set()
        self._across: set[Value] = set()
        self._written: set[Value] = set()

    def fits(self, way: Parting) -> bool:
        """Whether a group that is parted this way can come next: parts of it need no other part of what is here."""
        if gcd(self.parts, way.parts) < 2:
            return False
        for value in way.touched:
            changes = value in way.writes or value in self._written
            if changes and (value in self._across or (value in self._along and value not in way.along)):
                return False
        return True

    def take(self, group: Group, way: Parting) -> None:
        """Goes on with a group that fits."""
        self.groups.add(group)
        self.parts = gcd(self.parts, way.parts)
        self._along |= way.along
        self._across |= way.touched - way.along
        self._written |= way.writes

    def writes(self, value: Value) -> bool:
        """Whether a value is written here."""
        return value in self._written

    def keeps_apart(self, value: Value) -> bool:
        """Whether each part of the groups keeps to its own part of a value's memory."""
        return value in self._along and value not in self._across
