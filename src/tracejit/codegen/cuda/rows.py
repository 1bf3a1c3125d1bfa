"""The templates of row reductions: a block does one row, or one block of a long row.

In: a group and its plan. Out: `CudaText`s.
Must not know: any operation.

Thread t of n takes places 4 t to 4 t + 3 of a row, then 4 (n + t) to 4 (n + t) + 3; what a later visit needs of them
stays in its registers. The order of a fold follows from the row's length alone: a thread's places one after another,
then the threads; neither from the element type, nor from where a row begins, nor from what is fused.
"""

from __future__ import annotations

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.cuda import folding
from tracejit.codegen.cuda.loops import together
from tracejit.codegen.cuda.text import CudaText, CudaWriter
from tracejit.codegen.elements import Elements
from tracejit.codegen.scratch import Scratch
from tracejit.kernels.cuda.threads import WARP
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan, folded_blocks
from tracejit.schedule.rows import Pass, RowPlan, plan_rows
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import VIRTUAL, Read, Value

TOGETHER, TURNS = 4, 2
"""Places side by side that a thread takes in a turn, and its turns: few enough for its registers."""
PLACES = TOGETHER * TURNS
MOST_KEPT = 4
"""Operands from outside whose places are kept for later visits, instead of being loaded again."""
MOST_THREADS = cost.BLOCK // PLACES
COMBINING_THREADS = 256
"""Threads that put the blocks of a long row together."""


def threads_for(places: int) -> int:
    """How many threads a row of so many places gets: a power of two, one warp at least.

    A size that is open must then stay in its class, since the order of folds depends on it.
    """
    threads = WARP
    while threads < MOST_THREADS and threads * PLACES < places:
        threads *= 2
    return threads


