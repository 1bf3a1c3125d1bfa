"""The maximum of windows without dilation, whole vectors of results at a time.

Rows of results are short (7, 14, 28) and so are windows: what loops over elements cost at their edges, vectors that
overlap or spill over do not.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.emit import I64, emit_loop
from tracejit.kernels.vectors import F32, F64, I32, TARGET, Lane, VectorBuilder

(X, VALUES, PLACES, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W) = range(9)
(STRIDE_H, STRIDE_W, PAD_H, PAD_W, SIZE) = range(9, 14)
"""Slots: addresses, sizes of planes and windows, strides, padding, the number of elements of x."""

WIDEST_STRIDE = 2
"""Columns between windows up to which those inside their planes have a kernel of their own."""


def _strided(v: VectorBuilder, low: Any, high: Any, first: int) -> Any:
    """Every second lane of two vectors, from `first` on."""
    order = ir.Constant(ir.VectorType(I32, v.width), [2 * k + first for k in range(v.width)])
    return v.ir.shuffle_vector(low, high, order)


def _window(v: VectorBuilder, masked: bool, p: dict[str, Any], column: Any, row: Any, above: Any) -> tuple[Any, Any]:
    """Maxima and their places, relative to the windows' first row, for a vector of windows from `column` on.

    `row` is the address of the first window row, of which `above` lie over the plane (None: there is no padding) and
    `lines` of the others in it; `masked` reads nothing beside the rows.
    """
    b = v.ir
    lanes = ir.VectorType(I32, v.width)

    def spread(number: Any) -> Any:
        return v.spread(b.trunc(number, I32))

    double = b.icmp_signed("==", p["stride_w"], I64(2))
    left = b.mul(column, p["stride_w"])
    if above is not None:
        left = b.sub(left, p["pad_w"])
    iota = ir.Constant(lanes, list(range(v.width)))
    start = b.add(spread(left), b.mul(iota, spread(p["stride_w"])))
    lowest = ir.Constant(v.lane.vector, [-math.inf] * v.width)
    none = ir.Constant(lanes, [0] * v.width)

    def load(address: Any, first: Any) -> Any:
        """A row's elements from `first` on; beside the row nothing is above them."""
        if not masked:
            return v.load(address)
        inside = v.mask(b.sub(p["width"], first))
        if above is None:
            return v.load_masked(address, inside)
        inside = b.and_(inside, b.not_(v.mask(b.neg(first))))
        return b.select(inside, v.load_masked(address, inside), lowest)

    def far_tap(address: Any, j: Any) -> Any:
        """The same where windows are further apart: element by element."""
        at = b.add(start, spread(j))
        last = spread(b.sub(p["width"], I64(1)))
        inside = b.and_(b.icmp_signed(">=", at, none), b.icmp_signed("<=", at, last))
        near = b.select(b.icmp_signed("<", at, none), none, b.select(b.icmp_signed(">", at, last), last, at))
        seen = lowest
        for lane in range(v.width):
            column = b.sext(b.extract_element(near, I32(lane)), I64)
            element = b.load(v.pointer(b.add(address, v.bytes(column)), v.lane.kind))
            seen = b.insert_element(seen, element, I32(lane))
        return b.select(inside, seen, lowest)

    def tap(address: Any, j: Any) -> Any:
        """The elements that the windows see at tap column j."""
        if above is None:
            return near_tap(address, j)
        far = b.icmp_signed(">", p["stride_w"], I64(WIDEST_STRIDE))
        with b.if_else(far) as (then, otherwise):
            with then:
                one, of_one = far_tap(address, j), b.block
            with otherwise:
                other, of_other = near_tap(address, j), b.block
        seen = b.phi(v.lane.vector)
        seen.add_incoming(one, of_one)
        seen.add_incoming(other, of_other)
        return seen

    def near_tap(address: Any, j: Any) -> Any:
        """The same where vectors hold neighbours, or every second one."""
        odd = b.and_(j, I64(1))
        first = b.add(left, b.select(double, b.sub(j, odd), j))
        at = b.add(address, v.bytes(first))
        low = load(at, first)
        single = b.block
        more, done = b.append_basic_block("more"), b.append_basic_block("done")
        b.cbranch(double, more, done)
        b.position_at_end(more)
        high = load(b.add(at, I64(TARGET.vector_bytes)), b.add(first, I64(v.width)))
        is_odd = v.spread(b.icmp_signed("!=", odd, I64(0)))
        picked = b.select(is_odd, _strided(v, low, high, 1), _strided(v, low, high, 0))
        last = b.block
        b.branch(done)
        b.position_at_end(done)
        seen = b.phi(v.lane.vector)
        seen.add_incoming(low, single)
        seen.add_incoming(picked, last)
        return seen

    def line(state: list[Any]) -> list[Any]:
        address, offset, best, places = state

        def step(inner: list[Any]) -> list[Any]:
            j, best, places = inner
            seen = tap(address, j)
            # NaN is taken whenever it comes, and nothing is greater than it.
            higher = b.or_(b.fcmp_ordered(">", seen, best), b.fcmp_unordered("uno", seen, seen))
            here = b.add(start, spread(b.add(offset, j)))
            return [b.add(j, I64(1)), b.select(higher, seen, best), b.select(higher, here, places)]

        _, best, places = emit_loop(b, p["kernel_w"], [I64(0), best, places], step)
        return [b.add(address, v.bytes(p["width"])), b.add(offset, p["width"]), best, places]

    first = [row, I64(0), lowest, start]
    if above is not None:
        skipped = b.mul(above, p["width"])
        begun = b.select(b.icmp_signed("<", start, none), none, start)
        first = [b.add(row, v.bytes(skipped)), skipped, lowest, b.add(begun, spread(skipped))]
    _, _, best, places = emit_loop(b, p["lines"], first, line)
    return best, places


