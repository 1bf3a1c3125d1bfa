"""Template of rows of a few elements: many of them at once, so that vectors are full.

In: the elements of a group. Out: lines; units, the elements in a unit and a unit's other cost.
Must not know: any operation.

Rows follow one another, so a visit is one loop over all their elements. A fold turns them, so that each row is a lane
(`kernels.short`), and what has one element for each row is a loop over rows; a later visit sees it spread.
"""

from __future__ import annotations

from tracejit.codegen import expression
from tracejit.codegen.elements import Access, Elements
from tracejit.codegen.folds import Costs, address_of_fold, unfolded, visit_places
from tracejit.codegen.scratch import Scratch
from tracejit.codegen.text import Writer
from tracejit.kernels.fold import LANES
from tracejit.kernels.short import PIECE
from tracejit.kernels.tiles import TILED
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan
from tracejit.schedule.rows import FOLDED_IN_PLACE, RowPlan, folds_from_memory, plan_rows
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import REDUCTION, VIRTUAL, Read, Value

_SLACK = 128
"""Places behind the last row, as folds and what is spread go on in whole vectors."""


class ShortRows(Elements):
    """Elements of many rows at once, place `j` of which counts all their elements, if they are short."""

    def __init__(self, writer: Writer, group: Group, plan: Plan) -> None:
        super().__init__(writer, group, plan)
        # What was spread over its rows, as texts at a place.
        self.strewn: dict[Value, str] = {}
        self.short = isinstance(self.inner, int) and 1 < self.inner <= LANES
        self.short = self.short and (not isinstance(self.rows, int) or self.rows >= cost.SHORT_ROWS)
        self.short = self.short and all(self._is_laid(v, r) for v, r in self._reads)
        self.short = self.short and all(map(self._folds_in_lanes, group.members))

    def _is_laid(self, value: Value, read: Read) -> bool:
        """Whether a read is as it lies, or can be laid out in rows."""
        if read.picked is not None:
            return False
        if not self._is_full(value):
            return self._linear(self._steps(value, read)[0])
        if self._lies_in_rows(value, read) or self._is_folded_as_it_lies(value, read):
            return True
        if self.lies_beside(value, read):
            return True
        fill, is_moved = self._filling(value, read), read.source.dtype.itemsize in TILED and read is not value.into
        return is_moved and (fill == "repeat" or (fill == "spread" and read.source.kind != VIRTUAL))

    def _lies_in_rows(self, value: Value, read: Read) -> bool:
        """Whether elements lie as rows do that follow one another, or are one for all."""
        steps, inner = self._steps(value, read)
        return not any(steps) if inner == 0 else inner == 1 and steps[-1] == self.inner

    def _is_folded_as_it_lies(self, value: Value, read: Read) -> bool:
        lies_there = value.kind == REDUCTION and folds_from_memory(read, value.layout[1])
        return lies_there and self._steps(value, read)[1] == 1

    def lies_beside(self, value: Value, read: Read) -> bool:
        """Whether a fold is of rows that lie side by side, each in a lane as they are."""
        if value.kind != REDUCTION or read.source in self.inside or read.source.dtype not in FOLDED_IN_PLACE:
            return False
        return cost.folds_beside(read, value.layout) and self._steps(value, read)[0][-1] == 1

    def _filling(self, value: Value, read: Read) -> str:
        """How what is one for each row, or the same in all, is laid out; "" if it is neither."""
        steps, inner = self._steps(value, read)
        return "spread" if inner == 0 else "repeat" if inner == 1 and not any(steps) else ""

    def _folds_in_lanes(self, value: Value) -> bool:
        """Whether a member is folded as floats, and sees of members that are one for each row only what is spread."""
        if value.kind == REDUCTION:
            return expression.folding(value.dtype) in TILED.values()
        seen = [r.source.dtype for r in value.reads if r.source in self.inside and r.source not in self.group.full]
        return value not in self.group.full or all(expression.folding(kind) in TILED.values() for kind in seen)

    def _lay(self, access: Access, value: Value, read: Read) -> None:
        if not self.short or not self._is_full(value) or self._lies_in_rows(value, read):
            return
        access.fill = self._filling(value, read)
        if access.fill:
            last = self._steps(value, read)[0][-1]
            access.stride, access.step = self.writer.size(last if access.fill == "spread" else 1), 2
            access.tile = self._tile(access.fill, value, read)

    def _filled_from(self, access: Access, read: Read, first: str) -> str:
        if read.source.kind != VIRTUAL:
            return super()._filled_from(access, read, first)
        writer, row = self.writer, self.writer.scratch("i64", LANES)
        writer.line(f"for j in range(0, {self.n}):")
        writer.depth += 1
        index = " + ".join(part for part in (access.base, "j") if part)
        writer.store(read.source.dtype.short, row, "j", self._virtual(read.source, index))
        writer.depth -= 1
        return row[0]

    @property
    def _place_in_tile(self) -> str:
        return "j"

    def operand(self, value: Value, read: Read, j: str) -> str:
        """As of any elements, or what was spread."""
        source = read.source
        if source in self.strewn and source not in self.placed and source not in self.rowwise:
            self.placed[source] = self.writer.name("x")
            self.writer.line(f"{self.placed[source]} = {self.strewn[source]}  # {source.name}")
        return super().operand(value, read, j)

    def pitch(self, value: Value, read: Read) -> str:
        """How far apart rows of a read begin."""
        last = self._steps(value, read)[0][-1]
        return self.n if last == self.inner else self.writer.size(last)

    def step(self, value: Value, read: Read) -> str:
        """How far apart the elements of a row of a read lie."""
        return self.writer.size(self._steps(value, read)[1])


