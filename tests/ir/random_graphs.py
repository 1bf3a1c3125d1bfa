"""Random graphs over the records: for what has to hold for every graph."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, input, item, scalar
from tracejit.ops.record import ops
from tracejit.shapes import broadcast

FLOATS = (dtypes.float32, dtypes.float64)
UNARY = [op for op in ops.family("elementwise") if op.params == ("x",) and not op.attrs and "f" in op.kinds]
BINARY = [ops.add, ops.sub, ops.mul, ops.div, ops.maximum, ops.minimum, ops.pow, ops.lt, ops.eq]
NUMBERS = [0, 1, 2, -1, 0.0, -0.0, 0.5, 1.5, 8.0, float("inf")]


class Builder:
    """Grows a graph node by node, each on operands that are there."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.dtype = self.rng.choice(FLOATS)
        shapes: list[tuple[int, ...]] = [(2, 3), (3,), (2, 1), (), (2, 3, 1), (0, 3)]
        self.inputs = [input(k, Aval(s, self.dtype)) for k, s in enumerate(self.rng.sample(shapes, 3))]
        self.pool: list[Node] = list(self.inputs)
        self.flags: list[Node] = []

    def pick(self) -> Node:
        return self.rng.choice(self.pool[-8:])

    def number(self) -> Any:
        return self.rng.choice([*NUMBERS, scalar(0, "f"), scalar(1, "i")])

    def pair(self) -> tuple[Any, Any]:
        x, y = self.pick(), self.pick()
        if self.rng.random() < 0.3:
            return (self.number(), y) if self.rng.random() < 0.4 else (x, self.number())
        try:
            broadcast(x.shape, y.shape)
        except RuntimeError:
            y = x
        return x, y

    def elementwise(self) -> Node:
        kind = self.rng.random()
        if kind < 0.35:
            return apply(self.rng.choice(UNARY), self.pick())
        if kind < 0.9 or not self.flags:
            return apply(self.rng.choice(BINARY), *self.pair())
        flag = self.rng.choice(self.flags)
        if self.rng.random() < 0.3:
            flag = apply(ops.bitwise_not, flag)
        x = next((p for p in self.pool if p.shape == flag.shape), None)
        return apply(ops.where, flag, self.number(), self.inputs[0] if x is None else x) if x else flag

    def view(self) -> Node:
        x = self.pick()
        n = len(x.shape)
        kind = self.rng.randrange(7)
        ones = (1,) * n
        if kind == 0:
            return apply(ops.permute, x, dims=tuple(self.rng.sample(range(n), n)))
        if kind == 1:
            return apply(ops.reshape, x, shape=self.rng.choice([(x.tensor.numel,), (1, *x.shape), x.shape]))
        if kind == 2:
            return apply(ops.expand, x, shape=(2, *x.shape) if x.tensor.numel < 50 else x.shape)
        if kind == 3:
            start = tuple(self.rng.randint(0, 1) if s > 1 else 0 for s in x.shape)
            length = tuple(s - a for s, a in zip(x.shape, start, strict=True))
            return apply(ops.slice, x, start=start, length=length, step=ones)
        if kind == 4:
            at = tuple(self.rng.randint(0, 1) for _ in x.shape)
            shape = tuple(s + a for s, a in zip(x.shape, at, strict=True))
            return apply(ops.unslice, x, shape=shape, start=at, step=ones)
        if kind == 5 and n:
            return apply(ops.flip, x, dims=tuple(sorted(self.rng.sample(range(n), self.rng.randint(1, n)))))
        if n and x.tensor.numel < 50:
            return apply(ops.cat, *[x] * self.rng.randint(1, 3), dim=self.rng.randrange(n))
        return apply(ops.copy, x)

    def other(self) -> Node:
        x = self.pick()
        kind = self.rng.randrange(4)
        if kind == 0 and x.shape and all(x.shape):
            op = self.rng.choice([ops.sum, ops.amax, ops.amin, ops.prod])
            return apply(op, x, dim=self.rng.randrange(len(x.shape)))
        if kind == 1:
            other = self.rng.choice([dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16, self.dtype])
            return apply(ops.cast, apply(ops.cast, x, dtype=other), dtype=self.dtype)
        if kind == 2:
            return apply(ops.full, self.number(), shape=x.shape, dtype=self.dtype)
        if len(x.shape) == 2 and all(x.shape):
            image = apply(ops.reshape, x, shape=(1, 1, *x.shape))
            pooled = apply(
                ops.max_pool2d, image, kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1), ceil_mode=False
            )
            return item(pooled, 0)
        return apply(ops.uniform, 3, scalar(1, "i"), shape=x.shape, dtype=self.dtype)

    def step(self) -> None:
        kind = self.rng.random()
        node = self.elementwise() if kind < 0.5 else self.view() if kind < 0.8 else self.other()
        (self.flags if node.dtype is dtypes.bool else self.pool).append(node)


def random_graph(seed: int, size: int = 25) -> Graph:
    """A graph of about `size` operations, with source lines, a label, and perhaps an output that lives in an input."""
    builder = Builder(seed)
    for _ in range(size):
        builder.step()
    outputs = (*builder.pool[-3:], *builder.flags[-1:], builder.inputs[1])
    homes = {len(outputs) - 1: 1}
    graph = Graph(tuple(builder.inputs), ("f", "i"), outputs, homes, f"g{seed}")
    nodes = [n for n in graph.nodes() if not n.is_number]
    graph.lines.update((n, f"file name.py:{i}") for i, n in enumerate(nodes) if i % 3)
    graph.labels.update((n, "a label" if i % 2 else "gelu") for i, n in enumerate(nodes) if i % 5 == 0)
    return graph


def random_inputs(graph: Graph, seed: int) -> list[Any]:
    """Values for a graph's inputs, special ones among them."""
    rng = np.random.default_rng(seed)
    out = []
    for node in graph.inputs:
        x = rng.standard_normal(node.shape)
        special = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40], node.shape)
        out.append(np.asarray(np.where(rng.random(node.shape) < 0.2, special, x)).astype(node.dtype.np))
    return out
