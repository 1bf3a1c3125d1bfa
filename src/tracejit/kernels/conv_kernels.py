"""Convolution kernels: image patches are gathered into panels on the stack and multiplied by the product tiles.

`conv_image` computes the convolution and its gradient to the input: both are a correlation of a source with shifted
taps, over one or several regular grids of output pixels. `conv_weight` computes the gradient to the weight.
Every element is one chain of fused multiply-adds: over (channel, tap row, tap column) for images, over
(image, row, column) for weights, ascending, from 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from tracejit.kernels.gemm_tiles import (
    TILE_ROWS,
    TILE_VECTORS,
    clear_vectors,
    copy_segments,
    element_size,
    pack_columns,
    pack_element,
    tile_full,
    tile_half,
    tile_indexed,
    tile_indexed_half,
    vector_lanes,
)
from tracejit.kernels.gemm_vectors import TARGET
from tracejit.kernels.memory import load_arg, load_i64, stack_i64, stack_u8, store_i64

(SOURCE, WEIGHT, OUT) = range(3)
(GROUPS, OUT_CHANNELS, CHANNELS, ROWS, COLUMNS, OUT_ROWS, OUT_COLUMNS, TAP_ROWS, TAP_COLUMNS) = range(3, 12)
(STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS, DILATION_ROWS, DILATION_COLUMNS) = range(12, 18)
(BACKWARD, W_OUT, W_CHANNEL, CHUNKS) = range(18, 22)
"""Slots of `conv_image`: addresses, channels in a group and sizes of source, output and taps, then how they meet;
strides in elements of the weight along output and source channels, chunks of output pixels."""

IMAGES, TAP_PARTS, TAPS_OF_PART = 18, 19, 20
"""Slots of `conv_weight` after those it shares: SOURCE is x, WEIGHT the cotangent, OUT the weight's gradient."""

MAX_TAPS = 256
"""The longest side of a kernel."""

BLOCK_K = 256
CHUNK_PANELS = 4
ROW_BYTES = TILE_VECTORS * TARGET.vector_bytes
PIXEL_BYTES = 1024
MAX_PART = 72
"""Patch rows packed at once, panels of pixels packed at once, bytes in a panel's row; for weights: bytes of pixels in
a block, taps in a unit."""


