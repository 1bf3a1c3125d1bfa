"""Templates of the groups with reductions: rows, blocks of long rows, columns, and what puts blocks together.

In: the elements of a group. Out: lines; units, the elements in a unit and a unit's other cost.
Must not know: any operation.

The order of every fold is fixed here and in `kernels.fold`. A row: lanes within blocks of 4096, the blocks one after
another. A column: one row after another within blocks of 256, the blocks one after another.
"""

from __future__ import annotations

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.elements import Elements
from tracejit.codegen.scratch import Scratch
from tracejit.codegen.text import KernelText, Writer
from tracejit.dtypes import dtype
from tracejit.kernels.fold import LANES
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan, folded_blocks
from tracejit.schedule.rows import Operand, Pass, RowPlan, plan_rows
from tracejit.schedule.spaces import COLUMN, Group
from tracejit.schedule.values import ELEMENTWISE, VIRTUAL, Number, Read, Value

Costs = tuple[int, float, float]


def unfolded(text: str, kind: dtype) -> str:
    """A fold's result as an element of its value."""
    return f"{text} != 0" if kind is dtypes.bool else expression.rounded(text, kind)


def _copied(rows: RowPlan, visit: Pass) -> list[Operand]:
    """The operands from outside that a visit copies for what it folds."""
    return [operand for operand in rows.copied if operand[0] in visit.fold]


def visit_places(elements: Elements, scratch: Scratch, rows: RowPlan, visit: Pass, places: str, at: str) -> None:
    """One loop over places of a row; `at` is a place's index in a scratch row."""
    copied = _copied(rows, visit)
    if not visit.compute and not visit.write and not copied:
        return
    writer = elements.writer
    kept = set(rows.kept)
    elements.forget_places()
    elements.hoist([*visit.compute, *(v for v, _ in copied)])
    writer.line(f"for j in {places}:")
    writer.depth += 1
    writer.interleave(cost.interleaving(visit.compute))
    for value in visit.load:
        if value in kept:
            text = scratch.load(value, value.dtype, at)
        else:
            pointer = writer.pointer(elements.plan.storage[value])
            text = writer.load(value.dtype.short, pointer, elements.own(value, "j"))
        elements.placed[value] = writer.name("x")
        writer.line(f"{elements.placed[value]} = {text}  # {value.name}")
    for value in visit.compute:
        elements.compute(value, "j")
    for operand in copied:
        value, read = operand[0], operand[0].reads[operand[1]]
        scratch.store(operand, read.source.dtype, at, elements.fetch(value, read, "j"))
    for value in visit.keep:
        scratch.store(value, value.dtype, at, elements.placed[value])
    for value in visit.write:
        elements.store(value, "j", elements.placed[value])
    writer.depth -= 1
    elements.forget_places()


def _visit_and_ask(
    elements: Elements, scratch: Scratch, rows: RowPlan, visit: Pass, begin: str, end: str, at: str, ahead: str
) -> None:
    """A visit in pieces; before each the piece `ahead` is asked for, unless a cache holds all rows."""
    writer, n, streams = elements.writer, elements.n, elements.streams()
    near = cost.AHEAD_BYTES // sum(size for _, size, _ in streams)
    reach = writer.given(f"min({n}, max(0, {writer.size(elements.rows)} * {n} - {near}))")
    elements.hoist([*visit.compute, *(v for v, _ in _copied(rows, visit))])
    far = _far(elements, rows, visit)
    elements.open_pieces(far, elements.own_row, begin, end, cost.AHEAD)
    for size in sorted({size for _, size, _ in streams}):
        writer.line(f"for k in range(first, min(stop, {reach}), {cost.LINE // size}):")
        writer.depth += 1
        for pointer, bytes_each, written in streams:
            if bytes_each == size:
                purpose = "write" if written else "read"
                writer.line(f"prefetch_to_{purpose}({pointer} + {size} * ({elements.own_row} + {ahead} + k))")
        writer.depth -= 1
    elements.begin_stream(far, cost.AHEAD)
    visit_places(elements, scratch, rows, visit, "range(first, stop)", at)
    elements.end_stream()
    writer.depth -= 1


