"""The gradient of a convolution to its weight: tiles of taps times output channels, pixel after pixel."""

from __future__ import annotations

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_tiles import (
    BAND_COLUMNS,
    BAND_ROWS,
    CHANNELS,
    COLUMNS,
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
    SPARE_ROWS,
    SUMS_BYTES,
    TAP_COLUMNS,
    TAP_PART,
    TAP_PARTS,
    TAP_ROWS,
    TOGETHER,
    WEIGHT,
    WIDTH,
    add_tiles,
    axes,
    either_width,
    turn,
)
from tracejit.kernels.conv_vectors import add_zeros
from tracejit.kernels.conv_windows import MAX_PIXELS, Band, Window
from tracejit.kernels.gemm_kernels import TILE_VECTORS
from tracejit.kernels.gemm_packing import add_transpose
from tracejit.kernels.vectors import TARGET, Lane


class Weight:
    """The kernel of the gradient to the weight."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        self.lane, self.code = lane, code
        self.groups, self.m_all, channels, rows, columns = code.slots(p, GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS)
        self.out_rows, self.out_columns, all_i, all_j = code.slots(p, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS)
        self.source, self.cotangent, self.out, self.images = code.slots(p, SOURCE, WEIGHT, OUT, IMAGES)
        mode, self.band_rows, self.band_columns = code.slots(p, MODE, BAND_ROWS, BAND_COLUMNS)
        self.parts, self.part, self.width, self.tap_parts, self.tap_part = code.slots(
            p, PARTS, PART, WIDTH, TAP_PARTS, TAP_PART
        )
        self.together = code.slots(p, TOGETHER)[0]
        _, vertical, horizontal = axes(code, p)
        self.image_elements = channels * rows * columns
        apart, block = self.groups * self.image_elements, self.tap_part.ceil_div((all_i * all_j).most(1))
        self.window = Window(code, lane, mode, vertical, horizontal, rows, columns, apart, block)
        vertical.find(code, code.word(0))
        horizontal.find(code, code.word(0))
        self.k_all = channels * all_i * all_j
        self.plane = self.out_rows * self.out_columns
        self.factors = code.buffer(MAX_PIXELS * ROW_BYTES)
        self.sums = code.buffer(SUMS_BYTES)

    def unit(self, unit: Word) -> None:
        """A part of the taps of a group times a part of its panels of output channels."""
        code = self.code
        place = unit.quotient(self.tap_parts)
        group = place.quotient(self.parts)
        low = (unit - place * self.tap_parts) * self.tap_part
        high = self.k_all.least(low + self.tap_part)
        panels = self.m_all.ceil_div(self.width)
        first = (place - group * self.parts) * self.part
        last = panels.least(first + self.part)
        panel_sums = (high - low + SPARE_ROWS) * ROW_BYTES
        zeros = add_zeros(code.module, self.lane)
        code.call(zeros, self.sums, ((last - first) * panel_sums).quotient(TARGET.vector_bytes))
        across = self.out_columns.ceil_div(self.band_columns)
        with (
            code.loop(0, self.images, self.together) as n,
            code.loop(0, self.out_rows.ceil_div(self.band_rows)) as down,
            code.loop(0, across) as right,
        ):
            y, x = down * self.band_rows, right * self.band_columns
            rows, columns = (self.out_rows - y).least(self.band_rows), (self.out_columns - x).least(self.band_columns)
            band = self.window.band(y, x, rows, columns, (self.images - n).least(self.together))
            self._add(band, n * self.groups + group, low, high, first, last, panel_sums)
        with code.loop(first, last) as panel:
            m = panel * self.width
            left = (self.m_all - m).least(self.width)
            out = self.out + ((group * self.m_all + m) * self.k_all + low) * self.lane.size
            sums = self.sums + (panel - first) * panel_sums
            vectors = (left <= self.lane.count).choose(1, TILE_VECTORS)
            turn(code, self.lane, sums, out, self.k_all, left, high - low, vectors)

    def _add(self, band: Band, image: Word, low: Word, high: Word, first: Word, last: Word, panel_sums: Word) -> None:
        """Goes on with the chains of the unit at a band of pixels, of one image or of all of several."""
        code, lane, window = self.code, self.lane, self.window
        window.look_up_offsets(code, band, low, high)
        window.look_up_places(code, band)
        window_at = window.fill(code, band, self.source + image * self.image_elements * lane.size, low, high)
        transpose = add_transpose(code.module, lane)
        with code.loop(first, last) as panel:
            m = panel * self.width
            left = (self.m_all - m).least(self.width)
            at = (image * self.m_all + m) * self.plane + band.y * self.out_columns + band.x
            cotangent = self.cotangent + at * lane.size
            sums = self.sums + (panel - first) * panel_sums

            def run(vectors: int) -> None:
                columns = vectors * lane.count
                with code.loop(0, band.images) as n, code.loop(0, left, lane.count) as j:
                    rows = cotangent + (n * self.groups * self.m_all + j) * self.plane * lane.size
                    to = self.factors + (n * band.of_image * columns + j) * lane.size
                    code.call(transpose, rows, self.plane, to, columns, band.of_image, left - j)
                add_tiles(
                    code,
                    lane,
                    window_at,
                    window.offsets,
                    window.places,
                    band.pixels,
                    self.factors,
                    sums,
                    vectors * TARGET.vector_bytes,
                    0,
                    high - low,
                    vectors,
                )

            either_width(code, left <= lane.count, run)
