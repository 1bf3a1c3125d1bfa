"""The passes over one row of scores that attention makes, as LLVM vector functions.

A row lies in memory of its own whose length is a multiple of LANES; what lies behind its end is written as if a mask
hid it. The order of its sums is that of `kernels.fold`: element k goes to lane k mod LANES, the lanes are folded as a
tree, blocks of BLOCK one after another. So a row has the bits that the operations one by one would give it, on every
CPU; what is hidden adds zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.ir as ir

from tracejit.kernels.emit import I64, SHORT_LOOP, emit_loop, internal_function
from tracejit.kernels.fold import LANES
from tracejit.kernels.vectors import I8, I32, TARGET, Lane, VectorBuilder
from tracejit.kernels.vmath.exponential import exp
from tracejit.kernels.vmath.expression import V

BLOCK = 4096
"""Elements of a row that are folded at once, as in `schedule.cost`."""

NO_MASK, FLAGS, ADDED = range(3)
"""Kinds of masks: none, a bool that says who takes part, a number that is added to the score."""

_LOWEST = float("-inf")


class _Arguments(NamedTuple):
    """What a pass gets; `end` is the place behind the row, whole groups of LANES."""

    row: Any
    grads: Any
    seen: Any
    end: Any
    scale: Any
    mask: Any
    stats: Any
    note: Any


class _Row:
    """What the passes over a row share. Places are bytes from its beginning."""

    def __init__(self, builder: Any, lane: Lane, mask: int) -> None:
        self.builder = builder
        self.lane = lane
        self.mask = mask
        self.v = VectorBuilder(builder, lane)
        self.vectors = LANES // lane.count

    def filled(self, number: float) -> Any:
        return ir.Constant(self.lane.vector, [number] * self.lane.count)

    def one(self, number: float) -> Any:
        return ir.Constant(self.lane.kind, number)

    def end(self, count: Any) -> Any:
        """The place behind `count` elements, rounded up to LANES."""
        return self.v.bytes(self.builder.and_(self.builder.add(count, I64(LANES - 1)), I64(-LANES)))

    def groups(
        self, start: Any, stop: Any, carried: list[Any], body: Callable[[Any, int, list[Any]], list[Any]]
    ) -> list[Any]:
        """`body(place, k, its)` for vector k of each group of LANES elements gives what it carries on.

        `carried` has as many values for each vector of a group, one vector's behind another's.
        """
        builder, size = self.builder, LANES * self.lane.size
        turns = builder.ashr(builder.sub(stop, start), I64(size.bit_length() - 1))
        each = len(carried) // self.vectors

        def group(state: list[Any]) -> list[Any]:
            at, *rest = state
            out = [builder.add(at, I64(size))]
            for k in range(self.vectors):
                place = builder.add(at, I64(k * TARGET.vector_bytes))
                out += body(place, k, rest[k * each : (k + 1) * each])
            return out

        return emit_loop(builder, turns, [start, *carried], group)[1:]

    def seen_and_hidden(
        self, seen: Any, end: Any, carried: list[Any], body: Callable[[Any, Any, list[Any]], list[Any]]
    ) -> list[Any]:
        """`groups` of a body that gets, in place of k, the lanes of elements before `seen`, None where all are."""
        builder, bits = self.builder, 8 * self.lane.size
        number = ir.IntType(bits)
        lanes = [
            ir.Constant(ir.VectorType(number, self.lane.count), list(range(first, first + self.lane.count)))
            for first in range(0, LANES, self.lane.count)
        ]

        def hiding(place: Any, k: int, its: list[Any]) -> list[Any]:
            first = builder.sub(place, I64(k * TARGET.vector_bytes))
            left = builder.sub(seen, builder.ashr(first, I64(self.lane.size.bit_length() - 1)))
            left = builder.trunc(left, number) if bits < 64 else left
            return body(place, builder.icmp_signed("<", lanes[k], self.v.spread(left)), its)

        whole = self.v.bytes(builder.and_(seen, I64(-LANES)))
        carried = self.groups(I64(0), whole, carried, lambda place, _, its: body(place, None, its))
        return self.groups(whole, end, carried, hiding)

    def either(self, there: Any, value: Any, other: Any) -> Any:
        """`other` in lanes that are not there."""
        return value if there is None else self.builder.select(there, value, other)

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
        """The lanes of a group's vectors folded as a tree: each with that half of them on."""
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [step(vectors[k], vectors[k + half]) for k in range(half)]
        (value,) = vectors
        width = self.lane.count
        while width > 1:
            width //= 2
            order = ir.VectorType(I32, width)
            low, high = (
                self.builder.shuffle_vector(
                    value, ir.Constant(value.type, ir.Undefined), ir.Constant(order, list(range(at, at + width)))
                )
                for at in (0, width)
            )
            value = step(low, high)
        return self.builder.extract_element(value, I32(0))

    def larger(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", y, x), y, x)

    # --- masks ------------------------------------------------------------------------------------------------------

    def _taken(self, address: Any) -> Any:
        """Which lanes the flags at an address take in."""
        kind = ir.VectorType(I8, self.lane.count)
        flags = self.builder.load(self.v.pointer(address, kind), align=1)
        return self.builder.icmp_unsigned("!=", flags, ir.Constant(kind, [0] * self.lane.count))

    def _last_flags(self, address: Any, count: Any) -> Any:
        """The address of a copy of the last flags, with others behind them, so that a whole vector may be read."""
        builder, kind = self.builder, ir.VectorType(I8, self.lane.count)
        with builder.goto_entry_block():
            copied = builder.alloca(kind)
        builder.store(ir.Constant(kind, [0] * self.lane.count), copied)
        copied = builder.ptrtoint(copied, I64)

        def copy(state: list[Any]) -> list[Any]:
            source, target = state
            builder.store(builder.load(self.v.pointer(source, I8)), self.v.pointer(target, I8))
            return [builder.add(source, I64(1)), builder.add(target, I64(1))]

        emit_loop(builder, count, [address, copied], copy)
        return copied

    def _masked(self, row: Any, seen: Any, factor: Any, mask: Any) -> None:
        """Scales the first `seen` scores and lets the mask act on them."""
        builder, v = self.builder, self.v
        rest = builder.and_(seen, I64(self.lane.count - 1))
        bytes_each = self.lane.size if self.mask == ADDED else 1

        def act(at: Any, mask_at: Any, last: bool) -> None:
            value = builder.fmul(v.load(row, at), factor)
            if self.mask == FLAGS:
                flags = self._last_flags(mask_at, rest) if last else mask_at
                value = builder.select(self._taken(flags), value, self.filled(_LOWEST))
            else:
                value = builder.fadd(value, v.load_masked(mask_at, v.mask(rest)) if last else v.load(mask_at))
            v.store(value, row, at)

        def turn(state: list[Any]) -> list[Any]:
            at, mask_at = state
            act(at, mask_at, False)
            return [
                builder.add(at, I64(TARGET.vector_bytes)),
                builder.add(mask_at, I64(self.lane.count * bytes_each)),
            ]

        whole = builder.sdiv(seen, I64(self.lane.count))
        at, mask_at = emit_loop(builder, whole, [I64(0), mask], turn, together=SHORT_LOOP)
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            act(at, mask_at, True)

    # --- passes -----------------------------------------------------------------------------------------------------

    def scores(self, row: Any, grads: Any, seen: Any, end: Any, scale: Any, mask: Any) -> Any:
        """Products become scores, hidden from `seen` on, where gradients, if there are some, become 0; the largest.

        A NaN is not the largest: it makes the sum one.
        """
        builder, v = self.builder, self.v
        factor, lowest = self.scale(scale), self.filled(_LOWEST)
        if self.mask != NO_MASK:
            self._masked(row, seen, factor, mask)

        def turn(at: Any, there: Any, state: list[Any]) -> list[Any]:
            value = v.load(row, at)
            if self.mask == NO_MASK:
                value = builder.fmul(value, factor)
            value = self.either(there, value, lowest)
            if self.mask == NO_MASK or there is not None:
                v.store(value, row, at)
            if grads is not None and there is not None:
                v.store(builder.select(there, v.load(grads, at), v.zeros), grads, at)
            return [self.larger(state[0], value)]

        return self.fold(self.seen_and_hidden(seen, end, [lowest] * self.vectors, turn), self.larger)

    def summed(self, end: Any, term: Callable[[Any], Any]) -> Any:
        """The sum of `term(place)` over a row."""
        builder, v = self.builder, self.v
        block = I64(BLOCK * self.lane.size)
        blocks = builder.sdiv(builder.add(end, builder.sub(block, I64(1))), block)

        def fold_block(state: list[Any]) -> list[Any]:
            start, total = state
            stop = v.minimum(builder.add(start, block), end)
            sums = self.groups(
                start, stop, [self.filled(-0.0)] * self.vectors, lambda at, _, its: [builder.fadd(its[0], term(at))]
            )
            return [stop, builder.fadd(total, self.fold(sums, builder.fadd))]

        return emit_loop(builder, blocks, [I64(0), self.one(-0.0)], fold_block)[1]

    def grown(self, row: Any, at: Any, top: Any) -> Any:
        """The exponential of a score above the row's maximum, which takes its place."""
        builder, v = self.builder, self.v
        score = v.load(row, at)
        # What is hidden becomes 0 without the multiplications that underflow, which many CPUs take long for.
        hidden = builder.fcmp_ordered("==", score, self.filled(_LOWEST))
        above = builder.select(hidden, v.zeros, builder.fsub(score, top))
        value = builder.select(hidden, v.zeros, exp(V(builder, above)).value)
        v.store(value, row, at)
        return value

    def is_empty(self, total: Any) -> Any:
        """Whether a mask left nothing of a row: all are 0, and stay so divided by 1."""
        return self.builder.fcmp_ordered("==", total, self.one(0.0))

    def divisor(self, total: Any) -> Any:
        if self.mask == NO_MASK:
            return total
        return self.builder.select(self.is_empty(total), self.one(1.0), total)


def _add(module: Any, lane: Lane, mask: int, name: str, body: Callable[[_Row, _Arguments], None]) -> Any:
    def emit(builder: Any, arguments: tuple[Any, ...]) -> None:
        r = _Row(builder, lane, mask)
        row, grads, seen, count, *rest = arguments
        body(r, _Arguments(row, grads, seen, r.end(count), *rest))

    return internal_function(module, f"{name}_{lane.name}_{mask}", len(_Arguments._fields), emit)


def _score(r: _Row, x: _Arguments) -> None:
    top = r.scores(x.row, None, x.seen, x.end, x.scale, x.mask)
    if r.mask != NO_MASK:
        hidden = r.builder.fcmp_ordered("==", top, r.one(_LOWEST))
        top = r.builder.select(hidden, r.one(0.0), top)
    r.put(top, x.stats, 0)


def _grow(r: _Row, x: _Arguments) -> None:
    top = r.v.spread(r.number(x.stats, 0))
    r.put(r.summed(x.end, lambda at: r.grown(x.row, at, top)), x.stats, 1)


def _share(r: _Row, x: _Arguments) -> None:
    share = r.v.spread(r.builder.fdiv(r.one(1.0), r.divisor(r.number(x.stats, 1))))

    def turn(at: Any, _: int, its: list[Any]) -> list[Any]:
        r.v.store(r.builder.fmul(r.v.load(x.row, at), share), x.row, at)
        return []

    r.groups(I64(0), x.end, [], turn)


def _score_again(r: _Row, x: _Arguments) -> None:
    r.scores(x.row, x.grads, x.seen, x.end, x.scale, x.mask)


def _grow_again(r: _Row, x: _Arguments) -> None:
    top = r.v.spread(r.number(x.stats, 0))
    mean = r.summed(x.end, lambda at: r.builder.fmul(r.v.load(x.grads, at), r.grown(x.row, at, top)))
    r.put(mean, x.note, 0)


def _step(r: _Row, x: _Arguments) -> None:
    builder, v = r.builder, r.v
    total = r.number(x.stats, 1)
    divisor = r.divisor(total)
    share = builder.fdiv(r.one(1.0), divisor)
    # The gradient of 1 / total, as the operations one by one give it.
    back = builder.fneg(builder.fdiv(builder.fmul(r.number(x.note, 0), share), divisor))
    if r.mask != NO_MASK:
        back = builder.select(r.is_empty(total), r.one(0.0), back)
    shares, backs, factor = v.spread(share), v.spread(back), r.scale(x.scale)

    def turn(at: Any, there: Any, its: list[Any]) -> list[Any]:
        grown = v.load(x.row, at)
        v.store(builder.fmul(grown, shares), x.row, at)
        rising = builder.fadd(builder.fmul(v.load(x.grads, at), shares), backs)
        step = r.either(there, builder.fmul(rising, grown), v.zeros)
        v.store(builder.fmul(step, factor), x.grads, at)
        return []

    r.seen_and_hidden(x.seen, x.end, [], turn)


def add_weights(module: Any, lane: Lane, mask: int) -> tuple[Any, ...]:
    """The passes that turn a row of products into a row of weights, one after another.

    Arguments: row, grads, seen, count, scale (the bits of a float64), mask, stats, note. Products from `seen` up to
    `count` are hidden; the row has room for a multiple of LANES. Its maximum and its sum are left at `stats`; `grads`
    and `note` are not used.
    """
    passes = (("score", _score), ("grow", _grow), ("share", _share))
    return tuple(_add(module, lane, mask, name, body) for name, body in passes)


def add_steps(module: Any, lane: Lane, mask: int) -> tuple[Any, ...]:
    """The passes that turn a row of products into weights, and a row of their gradients into those of the products.

    Arguments: as in `add_weights`, whose stats are read; `note` is room for an element from one pass to the next.
    """
    passes = (("score_again", _score_again), ("grow_again", _grow_again), ("step", _step))
    return tuple(_add(module, lane, mask, name, body) for name, body in passes)
