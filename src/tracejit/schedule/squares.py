"""Squares that a loop reads both as they lie and turned: what a tile reads and what its mirror image reads is the same
memory.

In: a group. Out: whether it does.
Must not know: kernel text, tiles.
"""

from __future__ import annotations

from tracejit.schedule.spaces import LOOP, Group
from tracejit.schedule.values import VIRTUAL, Value, split


def is_mirrored(group: Group) -> bool:
    """Whether a group reads squares of one value along their rows and along their columns.

    Its rows then stand for equal shares of each square, not for themselves.
    """
    if group.kind != LOOP or not group.cuts:
        return False
    inside, cuts = set(group.members), sorted(group.cuts, reverse=True)
    along: list[tuple[Value, object, object]] = []
    across: list[tuple[Value, object, object]] = []
    for value in group.members:
        for read in value.reads:
            if read.source in inside or read.source.kind == VIRTUAL or read.picked is not None:
                continue
            *_, down, aside = split(read.over(value.shape), [*cuts, 1], group.numel)
            if aside == 1:
                along.append((read.source, read.offset, down))
            elif down == 1:
                across.append((read.source, read.offset, aside))
    if not any(one == other for one in along for other in across):
        return False
    inner = cuts[-1]
    run = (cuts[-2] if len(cuts) > 1 else group.numel) // inner
    # Where sizes are open, nothing is decided before here.
    return bool(run == inner)
