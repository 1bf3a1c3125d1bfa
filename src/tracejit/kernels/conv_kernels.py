"""Convolution kernels: tiles of pixels times output channels, on windows of the source that need no masks.

`conv_image` computes the convolution and its gradient to the input: both are a correlation of a source with shifted
taps, over one or several regular grids of output pixels, with weights that `conv_pack` has put into panels.
`conv_weight` computes the gradient to the weight. Vectors hold neighbouring output channels in all of them.
Every element is one chain of fused multiply-adds: over (channel, tap row, tap column) for images, over
(image, row, column) for weights, ascending, from 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tracejit.kernels.conv_vectors import add_lookup, add_turned, add_zeros
from tracejit.kernels.conv_windows import GATHERED, MAX_PIXELS, Axis, Band, Window
from tracejit.kernels.gemm_code import Code, Word, native_kernel
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS
from tracejit.kernels.gemm_vectors import F32, F64, TARGET, Lane, add_transpose

(SOURCE, WEIGHT, OUT) = range(3)
(GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS) = range(3, 12)
(STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS, DILATION_ROWS, DILATION_COLUMNS, BACKWARD) = range(12, 19)
"""Slots of all kernels: addresses, channels in a group and sizes of source, output and taps, how they meet.

`conv_pack` has the weight as SOURCE and the panels as OUT. `conv_image` has the panels as its WEIGHT. `conv_weight` has
x as SOURCE, the cotangent as WEIGHT and the weight's gradient as OUT."""

(MODE, BAND_ROWS, BAND_COLUMNS, PARTS, PART) = range(19, 24)
"""Slots of `conv_image` and `conv_weight`: the kind of window; pixels of a band, which is several whole rows of a grid
or a part of one row; parts of the panels of output channels, panels in a part."""

BLOCK = 24
"""Slot of `conv_image`: channels in a block, or, where windows are gathered, taps of all channels."""

(IMAGES, WIDTH, TAP_PARTS, TAP_PART) = range(24, 28)
"""Slots of `conv_weight`: images, output channels in a panel, parts of the taps of all channels, taps in a part."""

(W_OUT, W_CHANNEL, W_RUNS, W_RUN) = range(19, 23)
"""Slots of `conv_pack`: the weight's strides in elements along output and source channels; runs of contiguous factors
of an output channel, W_CHANNEL apart, and the length of one (0: there are none)."""

SUMS_BYTES = 128 << 10
ROW_BYTES = TILE_VECTORS * TARGET.vector_bytes
"""Bytes of unfinished chains in a unit, and of those of a panel at one pixel."""