def _far(elements: Elements, rows: RowPlan, visit: Pass) -> list[Value]:
    """What a visit writes past the caches: not what a fold or a later visit reads."""
    again = {v for one in rows.passes for v in (*one.load, *(r.source for f in one.fold for r in f.reads))}
    return [v for v in visit.write if v in elements.far and v not in again]


def visit_all(
    elements: Elements, scratch: Scratch, rows: RowPlan, visit: Pass, begin: str, end: str, at: str
) -> None:
    """A visit of places from `begin` to `end`, in pieces if its results are streamed."""
    far = _far(elements, rows, visit)
    if not far:
        visit_places(elements, scratch, rows, visit, f"range({begin}, {end})", at)
        return
    elements.open_pieces(far, elements.own_row, begin, end, cost.STRIP)
    elements.begin_stream(far, cost.STRIP)
    visit_places(elements, scratch, rows, visit, "range(first, stop)", at)
    elements.end_stream()
    elements.writer.depth -= 1


def address_of_fold(elements: Elements, scratch: Scratch, rows: RowPlan, value: Value, first: str = "") -> str:
    """The text of where the places of a row that are folded begin, from `first` on."""
    read = value.reads[0]
    source = read.source
    if source in rows.kept or (value, 0) in rows.copied:
        return scratch.row(source if source in rows.kept else (value, 0), source.dtype)[0]
    if source in elements.group.full:
        pointer = elements.writer.pointer(elements.plan.storage[source])
        index = elements.own(source, first)
    else:
        pointer = elements.writer.pointer(elements.plan.storage[source], read.offset * source.dtype.itemsize)
        index = elements.access(value, read).at(first) if first else elements.access(value, read).base
    return f"{pointer[0]} + {source.dtype.itemsize} * ({index})" if index else pointer[0]


def _fold(elements: Elements, scratch: Scratch, rows: RowPlan, value: Value, first: str, count: str) -> str:
    """The text of the fold of `count` places of a row from `first` on."""
    address = address_of_fold(elements, scratch, rows, value, first)
    return f"fold_{value.name}_{expression.folding(value.dtype)}({address}, {count})"


def write_row(elements: Elements) -> Costs:
    """Row by row, in one visit or several."""
    writer, group = elements.writer, elements.group
    rows = plan_rows(group.members, group.full, elements.stored)
    scratch = Scratch(writer, cost.BLOCK)
    elements.start_rows("lo")
    writer.line("for u in range(lo, hi):")
    writer.depth += 1
    elements.begin_row()
    _write_row_values(elements, rows.before)
    # One that writes leaves memory less idle.
    dearest = max(rows.passes, key=lambda visit: cost.of_visit(visit.compute) - cost.WORD * len(visit.write))
    for visit in rows.passes:
        if visit is dearest and visit.compute and elements.streams():
            _visit_and_ask(elements, scratch, rows, visit, "0", elements.n, "j", elements.n)
        else:
            visit_all(elements, scratch, rows, visit, "0", elements.n, "j")
        for value in visit.fold:
            name = writer.name("r")
            text = _fold(elements, scratch, rows, value, "", elements.n)
            writer.line(f"{name} = {unfolded(text, value.dtype)}")
            elements.rowwise[value] = name
            if value in elements.plan.storage:
                elements.store(value, "", name)
        _write_row_values(elements, visit.row)
    elements.next_row()
    work = sum(len(v.compute) + len(v.fold) for v in rows.passes) / max(1, len(group.members))
    return elements.rows, elements.inner * max(work, 1.0), 12.0 * len(rows.passes) + 20.0 * len(group.reductions)


def _write_row_values(elements: Elements, values: list[Value]) -> None:
    for value in values:
        text = elements.compute(value, "")
        if value in elements.stored:
            elements.store(value, "", text)


