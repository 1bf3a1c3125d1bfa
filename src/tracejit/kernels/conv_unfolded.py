"""Convolutions of few pixels and their gradients to the input: weights are looked up as they lie.

Where there are fewer pixels than output channels, it is less to put what the taps see of all pixels into panels, once
for each tap, than the weights. Pixels then are in the lanes, and output channels are the rows of a tile.
"""

from __future__ import annotations

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_tiles import (
    BLOCK,
    CHANNELS,
    COLUMNS,
    FACTOR_CHANNEL,
    FACTOR_OUT,
    GROUPS,
    IMAGES,
    MODE,
    OUT,
    OUT_CHANNELS,
    OUT_COLUMNS,
    OUT_ROWS,
    PART,
    PARTS,
    ROW_BYTES,
    ROWS,
    SOURCE,
    STRIDE_COLUMNS,
    STRIDE_ROWS,
    SUMS_BYTES,
    TAP_COLUMNS,
    TAP_ROWS,
    WEIGHT,
    add_tiles,
    axes,
    either_width,
)
from tracejit.kernels.conv_vectors import add_unfolded
from tracejit.kernels.conv_windows import MAX_PIXELS, MAX_RUN, SPARE, Window
from tracejit.kernels.gemm_kernels import TILE_VECTORS
from tracejit.kernels.gemm_packing import add_part
from tracejit.kernels.vectors import TARGET, Lane


class _Grids:
    """What both kernels know: the grids of a result, one after another, and where the panels of each are.

    A group's panels: [grid][panel of pixels][channel, tap row, tap column][pixel].
    """

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        self.lane, self.code = lane, code
        self.groups, self.m_all, self.channels, self.images = code.slots(p, GROUPS, OUT_CHANNELS, CHANNELS, IMAGES)
        self.out_rows, self.out_columns, self.all_i, self.all_j = code.slots(
            p, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS
        )
        self.block, stride_i, stride_j = code.slots(p, BLOCK, STRIDE_ROWS, STRIDE_COLUMNS)
        back, self.vertical, self.horizontal = axes(code, p)
        self.grid_i, self.grid_j = back.choose(stride_i, 1), back.choose(stride_j, 1)
        self.width = TILE_VECTORS * lane.count
        self.k_whole = self.channels * self.all_i * self.all_j
        widest = self.images * self.out_rows.ceil_div(self.grid_i) * self.out_columns.ceil_div(self.grid_j)
        self.panels = widest.ceil_div(self.width)

    def each(self, group: Word) -> None:
        """Goes through the grids of a group."""
        code = self.code
        done = code.cell(0)
        with code.loop(0, self.grid_i) as phase_i:
            self.vertical.find(code, phase_i)
            rows = (self.out_rows - phase_i).ceil_div(self.grid_i)
            with code.loop(0, self.grid_j) as phase_j:
                self.horizontal.find(code, phase_j)
                columns = (self.out_columns - phase_j).ceil_div(self.grid_j)
                taps = self.vertical.count * self.horizontal.count
                with code.when((rows > 0) & (columns > 0)):
                    start = (group * self.k_whole + done.now) * self.panels * ROW_BYTES
                    self.grid(group, rows, columns, taps, start, phase_i * self.out_columns + phase_j)
                done.set(done.now + self.channels * taps)

    def grid(self, group: Word, rows: Word, columns: Word, taps: Word, start: Word, place: Word) -> None:
        """Works on a grid whose panels are `start` bytes behind the first, and whose first pixel is at a `place`."""
        raise NotImplementedError