_NARROW_ROWS = 9 if TARGET.registers == 16 else 12
_HEIGHTS = {1: (_NARROW_ROWS, 3), 2: (TILE_ROWS, TILE_ROWS // 2)}
"""Rows of the large and the small tile by its vectors."""


SPARE_ROWS = _NARROW_ROWS
"""Rows of sums behind those of a panel: its last tile may go that far."""


def _either_width(code: Code, narrow: Word, run: Any) -> None:
    """Runs `run(vectors)` for panels of one vector, or of TILE_VECTORS."""
    code.either(narrow, lambda: run(1), lambda: run(TILE_VECTORS))


def _add_tiles(
    code: Code,
    lane: Lane,
    window: Word,
    places: Word,
    offsets: Word,
    k: Word,
    factors: Word,
    sums: Word,
    begin: Word,
    rows: Word,
    vectors: int,
) -> None:
    """Goes on with the chains of `rows` places; those of up to a tile more are touched."""
    large, small = _HEIGHTS[vectors]

    def tile(row: Word, height: int) -> None:
        at = sums + row * (vectors * TARGET.vector_bytes)
        function = add_lookup(code.module, lane, height, vectors)
        code.call(function, window, places + row * 8, offsets, k, factors, at, begin)

    with code.loop(0, rows, large) as row:
        code.either(rows - row > small, lambda: tile(row, large), lambda: tile(row, small))


def _turn(code: Code, lane: Lane, sums: Word, out: Word, step: Word, columns: Word, count: Word, vectors: int) -> None:
    """out[c * step + n] = sums[n][c] for n below `count` and c below `columns`."""

    def single() -> None:
        with code.loop(0, columns.least(vectors * lane.count)) as c, code.loop(0, count) as n:
            code.store(out, c * step + n, code.load(sums, n * (vectors * lane.count) + c, lane.kind))

    def whole() -> None:
        code.call(add_turned(code.module, lane, vectors), sums, out, step, columns, count)

    code.either(count < lane.count, single, whole)


def _axes(code: Code, p: Word) -> tuple[Word, Axis, Axis]:
    all_i, all_j, stride_i, stride_j, pad_i, pad_j = code.slots(
        p, TAP_ROWS, TAP_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS
    )
    dilation_i, dilation_j, backward = code.slots(p, DILATION_ROWS, DILATION_COLUMNS, BACKWARD)
    back = backward.differs(0)
    return (
        back,
        Axis(code, back, all_i, stride_i, pad_i, dilation_i),
        Axis(code, back, all_j, stride_j, pad_j, dilation_j),
    )


# --- panels of weights ------------------------------------------------------------------------------------------------


def _pack(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    """Units are panels of output channels of a group: [phase][channel, tap row, tap column][output channel]."""
    m_all, channels, all_i, all_j = code.slots(p, OUT_CHANNELS, CHANNELS, TAP_ROWS, TAP_COLUMNS)
    stride_i, stride_j, source, out = code.slots(p, STRIDE_ROWS, STRIDE_COLUMNS, SOURCE, OUT)
    w_out, w_channel, runs, run = code.slots(p, W_OUT, W_CHANNEL, W_RUNS, W_RUN)
    back, vertical, horizontal = _axes(code, p)
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


# --- images -----------------------------------------------------------------------------------------------------------


class _Image:
    """The convolution kernel, or that of the gradient to the input."""

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
        self.block, self.parts, self.part = code.slots(p, BLOCK, PARTS, PART)
        back, self.vertical, self.horizontal = _axes(code, p)
        self.gathered = mode.equals(GATHERED)
        self.grid_i, self.grid_j = back.choose(stride_i, 1), back.choose(stride_j, 1)
        self.window = Window(code, lane, mode, self.vertical, self.horizontal, rows, columns)
        self.image_elements = self.channels * rows * columns
        self.k_whole = self.channels * all_i * all_j
        self.panel_columns = TILE_VECTORS * lane.count
        self.panels = self.m_all.ceil_div(self.panel_columns)
        self.plane = self.out_rows * self.out_columns
        self.sums = code.buffer(SUMS_BYTES)
        self.found = code.cell(-1)

    def unit(self, unit: Word) -> None:
        """A part of the panels of output channels at one band of pixels of each grid of an image and group."""
        code = self.code
        place = unit.quotient(self.parts)
        first = (unit - place * self.parts) * self.part
        last = self.panels.least(first + self.part)
        across = self.out_columns.ceil_div(self.grid_j).ceil_div(self.band_columns)
        bands = self.out_rows.ceil_div(self.grid_i).ceil_div(self.band_rows) * across
        image = place.quotient(bands)
        band = place - image * bands
        down = band.quotient(across)
        y, x = down * self.band_rows, (band - down * across) * self.band_columns
        done = code.cell(0)
        with code.loop(0, self.grid_i) as phase_i, code.loop(0, self.grid_j) as phase_j:
            phase = phase_i * self.grid_j + phase_j
            with code.when(self.found.now.differs(phase)):
                self.vertical.find(code, phase_i)
                self.horizontal.find(code, phase_j)
                self.found.set(phase)
            rows = (self.out_rows - phase_i).ceil_div(self.grid_i).least(y + self.band_rows) - y
            columns = (self.out_columns - phase_j).ceil_div(self.grid_j).least(x + self.band_columns) - x
            k_all = self.channels * self.window.taps
            with code.when((rows > 0) & (columns > 0)):
                pixels = self.window.band(y, x, rows, columns)
                at = ((y * self.grid_i + phase_i) * self.out_columns + x * self.grid_j + phase_j) * self.lane.size
                self._band(pixels, phase, image, k_all, done.now, first, last, at)
            done.set(done.now + k_all)

    def _band(
        self, band: Band, phase: Word, image: Word, k_all: Word, done: Word, first: Word, last: Word, at: Word
    ) -> None:
        code, lane, window = self.code, self.lane, self.window
        group = image - image.quotient(self.groups) * self.groups
        step = self.gathered.choose(self.block, self.block * window.taps).most(1)
        blocks = k_all.ceil_div(step).most(1)
        panel_sums = blocks.equals(1).choose(0, (band.pixels + SPARE_ROWS) * ROW_BYTES)
        image_at = self.source + image * self.image_elements * lane.size
        with code.loop(0, blocks) as block:
            low = block * step
            high = k_all.least(low + step)
            window.look_up(code, band, phase, low, high)
            window_at = window.fill(code, band, image_at, low, high)
            with code.loop(first, last) as panel:
                m = panel * self.panel_columns
                left = self.m_all - m
                sums = self.sums + (panel - first) * panel_sums
                start = self.packed + (group * self.panels + panel) * self.k_whole * ROW_BYTES
                out = self.out + (image * self.m_all + m) * self.plane * lane.size + at
                begin = block.equals(0).number()
                ends = block.equals(blocks - 1)

                def run(vectors: int) -> None:
                    factors = start + (done + low) * (vectors * TARGET.vector_bytes)
                    _add_tiles(
                        code,
                        lane,
                        window_at,
                        window.places,
                        window.offsets,
                        high - low,
                        factors,
                        sums,
                        begin,
                        band.pixels,
                        vectors,
                    )
                    with code.when(ends):
                        self._finish(band, sums, out, left, vectors)

                _either_width(code, left <= lane.count, run)

    def _finish(self, band: Band, sums: Word, out: Word, left: Word, vectors: int) -> None:
        code, lane = self.code, self.lane

        def together() -> None:
            _turn(code, lane, sums, out, self.plane, left, band.pixels, vectors)

        def apart() -> None:
            columns = vectors * lane.count
            with (
                code.loop(0, left.least(columns)) as c,
                code.loop(0, band.rows) as y,
                code.loop(0, band.columns) as x,
            ):
                value = code.load(sums, (y * band.columns + x) * columns + c, lane.kind)
                code.store(out, c * self.plane + y * self.grid_i * self.out_columns + x * self.grid_j, value)

        code.either((self.grid_i * self.grid_j).equals(1), together, apart)


def _image(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    kernel = _Image(lane, code, p)
    with code.loop(low_unit, high_unit) as unit:
        kernel.unit(unit)


# --- weights ----------------------------------------------------------------------------------------------------------


class _Weight:
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
        _, vertical, horizontal = _axes(code, p)
        self.window = Window(code, lane, mode, vertical, horizontal, rows, columns)
        vertical.find(code, code.word(0))
        horizontal.find(code, code.word(0))
        self.image_elements = channels * rows * columns
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
            code.loop(0, self.images) as n,
            code.loop(0, self.out_rows.ceil_div(self.band_rows)) as down,
            code.loop(0, across) as right,
        ):
            y, x = down * self.band_rows, right * self.band_columns
            rows, columns = (self.out_rows - y).least(self.band_rows), (self.out_columns - x).least(self.band_columns)
            band, image = self.window.band(y, x, rows, columns), n * self.groups + group
            self._add(band, image, low, high, first, last, panel_sums)
        with code.loop(first, last) as panel:
            m = panel * self.width
            left = (self.m_all - m).least(self.width)
            out = self.out + ((group * self.m_all + m) * self.k_all + low) * self.lane.size
            sums = self.sums + (panel - first) * panel_sums
            _either_width(
                code,
                left <= self.lane.count,
                partial(_turn, code, self.lane, sums, out, self.k_all, left, high - low),
            )

    def _add(self, band: Band, image: Word, low: Word, high: Word, first: Word, last: Word, panel_sums: Word) -> None:
        """Goes on with the chains of the unit at a band of pixels of one image."""
        code, lane, window = self.code, self.lane, self.window
        window.look_up(code, band, code.word(0), low, high)
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
                with code.loop(0, left, lane.count) as j:
                    rows, to = cotangent + j * self.plane * lane.size, self.factors + j * lane.size
                    code.call(transpose, rows, self.plane, to, columns, band.pixels, left - j)
                _add_tiles(
                    code,
                    lane,
                    window_at,
                    window.offsets,
                    window.places,
                    band.pixels,
                    self.factors,
                    sums,
                    code.word(0),
                    high - low,
                    vectors,
                )

            _either_width(code, left <= lane.count, run)


def _weight(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    kernel = _Weight(lane, code, p)
    with code.loop(low_unit, high_unit) as unit:
        kernel.unit(unit)


pack_f32 = native_kernel("pack_f32", partial(_pack, F32))
pack_f64 = native_kernel("pack_f64", partial(_pack, F64))
image_f32 = native_kernel("image_f32", partial(_image, F32))
image_f64 = native_kernel("image_f64", partial(_image, F64))
weight_f32 = native_kernel("weight_f32", partial(_weight, F32))
weight_f64 = native_kernel("weight_f64", partial(_weight, F64))


def conv_pack_f32(p: Any, lo: int, hi: int) -> Any:
    """Weights in panels, as the convolution or its gradient to the input reads them, float32."""
    return pack_f32(p, lo, hi)


def conv_pack_f64(p: Any, lo: int, hi: int) -> Any:
    """Weights in panels, as the convolution or its gradient to the input reads them, float64."""
    return pack_f64(p, lo, hi)


def conv_image_f32(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, float32."""
    return image_f32(p, lo, hi)


def conv_image_f64(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, float64."""
    return image_f64(p, lo, hi)


def conv_weight_f32(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution to its weight, float32."""
    return weight_f32(p, lo, hi)


def conv_weight_f64(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution to its weight, float64."""
    return weight_f64(p, lo, hi)
