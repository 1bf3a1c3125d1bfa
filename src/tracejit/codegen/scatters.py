"""The template of the groups whose rows are added up at places that an index says.

In: the elements of a group. Out: lines; units, the elements in a unit and a unit's other cost.
Must not know: any operation.

Everyone goes through the whole index in ascending order. Of long rows a unit is some columns. Of others it is a range
of destinations, and who has it computes and adds the rows that belong there. So nothing is computed twice, no two
threads write to one destination, and the sum does not depend on who does what.
"""

from __future__ import annotations

from tracejit.codegen.elements import Elements
from tracejit.codegen.folds import Costs
from tracejit.schedule import cost
from tracejit.schedule.values import Number, Value


def write_scatter(elements: Elements) -> Costs:
    """Row by row, each added to its destination."""
    writer, group, n = elements.writer, elements.group, elements.n
    (value,) = group.reductions
    columns = cost.scatter_columns(elements.inner)
    units = -(-elements.inner // columns) if columns else cost.scatter_ranges(elements.inner)
    _write_begin(elements, value, units, columns)
    elements.start_rows("0")
    writer.line(f"for u in range({writer.size(elements.rows)}):")
    writer.depth += 1
    elements.begin_row()
    place = elements.fetch(value, value.reads[1], "")
    if not columns:
        writer.line(f"if top <= {place} < bottom:")
        writer.depth += 1
    writer.line(f"to = {place} * {n}")
    elements.hoist(group.members)
    begin, end = ("left", "right") if columns else ("0", n)
    if elements.far:
        # In whole vectors, also where lines are not: what is past the end of a piece in scratch memory is not kept.
        elements.open_pieces([], elements.own_row, begin, end, cost.STRIP)
        elements.begin_stream(elements.far, cost.STRIP)
        _write_places(elements, value, "first", "stop")
        elements.end_stream()
        writer.depth -= 1
    else:
        _write_places(elements, value, begin, end)
    if not columns:
        writer.depth -= 1
    elements.next_row()
    share = elements.inner / units
    return units, elements.rows * share, elements.rows * cost.PASSED + value.shape[0] * (share * cost.WORD)


def _write_begin(elements: Elements, value: Value, units: int, columns: int) -> None:
    """Finds the columns or the destinations, and puts there what the sums begin with."""
    writer, n = elements.writer, elements.n
    size = writer.size(value.shape[0])
    (number,) = (a for a in value.args if isinstance(a, Number))
    text, sums = writer.number(number, value.dtype), writer.pointer(elements.plan.storage[value])
    if columns:
        writer.line(f"left = lo * {columns}")
        writer.line(f"right = min(hi * {columns}, {n})")
        writer.line(f"for row in range({size}):")
        writer.depth += 1
        writer.line(f"for j in range(row * {n} + left, row * {n} + right):")
    else:
        parts = writer.size(units)
        writer.line(f"top = lo * {size} // {parts}")
        writer.line(f"bottom = hi * {size} // {parts}")
        writer.line(f"for j in range(top * {n}, bottom * {n}):")
    writer.depth += 1
    writer.store(value.dtype.short, sums, "j", text)
    writer.depth -= 2 if columns else 1


def _write_places(elements: Elements, value: Value, begin: str, end: str) -> None:
    """Computes a row's members, and adds it to its destination."""
    writer = elements.writer
    elements.forget_places()
    writer.line(f"for j in range({begin}, {end}):")
    writer.depth += 1
    texts = [(v, elements.compute(v, "j")) for v in elements.stored if v is not value]
    row = elements.operand(value, value.reads[0], "j")
    sums = writer.pointer(elements.plan.storage[value])
    for stored, text in texts:
        elements.store(stored, "j", text)
    writer.store(value.dtype.short, sums, "to + j", f"{writer.load(value.dtype.short, sums, 'to + j')} + {row}")
    writer.depth -= 1
