"""Programs that the second caches hold: on several threads, their time goes where memory changes hands.

In: a partition. Out: whether it is one of such a program; then groups that threads can go through by rows.
Must not know: kernel text, memory.

A line that one CPU wrote takes another one 6 ns to read, and a meeting of the threads up to a microsecond; half of a
product of 64 rows with a matrix of 128x128 takes seven. What makes rows beside sums of columns is parted from these,
which need all rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain

from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import Partition
from tracejit.schedule.spaces import CALL, COLUMN
from tracejit.schedule.values import Value
from tracejit.symbols import present


def is_near(partition: Partition, targets: Collection[Value]) -> bool:
    """Whether what groups read from memory, and the values that the caller wants, stay near the CPUs."""
    touched: set[Value] = set()
    nbytes = 0
    for value in chain(targets, _loaded(partition)):
        if value not in touched and value.kind != kinds.VIRTUAL:
            touched.add(value)
            nbytes += present(value.numel) * value.dtype.itemsize
            if nbytes > cost.NEAR_BYTES[1]:
                return False
    return cost.is_near(nbytes)


def _loaded(partition: Partition) -> Iterator[Value]:
    """What groups read from memory, perhaps again and again."""
    for group in partition.groups:
        for value in group.members:
            for read in value.reads:
                if partition.group_of.get(read.source) is not group:
                    yield read.source


def part_columns(partition: Partition) -> None:
    """Gives what makes operands of library operations beside sums of columns a kernel of its own."""
    called = {r.source for group in partition.groups if group.kind == CALL for r in group.members[0].reads}
    for group in list(partition.groups):
        made = [value for value in group.members if value in group.full]
        if group.kind == COLUMN and not called.isdisjoint(made):
            partition.part(group, made)
