"""How a convolution's work is cut: bands of pixels whose windows fit a cache, blocks of channels, units for threads.

All of it is about speed alone: the chain of an element is the same however its work is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from tracejit.kernels.conv_tiles import ROW_BYTES, SPARE_ROWS, SUMS_BYTES
from tracejit.kernels.conv_windows import DIRECT, GATHERED, MAX_PIXELS, MAX_RUN, PADDED, WINDOW_BYTES, window_bytes
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS
from tracejit.kernels.vectors import TARGET

Pair = tuple[int, int]

_UNITS = 8
"""Units that a convolution should have at least."""
_BLOCK_BYTES = 20 << 10
"""Bytes of a panel of weights in a block: most of them stay in the first cache."""
_PIXELS, _FEW_PIXELS, _GATHERED_PIXELS = 256, 48, 128
"""Pixels of a band; those of a small one; those of one whose pixels are gathered."""
_TOGETHER = 512
"""The most pixels of a band of several images: weights that are not in the first cache are met once for so many."""
_FEW = (0.5, 1.0)
"""Pixels for each output channel up to which it is less to unfold them than to put weights into panels, which is easy
for a convolution and takes longer for its gradient."""
_UNFOLDED_BYTES = (128 << 10, 6 << 10)
"""Bytes of a panel of unfolded pixels in a block: long runs of weights follow each other in memory for a convolution,
short ones for its gradient, for which panels stay in the first cache."""
_MOST_INTERLEAVED = 16
"""The most grids of a row whose results are put together before they are written."""
_TAPS_OF_UNIT = (36, 72)
"""Taps of all channels in a unit of a weight's gradient: enough that its transposed cotangent is worth while."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """A convolution, or its gradient to the input: a source correlated with taps, element by element of `size` bytes.

    Of each group of an image `channels` channels of the source give `m_all` of the result.
    """

    size: int
    images: int
    groups: int
    m_all: int
    channels: int
    source: Pair
    out: Pair
    taps: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    backward: bool

    def find_grid(self) -> tuple[Pair, Pair, Pair, int, bool]:
        """The largest grid, a pixel's step in the source, what its taps span there, how many they are; and whether none
        of them leaves the image.
        """
        reach = (self.dilation[0] * (self.taps[0] - 1), self.dilation[1] * (self.taps[1] - 1))
        direct = not any(self.padding)
        if not self.backward:
            return self.out, self.stride, reach, self.taps[0] * self.taps[1], direct
        grid = (_ceil(self.out[0], self.stride[0]), _ceil(self.out[1], self.stride[1]))
        span = (reach[0] // self.stride[0], reach[1] // self.stride[1])
        met = [_ceil(t, s // gcd(s, d)) for t, s, d in zip(self.taps, self.stride, self.dilation, strict=True)]
        # A grid that meets one tap, without a shift, and is no larger than the source.
        direct = direct and span == (0, 0) and grid[0] <= self.source[0] and grid[1] <= self.source[1]
        return grid, (1, 1), span, met[0] * met[1], direct


@dataclass(frozen=True, slots=True)
class Bands:
    """The kind of window, the sizes of a band and the channels, or gathered taps, that are in it at once."""

    mode: int
    rows: int
    columns: int
    block: int


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """`bands` of pixels times `parts` of the panels of output channels are the units of so many images `together`.

    `across` says that vectors hold neighbouring pixels.
    """

    shape: Bands
    together: int
    bands: int
    parts: int
    part: int
    interleave: int
    across: bool

    def slots(self, images: int) -> tuple[int, ...]:
        shape = (self.shape.mode, self.shape.rows, self.shape.columns)
        return (*shape, self.parts, self.part, images, self.together, self.shape.block, self.interleave)


@dataclass(frozen=True, slots=True)
class UnfoldedSplit:
    """`parts` of `part` output channels are the units of a group's product, which goes through its channels block after
    block; those of its unfolding are the blocks of `shape`.
    """

    shape: Bands
    parts: int
    part: int
    block: int

    def slots(self, images: int, block: int) -> tuple[int, ...]:
        shape = (self.shape.mode, self.shape.rows, self.shape.columns)
        return (*shape, self.parts, self.part, images, images, block, 1)


@dataclass(frozen=True, slots=True)
class WeightSplit:
    """`parts` of the panels of `width` output channels times `tap_parts` of the taps are the units of a group."""

    shape: Bands
    together: int
    parts: int
    part: int
    width: int
    tap_parts: int
    tap_part: int

    def slots(self, images: int) -> tuple[int, ...]:
        shape = (self.shape.mode, self.shape.rows, self.shape.columns)
        return (*shape, self.parts, self.part, images, self.together, self.width, self.tap_parts, self.tap_part)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _even(whole: int, part: int) -> int:
    """The size of equal parts, of which none is larger than `part`."""
    return _ceil(whole, _ceil(whole, part))


def _find_bands(
    size: int, grid: Pair, step: Pair, span: Pair, taps: int, direct: bool, block: int, pixels: int, most: int
) -> Bands:
    """Bands of about `pixels` pixels, never more than `most`, with at most `block` channels at once."""
    widest = min(2 * _PIXELS, most)
    columns = grid[1] if grid[1] <= widest else _even(grid[1], min(_PIXELS, most))
    rows = _even(grid[0], max(1, pixels // grid[1])) if columns == grid[1] else 1
    if taps > MAX_RUN:
        return _gather(size, grid, block * taps, most)
    if direct:
        return Bands(DIRECT, rows, columns, block)

    def window() -> int:
        sides = ((rows - 1) * step[0] + span[0] + 1, (columns - 1) * step[1] + span[1] + 1)
        return block * window_bytes(*sides, size)

    while window() > WINDOW_BYTES:
        if rows > 1 and (rows * columns > _FEW_PIXELS or block == 1):
            rows = _ceil(rows, 2)
        elif block > 1:
            block = _ceil(block, 2)
        elif columns > 1:
            columns = _ceil(columns, 2)
        else:
            return _gather(size, grid, taps, most)
    if columns < _GATHERED_PIXELS // 4 and columns < grid[1]:
        return _gather(size, grid, taps, most)
    return Bands(PADDED, rows, columns, block)


def _gather(size: int, grid: Pair, taps: int, most: int) -> Bands:
    pixels = min(_GATHERED_PIXELS, most)
    columns = _even(grid[1], pixels)
    rows = _even(grid[0], pixels // columns) if columns == grid[1] else 1
    block = min(taps, MAX_RUN, WINDOW_BYTES // (rows * columns * size))
    return Bands(GATHERED, rows, columns, block)


def _together(size: int, images: int, grid: Pair, step: Pair, span: Pair, bands: Bands, most: int) -> int:
    """How many images have their bands in one of at most `most` pixels: sets of nearly equal size."""
    if (bands.rows, bands.columns) != grid:
        return 1
    pixels = grid[0] * grid[1]
    if bands.mode != DIRECT:
        sides = [(side - 1) * s + n + 1 for side, s, n in zip(grid, step, span, strict=True)]
        image = bands.block * (pixels * size if bands.mode == GATHERED else window_bytes(sides[0], sides[1], size))
        most = min(most, WINDOW_BYTES // image * pixels)
    return _even(max(images, 1), max(1, most // pixels))


def split_unfolded(c: Correlation) -> UnfoldedSplit | None:
    """The cut of a convolution (or of its gradient to the input) with unfolded pixels, None if it has too many."""
    size, images, groups, m_all, channels = c.size, c.images, c.groups, c.m_all, c.channels
    grid, step, span, run, direct = c.find_grid()
    pixels = images * grid[0] * grid[1]
    if pixels > min(m_all * _FEW[c.backward], MAX_PIXELS) or channels == 0 or not 0 < run <= MAX_RUN:
        return None
    units = _ceil(_UNITS, groups)
    block = min(_ceil(channels, units), MAX_RUN // run)
    if not direct:
        sides = [(side - 1) * s + n + 1 for side, s, n in zip(grid, step, span, strict=True)]
        block = min(block, WINDOW_BYTES // (images * window_bytes(sides[0], sides[1], size)))
    if block == 0:
        return None
    bands = Bands(DIRECT if direct else PADDED, grid[0], grid[1], _even(channels, block))
    # Whole tiles of output channels, and no more of them than sums and tables have room for.
    tile = TILE_ROWS // 2
    most = min(SUMS_BYTES // (_ceil(pixels * size, ROW_BYTES) * ROW_BYTES) - SPARE_ROWS, MAX_PIXELS)
    part = min(_ceil(_ceil(m_all, units), tile) * tile, most, m_all)
    at_once = max(1, min(_UNFOLDED_BYTES[c.backward] // ROW_BYTES, MAX_RUN) // run)
    return UnfoldedSplit(bands, _ceil(m_all, part), part, min(channels, at_once))


def split_image(c: Correlation) -> ImageSplit:
    """The cut of a convolution (or of its gradient to the input); nothing is empty."""
    size, images, groups, m_all, channels = c.size, c.images, c.groups, c.m_all, c.channels
    lanes = TARGET.vector_bytes // size
    grid, step, span, run, direct = c.find_grid()
    across = m_all <= lanes // 2 and step[1] == 1 and grid[1] >= lanes
    panels = _ceil(m_all, TILE_VECTORS * lanes)
    block = min(max(channels, 1), max(1, _BLOCK_BYTES // ROW_BYTES // max(run, 1)))
    block = _even(max(channels, 1), block)
    interleave = c.stride[1] if c.backward and c.stride[1] <= _MOST_INTERLEAVED else 1
    limit = min(SUMS_BYTES // (interleave * ROW_BYTES) - SPARE_ROWS, MAX_PIXELS)
    pixels = MAX_PIXELS if across else _PIXELS
    if not across and (block < channels or interleave > 1):
        fitting = SUMS_BYTES // (min(panels, 4) * interleave * ROW_BYTES) - SPARE_ROWS
        pixels = max(_FEW_PIXELS, min(pixels, fitting))
    while images * groups * _ceil(grid[0] * grid[1], pixels) < _UNITS and pixels > _FEW_PIXELS:
        pixels = _ceil(pixels, 2)
    bands = _find_bands(size, grid, step, span, run, direct and not across, block, pixels, limit)
    across = across and bands.mode == PADDED
    count = _ceil(grid[0], bands.rows) * _ceil(grid[1], bands.columns)
    together = 1 if across else _together(size, images, grid, step, span, bands, min(limit, _TOGETHER))
    sets = groups * _ceil(images, together)
    most = panels
    if bands.mode == GATHERED or bands.block < channels or interleave > 1:
        most = SUMS_BYTES // ((together * bands.rows * bands.columns + SPARE_ROWS) * interleave * ROW_BYTES)
    part = min(panels, most, _ceil(panels, _ceil(_UNITS, sets * count)))
    part = _even(panels, max(part, 1))
    return ImageSplit(bands, together, count, _ceil(panels, part), part, interleave, across)


def split_weight(
    size: int,
    images: int,
    groups: int,
    m_all: int,
    channels: int,
    out: Pair,
    taps: Pair,
    stride: Pair,
    dilation: Pair,
    direct: bool,
) -> WeightSplit:
    """The cut of a weight's gradient; there are channels, taps and output channels."""
    lanes = TARGET.vector_bytes // size
    run = taps[0] * taps[1]
    k_all = channels * run
    least, most = _TAPS_OF_UNIT
    block = _even(channels, _ceil(max(least, min(most, k_all // 4)), run))
    width = TILE_VECTORS * lanes
    if groups * _ceil(channels, block) * _ceil(m_all, width) == 1:
        width = lanes
    grid = (max(out[0], 1), max(out[1], 1))
    span = (dilation[0] * (taps[0] - 1), dilation[1] * (taps[1] - 1))
    bands = _find_bands(size, grid, stride, span, run, direct, block, _PIXELS, MAX_PIXELS)
    together = _together(size, images, grid, stride, span, bands, _TOGETHER)
    tap_part = bands.block if bands.mode == GATHERED else bands.block * run
    tap_parts = _ceil(k_all, tap_part)
    panels = _ceil(m_all, width)
    part = min(panels, _ceil(panels, _ceil(4, groups * tap_parts)))
    part = min(part, max(1, SUMS_BYTES // ((tap_part + SPARE_ROWS) * ROW_BYTES)))
    part = _even(panels, part)
    assert bands.rows * bands.columns <= MAX_PIXELS
    return WeightSplit(bands, together, _ceil(panels, part), part, width, tap_parts, tap_part)
