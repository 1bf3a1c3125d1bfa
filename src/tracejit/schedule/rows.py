"""The passes over a row: what a kernel with row reductions computes in which visit, and what it keeps between them.

In: the members of a group. Out: for each pass the values to compute, to load and to fold.
Must not know: kernel text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tracejit import dtypes
from tracejit.schedule import cost
from tracejit.schedule.values import REDUCTION, SCAN, Read, Value

FOLDS = (REDUCTION, SCAN)
"""Kinds of values that a pass gives when it is done."""
Operand = tuple[Value, int]
"""A value, and which of its reads."""
FOLDED_IN_PLACE = (dtypes.float32, dtypes.float64, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.uint8)
"""Types whose elements in memory can be folded as they lie; the others are widened into a scratch row first."""


@dataclass(slots=True)
class Pass:
    """One visit: `load` what an earlier pass kept, `compute` in order, `keep` in scratch rows and `write` to memory
    what is new; then `fold`, which scans do as well, and the values of the `row`.
    """

    load: list[Value] = field(default_factory=list)
    compute: list[Value] = field(default_factory=list)
    keep: list[Value] = field(default_factory=list)
    write: list[Value] = field(default_factory=list)
    fold: list[Value] = field(default_factory=list)
    row: list[Value] = field(default_factory=list)


@dataclass(slots=True)
class RowPlan:
    """All passes; `before` are values of the row that need no reduction; `kept` are in scratch rows, and `copied` are
    operands from outside that are copied into one for a fold. `dear` is what is computed again in a later pass, though
    it is much work.
    """

    passes: list[Pass]
    before: list[Value]
    kept: list[Value]
    copied: list[Operand]
    dear: list[Value]

    @property
    def scratch_rows(self) -> int:
        return len(self.kept) + len(self.copied)


def folds_from_memory(read: Read, unit: int) -> bool:
    """Whether the rows of a read from outside can be folded where they lie."""
    dims = read.over(read.shape)
    steps_by_one = unit == 1 or (bool(dims) and dims[-1][1] == 1)
    return steps_by_one and read.source.dtype in (*FOLDED_IN_PLACE, dtypes.bool) and read.source.kind != "virtual"


def plan_rows(
    members: Collection[Value],
    full: Collection[Value],
    stored: Collection[Value] = (),
    *,
    keeps: bool = True,
    there: Collection[Value] = (),
) -> RowPlan:
    """The passes over a row of a group; `stored` are the members that have memory of their own. What a pass `keeps` is
    there in later ones, as that of one row is, but not that of many. The folds `there` take elements where they lie.
    """
    inside = set(members)
    level: dict[Value, int] = {}
    for value in members:
        behind = max((level[r.source] for r in value.reads if r.source in inside), default=0)
        level[value] = behind + 1 if value.kind in FOLDS else behind
    # Scans are in scratch memory, from where the next pass takes them on to where they belong.
    inner = {v for v in members if v.kind == REDUCTION or (v.kind == SCAN and v not in stored)}
    last = max((level[v] - (v in inner) for v in members if v in full or v in inner), default=-1)
    passes = [Pass() for _ in range(last + 1)]
    before: list[Value] = []
    copied: list[Operand] = []
    for value in members:
        if value.kind in FOLDS:
            passes[level[value] - 1].fold.append(value)
            for k, read in enumerate(value.reads):
                lies_there = value.kind == REDUCTION and folds_from_memory(read, value.layout[1])
                lies_there = lies_there or value in there
                if read.source not in inside and not lies_there:
                    copied.append((value, k))
        elif value not in full:
            (passes[level[value] - 1].row if level[value] else before).append(value)
    memory = {v for v in stored if v in full and v.into is None and v.kind != SCAN}
    scratch = {v for v in members if v.kind == SCAN}
    for value in members:
        for read in value.reads if value.kind in FOLDS else ():
            source = read.source
            lies_there = value.kind == REDUCTION and source in memory and source.dtype in FOLDED_IN_PLACE
            if source in inside and not lies_there:
                scratch.add(source)
    cones = _cones(members, full)
    dear: list[Value] = []
    for k in range(last, -1, -1):
        wanted = [v for v in members if v in full and level[v] == k and (v in stored or v in scratch)]
        wanted += [r.source for v in passes[k].fold for r in v.reads if r.source in inside and r.source.kind != SCAN]
        computed: set[Value] = set()
        loaded: set[Value] = set()
        while wanted:
            value = wanted.pop()
            if value in computed or value in loaded or value not in full:
                continue
            if value.kind == SCAN:
                loaded.add(value)
                continue
            if level[value] < k and not keeps and value not in memory:
                if cost.is_dear_again(cones[value]):
                    dear.append(value)
            elif level[value] < k and (value in memory or value in scratch or cones[value] > cost.RECOMPUTED):
                loaded.add(value)
                if value not in memory:
                    scratch.add(value)
                continue
            computed.add(value)
            wanted += [r.source for r in value.reads if r.source in inside]
        passes[k].compute = [v for v in members if v in computed]
        passes[k].load = [v for v in members if v in loaded]
    for k, visit in enumerate(passes):
        visit.keep = [v for v in visit.compute if level[v] == k and v in scratch]
        visit.write = [v for v in (*visit.load, *visit.compute) if level[v] == k and v in stored]
    return RowPlan(passes, before, [v for v in members if v in scratch], copied, dear)


def _cones(members: Collection[Value], full: Collection[Value]) -> dict[Value, float]:
    """What computing a full member anew costs."""
    cones: dict[Value, float] = {}
    for value in members:
        if value in full:
            cones[value] = cost.work(value) + sum(cones.get(r.source, 0.0) for r in value.reads)
            cones[value] += sum(cost.work(r.source) for r in value.reads if r.source.kind == "virtual")
    return cones
