"""Convolutions of each channel with one filter of its own, and their gradients: channels in the lanes.

A vector's width of planes is turned, so that a pixel of all of them is one vector, and surrounded by zeros. Whatever
stride and dilation are, each tap then is a vector that lies at an offset from that of the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_tiles import (
    COLUMNS,
    GROUPS,
    OUT,
    OUT_COLUMNS,
    OUT_ROWS,
    ROWS,
    SOURCE,
    STRIDE_COLUMNS,
    STRIDE_ROWS,
    TAP_COLUMNS,
    TAP_ROWS,
    WEIGHT,
    axes,
    turn,
)
from tracejit.kernels.conv_vectors import add_zeros
from tracejit.kernels.emit import I64, emit_loop, internal_function
from tracejit.kernels.gemm_packing import add_transpose
from tracejit.kernels.vectors import TARGET, Lane, VectorBuilder

Pair = tuple[int, int]

(BAND, BANDS, ROW_LOW, ROW_SPAN, COLUMN_LOW, COLUMN_SPAN, IMAGES) = range(19, 26)
"""Slots behind those of all convolutions: rows of a grid in a band, bands of an image, the least shift of a tap and
from there to the greatest along both axes, images."""

MAX_WEIGHTS = 256
"""The most taps of a filter."""
_BAND_BYTES, MOST_BYTES = 64 << 10, 160 << 10
"""Bytes of planes, turned, that a band is meant to see, and at most."""
_PIXELS = 8
"""Pixels of a tile: as many chains as the CPU has under way."""
_TAPS = (9, 3)
"""Taps of the large and the small tile of a weight's gradient."""


@dataclass(frozen=True, slots=True)
class DepthwiseSplit:
    """Bands of `rows` rows of a grid, and how far taps reach along both axes."""

    rows: int
    bands: int
    low: Pair
    span: Pair

    def slots(self, images: int) -> tuple[int, ...]:
        return (self.rows, self.bands, self.low[0], self.span[0], self.low[1], self.span[1], images)


