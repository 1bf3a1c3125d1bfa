"""The templates: a group becomes the text of a kernel.

In: a group and its plan. Out: `KernelText`s, one for each launch.
Must not know: how they are compiled or run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from tracejit.codegen import expression
from tracejit.codegen.elements import Elements
from tracejit.codegen.folds import Costs, combine, write_blocks, write_column, write_row
from tracejit.codegen.scans import write_scan
from tracejit.codegen.scatters import write_scatter
from tracejit.codegen.scratch import Scratch
from tracejit.codegen.short_rows import ShortRows, write_short_rows
from tracejit.codegen.strips import write_strip
from tracejit.codegen.text import KernelText, Writer
from tracejit.kernels.vmath import IN_PLACE
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan, launches_of
from tracejit.schedule.spaces import BACKSCAN, BLOCKS, COLUMN, LOOP, ROW, SCAN, SCATTER, STRIP, Group
from tracejit.schedule.values import VIRTUAL, Value

_STRIP_UNIT = 32
"""What strips are multiples of: whole vectors of any machine and type."""


def generate(group: Group, plan: Plan) -> list[list[KernelText]]:
    """The kernels of a group that is no library call: a list for each of its stages."""
    group = plan.unfolded(group)
    writer = Writer()
    members = ShortRows(writer, group, plan) if group.kind == ROW else Elements(writer, group, plan)
    units, elements, extra = _TEMPLATES[group.kind](members)
    if members.streams_results:
        writer.depth = 1
        writer.line("end_streams()")
    outside = {r.source for v in group.members for r in v.reads if r.source.kind != VIRTUAL} - set(group.members)
    each = cost.of_elements(group.members, [*outside, *plan.stored(group)])
    first = writer.finish(_stem(group), _doc(group), units, elements * each + extra)
    if launches_of(group) == 1:
        return [[first]]
    return [[first], [combine(group, plan, v) for v in group.reductions if v in plan.partials]]


def _stem(group: Group) -> str:
    names = list(dict.fromkeys(v.name for v in group.members if v.op is not None))
    virtual = (r.source.name for v in group.members for r in v.reads if r.source.kind == VIRTUAL)
    names = list(dict.fromkeys([*names, *virtual])) or ["copy"]
    if len(names) > 4:
        names = [*names[:3], names[-1]]
    return "_".join([group.kind, *names])


def _doc(group: Group) -> str:
    what = {
        "loop": "Element by element",
        "row": "Row by row",
        "blocks": "Blocks of long rows",
        "column": "Column by column",
        "strip": "Strip by strip of columns",
        "scan": "Step by step",
        "backscan": "Step by step from the end",
        "scatter": "Row by row to where an index says",
    }[group.kind]
    return f"{what}: {', '.join(v.name for v in group.members)}."


def _write_loop(elements: Elements) -> tuple[int, float, float]:
    """Writes a loop; gives its units, the elements in one, and what a unit costs beyond its elements."""
    writer = elements.writer
    if elements.flat:
        elements.begin_row()
        elements.hoist(elements.group.members)
        _write_places(elements, "lo", "hi")
        return elements.inner, 1.0, 0.0
    if elements.woven:
        return _write_woven(elements)
    if elements.tiled:
        return _write_tiles(elements)
    elements.start_rows("lo")
    writer.line("for u in range(lo, hi):")
    writer.depth += 1
    elements.begin_row()
    elements.hoist(elements.group.members)
    _write_places(elements, "0", elements.n)
    elements.next_row()
    return elements.rows, elements.inner, 3.0


def _write_places(elements: Elements, begin: str, end: str) -> None:
    """Writes the loop over the places of a row, or loops over strips of it, for one elementary function each.

    A function that is needed several times is written once, and works on memory: a loop puts operands there, for as
    many of its uses as there are before one needs another's results.
    """
    writer = elements.writer
    dear = cost.staged(elements.group.members, elements.inner)
    if not dear and not elements.far:
        _write_stage(elements, f"range({begin}, {end})", partial(_write_body, elements), _interleaving(elements))
        return
    # Functions work on whole vectors.
    strip = max(1, cost.strip(len(dear) + len(elements.far)) // _STRIP_UNIT) * _STRIP_UNIT
    elements.open_pieces(elements.far, elements.own_row, begin, end, strip)
    elements.begin_stream(elements.far, strip)
    _write_strip(elements, dear, strip)
    elements.end_stream()
    writer.depth -= 1


def _write_strip(elements: Elements, dear: list[Value], strip: int) -> None:
    """Writes the loops over a strip of at most so many places, one for each elementary function."""
    writer = elements.writer
    scratch = Scratch(writer, strip)
    write = partial(_write_stage, elements, "range(first, stop)")
    functions = _functions(dear)
    # What depends on all others may be computed where the results are stored.
    last = [v for v in dear[-1:] if v not in functions]
    kept: dict[Value, str] = {}
    for together in _in_turn(elements, dear[: len(dear) - len(last)]):
        ready = dict(kept)
        shared = [v for v in together if v in functions]
        if shared:
            write(partial(_put, elements, scratch, shared), 1, ready, [r.source for v in shared for r in v.reads])
        for value in shared:
            writer.line(f"{functions[value]}({scratch.row(value, value.dtype)[0]}, stop - first)  # {value.name}")
            kept[value] = expression.rounded(scratch.load(value, value.dtype, "j - first"), value.dtype)
        for value in together:
            if value not in functions:
                sources = [r.source for r in value.reads]
                write(partial(_keep, elements, scratch, value), _interleaving(elements), ready, sources)
                kept[value] = scratch.load(value, value.dtype, "j - first")
    side_by_side = _interleaving(elements) if last or not dear else 1
    write(partial(_write_body, elements), side_by_side, kept, elements.stored)


def _interleaving(elements: Elements) -> int:
    return cost.interleaving(elements.group.members)


def _in_turn(elements: Elements, dear: list[Value]) -> list[list[Value]]:
    """Values in lists, those of each computed from those of the lists before it."""
    turns: list[list[Value]] = []
    turn_of: dict[Value, int] = {}
    for k, value in enumerate(dear):
        before = _needed(elements, [r.source for r in value.reads], dear[:k])
        turn = turn_of[value] = max((turn_of[v] + 1 for v in before), default=0)
        if turn == len(turns):
            turns.append([])
        turns[turn].append(value)
    return turns


def _functions(dear: list[Value]) -> dict[Value, str]:
    """The functions over memory that compute values, for those of which there are several."""
    found = {}
    for value in dear:
        if value.op is not None and value.op.name in IN_PLACE and value.reads[0].source.dtype is value.dtype:
            found[value] = f"{value.op.name}_strip_{expression.computing(value.dtype)}"
    uses = Counter(found.values())
    return {value: name for value, name in found.items() if uses[name] > 1}


def _write_stage(
    elements: Elements,
    places: str,
    write: Callable[[], None],
    side_by_side: int,
    kept: Mapping[Value, str] = MappingProxyType({}),
    sources: Sequence[Value] = (),
) -> None:
    """Writes a loop over places, at each of which what was kept and `sources` are computed from is loaded first."""
    writer = elements.writer
    elements.forget_places()
    writer.line(f"for j in {places}:")
    writer.depth += 1
    writer.interleave(side_by_side)
    for value in _needed(elements, sources, kept):
        elements.placed[value] = writer.name("x")
        writer.line(f"{elements.placed[value]} = {kept[value]}  # {value.name}")
    write()
    writer.depth -= 1


def _put(elements: Elements, scratch: Scratch, values: list[Value]) -> None:
    """Puts the operands of values where they are computed."""
    for value in values:
        scratch.store(value, value.dtype, "j - first", elements.operand(value, value.reads[0], "j"))


def _keep(elements: Elements, scratch: Scratch, value: Value) -> None:
    scratch.store(value, value.dtype, "j - first", elements.compute(value, "j"))


def _needed(elements: Elements, values: Sequence[Value], kept: Collection[Value]) -> list[Value]:
    """Which of the members that were kept some values are computed from."""
    if not kept:
        return []
    found: set[Value] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value in found or value not in elements.inside:
            continue
        found.add(value)
        if value not in kept:
            todo += [r.source for r in value.reads]
    return [v for v in kept if v in found]


def _write_tiles(elements: Elements) -> tuple[int, float, float]:
    """Writes a loop over tiles: what is read across its rows in memory is turned before, tile by tile."""
    writer = elements.writer
    _open_tiles(elements)
    writer.line("u = top")
    elements.start_rows("u")
    elements.begin_row()
    elements.fill_tiles("first", "bottom - top", "stop - first")
    writer.line("for u in range(top, bottom):")
    writer.depth += 1
    elements.start_rows("u")
    elements.begin_row()
    if elements.far:
        # What goes past the caches holds up the reads behind it: what the next block reads is asked for before.
        elements.ask_ahead()
    elements.hoist(elements.group.members)
    elements.begin_stream(elements.far, elements.tile_side)
    writer.line("for j in range(first, stop):")
    writer.depth += 1
    writer.interleave(cost.interleaving(elements.group.members))
    _write_body(elements)
    writer.depth -= 1
    elements.end_stream()
    return elements.rows, elements.inner, 3.0


def _write_woven(elements: Elements) -> tuple[int, float, float]:
    """Writes loops over short rows that follow one another: what lies across them in memory is woven before."""
    writer, n = elements.writer, elements.n
    elements.start_rows("lo")
    writer.line("u = lo")
    writer.line(f"many = {cost.WOVEN_PLACES} // {n}")
    writer.line("while u < hi:")
    writer.depth += 1
    ends = [text for text in ("u + many", "hi", elements.end_of_run("u")) if text]
    writer.line(f"rows = min({', '.join(ends)}) - u")
    elements.begin_row()
    elements.fill_tiles("0", "rows", n)
    elements.hoist(elements.group.members)
    _write_places(elements, "0", f"rows * {n}")
    elements.next_row("rows")
    writer.line("u += rows")
    writer.depth -= 1
    return elements.rows, elements.inner, 3.0


def _open_tiles(elements: Elements) -> None:
    """Opens loops over tiles, each from row `top` to `bottom` and from place `first` to `stop`.

    They go through matrices block by block, and through a block in strips of a tile's rows, or in tall tiles. Rows that
    are turned are far apart in memory: what finds those of a block is at hand until the block is done.
    """
    writer, side = elements.writer, elements.tile_side
    elements.find_lines()
    _open_blocks(elements)
    writer.line("for strip in range((below - above + tall - 1) // tall):")
    writer.depth += 1
    writer.line("edge = above + strip * tall")
    writer.line("top = max(edge, start)")
    writer.line("bottom = min(edge + tall, below)")
    writer.line(f"for begin in range(left, right, {side}):")
    writer.depth += 1
    writer.line("first = max(begin, 0)")
    writer.line(f"stop = min(begin + {side}, right)")


def _open_blocks(elements: Elements) -> None:
    """Opens a loop over blocks of matrices, each from row `above` to `below` and from place `left` to `right`.

    The rows of all matrices stand for equal shares of their blocks: a thread that is given a few rows of long ones
    would read of each line of memory what they need, and another thread the same lines again.
    """
    writer, n, run, block = elements.writer, elements.n, elements.run, elements.tile_side * cost.TALL
    rows, nbytes = writer.size(elements.rows), f"{run} * {n} * {elements.stored[0].dtype.itemsize}"
    if elements.mirrored:
        writer.line(f"pairs = 1 if {nbytes} >= {cost.MIRRORED_BYTES} else 0")
        writer.line(f"tall = {block} if pairs == 1 else {elements.tile_side}")
        writer.line(f"high = ({n} + max(down, aside) + {block - 1}) // {block}")
        writer.line("wide = high // 2 + 1 if pairs == 1 else high")
    else:
        writer.line(f"tall = {block} if {nbytes} >= {cost.TALL_BYTES} else {elements.tile_side}")
        writer.line(f"high = ({run} + down + {block - 1}) // {block}")
        writer.line(f"wide = ({n} + aside + {block - 1}) // {block}")
    writer.line(f"all = {rows} // {run} * high * wide")
    writer.line(f"for w in range(lo * all // {rows}, hi * all // {rows}):")
    writer.depth += 1
    writer.line("r = w // wide")
    writer.line("along = w - r * wide")
    writer.line("matrix = r // high")
    writer.line("across = r - matrix * high")
    writer.line(f"start = matrix * {run}")
    writer.line(f"above = start + across * {block} - down")
    if elements.mirrored:
        _open_images(elements, block)
    else:
        writer.line(f"left = along * {block} - aside")
        if elements.far:
            writer.line(f"ahead = {block}")
            writer.line("asks = 1 if along + 1 < wide else 0")
    writer.line(f"below = min(above + {block}, start + {run})")
    writer.line(f"right = min(left + {block}, {n})")


def _open_images(elements: Elements, block: int) -> None:
    """Opens a loop over a block of a square and its mirror image, which reads the same memory.

    Of m blocks along a side, a block is done with those that are up to m // 2 further on in its row, past the end of
    which the row begins anew: so each pair is met once, and all rows of blocks have equally many. In squares that a
    cache holds there are no pairs.
    """
    writer = elements.writer
    # A block on the diagonal is its own image; of an even number the one in the middle is met from both sides.
    writer.line("times = min(1 + pairs * along * (high - 2 * along), 2)")
    writer.line("along = (along + across) % high if pairs == 1 else along")
    writer.line(f"left = along * {block} - aside")
    if elements.far:
        writer.line(f"ahead = ((along + 1) % high - along) * {block}")
    writer.line("for turn in range(times):")
    writer.depth += 1
    if elements.far:
        writer.line("asks = pairs * (1 - turn)")
    writer.line("if turn == 1:")
    writer.depth += 1
    writer.line("above, left = start + left + aside - down, above - start + down - aside")
    writer.depth -= 1


def _write_body(elements: Elements) -> None:
    """Computes and stores at a place; the stores come last, so that in-place updates read the old values."""
    texts = [(v, elements.compute(v, "j")) for v in elements.stored]
    for value, text in texts:
        elements.store(value, "j", text)


def _write_rows(elements: Elements) -> Costs:
    return write_short_rows(elements) if isinstance(elements, ShortRows) and elements.short else write_row(elements)


_TEMPLATES: dict[str, Callable[[Elements], Costs]] = {
    LOOP: _write_loop,
    ROW: _write_rows,
    BLOCKS: write_blocks,
    COLUMN: write_column,
    STRIP: write_strip,
    SCAN: write_scan,
    BACKSCAN: write_scan,
    SCATTER: write_scatter,
}