class Unfold(_Grids):
    """Puts what taps see into panels: units are blocks of channels of a group."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        super().__init__(lane, code, p)
        self.source, self.out, mode, rows, columns = code.slots(p, SOURCE, OUT, MODE, ROWS, COLUMNS)
        self.image_elements = self.channels * rows * columns
        axes_of = mode, self.vertical, self.horizontal
        self.window = Window(code, lane, *axes_of, rows, columns, self.groups * self.image_elements, self.block)
        self.first, self.last = code.cell(0), code.cell(0)

    def unit(self, unit: Word) -> None:
        blocks = self.channels.ceil_div(self.block)
        group = unit.quotient(blocks)
        first = (unit - group * blocks) * self.block
        self.first.set(first)
        self.last.set(self.channels.least(first + self.block))
        self.each(group)

    def grid(self, group: Word, rows: Word, columns: Word, taps: Word, start: Word, place: Word) -> None:
        code, lane, window = self.code, self.lane, self.window
        low, high = self.first.now * taps, self.last.now * taps
        zero = code.word(0)
        band = window.band(zero, zero, rows, columns, self.images)
        window.look_up_offsets(code, band, low, high)
        window.look_up_places(code, band)
        seen = window.fill(code, band, self.source + group * self.image_elements * lane.size, low, high)
        with code.loop(0, band.pixels.ceil_div(self.width)) as panel:
            to = self.out + start + panel * self.channels * taps * ROW_BYTES

            def run(vectors: int) -> None:
                places = window.places + panel * self.width * 8
                at = to + low * (vectors * TARGET.vector_bytes)
                code.call(add_unfolded(code.module, lane, vectors), seen, places, window.offsets, high - low, at)

            either_width(code, band.pixels - panel * self.width <= lane.count, run)


class Unfolded(_Grids):
    """Output channels times unfolded pixels: units are parts of a group's output channels."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        super().__init__(lane, code, p)
        self.unfolded, self.weights, self.out, self.parts, self.part = code.slots(p, SOURCE, WEIGHT, OUT, PARTS, PART)
        self.w_out, self.w_channel = code.slots(p, FACTOR_OUT, FACTOR_CHANNEL)
        self.places = code.buffer(8 * (MAX_PIXELS + SPARE))
        self.offsets = code.buffer(8 * MAX_RUN)
        self.sums = code.buffer(SUMS_BYTES)
        self.first, self.rows = code.cell(0), code.cell(0)

    def unit(self, unit: Word) -> None:
        code = self.code
        group = unit.quotient(self.parts)
        first = (unit - group * self.parts) * self.part
        rows = (self.m_all - first).least(self.part)
        self.first.set(first)
        self.rows.set(rows)
        with code.loop(0, rows + SPARE) as r:
            code.store(self.places, r, (r < rows).choose(r * self.w_out * self.lane.size, 0))
        self.each(group)

    def grid(self, group: Word, rows: Word, columns: Word, taps: Word, start: Word, place: Word) -> None:
        code = self.code
        pixels = self.images * rows * columns
        k_all = self.channels * taps
        step = (self.block * taps).most(1)
        factors = self.weights + (group * self.m_all * self.k_whole + self.first.now * self.w_out) * self.lane.size
        # A grid may have no taps at all: its chains end where they begin.
        with code.loop(0, k_all.most(1), step) as low:
            count = (k_all - low).least(step)
            self._look_up(low, taps)
            with code.loop(0, pixels.ceil_div(self.width)) as panel:
                seen = self.unfolded + start + panel * k_all * ROW_BYTES

                def run(vectors: int) -> None:
                    row = vectors * TARGET.vector_bytes
                    add_tiles(
                        code,
                        self.lane,
                        factors,
                        self.places,
                        self.offsets,
                        count,
                        seen + low * row,
                        self.sums + panel * ROW_BYTES,
                        self.panels * ROW_BYTES,
                        low.equals(0).number(),
                        self.rows.now,
                        vectors,
                    )

                either_width(code, pixels - panel * self.width <= self.lane.count, run)
        self._write(group, rows, columns, place)

    def _look_up(self, low: Word, taps: Word) -> None:
        """Fills the table of where the factors of a block of channels lie, from tap `low` on."""
        code = self.code
        first = low.quotient(taps.most(1))
        at = code.cell(0)
        with (
            code.loop(first, self.channels.least(first + self.block)) as c,
            code.loop(0, self.vertical.count) as i,
            code.loop(0, self.horizontal.count) as j,
        ):
            tap = code.load(self.vertical.taps, i) * self.all_j + code.load(self.horizontal.taps, j)
            code.store(self.offsets, at.now, (c * self.w_channel + tap) * self.lane.size)
            at.set(at.now + 1)

    def _write(self, group: Word, rows: Word, columns: Word, place: Word) -> None:
        """Puts the sums of a grid, a row of which are those of all pixels, into each image."""
        code, size = self.code, self.lane.size
        plane, across = self.out_rows * self.out_columns, self.panels * self.width
        with code.loop(0, self.images) as n:
            sums = self.sums + n * rows * columns * size
            channel = (n * self.groups + group) * self.m_all + self.first.now
            out = self.out + (channel * plane + place) * size

            def whole() -> None:
                part = add_part(code.module, self.lane, TILE_VECTORS)
                with code.loop(0, plane, self.width) as pixel:
                    at, to = sums + pixel * size, out + pixel * size
                    code.call(part, at, across, to, plane, self.rows.now, plane - pixel)

            def apart() -> None:
                with code.loop(0, rows) as y, code.loop(0, columns) as x:
                    at, to = y * columns + x, y * self.grid_i * self.out_columns + x * self.grid_j
                    with code.loop(0, self.rows.now) as r:
                        code.store(out, to + r * plane, code.load(sums, at + r * across, self.lane.kind))

            code.either((self.grid_i * self.grid_j).equals(1), whole, apart)
