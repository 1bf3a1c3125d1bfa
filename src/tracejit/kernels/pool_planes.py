"""Means of windows and their gradient with planes in the lanes, as convolutions with a filter for each channel.

The factors are 1, so that each fused multiply-add is an addition; padding adds zeros, which change no sum, since sums
begin with 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.conv_depthwise import IMAGES, MOST_BYTES, DepthwiseImage, split_depthwise
from tracejit.kernels.conv_tiles import PAD_COLUMNS, PAD_ROWS, STRIDE_COLUMNS, STRIDE_ROWS, TAP_ROWS
from tracejit.kernels.emit import I64, Splat, emit_loop
from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.template import product
from tracejit.kernels.vectors import F32, F64, TARGET, Lane, VectorBuilder

(MARGIN_ROWS, MARGIN_COLUMNS, DIVISOR) = range(IMAGES + 1, IMAGES + 4)
"""Slots behind those of a convolution: how much of the padding counts, what sums are divided by (0: by the count)."""


class Mean(DepthwiseImage):
    """Means of windows, or their gradient: shares of a window are added to its elements in the order of windows."""

    def __init__(self, lane: Lane, code: Code, p: Word) -> None:
        super().__init__(lane, code, p)
        self.taps_i, stride_i, stride_j, self.pad_i, pad_j = code.slots(
            p, TAP_ROWS, STRIDE_ROWS, STRIDE_COLUMNS, PAD_ROWS, PAD_COLUMNS
        )
        self.margin_i, margin_j, self.divisor = code.slots(p, MARGIN_ROWS, MARGIN_COLUMNS, DIVISOR)
        self.stride_i = stride_i
        self.high, wide = self.back.choose(self.out_rows, self.rows), self.back.choose(self.out_columns, self.columns)
        self.windows = self.back.choose(self.columns, self.out_columns)
        self.counts = code.buffer(8 * MOST_BYTES // TARGET.vector_bytes)
        with code.loop(0, self.windows) as x:
            left = x * stride_j - pad_j
            counted = (left + self.taps_j).least(wide + margin_j) - left.most(-margin_j)
            code.store(self.counts, x, counted)

    def load_factors(self, group: Word, left: Word) -> None:
        v = VectorBuilder(self.code.builder, self.lane)
        with self.code.loop(0, self.taps) as k:
            v.store(Splat(self.lane.vector, 1.0), (self.factors + k * TARGET.vector_bytes).value)

    def order(self, tap: Word, count: Word) -> Word:
        # The last tap of an element is that of the first window that it is in.
        return self.back.choose(count - 1 - tap, tap)

    def turned_in(self, first: Word, rows: Word) -> None:
        with self.code.when(self.back):
            self._divide(self.plain, first, rows)

    def computed(self, first: Word, rows: Word) -> None:
        with self.code.when(self.back.equals(0)):
            self._divide(self.turned, first, rows)

    def _divide(self, at: Word, first: Word, rows: Word) -> None:
        """Divides what belongs to rows of windows."""
        code, b = self.code, self.code.builder
        v = VectorBuilder(b, self.lane)
        with code.loop(0, rows) as y:
            top = (first + y) * self.stride_i - self.pad_i
            high = (top + self.taps_i).least(self.high + self.margin_i) - top.most(-self.margin_i)

            def window(state: list[Any], high: Word = high) -> list[Any]:
                place, entry = state
                counted = high * Word(b, b.load(v.pointer(entry, I64)))
                count = self.divisor.equals(0).choose(counted, self.divisor)
                divisor = v.spread(b.sitofp(count.value, self.lane.kind))
                v.store(b.fdiv(v.load(place), divisor), place)
                return [b.add(place, I64(TARGET.vector_bytes)), b.add(entry, I64(8))]

            row = at + y * self.windows * TARGET.vector_bytes
            emit_loop(b, self.windows.value, [row.value, self.counts.value], window)


def _units(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    mean = Mean(lane, code, p)
    with code.loop(low, high) as unit:
        mean.unit(unit)


means_f32 = native_kernel("means_f32", partial(_units, F32))
means_f64 = native_kernel("means_f64", partial(_units, F64))


def avg_pool2d_planes_f32(p: Any, lo: int, hi: int) -> Any:
    """Means of windows, or their gradient, planes in the lanes, float32."""
    return means_f32(p, lo, hi)


def avg_pool2d_planes_f64(p: Any, lo: int, hi: int) -> Any:
    """Means of windows, or their gradient, planes in the lanes, float64."""
    return means_f64(p, lo, hi)


_KERNELS: dict[str, tuple[Callable[..., Any], Lane]] = {
    "float32": (avg_pool2d_planes_f32, F32),
    "float64": (avg_pool2d_planes_f64, F64),
}


def by_planes(launch: Launch, *arrays: Operand, together: int = 1) -> Launch:
    """A launch over arrays of equally many planes, so many of them together, which its units go through in order."""
    return replace(
        launch, parts=product(arrays[0].shape[:-2]) // together, along=tuple(range(len(arrays))), loose=True
    )


def mean_launch(source: Operand, out: Operand, sizes: tuple[int, ...], backward: bool) -> Launch | None:
    """The launch of means, or of their gradient, if planes fill at least half of a vector, and have room.

    `sizes` are those of planes, results, windows, strides and padding, how much of that counts, and the divisor.
    """
    if source.dtype not in _KERNELS:
        return None
    function, lane = _KERNELS[source.dtype]
    height, width, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, *rest = sizes
    planes = product(out.shape[:-2])
    if 2 * planes < lane.count:
        return None
    image, result = (height, width), (out_height, out_width)
    seen, made = (result, image) if backward else (image, result)
    kernel, stride, padding = (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w)
    split = split_depthwise(seen, made, kernel, stride, padding, (1, 1), backward)
    if split is None:
        return None
    meeting = (*kernel, *stride, *padding, 1, 1, int(backward))
    slots: tuple[int | Ptr, ...] = (Ptr(0), 0, Ptr(1), planes, 1, 1, *seen, *made, *meeting, *split.slots(1), *rest)
    units = -(-planes // lane.count) * split.bands
    windows = out_height * out_width
    cost = 1.5 * (height * width + windows) + windows * (0.2 * kernel_h * kernel_w + 2.0)
    launch = Launch(function, slots, units, cost / split.bands)
    # Vectors of planes are parts if all of them are whole.
    return launch if planes % lane.count else by_planes(launch, source, out, together=lane.count)
