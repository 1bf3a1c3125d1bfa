"""Where intermediate values live: buffers with lifetimes in stages, placed in one arena.

In: buffers with their first and last stage. Out: an offset for each, and the size of the arena.
Must not know: what is in a buffer.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

from tracejit.symbols import present

ALIGNMENT = 64


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory of a program: input or output `index` of the call, or a place in the arena.

    `first` and `last` are the stages between which it is in use.
    """

    kind: str
    index: int
    nbytes: int
    first: int = 1 << 60
    last: int = -1
    offset: int = 0

    def live(self, first: int, last: int) -> None:
        """Extends the lifetime."""
        if first < self.first:
            self.first = first
        if last > self.last:
            self.last = last


class _Arena:
    """What of an arena is free: holes in the order in which they lie, the last of which has no end."""

    def __init__(self) -> None:
        self._begins: list[int] = [0]
        self._ends: list[float] = [math.inf]

    def take(self, nbytes: int) -> tuple[int, int]:
        """The lowest place of this size, with the end of what is no longer free."""
        for k, begin in enumerate(self._begins):
            if begin + nbytes <= self._ends[k]:
                break
        end = begin + nbytes
        end += -end % ALIGNMENT
        if end == self._ends[k]:
            del self._begins[k], self._ends[k]
        else:
            self._begins[k] = end
        return begin, end

    def give(self, begin: int, end: int) -> None:
        """Takes back what was taken."""
        # There is a hole behind every place.
        k = bisect.bisect(self._begins, begin)
        if self._begins[k] == end:
            self._begins[k] = begin
        else:
            self._begins.insert(k, begin)
            self._ends.insert(k, end)
        if k and self._ends[k - 1] == begin:
            self._ends[k - 1] = self._ends[k]
            del self._begins[k], self._ends[k]


def place(buffers: Iterable[Buffer]) -> int:
    """Gives each arena buffer its offset, lowest first fit in order of first use; the arena's size in bytes.

    >>> early, late, long = Buffer("arena", 0, 100, 0, 1), Buffer("arena", 0, 100, 2, 3), Buffer("arena", 0, 64, 1, 2)
    >>> place([early, late, long]), early.offset, late.offset, long.offset
    (192, 0, 0, 128)
    """
    size, arena = 0, _Arena()
    # What ends first is first.
    used: list[tuple[int, int, int]] = []
    # Where sizes stay open the places are those of the present ones: whoever has others places the buffers again.
    nbytes = {b: present(b.nbytes) for b in buffers}
    for buffer in sorted(nbytes, key=lambda b: (b.first, -nbytes[b])):
        while used and used[0][0] < buffer.first:
            _, begin, end = heapq.heappop(used)
            arena.give(begin, end)
        buffer.offset, end = arena.take(nbytes[buffer])
        heapq.heappush(used, (buffer.last, buffer.offset, end))
        size = max(size, buffer.offset + nbytes[buffer])
    return size
