"""What the convolution kernels share: argument slots, tiles of unfinished chains, results put in place."""

from __future__ import annotations

from collections.abc import Callable

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_vectors import add_lookup, add_turned
from tracejit.kernels.conv_windows import Axis
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS
from tracejit.kernels.vectors import TARGET, Lane

(SOURCE, WEIGHT, OUT) = range(3)
(GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS) = range(3, 12)
(STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS, DILATION_ROWS, DILATION_COLUMNS, BACKWARD) = range(12, 19)
"""Slots of all kernels: addresses, channels in a group and sizes of source, output and taps, how they meet.

`conv_pack` has the weight as SOURCE and the panels as OUT. `conv_image` has the panels as its WEIGHT. `conv_weight` has
x as SOURCE, the cotangent as WEIGHT and the weight's gradient as OUT."""

(MODE, BAND_ROWS, BAND_COLUMNS, PARTS, PART) = range(19, 24)
"""Slots of `conv_image` and `conv_weight`: the kind of window; pixels of a band, which is several whole rows of a grid
or a part of one row; parts of the panels of output channels, panels in a part."""

(IMAGES, TOGETHER) = range(24, 26)
"""Slots of both: images; how many of them have their bands in one, which then are whole grids."""

(BLOCK, INTERLEAVE) = range(26, 28)
"""Slots of images: channels in a block, or, where windows are gathered, taps of all channels; grids whose sums
interleave in a row (1: those of each are written by themselves)."""

(WIDTH, TAP_PARTS, TAP_PART) = range(26, 29)
"""Slots of `conv_weight`: output channels in a panel, parts of the taps of all channels, taps in a part."""

(FACTOR_OUT, FACTOR_CHANNEL) = range(28, 30)
"""Slots of `conv_unfolded`, which has the unfolded pixels as SOURCE: the weight's strides along output and source
channels."""

(W_OUT, W_CHANNEL, W_RUNS, W_RUN) = range(19, 23)
"""Slots of `conv_pack`: the weight's strides in elements along output and source channels; runs of contiguous factors
of an output channel, W_CHANNEL apart, and the length of one (0: there are none)."""

SUMS_BYTES = 144 << 10
ROW_BYTES = TILE_VECTORS * TARGET.vector_bytes
"""Bytes of unfinished chains in a unit, and of those of a panel at one pixel."""

_NARROW_ROWS = 9 if TARGET.registers == 16 else 12
HEIGHTS = {1: (_NARROW_ROWS, 3), 2: (TILE_ROWS, TILE_ROWS // 2)}
"""Rows of the large and the small tile by its vectors."""

SPARE_ROWS = _NARROW_ROWS
"""Rows of sums behind those of a panel: its last tile may go that far."""


def either_width(code: Code, narrow: Word, run: Callable[[int], None]) -> None:
    """Runs `run(vectors)` for panels of one vector, or of TILE_VECTORS."""
    code.either(narrow, lambda: run(1), lambda: run(TILE_VECTORS))


def add_tiles(
    code: Code,
    lane: Lane,
    window: Word,
    places: Word,
    offsets: Word,
    k: Word,
    factors: Word,
    sums: Word,
    step: Word | int,
    begin: Word | int,
    rows: Word,
    vectors: int,
) -> None:
    """Goes on with the chains of `rows` places, whose sums lie `step` bytes apart; up to a tile more are touched."""
    large, small = HEIGHTS[vectors]

    def tile(row: Word, height: int) -> None:
        function = add_lookup(code.module, lane, height, vectors)
        code.call(function, window, places + row * 8, offsets, k, factors, sums + row * step, step, begin)

    with code.loop(0, rows, large) as row:
        code.either(rows - row > small, lambda: tile(row, large), lambda: tile(row, small))


def turn(code: Code, lane: Lane, sums: Word, out: Word, step: Word, columns: Word, count: Word, vectors: Word) -> None:
    """out[c * step + n] = sums[n][c] for n below `count` and c below `columns`; a row of sums is so many vectors."""

    def single() -> None:
        width = vectors * lane.count
        with code.loop(0, columns.least(width)) as c, code.loop(0, count) as n:
            code.store(out, c * step + n, code.load(sums, n * width + c, lane.kind))

    def whole() -> None:
        code.call(add_turned(code.module, lane), sums, out, step, columns, count, vectors)

    code.either(count < lane.count, single, whole)


def axes(code: Code, p: Word) -> tuple[Word, Axis, Axis]:
    """Whether there is a gradient to the input to compute, and the axes of the image."""
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
