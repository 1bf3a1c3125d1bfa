"""Whether calls go on eagerly: those at new sizes that never come again, and those that follow a tree, where they take
longer than eager ones.

In: which calls met new sizes, and how long they took. Out: a choice for the next one.
Must not know: trees.

A branch for new sizes takes time once, and saves some whenever these sizes come again. Where they do not, or where so
many do that the tree does not keep them, nothing comes of it but the call itself: such calls had better take a branch
for all sizes, if there is one, and are else compared with eager ones. And a call that must stop for many
looks at memory, and is never replayed, has more to do than an eager one.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Hashable
from typing import Any

from tracejit.tensor.tensor import Tensor

FIRST = 8
"""Calls at new sizes that let the tree grow, whatever the sizes: most functions have few."""
SIZES = 256
"""Branches that repeat another at other sizes, at one place: beyond that the one used longest ago is dropped."""
FOLLOWED = 128
"""Followed calls since the last proof from which on they are compared with eager ones: more may be found before."""
FAILED, FOLLOWED_IN_VAIN = 3, 32
"""Proofs that failed, and the calls from which on then: what stands in their way seldom goes."""
_REMEMBERED = 4096
"""Sizes that are remembered."""
_LOOKED_AT = 32
"""Elements of a container whose sizes tell calls apart."""
_WINDOW = 64
"""Calls over which the share of those at new sizes is a moving mean."""
_TRIED, _SETTLING, _CYCLE = 10, 2, 512
"""Calls that try either way, the first of them that do not count, and calls after which both are tried again: then
after twice as many, and so on.
"""
_HOPELESS = 2.0
"""So many times the other way's time, and eager is not tried to the end."""


class Contest:
    """Two ways to do the same, of which one is eager: both are tried, then the one that took less time is taken.

    >>> contest = Contest()
    >>> for _ in range(2 * _TRIED):
    ...     contest.end(1.0 if contest.goes_eagerly() else 2.0)
    >>> contest.goes_eagerly()
    True
    """

    def __init__(self) -> None:
        self._calls = 0
        self._cycle = _CYCLE
        self._eager = False
        self._times: dict[bool, list[float]] = {True: [], False: []}

    def goes_eagerly(self) -> bool:
        """Which way this call goes."""
        if self._calls == self._cycle:
            self._calls, self._cycle = 0, 2 * self._cycle
        if self._calls == 0:
            self._times = {True: [], False: []}
        eager, other = (self._times[way][_SETTLING:] for way in (True, False))
        known = bool(eager and other)
        if known and self._calls < 2 * _TRIED and min(eager) > _HOPELESS * statistics.median(other):
            self._calls = 2 * _TRIED
        if self._calls < 2 * _TRIED:
            self._eager = self._calls >= _TRIED
        else:
            self._eager = known and statistics.median(eager) < statistics.median(other)
        self._calls += 1
        return self._eager

    def end(self, seconds: float) -> None:
        """The call is done."""
        times = self._times[self._eager]
        if len(times) < _TRIED:
            times.append(seconds)


def sizes_of(value: Any, depth: int = 3) -> Hashable:
    """The sizes of the tensors in an argument, of long containers those of the first ones. Numbers are none: they may
    count calls.

    >>> import tracejit as tj
    >>> sizes_of(([tj.ones(2, 3), 4.5], {"x": tj.ones(7)}))
    (2, (2, (2, 3), None), (1, (7,)))
    """
    if isinstance(value, Tensor):
        return tuple(value._shape)
    if not depth or not isinstance(value, (list, tuple, dict)):
        return None
    first = itertools.islice(value.values() if isinstance(value, dict) else value, _LOOKED_AT)
    return (len(value), *[sizes_of(one, depth - 1) for one in first])


class Met:
    """Sizes that were met, by their hashes: two that have one only cost time.

    >>> met = Met()
    >>> met.again((2, 3)), met.again((2, 3))
    (False, True)
    """

    def __init__(self) -> None:
        self._marks: set[int] = set()

    def again(self, sizes: Hashable) -> bool:
        """Whether they were met before; they are now."""
        mark = hash(sizes)
        if mark in self._marks:
            return True
        if len(self._marks) >= _REMEMBERED:
            self._marks.clear()
        self._marks.add(mark)
        return False


class Pace:
    """What calls at new sizes do.

    >>> pace = Pace()
    >>> for n in range(FIRST + 2 * _TRIED):
    ...     pace.end(2.0 if pace.grows(n) else 1.0)
    >>> pace.grows(100)
    False
    """

    def __init__(self) -> None:
        self.met = 0
        self.share = 0.0
        self.eager = False
        """Whether this call goes on eagerly."""
        self.new = self.opened = False
        """Whether this call has met new sizes, and whether it ran a program for all sizes."""
        self.passing = False
        """Whether they are not likely to come again."""
        self._sizes = Met()
        self._contest = Contest()
        self._judged = False

    def _meet(self, sizes: Hashable) -> None:
        if self.new:
            return
        self.new = True
        self.met += 1
        again = self._sizes.again(sizes)
        kept = again and (self.met <= SIZES or self.share < 0.5)
        self.passing = self.met > FIRST and not kept

    def opens(self, sizes: Hashable) -> bool:
        """Whether the call, which has met new sizes, had better take what is for all sizes."""
        self._meet(sizes)
        return self.passing and not self._judged

    def grows(self, sizes: Hashable) -> bool:
        """Whether the call, which has met new sizes, lets the tree grow."""
        self._meet(sizes)
        if self.passing and not self._judged:
            self._judged = True
            self.eager = self._contest.goes_eagerly()
        return not self.eager

    def end(self, seconds: float) -> None:
        """A call that was followed is done."""
        self.share += (self.new - self.share) / _WINDOW
        if self._judged:
            self._contest.end(seconds)
        self.new = self.opened = self.passing = self.eager = self._judged = False
