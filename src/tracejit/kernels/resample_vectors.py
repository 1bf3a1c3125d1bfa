"""The kernels of resampling, whole vectors of a result at a time.

Along an axis with others behind it vectors hold neighbours in a slice. Rows are turned on their way in and out, so that
vectors hold one place of several rows: places along a row have no order that vectors could be loaded in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.conv_tiles import turn
from tracejit.kernels.emit import I64, Splat, emit_loop
from tracejit.kernels.gemm_packing import add_transpose
from tracejit.kernels.vectors import F32, F64, TARGET, Lane, VectorBuilder

(T_TABLE, T_OLD, T_NEW, T_TAPS, T_RATIO, T_BEFORE, T_BEHIND) = range(7)
"""Slots of the table: its address, sizes, terms of an element, the step between places (float64)."""
TABLE_UNIT = 128
"""Elements whose terms are a unit."""

(X, OUT, TABLE, PLACES, WEIGHTS, STARTS, SOURCES, RESULTS, REST) = range(9)
"""Slots of the others: addresses, where in the table its parts are, sizes along the axis of x and of the result, and
how many rows there are, or how many elements in a slice."""

ROWS_OF_UNIT = {"float32": F32.count, "float64": F64.count}
"""Rows in a unit."""

_BLOCK = 64
"""Places of a row that are computed together."""
_WINDOW = 1024
"""The most places of the source that are turned for them."""
_SHARPNESS = -0.75
"""The slope of cubic interpolation, as PyTorch has it."""


def _near(b: Any, kind: Any, t: Any) -> Any:
    """Keys' cubic convolution at a distance below 1."""
    slope = b.fsub(b.fmul(kind(_SHARPNESS + 2), t), kind(_SHARPNESS + 3))
    return b.fadd(b.fmul(b.fmul(slope, t), t), kind(1.0))


def _far(b: Any, kind: Any, t: Any) -> Any:
    """Keys' cubic convolution at a distance of 1 + t."""
    x = b.fadd(t, kind(1.0))
    value = b.fsub(b.fmul(kind(_SHARPNESS), x), kind(5 * _SHARPNESS))
    value = b.fadd(b.fmul(value, x), kind(8 * _SHARPNESS))
    return b.fsub(b.fmul(value, x), kind(4 * _SHARPNESS))


