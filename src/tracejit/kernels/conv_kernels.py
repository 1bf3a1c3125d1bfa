"""Convolution kernels: image patches are gathered into panels on the stack and multiplied by the product tiles.

`conv_image` computes the convolution and its gradient to the input: both are a correlation of a source with shifted
taps, over one or several regular grids of output pixels. `conv_weight` computes the gradient to the weight.
Every element is one chain of fused multiply-adds: over (channel, tap row, tap column) for images, over
(image, row, column) for weights, ascending, from 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tracejit.kernels.conv_patches import FLAT_TAPS, Axis, Patches, make_positions
from tracejit.kernels.conv_vectors import add_zeros
from tracejit.kernels.gemm_code import Code, Word, native_kernel
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS, add_tiles
from tracejit.kernels.gemm_vectors import F32, F64, TARGET, Lane, add_transpose

(SOURCE, WEIGHT, OUT) = range(3)
(GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS) = range(3, 12)
(STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS, DILATION_ROWS, DILATION_COLUMNS, IMAGES) = range(12, 19)
(BACKWARD, W_OUT, W_CHANNEL, CHUNKS) = range(19, 23)
"""Slots of `conv_image`: addresses, channels in a group and sizes of source, output and taps, how they meet, images;
strides in elements of the weight along output and source channels, chunks of output pixels."""

PARTS, PART_TAPS = 19, 20
"""Slots of `conv_weight` after those it shares: parts of the taps of a group, taps in a part. Its SOURCE is x, its
WEIGHT the cotangent, its OUT the weight's gradient."""

CHUNK_PANELS = 8
_BLOCK_K = 144
_ROW_BYTES = TILE_VECTORS * TARGET.vector_bytes
_WEIGHT_BYTES = 200 << 10
"""Panels of pixels in a unit, patch rows gathered at once (a panel stays in the first cache), bytes in a panel's row,
bytes of reordered weight."""

MAX_PART = 72
_PIXEL_BYTES = 1024
_KEPT_BLOCKS = 4
"""For weights: the most taps in a unit, bytes of pixels gathered at once, blocks whose masks are kept."""


def _reorder(
    code: Code,
    lane: Lane,
    weight: Word,
    w_out: Word,
    w_channel: Word,
    wide: Word,
    vertical: Axis,
    horizontal: Axis,
    m: Word,
    m_all: Word,
    low: Word,
    high: Word,
    out: Word,
) -> None:
    """The factors of TILE_ROWS output channels from m on for patch rows low..high, those of a patch row together."""
    taps = vertical.count * horizontal.count
    with code.loop(low, high) as k:
        channel = k.quotient(taps)
        tap = k - channel * taps
        i = tap.quotient(horizontal.count)
        row, column = code.load(vertical.taps, i), code.load(horizontal.taps, tap - i * horizontal.count)
        at = channel * w_channel + row * wide + column
        for r in range(TILE_ROWS):
            value = code.load(weight, at + (m + r).least(m_all - 1) * w_out, lane.kind)
            code.store(out, (k - low) * TILE_ROWS + r, value)


def _scatter(
    code: Code,
    lane: Lane,
    spare: Word,
    out: Word,
    plane: Word,
    m_left: Word,
    start: Word,
    n_left: Word,
    width: Word,
    row_step: Word,
    column_step: Word,
    forth: bool,
) -> None:
    """Moves a tile between `spare` and the pixels of one grid of the output: forth, or back."""
    panel = TILE_VECTORS * lane.count
    with code.loop(0, n_left) as n:
        y = (start + n).quotient(width)
        at = y * row_step + (start + n - y * width) * column_step
        with code.loop(0, m_left) as i:
            here, there = (spare, i * panel + n), (out, at + i * plane)
            source, target = (here, there) if forth else (there, here)
            code.store(*target, code.load(*source, lane.kind))


