"""The passes over one row of scores that attention makes, as LLVM vector functions.

A row lies in memory of its own whose length is a multiple of LANES; what lies behind its end is written as if a mask
hid it. The order of its sums is that of `kernels.fold`: element k goes to lane k mod LANES, the lanes are folded as a
tree, blocks of BLOCK one after another. So a row has the bits that the operations one by one would give it, on every
CPU; what is hidden adds zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.fold import LANES
from tracejit.kernels.gemm_vectors import (
    I8,
    I32,
    I64,
    SHORT_LOOP,
    TARGET,
    Lane,
    VectorBuilder,
    emit_loop,
    internal_function,
)
from tracejit.kernels.vmath.exponential import exp
from tracejit.kernels.vmath.expression import V

BLOCK = 4096
"""Elements of a row that are folded at once, as in `schedule.cost`."""

NO_MASK, FLAGS, ADDED = range(3)
"""Kinds of masks: none, a bool that says who takes part, a number that is added to the score."""

_LOWEST = float("-inf")


class _Row:
    """What the passes over a row share."""

    def __init__(self, builder: Any, lane: Lane, mask: int) -> None:
        self.builder = builder
        self.lane = lane
        self.mask = mask
        self.v = VectorBuilder(builder, lane)
        self.lowest = self._filled(_LOWEST)

    def _filled(self, number: float) -> Any:
        return ir.Constant(self.lane.vector, [number] * self.lane.count)

    def each(self, start: Any, stop: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """`body(place, carried)` for each vector from `start` to `stop`, both bytes and whole vectors."""
        builder, step = self.builder, I64(TARGET.vector_bytes)
        turns = builder.sdiv(builder.sub(stop, start), step)

        def turn(state: list[Any]) -> list[Any]:
            at, *rest = state
            return [builder.add(at, step), *body(at, rest)]

        return emit_loop(builder, turns, [start, *carried], turn, together=SHORT_LOOP)[1:]

    def number(self, address: Any, index: int) -> Any:
        """An element of memory."""
        return self.builder.load(self.v.pointer(address, self.lane.kind, I64(index * self.lane.size)))

    def put(self, value: Any, address: Any, index: int) -> None:
        self.builder.store(value, self.v.pointer(address, self.lane.kind, I64(index * self.lane.size)))

    def scale(self, bits: Any) -> Any:
        """The float64 of these bits as an element in all lanes."""
        number = self.builder.bitcast(bits, ir.DoubleType())
        return self.v.spread(number if self.lane.size == 8 else self.builder.fptrunc(number, self.lane.kind))

    def fold(self, vectors: list[Any], step: Callable[[Any, Any], Any]) -> Any:
        """The lanes of some vectors, which follow one another, folded as a tree: each with that half of them on."""
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [step(vectors[k], vectors[k + half]) for k in range(half)]
        (value,) = vectors
        width = self.lane.count
        while width > 1:
            width //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = (
                self.builder.shuffle_vector(
                    value, undefined, ir.Constant(ir.VectorType(I32, width), list(range(first, first + width)))
                )
                for first in (0, width)
            )
            value = step(low, high)
        return self.builder.extract_element(value, I32(0))

    def _taken(self, address: Any) -> Any:
        """Which lanes the flags at an address take in."""
        kind = ir.VectorType(I8, self.lane.count)
        flags = self.builder.load(self.v.pointer(address, kind), align=1)
        return self.builder.icmp_unsigned("!=", flags, ir.Constant(kind, [0] * self.lane.count))

    def _rest_of_flags(self, address: Any, count: Any) -> Any:
        """The address of a copy of the last flags, followed by others, so that a whole vector may be read."""
        builder = self.builder
        with builder.goto_entry_block():
            pad = builder.alloca(ir.VectorType(I8, self.lane.count))
        builder.store(ir.Constant(ir.VectorType(I8, self.lane.count), [0] * self.lane.count), pad)
        place = builder.ptrtoint(pad, I64)

        def copy(state: list[Any]) -> list[Any]:
            source, target = state
            builder.store(builder.load(self.v.pointer(source, I8)), self.v.pointer(target, I8))
            return [builder.add(source, I64(1)), builder.add(target, I64(1))]

        emit_loop(builder, count, [address, place], copy)
        return place

    def scores(self, row: Any, seen: Any, end: Any, scale: Any, mask: Any) -> Any:
        """Scales the scores and lets the mask act, up to `end` (bytes) those behind `seen` are hidden; the largest.

        A NaN is not the largest: it makes the sum one.
        """
        builder, v = self.builder, self.v
        bytes_each = self.lane.size
        rest = builder.and_(seen, I64(self.lane.count - 1))
        whole = v.bytes(builder.sub(seen, rest))
        factor = self.scale(scale)

        def scored(at: Any) -> Any:
            return builder.fmul(v.load(row, at), factor)

        def place(at: Any) -> Any:
            return builder.add(mask, at if self.mask == ADDED else builder.sdiv(at, I64(bytes_each)))

        def full(at: Any, state: list[Any]) -> list[Any]:
            value = scored(at)
            if self.mask == FLAGS:
                value = builder.select(self._taken(place(at)), value, self.lowest)
            elif self.mask == ADDED:
                value = builder.fadd(value, v.load(place(at)))
            v.store(value, row, at)
            return [builder.select(builder.fcmp_ordered(">", value, state[0]), value, state[0])]

        (most,) = self.each(I64(0), whole, [self.lowest], full)
        before = builder.block
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            value = scored(whole)
            there = v.mask(rest)
            if self.mask == FLAGS:
                value = builder.select(self._taken(self._rest_of_flags(place(whole), rest)), value, self.lowest)
            elif self.mask == ADDED:
                value = builder.fadd(value, v.load_masked(place(whole), there))
            value = builder.select(there, value, self.lowest)
            v.store(value, row, whole)
            more = builder.select(builder.fcmp_ordered(">", value, most), value, most)
            inside = builder.block
        joined = builder.phi(self.lane.vector)
        joined.add_incoming(most, before)
        joined.add_incoming(more, inside)
        self.fill(row, self.lowest, builder.add(seen, I64(self.lane.count - 1)), end)
        return self.fold([joined], lambda x, y: builder.select(builder.fcmp_ordered(">", y, x), y, x))

    def fill(self, row: Any, value: Any, first: Any, end: Any) -> None:
        """Stores a vector from the whole vector of element `first` on."""
        start = self.v.bytes(self.builder.and_(first, I64(-self.lane.count)))

        def turn(at: Any, state: list[Any]) -> list[Any]:
            self.v.store(value, row, at)
            return []

        self.each(start, end, [], turn)

    def summed(self, end: Any, term: Callable[[Any], Any]) -> Any:
        """The sum of `term(place)` over a row up to `end`."""
        builder, v = self.builder, self.v
        vectors = LANES // self.lane.count
        zero = self._filled(-0.0)
        block, group = I64(BLOCK * self.lane.size), I64(LANES * self.lane.size)
        blocks = builder.sdiv(builder.add(end, builder.sub(block, I64(1))), block)

        def fold_block(state: list[Any]) -> list[Any]:
            start, total = state
            length = v.minimum(builder.sub(end, start), block)

            def turn(sums: list[Any]) -> list[Any]:
                at, *sums = sums
                terms = [term(builder.add(at, I64(k * TARGET.vector_bytes))) for k in range(vectors)]
                added = [builder.fadd(s, t) for s, t in zip(sums, terms, strict=True)]
                return [builder.add(at, group), *added]

            sums = emit_loop(builder, builder.sdiv(length, group), [start, *[zero] * vectors], turn)[1:]
            return [builder.add(start, block), builder.fadd(total, self.fold(sums, builder.fadd))]

        first = ir.Constant(self.lane.kind, -0.0)
        return emit_loop(builder, blocks, [I64(0), first], fold_block)[1]

    def grown(self, row: Any, at: Any, top: Any) -> Any:
        """The exponential of a score above the row's maximum, which takes its place."""
        value = exp(V(self.builder, self.builder.fsub(self.v.load(row, at), top))).value
        self.v.store(value, row, at)
        return value

    def divisor(self, total: Any) -> Any:
        """What a row is divided by: where a mask leaves nothing all are 0, and stay so divided by 1."""
        if self.mask == NO_MASK:
            return total
        empty = self.builder.fcmp_ordered("==", total, ir.Constant(self.lane.kind, 0.0))
        return self.builder.select(empty, ir.Constant(self.lane.kind, 1.0), total)

    def share(self, total: Any) -> Any:
        return self.builder.fdiv(ir.Constant(self.lane.kind, 1.0), self.divisor(total))


