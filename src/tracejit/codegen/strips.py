"""The template of sums of columns that are read back: strips of columns, in one visit or several.

In: the elements of a group. Out: lines; units, the elements in a unit and a unit's other cost.
Must not know: any operation.

A visit goes through all rows of a strip and folds each column as `codegen.folds` does, one row after another. What is
made of the folds, one element for each column, is kept beside; it is written to memory when all visits are done, since
any of them may read what it is written over.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.elements import Elements
from tracejit.codegen.folds import Costs, unfolded
from tracejit.codegen.scratch import Scratch
from tracejit.schedule import cost
from tracejit.schedule.rows import Pass, plan_rows
from tracejit.schedule.values import Value

_PLACES = "range(first, stop)"


def write_strip(elements: Elements) -> Costs:
    """Strips of columns."""
    writer, group = elements.writer, elements.group
    rows = plan_rows(group.members, group.full, elements.stored, keeps=False)
    together = cost.STRIP_WIDTH * cost.STRIPS_AT_ONCE
    beside = Scratch(writer, together)
    writer.line(f"last = min(hi * {cost.STRIP_WIDTH}, {elements.n})")
    writer.line(f"for first in range(lo * {cost.STRIP_WIDTH}, last, {together}):")
    writer.depth += 1
    writer.line(f"stop = min(first + {together}, last)")
    _write_beside(elements, beside, rows.before, [])
    for visit in rows.passes:
        if visit.fold or visit.write:
            _write_visit(elements, beside, visit)
        _write_beside(elements, beside, visit.row, visit.fold)
    stored = [v for v in elements.stored if v not in group.full]
    if stored:
        elements.begin_beside()
        _open(elements, beside, stored)
    for value in stored:
        elements.store(value, "j", elements.placed[value])
    strips = -(-elements.inner // cost.STRIP_WIDTH)
    visits = sum(len(v.compute) + len(v.fold) for v in rows.passes) / max(1, len(group.members))
    width = min(elements.inner, cost.STRIP_WIDTH)
    extra = 20.0 + 3.0 * elements.rows * len(rows.passes)
    return strips, elements.rows * width * max(visits, 1.0), extra


def _open(elements: Elements, beside: Scratch, wanted: Sequence[Value], side_by_side: int = 1) -> None:
    """Opens a loop over the strip's columns, in which wanted values that are kept beside are at hand."""
    writer = elements.writer
    elements.forget_places()
    writer.line(f"for j in {_PLACES}:")
    writer.depth += 1
    writer.interleave(side_by_side)
    for value in wanted:
        elements.placed[value] = writer.name("x")
        writer.line(f"{elements.placed[value]} = {beside.load(value, value.dtype, 'j - first')}  # {value.name}")


def _needed(elements: Elements, members: Sequence[Value], own: Sequence[Value]) -> list[Value]:
    """What members read that is kept beside, but for what they are themselves."""
    group = elements.group
    sources = dict.fromkeys(r.source for v in members for r in v.reads)
    return [v for v in sources if v in elements.inside and v not in group.full and v not in own]


def _write_beside(elements: Elements, beside: Scratch, values: list[Value], folds: list[Value]) -> None:
    """Computes and keeps what has one element for each column, some of it the outcome of folds."""
    if not values and not folds:
        return
    writer = elements.writer
    elements.begin_beside()
    elements.hoist(values)
    _open(elements, beside, [*folds, *_needed(elements, values, [*values, *folds])])
    for value in folds:
        elements.placed[value] = unfolded(elements.placed[value], value.dtype)
        beside.store(value, value.dtype, "j - first", elements.placed[value])
    for value in values:
        beside.store(value, value.dtype, "j - first", elements.compute(value, "j"))
    writer.depth -= 1


def _write_visit(elements: Elements, beside: Scratch, visit: Pass) -> None:
    """Goes through all rows of the strip."""
    writer, group, plan = elements.writer, elements.group, elements.plan
    if visit.fold:
        writer.line(f"for j in {_PLACES}:")
        writer.depth += 1
        for value in visit.fold:
            short = expression.folding(value.dtype)
            writer.store(short, beside.row(value, value.dtype), "j - first", f"start_{value.name}_{short}()")
        writer.depth -= 1
    elements.start_rows("0")
    writer.line(f"for u in range({writer.size(elements.rows)}):")
    writer.depth += 1
    elements.begin_row()
    elements.hoist([*visit.compute, *visit.fold])
    _open(elements, beside, _needed(elements, visit.compute, visit.fold), cost.interleaving(visit.compute))
    for value in visit.load:
        text = writer.load(value.dtype.short, writer.pointer(plan.storage[value]), elements.own(value, "j"))
        elements.placed[value] = writer.name("x")
        writer.line(f"{elements.placed[value]} = {text}  # {value.name}")
    for value in visit.compute:
        elements.compute(value, "j")
    for value in visit.fold:
        text = elements.operand(value, value.reads[0], "j")
        text = f"uint8({text})" if value.dtype is dtypes.bool else text
        short, sums = expression.folding(value.dtype), beside.row(value, value.dtype)
        step = f"step_{value.name}_{short}({writer.load(short, sums, 'j - first')}, {text})"
        writer.store(short, sums, "j - first", step)
    for value in visit.write:
        if value in group.full:
            elements.store(value, "j", elements.placed[value])
    writer.depth -= 1
    elements.next_row()
    writer.depth -= 1
