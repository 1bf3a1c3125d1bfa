"""The convolution and its gradient to the input: a source correlated with shifted taps.

The output is one regular grid of pixels or, for the gradient of a convolution with a stride, several, each of which
meets some of the taps. Weights are put into panels first, in the order in which a grid's tiles want them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_tiles import (
    BAND_COLUMNS,
    BAND_ROWS,
    BLOCK,
    CHANNELS,
    COLUMNS,
    GROUPS,
    IMAGES,
    INTERLEAVE,
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
    SPARE_ROWS,
    STRIDE_COLUMNS,
    STRIDE_ROWS,
    SUMS_BYTES,
    TAP_COLUMNS,
    TAP_ROWS,
    TOGETHER,
    W_CHANNEL,
    W_OUT,
    W_RUN,
    W_RUNS,
    WEIGHT,
    add_tiles,
    axes,
    either_width,
    turn,
)
from tracejit.kernels.conv_vectors import add_lookup_across, add_rows
from tracejit.kernels.conv_windows import GATHERED, Band, Window
from tracejit.kernels.gemm_kernels import TILE_VECTORS
from tracejit.kernels.gemm_packing import add_transpose
from tracejit.kernels.vectors import TARGET, Lane

ACROSS_VECTORS = {1: 8, 2: 6, 3: 4, 4: 3}
"""Vectors of pixels in a tile by its output channels, if pixels are in the lanes."""


def pack(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    """Units are panels of output channels of a group: [phase][channel, tap row, tap column][output channel]."""
    m_all, channels, all_i, all_j = code.slots(p, OUT_CHANNELS, CHANNELS, TAP_ROWS, TAP_COLUMNS)
    stride_i, stride_j, source, out = code.slots(p, STRIDE_ROWS, STRIDE_COLUMNS, SOURCE, OUT)
    w_out, w_channel, runs, run = code.slots(p, W_OUT, W_CHANNEL, W_RUNS, W_RUN)
    back, vertical, horizontal = axes(code, p)
    columns = TILE_VECTORS * lane.count
    panels = m_all.ceil_div(columns)
    k_all = channels * all_i * all_j
    with code.loop(low_unit, high_unit) as unit:
        group = unit.quotient(panels)
        m = (unit - group * panels) * columns
        left = m_all - m
        width = (left <= lane.count).choose(lane.count, columns)
        at = source + (group * m_all * k_all + m * w_out) * lane.size
        to = code.cell(out + unit * k_all * (columns * lane.size))

        def contiguous() -> None:
            transpose = add_transpose(code.module, lane)
            with code.loop(0, runs) as r, code.loop(0, left.least(columns), lane.count) as j:
                rows = at + (r * w_channel + j * w_out) * lane.size
                code.call(transpose, rows, w_out, to.now + (r * run * width + j) * lane.size, width, run, left - j)

        def apart() -> None:
            with code.loop(0, back.choose(stride_i, 1)) as phase_i:
                vertical.find(code, phase_i)
                with code.loop(0, back.choose(stride_j, 1)) as phase_j:
                    horizontal.find(code, phase_j)
                    with (
                        code.loop(0, channels) as c,
                        code.loop(0, vertical.count) as i,
                        code.loop(0, horizontal.count) as j,
                    ):
                        row, column = code.load(vertical.taps, i), code.load(horizontal.taps, j)
                        factors = at + (c * w_channel + row * all_j + column) * lane.size
                        with code.loop(0, left.least(columns)) as r:
                            code.store(to.now, r, code.load(factors, r * w_out, lane.kind))
                        to.set(to.now + width * lane.size)

        code.either(run > 0, contiguous, apart)


@dataclass(frozen=True, slots=True)
class Grid:
    """One grid's pixels in a unit: where they are, the panels of output channels to compute, the way into memory.

    `image` is the first of them, `done` are the taps of the grids before, `out` is the place of the unit's first pixel
    in this row of grids; `ends` is a flag: the sums of this grid, and of those that interleave with it, are written
    when they are complete.
    """

    band: Band
    image: Word
    phase_j: Word
    done: Word
    first: Word
    last: Word
    out: Word
    ends: Word

    def there(self, step: Word, columns: Word) -> Word:
        """How many of the band's columns are columns of an output with so many, `step` apart."""
        return (columns - self.band.x * step - self.phase_j).ceil_div(step).least(self.band.columns)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a grid's taps: its window, number, number of blocks, first tap and count."""

    window: Word
    index: Word
    count: Word
    low: Word
    taps: Word

    @property
    def begins(self) -> Word:
        """1 for the first block, else 0."""
        return self.index.equals(0).number()


