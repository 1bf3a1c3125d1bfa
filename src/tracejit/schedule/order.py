"""The order of groups: the stage that each goes into, and which stages are a strand.

In: groups, and what must be done before each. Out: `Order`.
Must not know: kernel text, memory, the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from tracejit.schedule import cost
from tracejit.schedule.spaces import Group
from tracejit.schedule.strands import Parting, Strand
from tracejit.schedule.values import Value


@dataclass(slots=True)
class Order:
    """The first stage of each group, the number of stages, and the strands of more than one stage."""

    stage: dict[Group, int] = field(default_factory=dict)
    stages: int = 0
    strands: list[Strand] = field(default_factory=list)


class _Ordering:
    """Puts groups into stages: each into the first one in which everything before it is done, but what cannot be part
    of a strand waits for its end.
    """

    def __init__(
        self,
        before: Mapping[Group, set[Group]],
        followed: Mapping[Group, set[Group]],
        lengths: Mapping[Group, int],
        partings: Mapping[Group, Parting | None],
        late: bool,
    ) -> None:
        self.out = Order()
        self._before = before
        self._followed = followed
        self._lengths = lengths
        self._partings = partings
        self._left = {group: len(found) for group, found in before.items()}
        self._after: dict[Group, list[Group]] = {}
        for group, found in before.items():
            for earlier in found:
                self._after.setdefault(earlier, []).append(group)
        # Whatever lies behind a group has less behind it.
        ranked = sorted(before, key=lambda g: (g.behind.bit_count(), g.number))
        self._rank = {group: rank for rank, group in enumerate(ranked)}
        self._tails = self._measure_tails() if late else {}
        self._begin(Strand())
        self._run()

    def _measure_tails(self) -> dict[Group, int]:
        """Stages from the beginning of each group to the end of all that comes after it."""
        tails: dict[Group, int] = {}
        for group in reversed(self._rank):
            tails[group] = self._lengths[group] + max((tails[g] for g in self._after.get(group, ())), default=0)
        return tails

    def _first(self, ready: list[Group]) -> list[Group]:
        """What of the groups to begin with where no strand goes on: all of them, unless what can wait shall.

        Then those that cannot be part of a strand come first, so that they do not keep one from beginning, and of the
        others those that most comes after.
        """
        if not self._tails:
            return ready
        whole = [group for group in ready if self._partings[group] is None]
        if whole or not ready:
            return whole
        most = max(tail for group, tail in self._tails.items() if group not in self.out.stage)
        return [group for group in ready if self._tails[group] == most] or ready

    def _can_wait(self, group: Group) -> bool:
        """Whether all that comes right after a group waits for the end of the strand anyway."""
        after = self._after.get(group, ()) if self._tails else ()
        return bool(after) and all(
            self._partings[later] is None or not self._strand.groups.isdisjoint(self._followed.get(later, ()))
            for later in after
        )

    def _begin(self, strand: Strand) -> None:
        self._strand = strand
        self._waiting: set[Group] = set()
        self._held: set[Value] = set()
        self._held_bytes = 0

    def _run(self) -> None:
        ready = [group for group, left in self._left.items() if not left]
        # What waits for the end of the strand: much, and nobody need look at it before.
        waiting: list[Group] = []
        running: dict[int, list[Group]] = {}
        while ready or waiting or running:
            stage = self.out.stages
            ready.sort(key=self._rank.__getitem__)
            goes_on = self._strand.groups.issuperset(chain.from_iterable(running.values()))
            taken = self._go_on(ready) if goes_on else []
            if not taken and not (goes_on and running):
                self._end()
                ready = sorted(ready + waiting, key=self._rank.__getitem__)
                waiting = []
                taken = self._first(ready)
                if not running:
                    self._begin(self._strand_of(taken))
            for group in taken:
                self.out.stage[group] = stage
            for group in taken:
                self._wait_with(group)
                running.setdefault(stage + self._lengths[group] - 1, []).append(group)
            waiting += [group for group in ready if group in self._waiting]
            ready = [group for group in ready if group not in self.out.stage and group not in self._waiting]
            for group in running.pop(stage, ()):
                for later in self._after.get(group, ()):
                    self._left[later] -= 1
                    if not self._left[later]:
                        (waiting if later in self._waiting else ready).append(later)
            self.out.stages += 1
        self._end()

    def _way(self, strand: Strand, group: Group) -> Parting | None:
        """How a group is parted if it can be the next of a strand."""
        way = self._partings[group]
        if way is None or not strand.fits(way) or not strand.groups.isdisjoint(self._followed.get(group, ())):
            return None
        return way

    def _takes(self, strand: Strand, group: Group) -> bool:
        """Goes on with a group if it can be the next of the strand."""
        way = self._way(strand, group)
        if way is not None:
            strand.take(group, way)
        return way is not None

    def _strand_of(self, groups: list[Group]) -> Strand:
        """A strand that begins with all of these groups; empty if one of them cannot be part of it."""
        strand = Strand()
        return strand if all(self._takes(strand, group) for group in groups) else Strand()

    def _go_on(self, ready: list[Group]) -> list[Group]:
        """The next stage of the strand; nothing if there is none, or too much memory is held for what waits."""
        if not self._strand.groups:
            return []
        # What cannot be the next of a strand will not be later: it only grows.
        ways = [self._way(self._strand, group) for group in ready]
        if not any(ways):
            # Nobody will ask what waits: to find out goes through all that comes later.
            return []
        for group, way in zip(ready, ways, strict=True):
            if way is None:
                self._wait(group)
        if self._held_bytes > cost.HELD_BYTES:
            return []
        going = [group for group in ready if group not in self._waiting]
        return [group for group in going if not self._can_wait(group) and self._takes(self._strand, group)]

    def _held_up(self, group: Group) -> list[Group]:
        """What comes after a group and waits for nothing but groups that wait for the end of the strand."""
        found = []
        for later in self._after.get(group, ()):
            left = [b for b in self._before[later] if b not in self.out.stage]
            if left and self._waiting.issuperset(left):
                found.append(later)
        return found

    def _wait_with(self, group: Group) -> None:
        """Takes note of what waits now that a group has its stage."""
        for later in self._held_up(group) if self._waiting else ():
            self._wait(later)

    def _wait(self, first: Group) -> None:
        """Takes note of a group that waits for the end of the strand, and of all that then wait for nothing else."""
        rest = [first]
        while rest:
            group = rest.pop()
            if group in self._waiting:
                continue
            self._waiting.add(group)
            for value in {r.source for v in group.members for r in v.reads} - self._held:
                if self._strand.writes(value):
                    self._held.add(value)
                    self._held_bytes += value.numel * value.dtype.itemsize
            rest += self._held_up(group)

    def _end(self) -> None:
        """Keeps a strand that is one: in a single stage nobody waits."""
        if len({self.out.stage[group] for group in self._strand.groups}) > 1:
            self.out.strands.append(self._strand)
        self._begin(Strand())


def order(
    before: Mapping[Group, set[Group]],
    followed: Mapping[Group, set[Group]],
    lengths: Mapping[Group, int],
    partings: Mapping[Group, Parting | None],
    *,
    late: bool = False,
) -> Order:
    """The order of the groups that are the keys of `before`, the groups that must be done right before each.

    `followed` are those of them that read memory that it writes over, `lengths` the stages that each takes, `partings`
    how each can be parted, if it can. If it is `late`, what can wait does: gradients of weights until their updates are
    due, which then follow on the same threads.
    """
    return _Ordering(before, followed, lengths, partings, late).out