def split_depthwise(
    source: Pair, out: Pair, taps: Pair, stride: Pair, padding: Pair, dilation: Pair, backward: bool
) -> DepthwiseSplit | None:
    """The cut of planes that are not empty; None where not even one row of a grid has room."""
    if taps[0] * taps[1] > MAX_WEIGHTS:
        return None
    reach = [dilation[axis] * (taps[axis] - 1) for axis in (0, 1)]
    if backward:
        step, grid = (1, 1), stride
        low = [(padding[axis] - reach[axis]) // stride[axis] for axis in (0, 1)]
        span = [(stride[axis] - 1 + padding[axis]) // stride[axis] - low[axis] for axis in (0, 1)]
    else:
        step, grid = stride, (1, 1)
        low, span = [-padding[axis] for axis in (0, 1)], reach
    high, wide = (-(-out[axis] // grid[axis]) for axis in (0, 1))
    width = max((wide - 1) * step[1] + span[1] + 1, source[1])

    def room(rows: int) -> int:
        """Bytes of what the kernel holds of one kind for so many rows."""
        seen = ((rows - 1) * step[0] + span[0] + 1) * width
        return max(seen, rows * grid[0] * out[1]) * TARGET.vector_bytes

    rows = high
    # Few rows have most of what they see in common with those before and behind, which turn it, too.
    while rows > 1 and room(rows) > (MOST_BYTES if rows * step[0] <= 2 * span[0] else _BAND_BYTES):
        rows = -(-rows // 2)
    if room(rows) > MOST_BYTES:
        return None
    return DepthwiseSplit(rows, -(-high // rows), (low[0], low[1]), (span[0], span[1]))


def _add_chains(module: Any, lane: Lane, pixels: int) -> Any:
    """Neighbouring pixels, each one chain over the taps.

    Arguments: place of the first pixel, bytes to the next, taps, their offsets in bytes, those of their factors, the
    factors, the result, bytes to the next of its pixels.
    """

    def body(b: Any, arguments: tuple[Any, ...]) -> None:
        at, step, count, offsets, ranks, factors, out, out_step = arguments
        v = VectorBuilder(b, lane)
        places, targets = [at], [out]
        for _ in range(pixels - 1):
            places.append(b.add(places[-1], step))
            targets.append(b.add(targets[-1], out_step))

        def tap(state: list[Any]) -> list[Any]:
            k, *sums = state
            offset, rank = (b.load(v.pointer(table, I64, k)) for table in (offsets, ranks))
            factor = v.load(factors, rank)
            added = [v.fma(v.load(place, offset), factor, total) for place, total in zip(places, sums, strict=True)]
            return [b.add(k, I64(8)), *added]

        sums = emit_loop(b, count, [I64(0)] + [v.zeros] * pixels, tap)[1:]
        for total, target in zip(sums, targets, strict=True):
            v.store(total, target)

    return internal_function(module, f"depthwise_{lane.name}_{pixels}", 8, body)


def _add_taps(module: Any, lane: Lane, taps: int) -> Any:
    """Goes on with the chains of some taps along a row of pixels.

    Arguments: place of the first pixel, bytes to the next, pixels, offsets of the taps in bytes, cotangents, sums.
    """

    def body(b: Any, arguments: tuple[Any, ...]) -> None:
        at, step, count, offsets, cotangents, sums = arguments
        v = VectorBuilder(b, lane)
        seen = [b.load(v.pointer(offsets, I64, I64(8 * k))) for k in range(taps)]
        kept = [I64(k * TARGET.vector_bytes) for k in range(taps)]

        def pixel(state: list[Any]) -> list[Any]:
            place, cotangent, *chains = state
            factor = v.load(cotangent)
            added = [v.fma(v.load(place, offset), factor, chain) for offset, chain in zip(seen, chains, strict=True)]
            return [b.add(place, step), b.add(cotangent, I64(TARGET.vector_bytes)), *added]

        found = emit_loop(b, count, [at, cotangents, *(v.load(sums, offset) for offset in kept)], pixel)[2:]
        for chain, offset in zip(found, kept, strict=True):
            v.store(chain, sums, offset)

    return internal_function(module, f"depthwise_taps_{lane.name}_{taps}", 6, body)


class Planes:
    """What the kernels have in common: planes of a vector's width of channels, turned and surrounded by zeros."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        self.lane, self.code = lane, code
        self.source, self.weight, self.out, self.groups = code.slots(p, SOURCE, WEIGHT, OUT, GROUPS)
        self.rows, self.columns, self.out_rows, self.out_columns = code.slots(p, ROWS, COLUMNS, OUT_ROWS, OUT_COLUMNS)
        taps_i, self.taps_j, stride_i, stride_j = code.slots(p, TAP_ROWS, TAP_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS)
        self.taps = taps_i * self.taps_j
        self.band, self.bands, self.images = code.slots(p, BAND, BANDS, IMAGES)
        self.row_low, self.row_span, self.column_low, span = code.slots(p, ROW_LOW, ROW_SPAN, COLUMN_LOW, COLUMN_SPAN)
        self.back, self.vertical, self.horizontal = axes(code, p)
        self.grid_i, self.grid_j = self.back.choose(stride_i, 1), self.back.choose(stride_j, 1)
        self.grid_rows = self.out_rows.ceil_div(self.grid_i)
        self.width = (self.out_columns.ceil_div(self.grid_j) - 1) * self.horizontal.step + span + 1
        self.blocks = self.groups.ceil_div(lane.count)
        self.plain, self.window, self.turned = (code.buffer(MOST_BYTES) for _ in range(3))
        self.offsets, self.ranks = (code.buffer(8 * (MAX_WEIGHTS + _TAPS[0])) for _ in range(2))
        self.factors = code.buffer((MAX_WEIGHTS + _TAPS[0]) * TARGET.vector_bytes)

    def fill(self, planes: Word, left: Word, first: Word, rows: Word) -> None:
        """Puts what `rows` rows of a grid from `first` on see of `left` planes at an address into the window."""
        code, vector = self.code, TARGET.vector_bytes
        zeros = add_zeros(code.module, self.lane)
        top = first * self.vertical.step + self.row_low
        height = (rows - 1) * self.vertical.step + self.row_span + 1
        above = (-top).most(0).least(height)
        below = (self.rows - top).most(above).least(height)
        at = planes + (top + above) * self.columns * self.lane.size
        transpose = add_transpose(code.module, self.lane)
        pixels = (below - above) * self.columns
        code.call(transpose, at, self.rows * self.columns, self.plain, self.lane.count, pixels, left)
        self.turned_in(top + above, below - above)
        before = (-self.column_low).most(0).least(self.width)
        behind = (self.columns - self.column_low).most(before).least(self.width)
        code.call(zeros, self.window, above * self.width)
        code.call(zeros, self.window + below * self.width * vector, (height - below) * self.width)
        copy = _add_row(code.module, self.lane)
        with code.loop(above, below) as y:
            to = self.window + y * self.width * vector
            row = self.plain + ((y - above) * self.columns + self.column_low + before) * vector
            code.call(zeros, to, before)
            code.call(copy, row, to + before * vector, behind - before)
            code.call(zeros, to + behind * vector, self.width - behind)

    def turned_in(self, first: Word, rows: Word) -> None:
        """Is called when `rows` rows of the source from `first` on are turned, and before they are surrounded."""

    def look_up(self) -> Word:
        """Fills the tables of the taps that the axes have found, in their order; gives their number."""
        code, vector = self.code, TARGET.vector_bytes
        across = self.horizontal.count
        count = self.vertical.count * across
        with code.loop(0, self.vertical.count) as i:
            down = (code.load(self.vertical.shifts, i) - self.row_low) * self.width - self.column_low
            rank = code.load(self.vertical.taps, i) * self.taps_j
            with code.loop(0, across) as j:
                k = self.order(i * across + j, count)
                code.store(self.offsets, k, (down + code.load(self.horizontal.shifts, j)) * vector)
                code.store(self.ranks, k, (rank + code.load(self.horizontal.taps, j)) * vector)
        return count

    def order(self, tap: Word, count: Word) -> Word:
        """Which place in its chain a tap has among those that were found."""
        return tap

    def place(self, y: Word, x: Word | int) -> Word:
        """The address in the window of a pixel of a grid, whose rows count from the first of the band."""
        down = y * self.vertical.step * self.width
        return self.window + (down + x * self.horizontal.step) * TARGET.vector_bytes


def _add_row(module: Any, lane: Lane) -> Any:
    """Copies whole vectors. Arguments: source, out, vectors."""

    def body(b: Any, arguments: tuple[Any, ...]) -> None:
        v = VectorBuilder(b, lane)

        def vector(state: list[Any]) -> list[Any]:
            v.store(v.load(state[0]), state[1])
            return [b.add(at, I64(TARGET.vector_bytes)) for at in state]

        emit_loop(b, arguments[2], list(arguments[:2]), vector, together=4)

    return internal_function(module, f"vectors_{lane.name}", 3, body)


class DepthwiseImage(Planes):
    """The convolution, or its gradient to the input."""

    def unit(self, unit: Word) -> None:
        """A band of a vector's width of channels of an image."""
        code, lane = self.code, self.lane
        place = unit.quotient(self.bands)
        first = (unit - place * self.bands) * self.band
        image = place.quotient(self.blocks)
        group = (place - image * self.blocks) * lane.count
        left = (self.groups - group).least(lane.count)
        rows = (self.grid_rows - first).least(self.band)
        plane = image * self.groups + group
        self.fill(self.source + plane * self.rows * self.columns * lane.size, left, first, rows)
        self.load_factors(group, left)
        with code.loop(0, self.grid_i) as phase_i:
            self.vertical.find(code, phase_i)
            there = ((self.out_rows - phase_i).ceil_div(self.grid_i) - first).least(rows)
            with code.loop(0, self.grid_j) as phase_j:
                self.horizontal.find(code, phase_j)
                taps = self.look_up()
                columns = (self.out_columns - phase_j).ceil_div(self.grid_j)
                with code.loop(0, there) as y:
                    self._row(y, phase_i, phase_j, columns, taps)
        top = first * self.grid_i
        height = (self.out_rows - top).least(rows * self.grid_i)
        self.computed(top, height)
        out = self.out + (plane * self.out_rows + top) * self.out_columns * lane.size
        step, count = self.out_rows * self.out_columns, height * self.out_columns
        turn(code, lane, self.turned, out, step, left, count, code.word(1))

    def load_factors(self, group: Word, left: Word) -> None:
        """Turns the filters of `left` channels from `group` on."""
        weights = self.weight + group * self.taps * self.lane.size
        transpose = add_transpose(self.code.module, self.lane)
        self.code.call(transpose, weights, self.taps, self.factors, self.lane.count, self.taps, left)

    def computed(self, first: Word, rows: Word) -> None:
        """Is called when `rows` rows of the result from `first` on are computed, and before they are turned back."""

    def _row(self, y: Word, phase_i: Word, phase_j: Word, columns: Word, taps: Word) -> None:
        code, vector = self.code, TARGET.vector_bytes
        out = self.turned + ((y * self.grid_i + phase_i) * self.out_columns + phase_j) * vector
        step, out_step = self.horizontal.step * vector, self.grid_j * vector

        def tile(x: Word, pixels: int) -> None:
            function = _add_chains(code.module, self.lane, pixels)
            tables = taps, self.offsets, self.ranks, self.factors
            code.call(function, self.place(y, x), step, *tables, out + x * out_step, out_step)

        def several() -> None:
            # The last tile goes back over pixels that are there already.
            with code.loop(0, columns, _PIXELS) as x:
                tile(x.least(columns - _PIXELS), _PIXELS)

        def single() -> None:
            with code.loop(0, columns) as x:
                tile(x, 1)

        code.either(columns < _PIXELS, single, several)


class DepthwiseWeight(Planes):
    """The gradient to the weight."""

    def unit(self, unit: Word) -> None:
        """A vector's width of channels."""
        code, lane, vector = self.code, self.lane, TARGET.vector_bytes
        group = unit * lane.count
        left = (self.groups - group).least(lane.count)
        self.vertical.find(code, code.word(0))
        self.horizontal.find(code, code.word(0))
        taps = self.look_up()
        with code.loop(taps, taps + _TAPS[0]) as spare:
            code.store(self.offsets, spare, code.word(0))
        code.call(add_zeros(code.module, lane), self.factors, taps + _TAPS[0])
        transpose = add_transpose(code.module, lane)
        with code.loop(0, self.images) as image, code.loop(0, self.bands) as band:
            first = band * self.band
            rows = (self.out_rows - first).least(self.band)
            plane = image * self.groups + group
            self.fill(self.source + plane * self.rows * self.columns * lane.size, left, first, rows)
            cotangents = self.weight + (plane * self.out_rows + first) * self.out_columns * lane.size
            size, count = self.out_rows * self.out_columns, rows * self.out_columns
            code.call(transpose, cotangents, size, self.turned, lane.count, count, left)

            def tile(k: Word, height: int, rows: Word = rows) -> None:
                function = _add_taps(code.module, lane, height)
                with code.loop(0, rows) as y:
                    code.call(
                        function,
                        self.place(y, 0),
                        self.horizontal.step * vector,
                        self.out_columns,
                        self.offsets + k * 8,
                        self.turned + y * self.out_columns * vector,
                        self.factors + k * vector,
                    )

            large, small = _TAPS
            with code.loop(0, taps, large) as k:
                code.either(taps - k > small, partial(tile, k, large), partial(tile, k, small))
        out = self.out + group * self.taps * lane.size
        turn(code, lane, self.factors, out, self.taps, left, self.taps, code.word(1))
