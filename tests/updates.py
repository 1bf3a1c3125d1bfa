"""Random programs that update many arrays of few shapes alike, as a training step's end does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, input, scalar
from tracejit.ops.record import Op, ops

_UNARY = (ops.neg, ops.sqrt, ops.abs, ops.tanh, ops.exp)
_BINARY = (ops.add, ops.add, ops.mul, ops.sub, ops.div, ops.maximum)


class RandomUpdates:
    """Arrays of two or three shapes, each with a gradient of a random origin, that one or two ways of updating write
    over; some of what the updates compute is given to the caller as well, or read by something else.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        rows, columns = rng.choice([(4, 6), (8, 8), (16, 3), (1, 5), (64, 64)])
        self.inputs: list[Node] = []
        self.homes: dict[int, int] = {}
        self.outputs: list[Node] = []
        self.late: list[tuple[int, Node]] = []
        shapes = rng.sample([(rows, columns), (columns,), (columns, rows), (rows,), (1,), ()], 3)
        origins = rng.sample(self._origins(), rng.randint(1, 3))
        ways = [self._way() for _ in range(rng.randint(1, 2))]
        common = self._scalar_of(self._input((rows, columns))) if rng.random() < 0.3 else None
        for _ in range(rng.randint(2, 7)):
            self._update(rng.choice(shapes), rng.choice(origins), rng.choice(ways), common)
        for home, value in self.late:
            self.homes[len(self.outputs)] = home
            self.outputs.append(value)
        graph = Graph(tuple(self.inputs), ("f", "f"), tuple(self.outputs), self.homes, f"updates {seed}")
        self.graph = replace(graph, lines={node: f"file.py:{k}" for k, node in enumerate(graph.nodes())})

    def _input(self, shape: tuple[int, ...]) -> Node:
        self.inputs.append(input(len(self.inputs), Aval(shape, dtypes.float32)))
        return self.inputs[-1]

    def _scalar_of(self, x: Node) -> Node:
        flat = apply(ops.reshape, x, shape=(x.tensor.numel,))
        return apply(ops.sqrt, apply(ops.sum, apply(ops.mul, flat, flat), dim=0))

    def _origins(self) -> list[Callable[[tuple[int, ...]], Node]]:
        """Ways to come by an array of a shape."""

        def product(shape: tuple[int, ...]) -> Node:
            rows, columns = (1, 1, *shape)[-2:]
            whole = apply(ops.matmul, self._input((rows, 7)), self._input((7, columns)))
            return apply(ops.reshape, whole, shape=shape)

        def turned(shape: tuple[int, ...]) -> Node:
            rows, columns = (1, 1, *shape)[-2:]
            whole = apply(ops.matmul, self._input((columns, 7)), self._input((7, rows)))
            return apply(ops.reshape, apply(ops.permute, whole, dims=(1, 0)), shape=shape)

        def columns(shape: tuple[int, ...]) -> Node:
            return apply(ops.sum, apply(ops.exp, self._input((9, *shape))), dim=0)

        def rows(shape: tuple[int, ...]) -> Node:
            return apply(ops.sum, apply(ops.exp, self._input((*shape, 9))), dim=len(shape))

        def piece(shape: tuple[int, ...]) -> Node:
            start = tuple(self.rng.randint(0, 1) for _ in shape)
            larger = self._input(tuple(n + 1 for n in shape))
            return apply(ops.slice, larger, start=start, length=shape, step=(1,) * len(shape))

        def element_by_element(shape: tuple[int, ...]) -> Node:
            return apply(ops.tanh, self._input(shape))

        def spread(shape: tuple[int, ...]) -> Node:
            return apply(ops.expand, apply(ops.exp, self._input((1,) * len(shape))), shape=shape)

        def joined(shape: tuple[int, ...]) -> Node:
            return apply(ops.cat, self._input(shape), dim=0) if shape else self._input(shape)

        def number(shape: tuple[int, ...]) -> Node:
            return apply(ops.full, 0.5, shape=shape, dtype=dtypes.float32)

        return [self._input, product, turned, columns, rows, piece, element_by_element, spread, number, joined]

    def _way(self) -> list[tuple[Op, tuple[int, ...], Node | float | None]]:
        """Operations on the array, its state, its gradient, and what operations before gave; some with a number."""
        rng = self.rng
        steps: list[tuple[Op, tuple[int, ...], Node | float | None]] = []
        for k in range(rng.choice([2, 4, 8, 12, 30])):
            recent = range(max(0, k - 3), k + 3)
            if rng.random() < 0.25:
                steps.append((rng.choice(_UNARY), (rng.choice(recent),), None))
            elif rng.random() < 0.5:
                number = rng.choice([0.9, 0.999, -0.0, scalar(0, "f"), scalar(1, "f")])
                steps.append((rng.choice(_BINARY), (rng.choice(recent),), number))
            else:
                steps.append((rng.choice(_BINARY), (rng.choice(recent), rng.choice(range(k + 3))), None))
        return steps

    def _update(
        self,
        shape: tuple[int, ...],
        origin: Callable[[tuple[int, ...]], Node],
        way: Sequence[tuple[Op, tuple[int, ...], Node | float | None]],
        common: Node | None,
    ) -> None:
        rng = self.rng
        array, state, gradient = self._input(shape), self._input(shape), origin(shape)
        if common is not None:
            gradient = apply(ops.mul, gradient, apply(ops.expand, common, shape=shape))
        values = [array, state, gradient]
        for op, places, number in way:
            values.append(apply(op, *[values[k] for k in places], *([] if number is None else [number])))
        self.late.append((array.attrs[0], values[-1]))
        if rng.random() < 0.8:
            self.late.append((state.attrs[0], values[len(values) // 2]))
        if rng.random() < 0.1:
            self.outputs.append(gradient)
        if rng.random() < 0.05:
            self.outputs.append(values[-2])
        if rng.random() < 0.05:
            self.outputs.append(self._scalar_of(rng.choice(values)))