PANELS_BYTES = BLOCK_K * CHUNK_PANELS * ROW_BYTES
TILE_BYTES = TILE_ROWS * ROW_BYTES
PATCHES_BYTES = MAX_PART * (PIXEL_BYTES + TARGET.vector_bytes)
COTANGENT_BYTES = (PIXEL_BYTES // 4 + TARGET.vector_bytes) * ROW_BYTES
SUMS_BYTES = MAX_PART * ROW_BYTES
"""The stack buffers: panels of patches, a tile on its way to a grid; for weights: patches, factors and results."""


@register_jitable
def _ceil_div(x, y):  # type: ignore[no-untyped-def]
    return -((-x) // y)


@register_jitable
def _find_taps(backward, phase, taps, stride, pad, dilation, chosen, shifts):  # type: ignore[no-untyped-def]
    """The taps that meet the grid of output pixels at `phase` along one axis, and where in the source they look."""
    count = 0
    for tap in range(taps):
        at = tap * dilation - pad
        if backward:
            at = phase - at
            if at % stride != 0:
                continue
            at = at // stride
        store_i64(chosen, count, tap)
        store_i64(shifts, count, at)
        count += 1
    return count


@register_jitable
def _gather(  # type: ignore[no-untyped-def]
    zero,
    source,
    rows,
    columns,
    step_rows,
    step_columns,
    shift_rows,
    tap_rows,
    shift_columns,
    tap_columns,
    width,
    begin,
    end,
    low,
    high,
    out,
    out_step,
):
    """Patch rows low..high (channel, tap row, tap column) at the grid pixels begin..end; outside the source is 0."""
    size = element_size(zero)
    taps = tap_rows * tap_columns
    clear_vectors(zero, out, (high - low) * out_step // vector_lanes(zero))
    if taps == 0:
        return
    pixel = begin
    while pixel < end:
        y = pixel // width
        first = pixel - y * width
        last = min(width, first + end - pixel)
        for i in range(tap_rows):
            row = y * step_rows + load_i64(shift_rows, i)
            if row < 0 or row >= rows:
                continue
            for j in range(tap_columns):
                tap = i * tap_columns + j
                shift = load_i64(shift_columns, j)
                x0 = max(first, _ceil_div(-shift, step_columns))
                x1 = min(last, _ceil_div(columns - shift, step_columns))
                c0 = _ceil_div(low - tap, taps)
                count = _ceil_div(high - tap, taps) - c0
                if x0 >= x1 or count <= 0:
                    continue
                at = source + ((c0 * rows + row) * columns + x0 * step_columns + shift) * size
                to = out + ((c0 * taps + tap - low) * out_step + pixel - begin + x0 - first) * size
                if step_columns == 1:
                    copy_segments(zero, at, rows * columns, to, taps * out_step, count, x1 - x0)
                else:
                    for c in range(count):
                        for x in range(x1 - x0):
                            pack_element(zero, at, c * rows * columns + x * step_columns, to, c * taps * out_step + x)
        pixel += last - first


@register_jitable
def _index_weight(zero, w_channel, low, high, rows, tap_rows, columns, tap_columns, all_columns, table):  # type: ignore[no-untyped-def]
    """Where in the weight patch rows low..high find their factors."""
    taps = tap_rows * tap_columns
    for k in range(low, high):
        channel = k // taps
        tap = k - channel * taps
        i = tap // tap_columns
        row, column = load_i64(rows, i), load_i64(columns, tap - i * tap_columns)
        store_i64(table, k - low, (channel * w_channel + row * all_columns + column) * element_size(zero))


@register_jitable
def _image(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """Units are chunks of the pixels of one grid of one image and group."""
    size, lanes = element_size(zero), vector_lanes(zero)
    groups, m_all, channels = load_arg(p, GROUPS), load_arg(p, OUT_CHANNELS), load_arg(p, CHANNELS)
    rows, columns = load_arg(p, ROWS), load_arg(p, COLUMNS)
    out_rows, out_columns = load_arg(p, OUT_ROWS), load_arg(p, OUT_COLUMNS)
    all_rows, all_columns = load_arg(p, TAP_ROWS), load_arg(p, TAP_COLUMNS)
    stride_rows, stride_columns = load_arg(p, STRIDE_ROWS), load_arg(p, STRIDE_COLUMNS)
    backward, chunks, w_out = load_arg(p, BACKWARD), load_arg(p, CHUNKS), load_arg(p, W_OUT)
    grid_rows, grid_columns = (stride_rows, stride_columns) if backward else (1, 1)
    step_rows, step_columns = (1, 1) if backward else (stride_rows, stride_columns)
    panel_columns = TILE_VECTORS * lanes
    chunk_columns = CHUNK_PANELS * panel_columns
    panels = stack_u8(PANELS_BYTES)
    spare = stack_u8(TILE_BYTES)
    table = stack_i64(BLOCK_K)
    tap_i, tap_j = stack_i64(MAX_TAPS), stack_i64(MAX_TAPS)
    shift_i, shift_j = stack_i64(MAX_TAPS), stack_i64(MAX_TAPS)
    grids = grid_rows * grid_columns
    for unit in range(lo, hi):
        image = unit // (grids * chunks)
        grid = (unit - image * grids * chunks) // chunks
        chunk = unit - (image * grids + grid) * chunks
        phase_i = grid // grid_columns
        phase_j = grid - phase_i * grid_columns
        height = _ceil_div(out_rows - phase_i, grid_rows)
        width = _ceil_div(out_columns - phase_j, grid_columns)
        begin = chunk * chunk_columns
        end = min(height * width, begin + chunk_columns)
        if begin >= end:
            continue
        taps_i = _find_taps(
            backward, phase_i, all_rows, stride_rows, load_arg(p, PAD_ROWS), load_arg(p, DILATION_ROWS), tap_i, shift_i
        )
        taps_j = _find_taps(
            backward,
            phase_j,
            all_columns,
            stride_columns,
            load_arg(p, PAD_COLUMNS),
            load_arg(p, DILATION_COLUMNS),
            tap_j,
            shift_j,
        )
        source = load_arg(p, SOURCE) + image * channels * rows * columns * size
        weight = load_arg(p, WEIGHT) + (image % groups) * m_all * channels * all_rows * all_columns * size
        out = load_arg(p, OUT) + image * m_all * out_rows * out_columns * size
        k_all = channels * taps_i * taps_j
        low = 0
        while low == 0 or low < k_all:
            high = min(k_all, low + BLOCK_K)
            _index_weight(zero, load_arg(p, W_CHANNEL), low, high, tap_i, taps_i, tap_j, taps_j, all_columns, table)
            for start in range(begin, end, panel_columns):
                panel = panels + (start - begin) * BLOCK_K * size
                stop = min(end, start + panel_columns)
                _gather(
                    zero,
                    source,
                    rows,
                    columns,
                    step_rows,
                    step_columns,
                    shift_i,
                    taps_i,
                    shift_j,
                    taps_j,
                    width,
                    start,
                    stop,
                    low,
                    high,
                    panel,
                    panel_columns,
                )
            fresh = 1 if low == 0 else 0
            for m in range(0, m_all, TILE_ROWS):
                m_left = min(TILE_ROWS, m_all - m)
                a = weight + m * w_out * size
                for start in range(begin, end, panel_columns):
                    panel = panels + (start - begin) * BLOCK_K * size
                    n_left = min(end - start, panel_columns)
                    if grids == 1:
                        c, c_step = out + (m * out_rows * out_columns + start) * size, out_rows * out_columns
                    else:
                        c, c_step = spare, panel_columns
                        if low > 0:
                            _scatter(
                                zero,
                                spare,
                                out,
                                m,
                                m_left,
                                start,
                                n_left,
                                width,
                                phase_i,
                                phase_j,
                                grid_rows,
                                grid_columns,
                                out_rows,
                                out_columns,
                                False,
                            )
                    if m_left > TILE_ROWS // 2:
                        tile_indexed(
                            zero, a, w_out, table, panel, panel_columns, c, c_step, high - low, fresh, m_left, n_left
                        )
                    else:
                        tile_indexed_half(
                            zero, a, w_out, table, panel, panel_columns, c, c_step, high - low, fresh, m_left, n_left
                        )
                    if grids > 1:
                        _scatter(
                            zero,
                            spare,
                            out,
                            m,
                            m_left,
                            start,
                            n_left,
                            width,
                            phase_i,
                            phase_j,
                            grid_rows,
                            grid_columns,
                            out_rows,
                            out_columns,
                            True,
                        )
            low += BLOCK_K
    return 0


@register_jitable
def _scatter(  # type: ignore[no-untyped-def]
    zero,
    spare,
    out,
    m,
    m_left,
    start,
    n_left,
    width,
    phase_i,
    phase_j,
    grid_rows,
    grid_columns,
    out_rows,
    out_columns,
    forth,
):
    """Moves a tile between `spare` and the pixels of one grid: forth to the output, or back."""
    panel_columns = TILE_VECTORS * vector_lanes(zero)
    y = start // width
    x = start - y * width
    for n in range(n_left):
        at = (m * out_rows + phase_i + y * grid_rows) * out_columns + phase_j + x * grid_columns
        for i in range(m_left):
            if forth:
                pack_element(zero, spare, i * panel_columns + n, out, at + i * out_rows * out_columns)
            else:
                pack_element(zero, out, at + i * out_rows * out_columns, spare, i * panel_columns + n)
        x += 1
        if x == width:
            x = 0
            y += 1


@register_jitable
def _weight(p, lo, hi, zero):  # type: ignore[no-untyped-def]
    """Units are a panel of output channels times a part of the taps (channel, tap row, tap column) of a group."""
    size, lanes = element_size(zero), vector_lanes(zero)
    groups, m_all, channels = load_arg(p, GROUPS), load_arg(p, OUT_CHANNELS), load_arg(p, CHANNELS)
    rows, columns = load_arg(p, ROWS), load_arg(p, COLUMNS)
    out_rows, out_columns = load_arg(p, OUT_ROWS), load_arg(p, OUT_COLUMNS)
    all_rows, all_columns = load_arg(p, TAP_ROWS), load_arg(p, TAP_COLUMNS)
    images, parts, part_taps = load_arg(p, IMAGES), load_arg(p, TAP_PARTS), load_arg(p, TAPS_OF_PART)
    panel_columns = TILE_VECTORS * lanes
    panels = _ceil_div(m_all, panel_columns)
    taps_all = channels * all_rows * all_columns
    pixels = out_rows * out_columns
    block = PIXEL_BYTES // size
    patch_step = block + lanes
    patches = stack_u8(PATCHES_BYTES)
    cotangent = stack_u8(COTANGENT_BYTES)
    sums = stack_u8(SUMS_BYTES)
    tap_i, tap_j = stack_i64(MAX_TAPS), stack_i64(MAX_TAPS)
    shift_i, shift_j = stack_i64(MAX_TAPS), stack_i64(MAX_TAPS)
    _find_taps(0, 0, all_rows, 1, load_arg(p, PAD_ROWS), load_arg(p, DILATION_ROWS), tap_i, shift_i)
    _find_taps(0, 0, all_columns, 1, load_arg(p, PAD_COLUMNS), load_arg(p, DILATION_COLUMNS), tap_j, shift_j)
    for unit in range(lo, hi):
        group = unit // (panels * parts)
        panel = (unit - group * panels * parts) // parts
        m = panel * panel_columns
        m_left = min(panel_columns, m_all - m)
        low = (unit - (group * panels + panel) * parts) * part_taps
        high = min(taps_all, low + part_taps)
        clear_vectors(zero, sums, (high - low) * TILE_VECTORS)
        for image in range(images):
            source = load_arg(p, SOURCE) + (image * groups + group) * channels * rows * columns * size
            factor = load_arg(p, WEIGHT) + ((image * groups + group) * m_all + m) * pixels * size
            for begin in range(0, pixels, block):
                end = min(pixels, begin + block)
                _gather(
                    zero,
                    source,
                    rows,
                    columns,
                    load_arg(p, STRIDE_ROWS),
                    load_arg(p, STRIDE_COLUMNS),
                    shift_i,
                    all_rows,
                    shift_j,
                    all_columns,
                    out_columns,
                    begin,
                    end,
                    low,
                    high,
                    patches,
                    patch_step,
                )
                for j in range(0, m_left, lanes):
                    at = factor + (j * pixels + begin) * size
                    pack_columns(zero, at, pixels, cotangent + j * size, panel_columns, end - begin, m_left - j)
                for t in range(0, high - low, TILE_ROWS):
                    a, c = patches + t * patch_step * size, sums + t * panel_columns * size
                    left = high - low - t
                    if left > TILE_ROWS // 2:
                        tile_full(
                            zero,
                            a,
                            patch_step,
                            1,
                            cotangent,
                            panel_columns,
                            c,
                            panel_columns,
                            end - begin,
                            0,
                            left,
                            m_left,
                        )
                    else:
                        tile_half(
                            zero,
                            a,
                            patch_step,
                            1,
                            cotangent,
                            panel_columns,
                            c,
                            panel_columns,
                            end - begin,
                            0,
                            left,
                            m_left,
                        )
        out = load_arg(p, OUT) + (group * m_all + m) * taps_all * size
        for j in range(m_left):
            for t in range(low, high):
                pack_element(zero, sums, (t - low) * panel_columns + j, out, j * taps_all + t)
    return 0


def conv_image_f32(p: Any, lo: int, hi: int) -> int:
    """Convolution, or its gradient to the input, float32."""
    return _image(p, lo, hi, np.float32(0.0))


def conv_image_f64(p: Any, lo: int, hi: int) -> int:
    """Convolution, or its gradient to the input, float64."""
    return _image(p, lo, hi, np.float64(0.0))


def conv_weight_f32(p: Any, lo: int, hi: int) -> int:
    """Gradient of a convolution to its weight, float32."""
    return _weight(p, lo, hi, np.float32(0.0))


def conv_weight_f64(p: Any, lo: int, hi: int) -> int:
    """Gradient of a convolution to its weight, float64."""
    return _weight(p, lo, hi, np.float64(0.0))