def _lanes_end(builder: Any, lane: Lane, count: Any) -> Any:
    """`count` elements, rounded up to LANES, in bytes."""
    rounded = builder.and_(builder.add(count, I64(LANES - 1)), I64(-LANES))
    return builder.mul(rounded, I64(lane.size))


def add_weights(module: Any, lane: Lane, mask: int) -> Any:
    """Turns a row of products into a row of weights.

    Arguments: row, seen, count, scale (the bits of a float64), mask, stats. Products from `seen` up to `count` are
    hidden; the row has room for a multiple of LANES. Its maximum and its sum are left at `stats`.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        row, seen, count, scale, mask_at, stats = arguments
        r = _Row(builder, lane, mask)
        end = _lanes_end(builder, lane, count)
        top = r.scores(row, seen, end, scale, mask_at)
        if mask != NO_MASK:
            hidden = builder.fcmp_ordered("==", top, ir.Constant(lane.kind, _LOWEST))
            top = builder.select(hidden, ir.Constant(lane.kind, 0.0), top)
        r.put(top, stats, 0)
        tops = r.v.spread(top)
        total = r.summed(end, lambda at: r.grown(row, at, tops))
        r.put(total, stats, 1)
        share = r.v.spread(r.share(total))

        def turn(at: Any, state: list[Any]) -> list[Any]:
            r.v.store(builder.fmul(r.v.load(row, at), share), row, at)
            return []

        r.each(I64(0), end, [], turn)

    return internal_function(module, f"weights_{lane.name}_{mask}", 6, body)


def add_steps(module: Any, lane: Lane, mask: int) -> Any:
    """Turns a row of products into weights, and a row of their gradients into those of the products.

    Arguments: row, grads, seen, count, scale, mask, stats; as in `add_weights`, whose stats are read.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        row, grads, seen, count, scale, mask_at, stats = arguments
        r = _Row(builder, lane, mask)
        v = r.v
        end = _lanes_end(builder, lane, count)
        r.scores(row, seen, end, scale, mask_at)
        rest = builder.and_(seen, I64(lane.count - 1))
        whole = v.bytes(builder.sub(seen, rest))
        there = v.mask(rest)
        some = builder.icmp_signed(">", rest, I64(0))
        with builder.if_then(some):
            v.store(builder.select(there, v.load(grads, whole), v.zeros), grads, whole)
        r.fill(grads, v.zeros, builder.add(seen, I64(lane.count - 1)), end)
        tops = v.spread(r.number(stats, 0))
        total = r.number(stats, 1)
        mean = r.summed(end, lambda at: builder.fmul(v.load(grads, at), r.grown(row, at, tops)))
        share = r.share(total)
        # The gradient of 1 / total, as the operations one by one give it.
        back = builder.fneg(builder.fdiv(builder.fmul(mean, share), r.divisor(total)))
        if mask != NO_MASK:
            empty = builder.fcmp_ordered("==", total, ir.Constant(lane.kind, 0.0))
            back = builder.select(empty, ir.Constant(lane.kind, 0.0), back)
        shares, backs, factor = v.spread(share), v.spread(back), r.scale(scale)

        def step(at: Any) -> Any:
            grown = v.load(row, at)
            v.store(builder.fmul(grown, shares), row, at)
            rising = builder.fadd(builder.fmul(v.load(grads, at), shares), backs)
            return builder.fmul(rising, grown)

        def turn(at: Any, state: list[Any]) -> list[Any]:
            v.store(builder.fmul(step(at), factor), grads, at)
            return []

        r.each(I64(0), whole, [], turn)
        with builder.if_then(some):
            value = builder.select(there, step(whole), v.zeros)
            v.store(builder.fmul(value, factor), grads, whole)
        # Behind `seen` the row is 0 already, unless it is NaN throughout, and its gradients are.

    return internal_function(module, f"steps_{lane.name}_{mask}", 7, body)