class Image:
    """What the two kernels have in common: units, grids, blocks of source channels."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        self.lane, self.code = lane, code
        self.m_all, self.channels, rows, columns = code.slots(p, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS)
        self.out_rows, self.out_columns, stride_i, stride_j = code.slots(
            p, OUT_ROWS, OUT_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS
        )
        self.source, self.packed, self.out, self.groups = code.slots(p, SOURCE, WEIGHT, OUT, GROUPS)
        all_i, all_j, mode, self.band_rows, self.band_columns = code.slots(
            p, TAP_ROWS, TAP_COLUMNS, MODE, BAND_ROWS, BAND_COLUMNS
        )
        self.block, self.parts, self.part, self.interleave = code.slots(p, BLOCK, PARTS, PART, INTERLEAVE)
        self.images, self.together = code.slots(p, IMAGES, TOGETHER)
        back, self.vertical, self.horizontal = axes(code, p)
        self.gathered = mode.equals(GATHERED)
        self.grid_i, self.grid_j = back.choose(stride_i, 1), back.choose(stride_j, 1)
        self.whole = (self.grid_i * self.grid_j).equals(1)
        self.image_elements = self.channels * rows * columns
        axes_of = mode, self.vertical, self.horizontal
        self.window = Window(code, lane, *axes_of, rows, columns, self.groups * self.image_elements, self.block)
        self.k_whole = self.channels * all_i * all_j
        self.panel_columns = TILE_VECTORS * lane.count
        self.panels = self.m_all.ceil_div(self.panel_columns)
        self.plane = self.out_rows * self.out_columns
        self.sums = code.buffer(SUMS_BYTES)
        self.found = code.cell(-1)

    def unit(self, unit: Word) -> None:
        """A part of the panels of output channels at one band of pixels of each grid, in the images of a group that
        are computed together.
        """
        code = self.code
        place = unit.quotient(self.parts)
        first = (unit - place * self.parts) * self.part
        last = self.panels.least(first + self.part)
        grid_columns = self.out_columns.ceil_div(self.grid_j)
        across = grid_columns.ceil_div(self.band_columns)
        bands = self.out_rows.ceil_div(self.grid_i).ceil_div(self.band_rows) * across
        images = place.quotient(bands)
        band = place - images * bands
        set_of = images.quotient(self.groups)
        first_image = set_of * self.together
        members = (self.images - first_image).least(self.together)
        image = first_image * self.groups + (images - set_of * self.groups)
        down = band.quotient(across)
        y, x = down * self.band_rows, (band - down * across) * self.band_columns
        # All grids are taken to be as wide as the first: none reads what is not there, and they interleave.
        columns = grid_columns.least(x + self.band_columns) - x
        done = code.cell(0)
        with code.loop(0, self.grid_i) as phase_i:
            rows = (self.out_rows - phase_i).ceil_div(self.grid_i).least(y + self.band_rows) - y
            at = image * self.m_all * self.plane + (y * self.grid_i + phase_i) * self.out_columns + x * self.grid_j
            out = self.out + at * self.lane.size
            with code.loop(0, self.grid_j) as phase_j:
                phase = phase_i * self.grid_j + phase_j
                with code.when(self.found.now.differs(phase)):
                    self.vertical.find(code, phase_i)
                    self.horizontal.find(code, phase_j)
                    self.found.set(phase)
                pixels = self.window.band(y, x, rows, columns, members)
                grid = Grid(pixels, image, phase_j, done.now, first, last, out, self._ends(x, phase_j))
                with code.when((rows > 0) & (x * self.grid_j + phase_j < self.out_columns)):
                    self.compute(grid)
                done.set(done.now + self.channels * self.window.taps)

    def _ends(self, x: Word, phase_j: Word) -> Word:
        """Whether a grid is the last one of those that interleave and have pixels."""
        last = phase_j.equals(self.grid_j - 1) | (x * self.grid_j + phase_j + 1 >= self.out_columns)
        return last | self.interleave.equals(1)

    def blocks(self) -> tuple[Word, Word, Word]:
        """Of the grid whose taps were found: taps of all channels, taps in a block, number of blocks."""
        k_all = self.channels * self.window.taps
        step = self.gathered.choose(self.block, self.block * self.window.taps).most(1)
        return k_all, step, k_all.ceil_div(step).most(1)

    def compute(self, grid: Grid) -> None:
        """The chains of a grid's pixels, block after block of source channels."""
        code, window = self.code, self.window
        group = grid.image - grid.image.quotient(self.groups) * self.groups
        image_at = self.source + grid.image * self.image_elements * self.lane.size
        k_all, step, blocks = self.blocks()
        with code.loop(0, blocks) as index:
            low = index * step
            high = k_all.least(low + step)
            window.look_up_offsets(code, grid.band, low, high)
            block = Block(window.fill(code, grid.band, image_at, low, high), index, blocks, low, high - low)
            with code.loop(grid.first, grid.last) as panel:
                factors = self.packed + (group * self.panels + panel) * self.k_whole * ROW_BYTES
                self.add(grid, block, panel, factors)

    def add(self, grid: Grid, block: Block, panel: Word, factors: Word) -> None:
        """Goes on with the chains of a panel of output channels, whose factors lie at an address."""
        raise NotImplementedError


