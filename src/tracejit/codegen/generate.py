"""The templates: a group becomes the text of a kernel.

In: a group and its plan. Out: `KernelText`s, one for each launch.
Must not know: how they are compiled or run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tracejit.codegen.elements import Elements
from tracejit.codegen.folds import combine, write_blocks, write_column, write_row
from tracejit.codegen.scratch import Scratch
from tracejit.codegen.text import KernelText, Writer
from tracejit.kernels.tiles import TILE_COLUMNS, TILE_ROWS
from tracejit.schedule import cost
from tracejit.schedule.groups import BLOCKS, COLUMN, LOOP, ROW, Group
from tracejit.schedule.plan import Plan, launches_of
from tracejit.schedule.values import VIRTUAL, Value


def generate(group: Group, plan: Plan) -> list[list[KernelText]]:
    """The kernels of a group that is no library call: a list for each of its stages."""
    writer = Writer()
    write = {LOOP: _write_loop, ROW: write_row, BLOCKS: write_blocks, COLUMN: write_column}[group.kind]
    units, elements, extra = write(Elements(writer, group, plan))
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
    """Writes the loop over the places of a row, or a loop for each elementary function over strips of it."""
    writer = elements.writer
    dear = cost.staged(elements.group.members, elements.inner)
    if not dear:
        _write_stage(elements, f"range({begin}, {end})", partial(_write_body, elements))
        return
    strip = cost.strip(len(dear))
    scratch = Scratch(writer, strip)
    writer.line(f"for first in range({begin}, {end}, {strip}):")
    writer.depth += 1
    writer.line(f"stop = min(first + {strip}, {end})")
    for k, value in enumerate(dear[:-1]):
        wanted = _needed([r.source for r in value.reads], dear[:k])
        _write_stage(elements, "range(first, stop)", partial(_keep, elements, scratch, value), scratch, wanted)
    wanted = _needed(elements.stored, dear[:-1])
    _write_stage(elements, "range(first, stop)", partial(_write_body, elements), scratch, wanted)
    writer.depth -= 1


def _write_stage(
    elements: Elements,
    places: str,
    write: Callable[[], None],
    scratch: Scratch | None = None,
    kept: Sequence[Value] = (),
) -> None:
    """Writes a loop over places, at each of which values that were kept are loaded first."""
    writer = elements.writer
    elements.forget_places()
    writer.line(f"for j in {places}:")
    writer.depth += 1
    writer.interleave(cost.interleaving(elements.group.members))
    for value in kept:
        assert scratch is not None
        elements.placed[value] = writer.name("x")
        writer.line(f"{elements.placed[value]} = {scratch.load(value, value.dtype, 'j - first')}  # {value.name}")
    write()
    writer.depth -= 1


def _keep(elements: Elements, scratch: Scratch, value: Value) -> None:
    scratch.store(value, value.dtype, "j - first", elements.compute(value, "j"))


def _needed(values: Sequence[Value], kept: Sequence[Value]) -> list[Value]:
    """Which of the values that were kept some others are computed from."""
    found: set[Value] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value in found:
            continue
        found.add(value)
        if value not in kept:
            todo += [r.source for r in value.reads]
    return [v for v in kept if v in found]


def _write_tiles(elements: Elements) -> tuple[int, float, float]:
    """Writes a loop over tiles: what is read across its rows in memory is turned before, tile by tile."""
    writer = elements.writer
    run = elements.run
    writer.line("top = lo")
    writer.line("while top < hi:")
    writer.depth += 1
    writer.line(f"bottom = min(top + {TILE_ROWS}, hi, top + {run} - top % {run})")
    writer.line(f"for first in range(0, {elements.n}, {TILE_COLUMNS}):")
    writer.depth += 1
    writer.line(f"stop = min(first + {TILE_COLUMNS}, {elements.n})")
    writer.line("u = top")
    elements.start_rows("u")
    elements.begin_row()
    elements.fill_tiles("first", "bottom - top", "stop - first")
    writer.line("for u in range(top, bottom):")
    writer.depth += 1
    elements.start_rows("u")
    elements.begin_row()
    elements.hoist(elements.group.members)
    writer.line("for j in range(first, stop):")
    writer.depth += 1
    writer.interleave(cost.interleaving(elements.group.members))
    _write_body(elements)
    writer.depth -= 3
    writer.line("top = bottom")
    return elements.rows, elements.inner, 3.0


def _write_body(elements: Elements) -> None:
    """Computes and stores at a place; the stores come last, so that in-place updates read the old values."""
    texts = [(v, elements.compute(v, "j")) for v in elements.stored]
    for value, text in texts:
        elements.store(value, "j", text)