def _image(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    """Units are chunks of the pixels of one grid of one image and group."""
    size, columns_of_panel = lane.size, TILE_VECTORS * lane.count
    groups, m_all, channels, rows, columns = code.slots(p, GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS)
    out_rows, out_columns, all_i, all_j = code.slots(p, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS)
    stride_i, stride_j, pad_i, pad_j = code.slots(p, STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS)
    dilation_i, dilation_j, images, backward = code.slots(p, DILATION_ROWS, DILATION_COLUMNS, IMAGES, BACKWARD)
    source, weight, out, w_out, w_channel, chunks = code.slots(p, SOURCE, WEIGHT, OUT, W_OUT, W_CHANNEL, CHUNKS)
    back = backward.differs(0)
    grid_i, grid_j = back.choose(stride_i, 1), back.choose(stride_j, 1)
    whole_plane = (grid_i * grid_j).equals(1)
    pixels_of_chunk = CHUNK_PANELS * columns_of_panel
    panel = code.buffer(_BLOCK_K * _ROW_BYTES)
    positions = make_positions(code, pixels_of_chunk)
    offsets, masks = code.buffer(8 * FLAT_TAPS), code.buffer(CHUNK_PANELS * TILE_VECTORS * 4 * FLAT_TAPS)
    spare = code.buffer(TILE_ROWS * _ROW_BYTES)
    factors = code.buffer(_WEIGHT_BYTES)
    plane = out_rows * out_columns
    vertical = Axis(code, back, all_i, stride_i, pad_i, dilation_i)
    horizontal = Axis(code, back, all_j, stride_j, pad_j, dilation_j)
    found, reordered, prepared = code.cell(-1), code.cell(-1), code.cell(-1)
    a_m, a_k = back.choose(1, w_out), back.choose(TILE_ROWS, 1)
    tile_bytes = TILE_ROWS * size
    tiles = m_all.ceil_div(TILE_ROWS)
    with code.loop(low_unit, high_unit) as unit:
        place = unit.quotient(images)
        member = place.quotient(chunks)
        chunk = place - member * chunks
        grid = member.quotient(groups)
        group = member - grid * groups
        image = (unit - place * images) * groups + group
        phase_i = grid.quotient(grid_j)
        phase_j = grid - phase_i * grid_j
        height, width = (out_rows - phase_i).ceil_div(grid_i), (out_columns - phase_j).ceil_div(grid_j)
        begin = chunk * pixels_of_chunk
        end = (begin + pixels_of_chunk).least(height * width)
        with code.when(begin < end):
            with code.when(found.now.differs(grid)):
                vertical.find(code, phase_i)
                horizontal.find(code, phase_j)
                found.set(grid)
            positions.update(code, width)
            image_at = source + image * channels * rows * columns * size
            patches = Patches(lane, image_at, rows, columns, vertical, horizontal, width)
            flat = patches.flat(code, offsets, masks)
            with code.when(flat.possible & prepared.now.differs(grid * chunks + chunk)):
                flat.prepare(code, patches, positions, begin, pixels_of_chunk, masks)
                prepared.set(grid * chunks + chunk)
            weight_at = weight + group * m_all * channels * all_i * all_j * size
            out_at = out + (image * m_all * plane + phase_i * out_columns + phase_j) * size
            k_all = channels * vertical.count * horizontal.count
            blocks = k_all.ceil_div(_BLOCK_K).most(1)
            run = k_all.ceil_div(blocks)
            # The gradient wants the weight in another order: all of it at once, or else what a block needs.
            fits = tiles * k_all * tile_bytes <= _WEIGHT_BYTES
            piecewise = back & fits.equals(0)
            batch = piecewise.choose(code.word(_WEIGHT_BYTES).quotient(_BLOCK_K * tile_bytes), tiles) * TILE_ROWS

            def reorder(first: Word, last: Word, low: Word, high: Word) -> None:
                with code.loop(first, last, TILE_ROWS) as m:
                    at = factors + (m - first).quotient(TILE_ROWS) * (high - low) * tile_bytes
                    _reorder(
                        code, lane, weight_at, w_out, w_channel, all_j, vertical, horizontal, m, m_all, low, high, at
                    )

            with code.when(back & fits & reordered.now.differs(member)):
                reorder(code.word(0), m_all, code.word(0), k_all)
                reordered.set(member)
            with code.loop(0, m_all.ceil_div(batch)) as part, code.loop(0, blocks) as block:
                first = part * batch
                last = (first + batch).least(m_all)
                low = block * run
                high = k_all.least(low + run)
                with code.when(piecewise):
                    reorder(first, last, low, high)
                with code.loop(begin, end, columns_of_panel) as start:
                    n_left = (end - start).least(columns_of_panel)
                    seen = masks + (start - begin).quotient(columns_of_panel) * flat.taps * (4 * TILE_VECTORS)
                    stop = start + n_left
                    patches.gather(code, flat, seen, start, stop, low, high, panel, columns_of_panel)
                    with code.loop(first, last, TILE_ROWS) as m:
                        m_left = (m_all - m).least(TILE_ROWS)
                        whole = m * k_all + low * TILE_ROWS
                        kept = factors + piecewise.choose((m - first) * (high - low), whole) * size
                        a = back.choose(kept, weight_at + (m * w_out + low) * size)
                        c = whole_plane.choose(out_at + (m * plane + start) * size, spare)
                        c_m = whole_plane.choose(plane, columns_of_panel)
                        move = partial(
                            _scatter,
                            code,
                            lane,
                            spare,
                            out_at + m * plane * size,
                            plane,
                            m_left,
                            start,
                            n_left,
                            width,
                            grid_i * out_columns,
                            grid_j,
                        )
                        with code.when(whole_plane.equals(0) & (block > 0)):
                            move(forth=False)
                        add_tiles(
                            code,
                            lane,
                            a,
                            a_m,
                            a_k,
                            panel,
                            code.word(columns_of_panel),
                            c,
                            c_m,
                            high - low,
                            block.equals(0).number(),
                            m_left,
                            n_left,
                        )
                        with code.when(whole_plane.equals(0)):
                            move(forth=True)


def _weight(lane: Lane, code: Code, p: Word, low_unit: Word, high_unit: Word) -> None:
    """Units are a panel of output channels times a part of the taps (channel, tap row, tap column) of a group."""
    size, columns_of_panel = lane.size, TILE_VECTORS * lane.count
    groups, m_all, channels, rows, columns = code.slots(p, GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS)
    out_rows, out_columns, all_i, all_j = code.slots(p, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS)
    stride_i, stride_j, pad_i, pad_j = code.slots(p, STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS)
    dilation_i, dilation_j, images, parts = code.slots(p, DILATION_ROWS, DILATION_COLUMNS, IMAGES, PARTS)
    source, cotangent, out, part_taps = code.slots(p, SOURCE, WEIGHT, OUT, PART_TAPS)
    block = _PIXEL_BYTES // size
    step = block + lane.count
    block_masks = block // lane.count * 4 * FLAT_TAPS
    gathered = code.buffer(MAX_PART * step * size)
    factors = code.buffer(block * _ROW_BYTES)
    positions = make_positions(code, block)
    positions.update(code, out_columns)
    sums = code.buffer(MAX_PART * _ROW_BYTES)
    ahead = code.word(0).differs(0)
    vertical = Axis(code, ahead, all_i, stride_i, pad_i, dilation_i)
    horizontal = Axis(code, ahead, all_j, stride_j, pad_j, dilation_j)
    vertical.find(code, code.word(0))
    horizontal.find(code, code.word(0))
    offsets, masks = code.buffer(8 * FLAT_TAPS), code.buffer(_KEPT_BLOCKS * block_masks)
    panels, pixels, taps_all = m_all.ceil_div(columns_of_panel), out_rows * out_columns, channels * all_i * all_j
    transpose = add_transpose(code.module, lane)
    nothing = Patches(lane, code.word(0), rows, columns, vertical, horizontal, out_columns)
    flat = nothing.flat(code, offsets, masks)
    kept = pixels <= _KEPT_BLOCKS * block
    masks_of_block = flat.taps * (block // lane.count * 4)
    with code.when(flat.possible & kept), code.loop(0, pixels, block) as begin:
        at = masks + begin.quotient(block) * masks_of_block
        flat.prepare(code, nothing, positions, begin, block, at)
    with code.loop(low_unit, high_unit) as unit:
        strip = unit.quotient(parts)
        group = strip.quotient(panels)
        m = (strip - group * panels) * columns_of_panel
        m_left = (m_all - m).least(columns_of_panel)
        low = (unit - strip * parts) * part_taps
        high = taps_all.least(low + part_taps)
        code.call(add_zeros(code.module, lane), sums, (high - low) * TILE_VECTORS)
        with code.loop(0, images) as n, code.loop(0, pixels, block) as begin:
            image = n * groups + group
            image_at = source + image * channels * rows * columns * size
            factor_at = cotangent + ((image * m_all + m) * pixels + begin) * size
            end = pixels.least(begin + block)
            patches = Patches(lane, image_at, rows, columns, vertical, horizontal, out_columns)
            seen = masks + kept.choose(begin.quotient(block), 0) * masks_of_block
            with code.when(flat.possible & kept.equals(0)):
                flat.prepare(code, patches, positions, begin, block, masks)
            patches.gather(code, flat, seen, begin, end, low, high, gathered, step)
            with code.loop(0, m_left, lane.count) as j:
                code.call(
                    transpose,
                    factor_at + j * pixels * size,
                    pixels,
                    factors + j * size,
                    columns_of_panel,
                    end - begin,
                    m_left - j,
                )
            wide = code.word(columns_of_panel)
            add_tiles(
                code, lane, gathered, code.word(step), 1, factors, wide, sums, wide, end - begin, 0, high - low, m_left
            )
        out_at = out + (group * m_all + m) * taps_all * size
        with code.loop(0, m_left) as j, code.loop(low, high) as tap:
            code.store(out_at, j * taps_all + tap, code.load(sums, (tap - low) * columns_of_panel + j, lane.kind))


image_f32 = native_kernel("image_f32", partial(_image, F32))
image_f64 = native_kernel("image_f64", partial(_image, F64))
weight_f32 = native_kernel("weight_f32", partial(_weight, F32))
weight_f64 = native_kernel("weight_f64", partial(_weight, F64))


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