class Channels(Image):
    """Output channels in the lanes: a row of sums is a pixel."""

    def add(self, grid: Grid, block: Block, panel: Word, factors: Word) -> None:
        code, window = self.code, self.window
        window.look_up_places(code, grid.band)
        left = self.m_all - panel * self.panel_columns
        sums = self._sums(grid, panel)

        def run(vectors: int) -> None:
            row = vectors * TARGET.vector_bytes
            add_tiles(
                code,
                self.lane,
                block.window,
                window.places,
                window.offsets,
                block.taps,
                factors + (grid.done + block.low) * row,
                sums + (self.interleave > 1).choose(grid.phase_j, 0) * row,
                self.interleave * row,
                block.begins,
                grid.band.pixels,
                vectors,
            )

        either_width(code, left <= self.lane.count, run)
        with code.when(grid.ends & block.index.equals(block.count - 1)):
            self._write(grid, panel, sums)

    def _sums(self, grid: Grid, panel: Word) -> Word:
        """Where the sums of a panel are: all panels have one place if each is written before the next begins."""
        kept = ((self.interleave > 1) | (self.blocks()[2] > 1)).number()
        size = (grid.band.pixels + SPARE_ROWS) * self.interleave * ROW_BYTES
        return self.sums + kept * (panel - grid.first) * size

    def _write(self, grid: Grid, panel: Word, sums: Word) -> None:
        code, band = self.code, grid.band
        left = self.m_all - panel * self.panel_columns
        row = (left <= self.lane.count).choose(1, TILE_VECTORS) * TARGET.vector_bytes
        with code.loop(0, band.images) as n:
            to = grid.out + (panel * self.panel_columns + n * self.groups * self.m_all) * self.plane * self.lane.size
            self._write_image(grid, left, sums + n * band.of_image * self.interleave * row, to)

    def _write_image(self, grid: Grid, left: Word, sums: Word, out: Word) -> None:
        code, band = self.code, grid.band
        vectors = (left <= self.lane.count).choose(1, TILE_VECTORS)

        def apart() -> None:
            there = grid.there(self.grid_j, self.out_columns)
            columns = vectors * self.lane.count
            with code.loop(0, left.least(columns)) as c, code.loop(0, band.rows) as y, code.loop(0, there) as x:
                value = code.load(sums, (y * band.columns + x) * columns + c, self.lane.kind)
                to = c * self.plane + y * self.grid_i * self.out_columns + x * self.grid_j + grid.phase_j
                code.store(out, to, value)

        def rows() -> None:
            count = (self.out_columns - band.x * self.grid_j).least(band.columns * self.grid_j)
            row = band.columns * self.grid_j * vectors * TARGET.vector_bytes
            with code.loop(0, band.rows) as y:
                to = out + y * self.grid_i * self.out_columns * self.lane.size
                turn(code, self.lane, sums + y * row, to, self.plane, left, count, vectors)

        code.either(
            self.whole,
            lambda: turn(code, self.lane, sums, out, self.plane, left, band.of_image, vectors),
            lambda: code.either(self.interleave.equals(self.grid_j), rows, apart),
        )


class Pixels(Image):
    """Pixels in the lanes, for few output channels: a row of sums is a vector of pixels, all channels of it.

    Windows are padded, so that a vector that begins in one may go beyond its row.
    """

    def add(self, grid: Grid, block: Block, panel: Word, factors: Word) -> None:
        code, window, band = self.code, self.window, grid.band
        window.look_up_places(code, band, self.lane.count)
        step = self.m_all * TARGET.vector_bytes
        groups = band.rows * band.columns.ceil_div(self.lane.count)
        start = factors + (grid.done + block.low) * TARGET.vector_bytes

        def strip(m: Word, rows: int) -> None:
            vectors = ACROSS_VECTORS[rows]
            function = add_lookup_across(code.module, self.lane, rows, vectors)
            with code.loop(0, groups, vectors) as group:
                sums = self.sums + group * step + m * TARGET.vector_bytes
                places, b = window.places + group * 8, start + m * self.lane.size
                code.call(function, block.window, places, window.offsets, block.taps, b, sums, step, block.begins)

        highest = max(ACROSS_VECTORS)
        with code.loop(0, self.m_all, highest) as m:
            for rows in ACROSS_VECTORS:
                with code.when((self.m_all - m).least(highest).equals(rows)):
                    strip(m, rows)
        with code.when(block.index.equals(block.count - 1)), code.loop(0, self.m_all) as m:
            self._write(grid, self.sums + m * TARGET.vector_bytes, step, grid.out + m * self.plane * self.lane.size)

    def _write(self, grid: Grid, sums: Word, step: Word, out: Word) -> None:
        code, band, lane = self.code, grid.band, self.lane
        groups, last = band.columns.ceil_div(lane.count), (band.columns - lane.count).most(0)

        def together() -> None:
            code.call(add_rows(code.module, lane), sums, step, out, self.out_columns, band.rows, band.columns)

        def apart() -> None:
            there = grid.there(self.grid_j, self.out_columns)
            with code.loop(0, band.rows) as y, code.loop(0, groups) as group:
                x = (group * lane.count).least(last)
                at, to = sums + (y * groups + group) * step, y * self.grid_i * self.out_columns + grid.phase_j
                with code.loop(0, (there - x).least(lane.count)) as n:
                    code.store(out, to + (x + n) * self.grid_j, code.load(at, n, lane.kind))

        code.either(self.whole & (band.columns >= lane.count), together, apart)
