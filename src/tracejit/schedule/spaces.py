"""Spaces: what kernels go through, and where their members lie in it.

In: values. Out: a `Group`, and how its members see each other.
Must not know: which values come into a group.

A group's space is [outer, unit] elements:

* loop: element by element;
* row: reductions over the unit, and everything that reads the reduced values back;
* blocks: the same reductions where the unit is too long for one visit; reduced values leave the group;
* column: reductions over a part of `outer`; reduced values leave the group;
* strip: reductions over all of `outer`, and everything that reads the reduced values back;
* scan, backscan: scans along the unit, or along a part of `outer`, from the front or from the end;
* scatter: rows, the units, are added to those of a reduced value that an index says; it leaves the group;
* call: one library operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tracejit.ops import ops
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.values import Read, Value

LOOP, ROW, BLOCKS, COLUMN, STRIP, CALL = "loop", "row", "blocks", "column", "strip", "call"
SCATTER = "scatter"
SCANS = SCAN, BACKSCAN = "scan", "backscan"
SCATTERS = frozenset((ops.index_add, ops.scatter_add))
"""Operations that, as reductions, are sums at places that an index says."""


@dataclass(eq=False, slots=True)
class Group:
    """Values that one kernel computes; a member is `full` (outer * unit elements), else it has `beside` of them.

    `cuts` are the numbers of trailing units at which some read changes its step, `outside` what is read from memory.
    """

    number: int
    kind: str
    outer: int
    unit: int = 1
    layout: tuple[int, int, int] = (0, 0, 0)
    members: list[Value] = field(default_factory=list)
    full: set[Value] = field(default_factory=set)
    cuts: frozenset[int] = frozenset()
    outside: set[Value] = field(default_factory=set)
    behind: int = 0

    @property
    def numel(self) -> int:
        return self.outer * self.unit

    @property
    def keeps_rows(self) -> bool:
        """Whether its kernel keeps parts of rows from one visit to the next."""
        return self.kind == ROW or (self.kind in SCANS and self.layout[2] == 1)

    @property
    def reads_back(self) -> bool:
        """Whether members see what others were reduced to."""
        return self.kind in (ROW, STRIP)

    @property
    def beside(self) -> int:
        """The elements of a member that is not full: one for each row, or for each column of strips."""
        return self.unit if self.kind == STRIP else self.outer

    @property
    def reductions(self) -> list[Value]:
        return [v for v in self.members if v.kind == kinds.REDUCTION]


def relation(read: Read, value: Value, group: Group) -> str | None:
    """How `value` sees a member: "same" index, "row" (its one element for each row), or None for anything else."""
    source = read.source
    if source in group.full:
        return "same" if value.numel == source.numel and read.is_whole(source.numel) else None
    if value.numel == group.beside and read.is_whole(group.beside):
        return "same"
    return "row" if group.reads_back and is_row_read(read, value, group) else None


def is_row_read(read: Read, value: Value, group: Group) -> bool:
    """Whether a full member sees, in each row or column, the one element that another member has for it."""
    dims: tuple[tuple[int, int], ...] = (group.outer, 1), (group.unit, 0)
    if group.kind == STRIP:
        dims = (group.outer, 0), (group.unit, 1)
    return (
        read.offset == 0
        and value.numel == group.numel
        and read.source.numel == group.beside
        and read.over(value.shape) == tuple([dim for dim in dims if dim[0] > 1 or dim[1] == 0])
    )


def read_back(values: list[Value]) -> frozenset[tuple[int, int, int]]:
    """The layouts of sums of columns that come to what has as many rows again, or that are sums of sums and are made
    something of: a small matter, as those of the images of a batch.
    """
    made: dict[Value, set[tuple[int, int, int]]] = {}
    found: set[tuple[int, int, int]] = set()
    for value in values:
        if value.kind == kinds.REDUCTION:
            if value.op not in SCATTERS and value.layout[2] > 1 and cost.is_strip(value.layout):
                made[value] = {value.layout}
        elif value.kind == kinds.ELEMENTWISE and made:
            for source in [read.source for read in value.reads if read.source in made]:
                for layout in made[source]:
                    _, size, columns = layout
                    if value.numel == size * columns:
                        found.add(layout)
                    elif value.numel == columns:
                        made.setdefault(value, set()).add(layout)
                        if source.kind == kinds.REDUCTION and source.reads[0].source.kind == kinds.REDUCTION:
                            found.add(layout)
    return frozenset(found)
