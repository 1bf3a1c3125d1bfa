"""LLVM vector functions that gather image patches: masks of what lies in the image, shifted pieces, runs, zeros.

Each builder adds one internal function to the module that is being compiled and returns it. All arguments are int64:
addresses in bytes, sizes and steps in elements unless they say otherwise.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.gemm_vectors import I1, I32, I64, TARGET, Lane, VectorBuilder, emit_loop, internal_function


def add_segments(module: Any, lane: Lane) -> Any:
    """Copies `count` rows of `length` elements; one row lies rows_step or out_step elements after another.

    Arguments: rows, rows_step, out, out_step, count, length.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        rows, rows_step, out, out_step, count, length = arguments
        v = VectorBuilder(builder, lane)
        source_step, target_step = v.bytes(rows_step), v.bytes(out_step)

        def chunk(state: list[Any]) -> list[Any]:
            left, source, target = state
            mask = v.mask(left)

            def copy(places: list[Any]) -> list[Any]:
                v.store_masked(v.load_masked(places[0], mask), places[1], mask)
                return [builder.add(places[0], source_step), builder.add(places[1], target_step)]

            emit_loop(builder, count, [source, target], copy)
            step = I64(TARGET.vector_bytes)
            return [builder.sub(left, I64(v.width)), builder.add(source, step), builder.add(target, step)]

        chunks = builder.sdiv(builder.add(length, I64(v.width - 1)), I64(v.width))
        emit_loop(builder, chunks, [length, rows, out], chunk)

    return internal_function(module, f"segments_{lane.name}", 6, body)


def add_masks(module: Any, lane: Lane, vectors: int) -> Any:
    """Finds which elements of groups of vectors `add_gather` may read for one tap.

    Arguments: positions, across, width, first, last, groups, masks, masks_step. Element n is read if
    first <= n < last and 0 <= positions[n] + across < width, where positions are int32. A vector's mask is stored as
    the bits of an int32, those of a group masks_step bytes after those of the group before.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        positions, across, width, first, last, groups, masks, masks_step = arguments
        v = VectorBuilder(builder, lane)
        kind = ir.VectorType(I32, v.width)
        shift, bound = v.spread(builder.trunc(across, I32)), v.spread(builder.trunc(width, I32))

        def group(state: list[Any]) -> list[Any]:
            at, target, left, skipped = state
            for j in range(vectors):
                place = builder.load(v.pointer(at, kind, I64(4 * j * v.width)), align=4)
                inside = builder.icmp_unsigned("<", builder.add(place, shift), bound)
                there = v.mask(builder.sub(left, I64(j * v.width)))
                before = v.mask(builder.sub(skipped, I64(j * v.width)))
                inside = builder.and_(inside, builder.and_(there, builder.not_(before)))
                bits = builder.zext(builder.bitcast(inside, ir.IntType(v.width)), I32)
                builder.store(bits, v.pointer(target, I32, I64(4 * j)))
            done = I64(vectors * v.width)
            following = builder.add(at, I64(4 * vectors * v.width)), builder.add(target, masks_step)
            return [*following, builder.sub(left, done), builder.sub(skipped, done)]

        emit_loop(builder, groups, [positions, masks, last, first], group)

    return internal_function(module, f"masks_{lane.name}_{vectors}", 8, body)


def add_gather(module: Any, lane: Lane, vectors: int) -> Any:
    """Copies the rows low..high of (channel, tap) pairs, each a shifted piece of a channel; what a mask excludes is 0.

    Arguments: image, plane, out, out_step, low, high, taps, offsets, masks, groups. `offsets` are the shifts of the
    taps in bytes (int64), `masks` those that `add_masks` found, for each group and tap one for each vector.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        image, plane, out, out_step, low, high, taps, offsets, masks, groups = arguments
        v = VectorBuilder(builder, lane)
        plane, out_step, group_bytes = v.bytes(plane), v.bytes(out_step), I64(vectors * TARGET.vector_bytes)
        first_channel = builder.udiv(low, taps)
        first_tap = builder.sub(low, builder.mul(first_channel, taps))
        image = builder.add(image, builder.mul(first_channel, plane))

        def group(state: list[Any]) -> list[Any]:
            base, target, masks_at = state

            def row(inner: list[Any]) -> list[Any]:
                channel, to, tap = inner
                offset = builder.load(v.pointer(offsets, I64, builder.mul(tap, I64(8))))
                source = builder.add(channel, offset)
                bits_at = builder.add(masks_at, builder.mul(tap, I64(4 * vectors)))
                for j in range(vectors):
                    bits = builder.load(v.pointer(bits_at, I32, I64(4 * j)))
                    mask = builder.bitcast(builder.trunc(bits, ir.IntType(v.width)), ir.VectorType(I1, v.width))
                    at = I64(j * TARGET.vector_bytes)
                    v.store(v.load_masked(source, mask, at), to, at)
                following = builder.add(tap, I64(1))
                wraps = builder.icmp_signed("==", following, taps)
                channel = builder.add(channel, builder.select(wraps, plane, I64(0)))
                return [channel, builder.add(to, out_step), builder.select(wraps, I64(0), following)]

            emit_loop(builder, builder.sub(high, low), [base, target, first_tap], row)
            following = builder.add(masks_at, builder.mul(taps, I64(4 * vectors)))
            return [builder.add(base, group_bytes), builder.add(target, group_bytes), following]

        emit_loop(builder, groups, [image, out, masks], group)

    return internal_function(module, f"gather_{lane.name}_{vectors}", 10, body)


def add_zeros(module: Any, lane: Lane) -> Any:
    """Sets whole vectors to 0. Arguments: out, vectors."""

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        v = VectorBuilder(builder, lane)

        def clear(state: list[Any]) -> list[Any]:
            v.store(v.zeros, state[0])
            return [builder.add(state[0], I64(TARGET.vector_bytes))]

        emit_loop(builder, arguments[1], [arguments[0]], clear)

    return internal_function(module, f"zeros_{lane.name}", 2, body)