def _make_table(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """A unit is some elements of the result, or of what is given back."""
    b, kind = code.builder, lane.kind
    at, old, new, taps = code.slots(p, T_TABLE, T_OLD, T_NEW, T_TAPS)
    step = [b.bitcast(word.value, F64.kind) for word in code.slots(p, T_RATIO, T_BEFORE, T_BEHIND)]
    entries = taps * new
    places, weights, starts = at, at + entries * 8, at + entries * 16

    name = f"llvm.floor.{lane.name}"
    floor = code.module.globals.get(name)
    if floor is None:
        floor = ir.Function(code.module, ir.FunctionType(kind, [kind]), name)

    def place_of(s: Word, kind: Any) -> Any:
        ratio, before, behind = step if kind is F64.kind else [b.fptrunc(number, kind) for number in step]
        return b.fsub(b.fmul(b.fadd(b.sitofp(s.value, kind), before), ratio), behind)

    def put(entry: Word, place: Word, weight: Any) -> None:
        code.store(places, entry, place.least(old - 1).most(0))
        code.store(weights, entry, Word(b, weight))

    def elements(terms: int, first: Word, last: Word) -> None:
        with code.loop(first, last) as s:
            # The nearest element is found in single precision whatever the type, as PyTorch has it.
            found = b.fpext(place_of(s, F32.kind), kind) if terms == 1 < lane.size // 4 else place_of(s, kind)
            if terms == 2:
                found = b.select(b.fcmp_ordered("<", found, kind(0.0)), kind(0.0), found)
            whole = b.call(floor, [found])
            nearest, part = Word(b, b.fptosi(whole, I64)), b.fsub(found, whole)
            rest = b.fsub(kind(1.0), part)
            weights = {
                1: lambda: [kind(1.0)],
                2: lambda: [rest, part],
                4: lambda: [_far(b, kind, part), _near(b, kind, part), _near(b, kind, rest), _far(b, kind, rest)],
            }[terms]()
            code.store(starts, s, s * terms)
            for t, weight in enumerate(weights):
                put(s * terms + t, nearest + (t - int(terms == 4)), weight)

    with code.loop(low, high) as unit:
        first = unit * TABLE_UNIT
        last = new.least(first + TABLE_UNIT)
        for terms in (1, 2, 4):
            with code.when(taps.equals(terms)):
                elements(terms, first, last)
        with code.when(last.equals(new)):
            code.store(starts, new, entries)


def _turn_table(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """The terms of a table by their places, in the order in which they are there. The only unit is all of it."""
    at, old, new, taps = code.slots(p, T_TABLE, T_OLD, T_NEW, T_TAPS)
    entries = taps * new
    places, weights, turned = at, at + entries * 8, at + entries * 16 + (new + 1) * 8
    turned_places, turned_weights, ends = turned, turned + entries * 8, turned + entries * 16
    with code.loop(0, old + 2) as i:
        code.store(ends, i, code.word(0))
    with code.loop(0, entries) as e:
        place = code.load(places, e) + 2
        code.store(ends, place, code.load(ends, place) + 1)
    with code.loop(2, old + 2) as i:
        code.store(ends, i, code.load(ends, i) + code.load(ends, i - 1))
    # Where the terms of a place begin moves on while they are put there: in the end that is where the next ones begin.
    with code.loop(0, new) as s, code.loop(0, taps) as t:
        entry = s * taps + t
        place = code.load(places, entry) + 1
        to = code.load(ends, place)
        code.store(turned_places, to, s)
        code.store(turned_weights, to, code.load(weights, entry, lane.kind))
        code.store(ends, place, to + 1)


class _Resampling:
    """What both kernels know: the table, and the chains of its terms."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        self.lane, self.code, self.vectors = lane, code, VectorBuilder(code.builder, lane)
        self.x, self.out, table, places, weights = code.slots(p, X, OUT, TABLE, PLACES, WEIGHTS)
        starts, self.sources, self.results, self.rest = code.slots(p, STARTS, SOURCES, RESULTS, REST)
        self.places, self.weights, self.starts = table + places, table + weights, table + starts

    def chains(self, s: Word, start: Any, load: Callable[[Word], list[Any]], weight: Callable[[Any], Any]) -> list[Any]:
        """The sums of result slice s: `load(place)` gives so many values as there are sums, which begin as `start`."""
        code, b = self.code, self.code.builder
        first, end = code.load(self.starts, s), code.load(self.starts, s + 1)
        count = (end - first).value

        def term(state: list[Any]) -> list[Any]:
            entry, *sums = state
            factor = weight(code.load(self.weights, Word(b, entry), self.lane.kind).value)
            values = load(code.load(self.places, Word(b, entry)))
            added = [b.fadd(total, b.fmul(factor, value)) for total, value in zip(sums, values, strict=True)]
            return [b.add(entry, I64(1)), *added]

        return emit_loop(b, count, [first.value, *start], term)[1:]

    def several(self, s: Word, load: Callable[[Word], list[Any]], count: int) -> list[Any]:
        """Sums of vectors; one of no terms is 0."""
        v, b = self.vectors, self.code.builder
        # Nothing else keeps the sign of a first term that is 0.
        sums = self.chains(s, [Splat(self.lane.vector, -0.0)] * count, load, v.spread)
        none = self.code.load(self.starts, s).equals(self.code.load(self.starts, s + 1)).value
        return [b.select(none, v.zeros, total) for total in sums]


def _slices(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """A unit is a slice of the result."""
    r = _Resampling(lane, code, p)
    v, inner, wide = r.vectors, r.rest, 4 * lane.count
    with code.loop(low, high) as unit:
        plane = unit.quotient(r.results)
        s = unit - plane * r.results
        source, out = r.x + plane * r.sources * inner * lane.size, r.out + unit * inner * lane.size

        def place_of(place: Word, source: Word = source) -> Word:
            return source + place * inner * lane.size

        whole = inner.quotient(wide) * wide
        with code.loop(0, whole, wide) as c:
            offsets = [I64(k * TARGET.vector_bytes) for k in range(4)]

            def strip(place: Word, c: Word = c) -> list[Any]:
                return [v.load((place_of(place) + c * lane.size).value, offset) for offset in offsets]

            for total, offset in zip(r.several(s, strip, 4), offsets, strict=True):
                v.store(total, (out + c * lane.size).value, offset)
        with code.loop(whole, inner, lane.count) as c:
            mask = v.mask((inner - c).value)

            def end(place: Word, c: Word = c, mask: Any = mask) -> list[Any]:
                return [v.load_masked((place_of(place) + c * lane.size).value, mask)]

            v.store_masked(r.several(s, end, 1)[0], (out + c * lane.size).value, mask)


def _rows(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """A unit is as many rows as a vector has places."""
    r = _Resampling(lane, code, p)
    v, b, width = r.vectors, code.builder, lane.count
    sums = code.buffer(_BLOCK * TARGET.vector_bytes)
    window = code.buffer((_WINDOW + width) * TARGET.vector_bytes)
    transpose = add_transpose(code.module, lane)
    with code.loop(low, high) as unit, code.loop(0, r.results, _BLOCK) as first:
        row = unit * width
        left = (r.rest - row).least(width)
        last = r.results.least(first + _BLOCK)
        begin, end = code.load(r.starts, first), code.load(r.starts, last)
        some = (end > begin).number()
        # Terms are in ascending order within a slice, and from slice to slice, so that these are the outermost.
        lowest = code.load(r.places, begin * some) * some
        span = (code.load(r.places, (end - 1) * some) + 1) * some - lowest
        rows, out = r.x + row * r.sources * lane.size, r.out + (row * r.results + first) * lane.size

        def turned() -> None:
            wanted = span.ceil_div(width) * width
            start = lowest.least((r.sources - wanted).most(0))
            count = wanted.least(r.sources - start)
            whole = (count < width).choose(count, count.quotient(width) * width)
            at = rows + start * lane.size
            code.call(transpose, at, r.sources, window, width, whole, left)
            with code.when(whole < count):
                # The last ones are turned once more with those before them: single ones take longer.
                behind = count - width
                to = window + behind * TARGET.vector_bytes
                code.call(transpose, at + behind * lane.size, r.sources, to, width, width, left)
            base = window - start * TARGET.vector_bytes
            with code.loop(first, last) as s:
                total = r.several(s, lambda place: [v.load((base + place * TARGET.vector_bytes).value)], 1)[0]
                v.store(total, (sums + (s - first) * TARGET.vector_bytes).value)
            turn(code, lane, sums, out, r.results, left, last - first, code.word(1))

        def single() -> None:
            zero = lane.kind(-0.0)
            with code.loop(0, left) as n, code.loop(first, last) as s:
                source = rows + n * r.sources * lane.size
                total = r.chains(s, [zero], lambda place: [code.load(source, place, lane.kind).value], lambda w: w)[0]
                code.store(out, n * r.results + (s - first), Word(b, total))

        code.either(span <= _WINDOW, turned, single)


table_f32 = native_kernel("resampled_table_f32", partial(_make_table, F32), by_hand=False)
table_f64 = native_kernel("resampled_table_f64", partial(_make_table, F64), by_hand=False)
turned_f32 = native_kernel("resampled_turned_f32", partial(_turn_table, F32), by_hand=False)
turned_f64 = native_kernel("resampled_turned_f64", partial(_turn_table, F64), by_hand=False)
slices_f32 = native_kernel("resampled_slices_f32", partial(_slices, F32))
slices_f64 = native_kernel("resampled_slices_f64", partial(_slices, F64))
rows_f32 = native_kernel("resampled_rows_f32", partial(_rows, F32))
rows_f64 = native_kernel("resampled_rows_f64", partial(_rows, F64))


def resample_table_f32(p: Any, lo: int, hi: int) -> Any:
    """Which terms each slice is the sum of, float32."""
    return table_f32(p, lo, hi)


def resample_table_f64(p: Any, lo: int, hi: int) -> Any:
    """Which terms each slice is the sum of, float64."""
    return table_f64(p, lo, hi)


def resample_turned_f32(p: Any, lo: int, hi: int) -> Any:
    """Which terms each slice of the adjoint is the sum of, float32."""
    return turned_f32(p, lo, hi)


def resample_turned_f64(p: Any, lo: int, hi: int) -> Any:
    """Which terms each slice of the adjoint is the sum of, float64."""
    return turned_f64(p, lo, hi)


def resample_slices_f32(p: Any, lo: int, hi: int) -> Any:
    """Slices of several elements, float32."""
    return slices_f32(p, lo, hi)


def resample_slices_f64(p: Any, lo: int, hi: int) -> Any:
    """Slices of several elements, float64."""
    return slices_f64(p, lo, hi)


def resample_rows_f32(p: Any, lo: int, hi: int) -> Any:
    """Elements of rows, float32."""
    return rows_f32(p, lo, hi)


def resample_rows_f64(p: Any, lo: int, hi: int) -> Any:
    """Elements of rows, float64."""
    return rows_f64(p, lo, hi)