def write_short_rows(elements: ShortRows) -> Costs:
    """As many rows at once as the first cache holds, in one visit or several."""
    writer, group, n = elements.writer, elements.group, elements.n
    there = [v for v in group.reductions if elements.lies_beside(v, v.reads[0])]
    rows = plan_rows(group.members, group.full, elements.stored, there=there)
    scratch = Scratch(writer, cost.WOVEN_PLACES + _SLACK)
    beside = _Beside(elements)
    elements.start_rows("lo")
    writer.line("top = lo")
    writer.line("while top < hi:")
    writer.depth += 1
    ends = [text for text in (f"top + {cost.WOVEN_PLACES} // {n}", "hi", elements.end_of_run("top")) if text]
    writer.line(f"bottom = min({', '.join(ends)})")
    writer.line("rows = bottom - top")
    writer.line("u = top")
    elements.begin_row()
    elements.fill_tiles("0", "rows", n)
    elements.strewn.clear()
    beside.compute([], rows.before)
    for visit in rows.passes:
        visit_places(elements, scratch, rows, visit, f"range(0, rows * {n})", "j")
        for value in visit.fold:
            beside.fold(scratch, rows, value)
        beside.compute(visit.fold, visit.row)
    elements.next_row("rows")
    writer.line("top = bottom")
    work = sum(len(v.compute) + len(v.fold) for v in rows.passes) / max(1, len(group.members))
    return elements.rows, elements.inner * max(work, 1.0), 1.0 * len(rows.passes) + 2.0 * len(group.reductions)


class _Beside:
    """What has one element for each row: folded, computed, and spread for those of the row that see it."""

    def __init__(self, elements: ShortRows) -> None:
        self._elements = elements
        length = cost.WOVEN_PLACES // 2 + _SLACK
        self._folded = Scratch(elements.writer, length)
        self._kept = Scratch(elements.writer, length)
        self._spread = Scratch(elements.writer, cost.WOVEN_PLACES + _SLACK)
        members = elements.group.members
        self._seen_by = {v: {m for m in members if any(r.source is v for r in m.reads)} for v in members}

    def fold(self, scratch: Scratch, rows: RowPlan, value: Value) -> None:
        """Folds all rows."""
        elements, read = self._elements, value.reads[0]
        lies_there = read.source not in elements.group.full and (value, 0) not in rows.copied
        beside = elements.lies_beside(value, read)
        pitch = elements.step(value, read) if beside else elements.pitch(value, read) if lies_there else elements.n
        assert isinstance(elements.inner, int)
        short = expression.folding(value.dtype)
        pieces = -(-elements.inner * (4 if short == "f32" else 8) // PIECE)
        address, target = address_of_fold(elements, scratch, rows, value), self._folded.row(value, value.dtype)[0]
        name = f"fold_{'beside' if beside else 'rows'}_{value.name}_{short}"
        elements.writer.line(f"{name}({address}, {pitch}, {elements.n}, rows, {target}, {pieces})")

    def compute(self, folded: list[Value], values: list[Value]) -> None:
        """A loop over rows: takes what was folded from where it is, computes what follows and stores it."""
        if not folded and not values:
            return
        elements, writer, full = self._elements, self._elements.writer, self._elements.group.full
        here = [*folded, *values]
        elements.begin_beside()
        elements.rowwise.clear()
        writer.line("for u in range(top, bottom):")
        writer.depth += 1
        for value in values:
            for source in dict.fromkeys(r.source for r in value.reads):
                if source in elements.inside and source not in here and source not in elements.rowwise:
                    elements.rowwise[source] = writer.name("r")
                    text = self._kept.load(source, source.dtype, "u - top")
                    writer.line(f"{elements.rowwise[source]} = {text}  # {source.name}")
        for value in folded:
            elements.rowwise[value] = writer.name("r")
            short, place = expression.folding(value.dtype), self._folded.row(value, value.dtype)
            text = unfolded(writer.load(short, place, "u - top"), value.dtype)
            writer.line(f"{elements.rowwise[value]} = {text}  # {value.name}")
        for value in here:
            text = elements.compute(value, "")
            if value in elements.stored:
                elements.store(value, "", text)
            if not self._seen_by[value] <= set(here):
                self._kept.store(value, value.dtype, "u - top", text)
        writer.depth -= 1
        elements.begin_beside()
        elements.rowwise.clear()
        # Where rows begin is found anew.
        writer.line("u = top")
        for value in here:
            if self._seen_by[value] & full:
                self._strew(value)

    def _strew(self, value: Value) -> None:
        """Spreads a value over its rows."""
        elements, short = self._elements, expression.folding(value.dtype)
        assert short in TILED.values()
        target = self._spread.row(value, value.dtype)[0]
        kept = self._kept.row(value, value.dtype)[0]
        elements.writer.line(f"spread_{short}({kept}, 1, {target}, rows, {elements.n})")
        elements.strewn[value] = self._spread.load(value, value.dtype, "j")
