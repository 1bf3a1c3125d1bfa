"""Cheap values go to the kernel that reads them, where it can compute them from what is in memory anyway.

In: a partition, the values that the caller wants, and what reads each value. Out: the partition with less to store.
Must not know: kernel text, memory.

Values are grouped with their operands, so a derivative such as 1 - t * t is computed beside t, in the forward pass, and
kept for the backward pass. Where t is kept as well, computing it again costs less than a store and a load.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import Partition
from tracejit.schedule.spaces import CALL, Group
from tracejit.schedule.values import Read, Value


def sink(partition: Partition, targets: Collection[Value], readers: Mapping[Value, list[Value]]) -> None:
    """Moves what can be computed by its only reader among the groups."""
    for group in list(partition.groups):
        if group.kind != CALL:
            _sink_members(partition, group, readers, targets)
    partition.forget_cuts()


def is_cheap(value: Value) -> bool:
    """Whether a value may be computed where it is read."""
    return (
        value.kind == kinds.ELEMENTWISE
        and value.op is not None
        and value.into is None
        and not value.after
        and cost.work(value) <= cost.RECOMPUTED
    )


def _sink_members(
    partition: Partition, group: Group, readers: Mapping[Value, list[Value]], targets: Collection[Value]
) -> None:
    to: dict[Value, Group] = {}
    for value in reversed(group.members):
        if value in targets or value not in group.full or not is_cheap(value):
            continue
        places = {to.get(r, partition.group_of[r]) for r in readers.get(value, ())}
        if len(places) == 1:
            (place,) = places
            if place is not group and place.kind != CALL and _reads_alike(value, place, readers[value]):
                to[value] = place
    if not to:
        return
    stays = [v for v in group.members if v not in to]
    stored = {v for v in stays if v in targets or any(partition.group_of[r] is not group for r in readers.get(v, ()))}
    stuck: list[Value] = list(to)
    while stuck:
        # What would move beside one that does not would need another load, not one less.
        stuck = [v for v, place in to.items() if not _can_move(partition, v, place, to, stored, readers[v])]
        for value in stuck:
            del to[value]
    for place in dict.fromkeys(to.values()):
        moved = [v for v in group.members if to.get(v) is place]
        if _pays(group, place, moved, readers):
            _move(partition, group, place, moved)


def _can_move(
    partition: Partition,
    value: Value,
    place: Group,
    to: dict[Value, Group],
    stored: Collection[Value],
    readers: list[Value],
) -> bool:
    """Whether the operands of a value move along or are in memory, and all its readers are where it goes."""
    for read in value.reads:
        if to.get(read.source) is not place and not (read.source in stored and read.is_whole(value.numel)):
            return False
    return all(to.get(r, partition.group_of[r]) is place for r in readers)


def _reads_alike(value: Value, place: Group, readers: list[Value]) -> bool:
    """Whether the readers want element k of the value for their element k."""
    if value.numel != place.numel:
        return False
    return all(reads_whole(r, value) for r in readers)


def reads_whole(reader: Value, value: Value) -> bool:
    """Whether a reader wants element k of a value for its element k, wherever it reads it."""
    reads: list[Read] = [read for read in reader.reads if read.source is value]
    if reader.kind == kinds.REDUCTION:
        return all(read.is_whole(value.numel) for read in reads)
    return reader.numel == value.numel and all(read.is_whole(value.numel) for read in reads)


def _pays(group: Group, place: Group, moved: list[Value], readers: Mapping[Value, list[Value]]) -> bool:
    """Whether no more is loaded than before."""
    gone = set(moved)
    already = {read.source for member in place.members for read in member.reads}
    loads = {read.source for v in moved for read in v.reads} - gone - already
    saved = {v for v in moved if any(r not in gone for r in readers[v])}
    return len(loads) <= len(saved)


def _move(partition: Partition, group: Group, place: Group, moved: list[Value]) -> None:
    if partition.refusal(place, moved) is not None:
        return
    gone = set(moved)
    group.members = [v for v in group.members if v not in gone]
    group.full -= gone
    place.members = sorted([*place.members, *moved], key=lambda v: v.index)
    place.full |= gone
    for value in moved:
        partition.group_of[value] = place
    for changed in (group, place):
        partition.renew(changed)