def write_blocks(elements: Elements) -> Costs:
    """Blocks of long rows, each folded into a partial result."""
    writer, group, plan = elements.writer, elements.group, elements.plan
    rows = plan_rows(group.members, group.full, elements.stored)
    scratch = Scratch(writer, cost.BLOCK)
    blocks = writer.size(folded_blocks(group, group.reductions[0]))
    writer.line("for w in range(lo, hi):")
    writer.depth += 1
    writer.line(f"u = w // {blocks}")
    writer.line(f"begin = (w - u * {blocks}) * {cost.BLOCK}")
    writer.line(f"end = min(begin + {cost.BLOCK}, {elements.n})")
    elements.start_rows("u")
    elements.begin_row()
    (visit,) = rows.passes
    if _is_arithmetic(elements, rows, visit):
        _fold_arithmetic(elements, rows, visit)
        return elements.rows * folded_blocks(group, group.reductions[0]), float(cost.BLOCK), 20.0
    if visit.compute and elements.streams():
        _visit_and_ask(elements, scratch, rows, visit, "begin", "end", "j - begin", str(cost.BLOCK))
    else:
        visit_places(elements, scratch, rows, visit, "range(begin, end)", "j - begin")
    for value in visit.fold:
        text = _fold(elements, scratch, rows, value, "begin", "end - begin")
        writer.store(expression.folding(value.dtype), writer.pointer(plan.partials[value]), "w", text)
    return elements.rows * folded_blocks(group, group.reductions[0]), float(cost.BLOCK), 20.0


def _is_arithmetic(elements: Elements, rows: RowPlan, visit: Pass) -> bool:
    """Whether a visit only folds sums, products and the like of contiguous floats, which can be done in lanes."""
    folded = {v.reads[0].source for v in visit.fold}
    if not folded <= set(visit.compute) or not set(rows.kept) <= folded or visit.write or visit.load or rows.copied:
        return False
    kind = visit.compute[0].dtype
    if any(read.picked is not None for value in visit.compute for read in value.reads):
        return False

    def is_at_hand(value: Value, read: Read) -> bool:
        if read.source in elements.group.members:
            return read.source in visit.compute
        step = elements.access(value, read).step
        return read.source.dtype is kind and (step == 0 or (step == 1 and read.source.kind != VIRTUAL))

    return kind in (dtypes.float32, dtypes.float64) and all(
        value.dtype is kind
        and value.kind == ELEMENTWISE
        and (value.op is None or expression.in_lanes(value.op, ["x"] * len(value.args), kind) is not None)
        and all(is_at_hand(value, read) for read in value.reads)
        for value in visit.compute
    )


def _fold_arithmetic(elements: Elements, rows: RowPlan, visit: Pass) -> None:
    """Folds a block's arithmetic where it is computed: what goes through scratch memory first takes twice as long.

    Lanes are names of the text, which LLVM keeps in registers: in memory each turn would wait for the one before.
    """
    writer, plan = elements.writer, elements.plan
    short = visit.compute[0].dtype.short
    lanes = {value: writer.name("s") for value in visit.fold}
    scratch = Scratch(writer, LANES)
    texts: dict[object, str] = {}
    elements.hoist(visit.compute)

    def spread(key: object, text: str) -> None:
        if key not in texts:
            texts[key] = writer.name("y")
            writer.line(f"{texts[key]} = spread_lanes_{short}({text})")

    for value in visit.compute:
        for arg in value.args:
            if not isinstance(arg, Read):
                spread(arg.key, writer.number(arg, value.dtype))
            elif arg.source not in visit.compute and elements.access(value, arg).step == 0:
                text = elements.fetch(value, arg, "")
                spread(text, text)
    for value in visit.fold:
        writer.line(f"{lanes[value]} = start_lanes_{value.name}_{short}()")
    writer.line(f"whole = end - (end - begin) % {LANES}")
    writer.line(f"for first in range(begin, whole, {LANES}):")
    writer.depth += 1
    # Memory is slower than this loop, whose end of a block it would wait for.
    writer.line(f"ahead = min(first + {cost.BLOCK}, {elements.n} - {LANES})")
    _compute_lanes(elements, visit, texts)
    for value in visit.fold:
        further = f"{lanes[value]}, {texts[value.reads[0].source]}"
        writer.line(f"{lanes[value]} = {value.name}_into_lanes_{short}({further})")
    writer.depth -= 1
    visit_places(elements, scratch, rows, visit, "range(whole, end)", "j - whole")
    for value in visit.fold:
        rest = scratch.row(value.reads[0].source, value.dtype)[0]
        writer.line(f"{lanes[value]} = {value.name}_rest_lanes_{short}({lanes[value]}, {rest}, end - whole)")
        text = f"{value.name}_of_lanes_{short}({lanes[value]})"
        writer.store(short, writer.pointer(plan.partials[value]), "w", text)


