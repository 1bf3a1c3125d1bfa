"""Trial kernels over rows that stay in registers: softmax and layer norm, one block or one warp a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.emit import F32, I64, WARP, Kernel
from benchmarks.gpu.kernels import LOG2_E, add, fold_lanes, hardware, maximum
from tracejit.kernels.vmath import exponential
from tracejit.kernels.vmath.expression import V

LOWEST = float("-inf")


class Row:
    """The vectors of four that a thread holds of its row, and the row's folds.

    `threads` work on a row: a block, or a warp of a block of `rows` warps.
    """

    def __init__(self, k: Kernel, columns: int, rows: int) -> None:
        b = k.builder
        self.k = k
        self.one_warp = rows > 1
        threads = WARP if self.one_warp else k.threads
        thread = b.and_(k.thread(), I64(WARP - 1)) if self.one_warp else k.thread()
        row = k.block()
        if self.one_warp:
            row = b.add(b.mul(row, I64(rows)), b.lshr(k.thread(), I64(5)))
        self.width = columns // 4
        self.first = b.mul(row, I64(self.width))
        self.places = [b.add(thread, I64(j * threads)) for j in range(-(-self.width // threads))]
        self.whole = self.width // threads

    def load(self, buffer: Any, outside: float, *, shared_by_rows: bool = False) -> list[V]:
        """The thread's vectors, with `outside` behind the row's end."""
        k, b = self.k, self.k.builder
        vectors = []
        for j, place in enumerate(self.places):
            index = place if shared_by_rows else b.add(self.first, place)
            if j < self.whole:
                vectors.append(k.load(buffer, index, F32, 4))
                continue
            before = b.block
            with k.when(b.icmp_signed("<", place, I64(self.width))):
                found = k.load(buffer, index, F32, 4).value
                inside = b.block
            phi = b.phi(found.type)
            phi.add_incoming(k.zero(4, outside).value, before)
            phi.add_incoming(found, inside)
            vectors.append(V(b, phi))
        return vectors

    def store(self, buffer: Any, vectors: list[V]) -> None:
        """Writes the thread's vectors, none of them behind the row's end."""
        k, b = self.k, self.k.builder
        for j, (place, vector) in enumerate(zip(self.places, vectors, strict=True)):
            if j < self.whole:
                k.store(buffer, b.add(self.first, place), vector)
            else:
                with k.when(b.icmp_signed("<", place, I64(self.width))):
                    k.store(buffer, b.add(self.first, place), vector)

    def inside(self, j: int, vector: V) -> V:
        """Zero in place of what is behind the row's end."""
        if j < self.whole:
            return vector
        within = V(self.k.builder, self.k.builder.icmp_signed("<", self.places[j], I64(self.width)))
        return within.where(vector, self.k.zero(4))

    def fold(self, vectors: list[V], combine: Callable[[V, V], V]) -> V:
        """All of the row combined, known to all its threads."""
        total = vectors[0]
        for vector in vectors[1:]:
            total = combine(total, vector)
        value = fold_lanes(self.k, total, combine)
        if self.one_warp:
            return self.k.fold_warp(value, combine)
        return self.k.fold_block(value, combine, self.k.shared(F32, self.k.threads // WARP))


def softmax(name: str, columns: int, threads: int, rows: int = 1, *, approximate: bool = False) -> Kernel:
    """out = softmax of the rows of x; a grid of (number of rows / rows) blocks. Parameters: x, out.

    With `approximate` exp is the chip's approximate exp2.
    """
    k = Kernel(name, [("x", None), ("out", None)], threads)
    row = Row(k, columns, rows)
    values = row.load(k.argument("x"), LOWEST)
    top = row.fold(values, maximum)
    wide = k.join([top] * 4)

    def exp(x: V) -> V:
        return hardware(k, "ex2.approx.f32", x * LOG2_E) if approximate else exponential.exp(x)

    grown = [exp(value - wide) for value in values]
    inverse = k.zero(value=1.0) / row.fold(grown, add)
    row.store(k.argument("out"), [value * k.join([inverse] * 4) for value in grown])
    return k


def layer_norm(name: str, columns: int, threads: int, rows: int = 1) -> Kernel:
    """out = (x - mean) / sqrt(variance + 1e-5) * weight + bias of each row; the variance from the centred values.

    Parameters: x, weight, bias, out. A grid of (number of rows / rows) blocks.
    """
    k = Kernel(name, [("x", None), ("weight", None), ("bias", None), ("out", None)], threads)
    row = Row(k, columns, rows)
    values = row.load(k.argument("x"), 0.0)
    mean = row.fold(values, add) * (1.0 / columns)
    wide = k.join([mean] * 4)
    centred = [row.inside(j, value - wide) for j, value in enumerate(values)]
    variance = row.fold([c * c for c in centred], add) * (1.0 / columns)
    scale = k.join([k.zero(value=1.0) / (variance + 1e-5).sqrt()] * 4)
    weight = row.load(k.argument("weight"), 0.0, shared_by_rows=True)
    bias = row.load(k.argument("bias"), 0.0, shared_by_rows=True)
    row.store(k.argument("out"), [c * scale * w + z for c, w, z in zip(centred, weight, bias, strict=True)])
    return k
