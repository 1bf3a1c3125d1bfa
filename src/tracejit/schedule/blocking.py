"""Stages of a strand that a thread goes through block by block, with what one leaves in a cache for the next.

In: a strand, with the stages of its groups and how these can be parted. Out: `Blocked` stages.
Must not know: kernel text, addresses, the number of threads.

What follows a convolution (a bias, a norm, an activation, a residual, pooling) computes little: its time is that of
memory. Where the rows or images of a batch go through all of it without a look at each other, a few of them do so at a
time. What shares among its parts what it prepares, such as the packed panels of a product, is done for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from tracejit.schedule import cost
from tracejit.schedule.memory import Buffer
from tracejit.schedule.spaces import CALL, Group
from tracejit.schedule.strands import Parting, Strand
from tracejit.schedule.values import Value


@dataclass(frozen=True, slots=True)
class Blocked:
    """Groups of one launch each, in the order of their stages, that are done for `block` of `parts` at a time."""

    groups: tuple[Group, ...]
    block: int
    parts: int

    def read_again(self) -> set[Value]:
        """What one of the groups reads of what another one wrote."""
        found: set[Value] = set()
        made: set[Value] = set()
        for group in self.groups:
            found |= made.intersection(read.source for value in group.members for read in value.reads)
            for value in group.members:
                made.update((value, *value.results))
        return found


def _is_loose(group: Group) -> bool:
    """Whether parts of a group take no longer one by one than together."""
    launches = group.members[0].launches
    return group.kind != CALL or (len(launches) == 1 and launches[0].loose)


def blocked_of(
    strand: Strand,
    stage: Mapping[Group, int],
    lengths: Mapping[Group, int],
    partings: Mapping[Group, Parting | None],
    storage: Mapping[Value, Buffer],
) -> Iterator[Blocked]:
    """The stages of a strand that are done block by block: as many as follow one another with nothing but groups that
    are loose, if they go through more memory than a cache holds.
    """
    busy: dict[int, list[Group]] = {}
    for group in strand.groups:
        for step in range(lengths[group]):
            busy.setdefault(stage[group] + step, []).append(group)
    stages = [(at, all(map(_is_loose, busy[at]))) for at in sorted(busy)]
    for is_loose, together in groupby(stages, key=lambda pair: pair[1]):
        numbers = [at for at, _ in together]
        if not is_loose or len(numbers) < 2:
            continue
        groups = tuple([group for at in numbers for group in sorted(busy[at], key=lambda g: g.number)])
        along = {group: {storage[v] for v in _along(partings[group]) if v in storage} for group in groups}
        total = sum(buffer.nbytes for buffer in set().union(*along.values()))
        at_once = max(sum(buffer.nbytes for buffer in buffers) for buffers in along.values())
        block = cost.block(total, at_once, strand.parts)
        if block < strand.parts:
            yield Blocked(groups, block, strand.parts)


def _along(way: Parting | None) -> frozenset[Value]:
    return frozenset() if way is None else way.along