def _compute_lanes(elements: Elements, visit: Pass, texts: dict[object, str]) -> None:
    """Computes the values of a visit in lanes, from place `first` on; asks for what it will read at `ahead`."""
    writer = elements.writer

    def operand(value: Value, arg: Read | Number) -> str:
        if not isinstance(arg, Read) or arg.source in visit.compute:
            return texts[arg.source if isinstance(arg, Read) else arg.key]
        access = elements.access(value, arg)
        if access.step == 0:
            return texts[elements.fetch(value, arg, "")]
        short, size = arg.source.dtype.short, arg.source.dtype.itemsize
        pointer = writer.pointer(elements.plan.storage[arg.source], arg.offset * size)[0]
        place = f"{pointer} + {size} * ({access.at('first')})"
        if place not in texts:
            texts[place] = writer.name("x")
            writer.line(f"{texts[place]} = load_lanes_{short}({place})")
            for line in range(0, LANES, cost.LINE // size):
                writer.line(f"prefetch_to_read({pointer} + {size} * ({access.at(f'ahead + {line}')}))")
        return texts[place]

    for value in visit.compute:
        operands = [operand(value, arg) for arg in value.args]
        text = operands[0] if value.op is None else expression.in_lanes(value.op, operands, value.dtype)
        texts[value] = writer.name("v")
        writer.line(f"{texts[value]} = {text}  # {value.name}")


def write_column(elements: Elements) -> Costs:
    """Blocks of rows, a strip of columns at a time, each column folded into a partial or the final result."""
    writer, group = elements.writer, elements.group
    outer, size, inner = group.layout
    blocks = -(-size // cost.COLUMN_ROWS)
    strips = -(-inner // cost.COLUMN_WIDTH)
    if cost.has_few_columns(group.members, group.layout):
        _write_few_columns(elements, inner)
        return outer * blocks, min(size, cost.COLUMN_ROWS) * inner * 1.0, 20.0
    many, several, tall = writer.size(strips), writer.size(blocks), writer.size(size)
    sums = Scratch(writer, cost.COLUMN_WIDTH * cost.COLUMN_STRIPS)
    places = "range(first, stop)"
    writer.line("w = lo")
    writer.line("while w < hi:")
    writer.depth += 1
    writer.line(f"k = w // {many}")
    writer.line(f"strip = w - k * {many}")
    writer.line(f"last = min(strip + {cost.COLUMN_STRIPS}, {many}, strip + hi - w)")
    writer.line("w += last - strip")
    writer.line(f"first = strip * {cost.COLUMN_WIDTH}")
    writer.line(f"stop = min(last * {cost.COLUMN_WIDTH}, {elements.n})")
    writer.line(f"o = k // {several}")
    writer.line(f"top = (k - o * {several}) * {cost.COLUMN_ROWS}")
    writer.line(f"bottom = min(top + {cost.COLUMN_ROWS}, {tall})")
    _loop_over(writer, places, [(sums, v, f"start_{v.name}_{expression.folding(v.dtype)}()") for v in group.reductions])
    _open_rows(elements, tall)
    writer.line(f"for j in {places}:")
    writer.depth += 1
    writer.interleave(cost.interleaving(group.members))
    texts = [(v, elements.compute(v, "j")) for v in elements.stored if v in group.full]
    for value in group.reductions:
        text = _element(elements, value, "j")
        sofar = writer.load(expression.folding(value.dtype), sums.row(value, value.dtype), "j - first")
        step = f"step_{value.name}_{expression.folding(value.dtype)}({sofar}, {text})"
        writer.store(expression.folding(value.dtype), sums.row(value, value.dtype), "j - first", step)
    for value, text in texts:
        elements.store(value, "j", text)
    writer.depth -= 1
    elements.next_row()
    writer.depth -= 1
    writer.line(f"for j in {places}:")
    writer.depth += 1
    for value in group.reductions:
        short = expression.folding(value.dtype)
        _store_column(elements, value, "j", writer.load(short, sums.row(value, value.dtype), "j - first"))
    rows = min(size, cost.COLUMN_ROWS)
    return outer * blocks * strips, rows * min(inner, cost.COLUMN_WIDTH) * 1.0, 20.0 + 3.0 * rows


def _open_rows(elements: Elements, tall: str) -> None:
    """Opens the loop over the rows of a block."""
    elements.start_rows(f"(o * {tall} + top)")
    elements.writer.line(f"for u in range(o * {tall} + top, o * {tall} + bottom):")
    elements.writer.depth += 1
    elements.begin_row()
    elements.hoist(elements.group.members)


def _element(elements: Elements, value: Value, j: str) -> str:
    """What a reduction folds at place `j`."""
    text = elements.operand(value, value.reads[0], j)
    return f"uint8({text})" if value.dtype is dtypes.bool else text


def _store_column(elements: Elements, value: Value, j: str, sofar: str) -> None:
    """Stores what the rows of a block make of a column, which is the result if there is but one block."""
    writer, plan, index = elements.writer, elements.plan, f"k * {elements.n} + {j}"
    if value in plan.partials:
        writer.store(expression.folding(value.dtype), writer.pointer(plan.partials[value]), index, sofar)
    else:
        final = unfolded(sofar, value.dtype)
        writer.store(value.dtype.short, writer.pointer(plan.storage[value]), index, final)


def _write_few_columns(elements: Elements, inner: int) -> None:
    """The same where columns would fill no vector: each is a variable, not memory that the next row waits for."""
    writer, group = elements.writer, elements.group
    size = group.layout[1]
    several, tall = writer.size(-(-size // cost.COLUMN_ROWS)), writer.size(size)
    sums = {v: [writer.name("r") for _ in range(inner)] for v in group.reductions}
    writer.line("for k in range(lo, hi):")
    writer.depth += 1
    writer.line(f"o = k // {several}")
    writer.line(f"top = (k - o * {several}) * {cost.COLUMN_ROWS}")
    writer.line(f"bottom = min(top + {cost.COLUMN_ROWS}, {tall})")
    for value, names in sums.items():
        for name in names:
            writer.line(f"{name} = start_{value.name}_{expression.folding(value.dtype)}()")
    _open_rows(elements, tall)
    for place in range(inner):
        j = str(place)
        elements.forget_places()
        texts = [(v, elements.compute(v, j)) for v in elements.stored if v in group.full]
        for value, names in sums.items():
            step = f"step_{value.name}_{expression.folding(value.dtype)}"
            writer.line(f"{names[place]} = {step}({names[place]}, {_element(elements, value, j)})")
        for value, text in texts:
            elements.store(value, j, text)
    elements.next_row()
    writer.depth -= 1
    for value, names in sums.items():
        for place, name in enumerate(names):
            _store_column(elements, value, str(place), name)


def _loop_over(writer: Writer, places: str, stores: list[tuple[Scratch, Value, str]]) -> None:
    writer.line(f"for j in {places}:")
    writer.depth += 1
    for sums, value, text in stores:
        short = expression.folding(value.dtype)
        writer.store(short, sums.row(value, value.dtype), "j - first", text)
    writer.depth -= 1


def combine(group: Group, plan: Plan, value: Value) -> KernelText:
    """Puts the partial results of a reduction together, block after block."""
    inner = group.unit if group.kind == COLUMN else 1
    blocks = folded_blocks(group, value)
    short = expression.folding(value.dtype)
    writer = Writer()
    partial, out = writer.pointer(plan.partials[value]), writer.pointer(plan.storage[value])
    several, n = writer.size(blocks), writer.size(inner)
    # A chain of steps takes what it takes: LLVM would need as long to find that out as for all else.
    writer.line("by_hand()")
    writer.line("for w in range(lo, hi):")
    writer.depth += 1
    writer.line(f"o = w // {n}")
    writer.line(f"at = w + o * ({several} - 1) * {n}")
    writer.line(f"r = {writer.load(short, partial, 'at')}")
    writer.line(f"for k in range(1, {several}):")
    writer.line(f"    r = step_{value.name}_{short}(r, {writer.load(short, partial, f'at + k * {n}')})")
    writer.store(value.dtype.short, out, "w", unfolded("r", value.dtype))
    doc = f"Blocks put together: {value.name}."
    return writer.finish(f"combine_{value.name}_{short}", doc, value.numel, 2.0 + 1.0 * blocks)
