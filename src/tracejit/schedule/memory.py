"""Where intermediate values live: buffers with lifetimes in stages, placed in one arena.

In: buffers with their first and last stage. Out: an offset for each, and the size of the arena.
Must not know: what is in a buffer.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from tracejit.symbols import present

ALIGNMENT = 64
_offset = operator.attrgetter("offset")


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


def place(buffers: Iterable[Buffer]) -> int:
    """Gives each arena buffer its offset, lowest first fit in order of first use; the arena's size in bytes.

    >>> early, late, long = Buffer("arena", 0, 100, 0, 1), Buffer("arena", 0, 100, 2, 3), Buffer("arena", 0, 64, 1, 2)
    >>> place([early, late, long]), early.offset, late.offset, long.offset
    (192, 0, 0, 128)
    """
    size = 0
    # In the order in which they lie.
    placed: list[Buffer] = []
    # Where sizes stay open the places are those of the present ones: whoever has others places the buffers again.
    nbytes = {b: present(b.nbytes) for b in buffers}
    for buffer in sorted(nbytes, key=lambda b: (b.first, -nbytes[b])):
        first, room, at = buffer.first, nbytes[buffer], 0
        placed = [other for other in placed if other.last >= first]
        for other in placed:
            if at + room <= other.offset:
                break
            end = other.offset + nbytes[other]
            end += -end % ALIGNMENT
            if end > at:
                at = end
        buffer.offset = at
        bisect.insort(placed, buffer, key=_offset)
        size = max(size, at + room)
    return size