class _Row(Elements):
    """The elements of a row, of which a thread keeps what it loaded at its places."""

    def __init__(self, writer: CudaWriter, group: Group, plan: Plan) -> None:
        super().__init__(writer, group, plan)
        self._visit = 0
        self._kept: dict[tuple[object, ...], tuple[tuple[str, int], int]] = {}

    def forget_places(self) -> None:
        """What a visit computed is not at hand in the next one."""
        super().forget_places()
        self._here: dict[tuple[object, ...], str] = {}

    def end_visit(self) -> None:
        """What was loaded so far may be taken from registers from now on."""
        self._visit += 1

    def fetch(self, value: Value, read: Read, j: str) -> str:
        """The variable that holds an operand from outside at place `j`."""
        access = self.access(value, read)
        kind = read.source.dtype
        if access.step == 0 or read.source.kind == VIRTUAL:
            return super().fetch(value, read, j)
        key = (read.source, read.offset, access.base, access.step, access.stride)
        if key in self._here:
            return self._here[key]
        short = expression.folding(kind)
        if key in self._kept and self._kept[key][1] < self._visit:
            name = self.writer.name("x")
            text = self.writer.load(short, self._kept[key][0], "at")
            self.writer.line(f"{name} = {f'{text} != 0' if kind is dtypes.bool else text}")
        else:
            name = super().fetch(value, read, j)
            if len(self._kept) < MOST_KEPT:
                size = dtypes.widened(kind).itemsize
                place = self.writer.scratch("i64", PLACES * size // 8)
                self._kept[key] = (place, self._visit)
                self.writer.store(short, place, "at", f"uint8({name})" if kind is dtypes.bool else name)
        self._here[key] = name
        return name


class _Rows:
    """The visits of one row's threads."""

    def __init__(self, group: Group, plan: Plan, vectors: bool, threads: int) -> None:
        # Only then are rows whole vectors, each of which is within a row or outside.
        self.whole = isinstance(group.unit, int) and group.unit % TOGETHER == 0
        self.threads = threads
        self.writer = CudaWriter(TOGETHER if self.whole and vectors else 1)
        self.elements = _Row(self.writer, group, plan)
        self.rows: RowPlan = plan_rows(group.members, group.full, self.elements.stored)
        self.scratch = Scratch(self.writer, PLACES)

    def visit(self, visit: Pass, begin: str, end: str) -> dict[Value, str]:
        """Goes through a thread's places between two; gives what it folded."""
        writer, elements = self.writer, self.elements
        sums = {value: folding.start(writer, value) for value in visit.fold}
        elements.forget_places()
        elements.hoist([*visit.compute, *visit.fold])
        writer.line(f"for c in range({TURNS}):")
        writer.depth += 1
        writer.line("unrolled()")
        writer.line(f"first = {begin}(c * {self.threads} + thread()) * {TOGETHER}")
        writer.line(f"if first < {end}:")
        writer.depth += 1
        together(writer, TOGETHER, lambda: self._place(visit, sums, end))
        writer.depth -= 2
        elements.forget_places()
        elements.end_visit()
        return sums

    def _place(self, visit: Pass, sums: dict[Value, str], end: str) -> None:
        writer, elements = self.writer, self.elements
        writer.line("j = first + k")
        writer.line(f"at = c * {TOGETHER} + k")
        depth = writer.depth
        if not self.whole:
            writer.line(f"if j < {end}:")
            writer.depth += 1
        for value in visit.load:
            if value in self.rows.kept:
                text = self.scratch.load(value, value.dtype, "at")
            else:
                pointer = writer.pointer(elements.plan.storage[value])
                text = writer.load(value.dtype.short, pointer, elements.own(value, "j"))
            elements.placed[value] = writer.name("x")
            writer.line(f"{elements.placed[value]} = {text}  # {value.name}")
        for value in visit.compute:
            elements.compute(value, "j")
        for value, sofar in sums.items():
            read = value.reads[0]
            folding.step(writer, value, sofar, folding.operand(elements.operand(value, read, "j"), read.source.dtype))
        for value in visit.keep:
            self.scratch.store(value, value.dtype, "at", elements.placed[value])
        for value in visit.write:
            elements.store(value, "j", elements.placed[value])
        writer.depth = depth


def write_row(group: Group, plan: Plan, vectors: bool, stem: str, doc: str) -> CudaText:
    """Row by row, in one visit or several. The units are rows, a block each."""
    work = _Rows(group, plan, vectors, threads_for(group.unit))
    writer, elements = work.writer, work.elements
    writer.line("u = lo")
    writer.line("if u < hi:")
    writer.depth += 1
    elements.start_rows("u")
    elements.begin_row()
    _write_row_values(elements, work.rows.before)
    for visit in work.rows.passes:
        sums = work.visit(visit, "", elements.n)
        for value, sofar in sums.items():
            folding.fold_block(writer, value, sofar, work.threads)
            name = writer.name("r")
            writer.line(f"{name} = {folding.unfolded(sofar, value.dtype)}")
            elements.rowwise[value] = name
            if value in plan.storage:
                _store_once(elements, value, name)
        _write_row_values(elements, visit.row)
    writer.depth -= 1
    return writer.complete(stem, doc, elements.rows, elements.rows, work.threads)


def _write_row_values(elements: Elements, values: list[Value]) -> None:
    for value in values:
        text = elements.compute(value, "")
        if value in elements.stored:
            _store_once(elements, value, text)


def _store_once(elements: Elements, value: Value, text: str) -> None:
    """Has one of the threads store what all of them have."""
    writer = elements.writer
    writer.line("if thread() == 0:")
    writer.depth += 1
    elements.store(value, "", text)
    writer.depth -= 1


def write_blocks(group: Group, plan: Plan, vectors: bool, stem: str, doc: str) -> CudaText:
    """Blocks of long rows, each folded into a partial result. The units are blocks of rows."""
    work = _Rows(group, plan, vectors, MOST_THREADS)
    writer, elements = work.writer, work.elements
    count = folded_blocks(group, group.reductions[0])
    several = writer.size(count)
    writer.line("w = lo")
    writer.line("if w < hi:")
    writer.depth += 1
    writer.line(f"u = w // {several}")
    writer.line(f"begin = (w - u * {several}) * {cost.BLOCK}")
    writer.line(f"stop = min(begin + {cost.BLOCK}, {elements.n})")
    elements.start_rows("u")
    elements.begin_row()
    (visit,) = work.rows.passes
    sums = work.visit(visit, "begin + ", "stop")
    for value, sofar in sums.items():
        folding.fold_block(writer, value, sofar, work.threads)
    writer.line("if thread() == 0:")
    writer.depth += 1
    for value, sofar in sums.items():
        writer.store(expression.folding(value.dtype), writer.pointer(plan.partials[value]), "w", sofar)
    writer.depth -= 2
    return writer.complete(stem, doc, elements.rows * count, elements.rows * count, work.threads)


def combine_blocks(group: Group, plan: Plan, value: Value) -> CudaText:
    """Puts the partial results of long rows together. The units are rows, a block each."""
    short = expression.folding(value.dtype)
    writer = CudaWriter()
    partial, out = writer.pointer(plan.partials[value]), writer.pointer(plan.storage[value])
    several = writer.size(folded_blocks(group, value))
    writer.line("u = lo")
    writer.line("if u < hi:")
    writer.depth += 1
    sofar = folding.start(writer, value)
    writer.line("k = thread()")
    writer.line(f"while k < {several}:")
    writer.depth += 1
    folding.step(writer, value, sofar, writer.load(short, partial, f"u * {several} + k"))
    writer.line(f"k += {COMBINING_THREADS}")
    writer.depth -= 1
    folding.fold_block(writer, value, sofar, COMBINING_THREADS)
    writer.line("if thread() == 0:")
    writer.depth += 1
    writer.store(value.dtype.short, out, "u", folding.unfolded(sofar, value.dtype))
    writer.depth -= 2
    stem = f"combine_{value.name}_{short}"
    return writer.complete(stem, f"Blocks put together: {value.name}.", value.numel, value.numel, COMBINING_THREADS)
