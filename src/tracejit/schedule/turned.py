"""Loops that read along their columns in memory, which turn what they read tile by tile; and squares that are read both
as they lie and turned: what a tile reads and what its mirror image reads is the same memory.

In: a group. Out: whether it does, and what its rows stand for.
Must not know: kernel text, tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracejit.schedule.spaces import LOOP, Group
from tracejit.schedule.values import VIRTUAL, Read, split

TURNED_SIZES = (4, 8)
"""Sizes in bytes of the elements that are turned; smaller ones are read one by one."""


def _reads(group: Group) -> Iterator[tuple[Read, int, int]]:
    """What a loop over rows reads of memory, with its steps from row to row and in a row."""
    if group.kind != LOOP or not group.cuts:
        return
    inside, cuts = set(group.members), sorted(group.cuts, reverse=True)
    for value in group.members:
        for read in value.reads:
            if read.source not in inside and read.source.kind != VIRTUAL and read.picked is None:
                *_, down, aside = split(read.over(value.shape), [*cuts, 1], group.numel)
                yield read, down, aside


def rows_of_matrix(group: Group) -> int:
    """How many rows follow one another along the last dimension of the rows."""
    *above, inner = sorted(group.cuts, reverse=True)
    return (above[-1] if above else group.numel) // inner


def is_turned(group: Group) -> bool:
    """Whether what lies side by side in memory is one below the other in a loop's rows.

    Its rows then stand for equal shares of each matrix, not for themselves. Edge: it is also told of rows of a few
    elements, which are woven and stand for themselves.
    """
    return any(
        down == 1 and aside not in (0, 1) and read.source.dtype.itemsize in TURNED_SIZES
        for read, down, aside in _reads(group)
    )


def is_mirrored(group: Group) -> bool:
    """Whether a group reads squares of one value along their rows and along their columns."""
    reads = [(read.source, read.offset, down, aside) for read, down, aside in _reads(group)]
    along = [(source, offset, down) for source, offset, down, aside in reads if aside == 1]
    across = [(source, offset, aside) for source, offset, down, aside in reads if aside != 1 and down == 1]
    if not any(one == other for one in along for other in across):
        return False
    # Where sizes are open, nothing is decided before here.
    return bool(rows_of_matrix(group) == min(group.cuts))
