"""Templates of the groups with scans: along rows, and along columns.

In: the elements of a group. Out: lines; units, the elements in a unit and a unit's other cost.
Must not know: any operation.

A scan is one chain along its dimension, in ascending order or from the end. Rows are gone through several at a time, a
piece of each, since each is a chain that waits; columns lie side by side.
"""

from __future__ import annotations

from tracejit.codegen import expression
from tracejit.codegen.elements import Elements
from tracejit.codegen.folds import Costs, visit_all
from tracejit.codegen.scratch import Scratch
from tracejit.kernels.running import CHAINS
from tracejit.schedule import cost
from tracejit.schedule.rows import plan_rows
from tracejit.schedule.spaces import BACKSCAN
from tracejit.schedule.values import SCAN, Value

_LEAD = 16
"""Elements of scratch memory before the first row: as many as a vector may hold."""


def write_scan(elements: Elements) -> Costs:
    """Pieces of several rows, or columns side by side."""
    return _write_rows(elements) if elements.group.layout[2] == 1 else _write_columns(elements)


def _scans(elements: Elements) -> list[Value]:
    return [v for v in elements.group.members if v.kind == SCAN]


def _start(value: Value) -> str:
    """The text of what a scan carries before its first step."""
    assert value.op is not None
    return f"{expression.NUMBA[value.dtype.short]}({CHAINS[value.op.name].start})"


def _write_rows(elements: Elements) -> Costs:
    writer, group, n = elements.writer, elements.group, elements.n
    rows, places = cost.SCAN_ROWS, cost.SCAN_PLACES
    plan = plan_rows(group.members, group.full, elements.stored)
    scratch, sofar = Scratch(writer, rows * places + _LEAD), Scratch(writer, rows)
    writer.line(f"for top in range(lo, hi, {rows}):")
    writer.depth += 1
    writer.line(f"bottom = min(top + {rows}, hi)")
    writer.line(f"for k in range({rows}):")
    writer.depth += 1
    for value in _scans(elements):
        sofar.store(value, value.dtype, "k", _start(value))
    writer.depth -= 1
    writer.line(f"for done in range(0, {n}, {places}):")
    writer.depth += 1
    if group.kind == BACKSCAN:
        writer.line(f"right = {n} - done")
        writer.line(f"left = max(right - {places}, 0)")
    else:
        writer.line("left = done")
        writer.line(f"right = min(left + {places}, {n})")
    for visit in plan.passes:
        if visit.compute or visit.write or any(value in visit.fold for value, _ in plan.copied):
            elements.start_rows("top")
            writer.line("for u in range(top, bottom):")
            writer.depth += 1
            elements.begin_row()
            visit_all(elements, scratch, plan, visit, "left", "right", f"(u - top) * {places} + j - left + {_LEAD}")
            elements.next_row()
            writer.depth -= 1
        for value in visit.fold:
            _run(elements, scratch, sofar, value)
    work = sum(len(v.compute) + len(v.fold) for v in plan.passes) / max(1, len(group.members))
    return elements.rows, elements.inner * max(work, 1.0), 4.0 * len(plan.passes)


def _run(elements: Elements, scratch: Scratch, sofar: Scratch, value: Value) -> None:
    """Runs a scan over the pieces."""
    inside = elements.inside
    places = [r.source if r.source in inside else (value, k) for k, r in enumerate(value.reads)]
    lead = _LEAD * value.dtype.itemsize
    memory = [f"{scratch.row(place, value.dtype)[0]} + {lead}" for place in (*places, value)]
    memory.append(sofar.row(value, value.dtype)[0])
    assert value.op is not None
    name = f"{value.op.name}_rows_{'back_' if value.back else ''}{value.dtype.short}"
    elements.writer.line(f"{name}({', '.join(memory)}, {cost.SCAN_PLACES}, bottom - top, right - left)")


def _write_columns(elements: Elements) -> Costs:
    writer, group = elements.writer, elements.group
    outer, size, inner = group.layout
    width, together = cost.SCAN_COLUMNS, cost.SCAN_STRIPS
    strips = -(-inner // width)
    many, tall = writer.size(strips), writer.size(size)
    sofar = Scratch(writer, width * together)
    writer.line("w = lo")
    writer.line("while w < hi:")
    writer.depth += 1
    writer.line(f"o = w // {many}")
    writer.line(f"strip = w - o * {many}")
    writer.line(f"last = min(strip + {together}, {many}, strip + hi - w)")
    writer.line("w += last - strip")
    writer.line(f"left = strip * {width}")
    writer.line(f"right = min(last * {width}, {elements.n})")
    writer.line("for j in range(left, right):")
    writer.depth += 1
    for value in _scans(elements):
        sofar.store(value, value.dtype, "j - left", _start(value))
    writer.depth -= 1
    back = group.kind == BACKSCAN
    if not back:
        elements.start_rows(f"(o * {tall})")
    writer.line(f"for row in range({tall}):")
    writer.depth += 1
    writer.line(f"u = o * {tall} + {f'{tall} - 1 - row' if back else 'row'}")
    if back:
        elements.start_rows("u")
    elements.begin_row()
    elements.hoist(group.members)
    if elements.far:
        # In whole vectors, also where lines are not: what is past the end of a piece in scratch memory is not kept.
        elements.open_pieces([], elements.own_row, "left", "right", cost.STRIP)
        elements.begin_stream(elements.far, cost.STRIP)
        _write_row(elements, sofar, "first", "stop")
        elements.end_stream()
        writer.depth -= 1
    else:
        _write_row(elements, sofar, "left", "right")
    if not back:
        elements.next_row()
    return outer * strips, size * min(inner, width) * 1.0, 20.0 + 3.0 * size


def _write_row(elements: Elements, sofar: Scratch, begin: str, end: str) -> None:
    """One step of all scans for columns side by side, and what is computed beside."""
    writer, members = elements.writer, elements.group.members
    elements.forget_places()
    writer.line(f"for j in range({begin}, {end}):")
    writer.depth += 1
    writer.interleave(cost.interleaving(members))
    for value in members:
        if value.kind == SCAN:
            _step(elements, sofar, value)
    texts = [(v, elements.compute(v, "j")) for v in elements.stored]
    for value, text in texts:
        elements.store(value, "j", text)
    writer.depth -= 1


def _step(elements: Elements, sofar: Scratch, value: Value) -> None:
    writer = elements.writer
    assert value.op is not None
    result, further = CHAINS[value.op.name].texts
    operands = {"sofar": writer.name("x")}
    writer.line(f"{operands['sofar']} = {sofar.load(value, value.dtype, 'j - left')}")
    operands |= {p: elements.operand(value, r, "j") for p, r in zip(value.op.params, value.reads, strict=True)}
    operands["out"] = elements.placed[value] = writer.name("v")
    writer.line(f"{operands['out']} = {result.format(**operands)}  # {value.op.name}")
    sofar.store(value, value.dtype, "j - left", further.format(**operands))
