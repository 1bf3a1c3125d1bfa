"""Where intermediate values live: buffers with lifetimes in stages, placed in one arena.

In: buffers with their first and last stage. Out: an offset for each, and the size of the arena.
Must not know: what is in a buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
        self.first = min(self.first, first)
        self.last = max(self.last, last)


def place(buffers: Iterable[Buffer]) -> int:
    """Gives each arena buffer its offset, lowest first fit in order of first use; the arena's size in bytes.

    >>> early, late, long = Buffer("arena", 0, 100, 0, 1), Buffer("arena", 0, 100, 2, 3), Buffer("arena", 0, 64, 1, 2)
    >>> place([early, late, long]), early.offset, late.offset, long.offset
    (192, 0, 0, 128)
    """
    size = 0
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (b.first, -b.nbytes)):
        placed = [other for other in placed if other.last >= buffer.first]
        at = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if at + buffer.nbytes <= other.offset:
                break
            end = other.offset + other.nbytes
            at = max(at, end + -end % ALIGNMENT)
        buffer.offset = at
        placed.append(buffer)
        size = max(size, at + buffer.nbytes)
    return size