def _store_places(v: VectorBuilder, places: Any, address: Any, mask: Any) -> None:
    """Stores the places (int64) in the lanes of the mask."""
    arguments = [places, v.pointer(address, places.type), I32(8), mask]
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    name = f"llvm.masked.store.v{v.width}i64.p0"
    v.ir.call(cgutils.get_or_insert_function(v.ir.module, kind, name), arguments)


def _maximum(lane: Lane, padded: bool, code: Code, block: Word, low: Word, high: Word) -> None:
    """A unit is one row of the results. The last vector of a row overlaps the one before; that of a row shorter than a
    vector spills into the rows behind, which are written later, unless they are another thread's.
    """
    v = VectorBuilder(code.builder, lane)
    x, values, places, height, width = code.slots(block, X, VALUES, PLACES, HEIGHT, WIDTH)
    out_height, out_width, kernel_h, kernel_w = code.slots(block, OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W)
    stride_h, stride_w, pad_h, pad_w, size = code.slots(block, STRIDE_H, STRIDE_W, PAD_H, PAD_W, SIZE)
    p = {
        "width": width.value,
        "lines": kernel_h.value,
        "kernel_w": kernel_w.value,
        "stride_w": stride_w.value,
        "pad_w": pad_w.value,
    }
    wide = ir.VectorType(I64, lane.count)
    with code.loop(low, high) as u:
        plane = u.quotient(out_height)
        over, above = (u - plane * out_height) * stride_h, None
        if padded:
            over = over - pad_h
            above = (-over).most(0)
            p["lines"] = ((over + kernel_h).least(height) - over - above).value
        top = over * width
        row = plane * height * width + top
        with code.loop(0, out_width, lane.count) as begin:
            column = begin.least((out_width - lane.count).most(0))
            left = column * stride_w
            if padded:
                left = left - pad_w
            reach = row + left + (kernel_h - 1) * width + kernel_w + 2 * lane.count
            at = u * out_width + column
            here = column.value, (x + row * lane.size).value, None if above is None else above.value

            def vector(masked: bool, here: Any = here, column: Word = column, at: Word = at, top: Word = top) -> None:
                best, found = _window(v, masked, p, *here)
                found = v.ir.add(v.ir.sext(found, wide), v.spread(top.value))
                value_at, place_at = (values + at * lane.size).value, (places + at * 8).value
                if masked:
                    mask = v.mask((out_width - column).value)
                    v.store_masked(best, value_at, mask)
                    _store_places(v, found, place_at, mask)
                else:
                    v.store(best, value_at)
                    v.ir.store(found, v.pointer(place_at, wide), align=8)

            roomy = (reach <= size) & (at + lane.count <= high * out_width)
            if padded:
                last = (column + lane.count).least(out_width) - 1
                roomy = roomy & (left >= 0) & (last * stride_w - pad_w + kernel_w <= width)
            code.either(roomy, partial(vector, False), partial(vector, True))


maximum_f32 = native_kernel("maximum_f32", partial(_maximum, F32, False), by_hand=False)
maximum_f64 = native_kernel("maximum_f64", partial(_maximum, F64, False), by_hand=False)
maximum_padded_f32 = native_kernel("maximum_padded_f32", partial(_maximum, F32, True), by_hand=False)
maximum_padded_f64 = native_kernel("maximum_padded_f64", partial(_maximum, F64, True), by_hand=False)


def max_pool2d_inside_f32(p: Any, lo: int, hi: int) -> Any:
    """Maxima of windows inside their planes, float32."""
    return maximum_f32(p, lo, hi)


def max_pool2d_inside_f64(p: Any, lo: int, hi: int) -> Any:
    """Maxima of windows inside their planes, float64."""
    return maximum_f64(p, lo, hi)


def max_pool2d_padded_f32(p: Any, lo: int, hi: int) -> Any:
    """Maxima of windows that may reach beyond their planes or lie far apart, float32."""
    return maximum_padded_f32(p, lo, hi)


def max_pool2d_padded_f64(p: Any, lo: int, hi: int) -> Any:
    """Maxima of windows that may reach beyond their planes or lie far apart, float64."""
    return maximum_padded_f64(p, lo, hi)
