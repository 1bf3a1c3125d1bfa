"""Tensors with parts put in: who reads them finds what was put, or what was there, through several of them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import interpret, oracle
from tracejit.ir.node import Node, apply, input
from tracejit.ops.record import ops
from tracejit.passes import run_passes
from tracejit.passes.parts import DEPTH

SHAPE = (6, 7)
Region = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def tensors(*shapes: tuple[int, ...]) -> list[Node]:
    return [input(k, Aval(shape, dtypes.float32)) for k, shape in enumerate(shapes)]


def settled(given: list[Node], *roots: Node) -> list[Node]:
    """What the passes make of nodes; it computes the same."""
    graph = Graph(tuple(given), (), roots)
    after, _ = run_passes(graph, check=True)
    values = [np.random.default_rng(k).standard_normal(n.shape).astype("f") for k, n in enumerate(given)]
    for a, b in zip(interpret(graph, values, run=oracle), interpret(after, values, run=oracle), strict=True):
        assert a.tobytes() == b.tobytes()
    return list(after.roots)


def row(x: Node, k: int) -> Node:
    return apply(ops.slice, x, start=(k, 0), length=(1, x.shape[1]), step=(1, 1))


def put(x: Node, k: int, v: Node) -> Node:
    return apply(ops.place, x, v, start=(k, 0), step=(1, 1))


def test_rows_are_found_below_others() -> None:
    x, v, w = given = tensors(SHAPE, (1, 7), (1, 7))
    chain = put(put(put(x, 2, v), 3, w), 4, apply(ops.exp, w))
    assert settled(given, row(chain, 2)) == [v]
    assert settled(given, row(chain, 5)) == [row(x, 5)]
    # A row that is partly one and partly another stays what it is.
    both = apply(ops.slice, chain, start=(2, 0), length=(2, 7), step=(1, 1))
    (left,) = settled(given, both)
    assert left.op is ops.slice
    assert left.args[0].op is ops.place


def test_columns_between_others() -> None:
    x, v = given = tensors(SHAPE, (6, 3))
    even = apply(ops.place, x, v, start=(0, 0), step=(1, 2))
    odd = apply(ops.slice, even, start=(0, 1), length=(6, 3), step=(1, 2))
    assert settled(given, odd) == [apply(ops.slice, x, start=(0, 1), length=(6, 3), step=(1, 2))]
    some = apply(ops.slice, even, start=(0, 0), length=(6, 2), step=(1, 4))
    assert settled(given, some) == [apply(ops.slice, v, start=(0, 0), length=(6, 2), step=(1, 2))]


def test_what_is_there_is_not_put_again() -> None:
    x, v, w = given = tensors(SHAPE, (1, 7), (1, 7))
    under = put(put(x, 1, v), 2, w)
    assert settled(given, put(under, 1, v)) == [under]
    assert settled(given, put(under, 4, row(x, 4))) == [under]
    (kept,) = settled(given, put(under, 4, row(x, 5)))
    assert kept.op is ops.place
    assert kept.args[0] is under
    joined = apply(ops.cat, v, w, dim=0)
    assert settled(given, put(joined, 1, w)) == [joined]


def test_what_is_put_over_goes() -> None:
    x, v, w = given = tensors(SHAPE, (1, 7), (1, 7))
    assert settled(given, put(put(x, 1, v), 1, w)) == [put(x, 1, w)]
    one, other = put(x, 1, v), put(put(x, 1, v), 1, w)
    assert settled(given, one, other) == [one, put(x, 1, w)]


def test_parts_that_cover_all_are_joined() -> None:
    x, v, w = given = tensors((4, 7), (1, 7), (3, 7))
    assert settled(given, put(put(x, 1, w), 0, v)) == [apply(ops.cat, v, w, dim=0)]
    (left,) = settled(given, put(put(x, 1, v), 2, v))
    assert left.op is ops.place
    # What was put over another part is not lost.
    two = apply(ops.slice, w, start=(0, 0), length=(2, 7), step=(1, 1))
    (left,) = settled(given, put(put(put(x, 0, two), 2, two), 0, v))
    assert left.op is ops.place


def test_a_long_chain_is_not_looked_through_again_and_again() -> None:
    rows = DEPTH + 3
    x, v = given = tensors((rows + 1, 7), (1, 7))
    chain = x
    for k in range(rows):
        chain = put(chain, k, v)
    (left,) = settled(given, row(chain, rows))
    assert left.op is ops.slice
    assert left.args[0] is chain


def region(rng: random.Random, shape: tuple[int, ...]) -> Region:
    start, length, step = [], [], []
    for size in shape:
        s = rng.choice((1, 1, 2, 3))
        n = rng.choice((1, 2, (size - 1) // s + 1))
        n = min(n, (size - 1) // s + 1)
        start.append(rng.randrange(size - (n - 1) * s))
        length.append(n)
        step.append(s)
    return tuple(start), tuple(length), tuple(step)


@pytest.mark.parametrize("seed", range(200))
def test_random_parts(seed: int) -> None:
    rng = random.Random(seed)
    given = tensors(SHAPE, SHAPE)
    pool = list(given)
    for _ in range(rng.randrange(3, 14)):
        x, y = rng.choice(pool), rng.choice(pool)
        kind = rng.choice(("place", "place", "place", "slice", "permute", "cat", "neg", "same"))
        if kind == "place":
            start, length, step = region(rng, x.shape)
            (_, _, other) = where = region(rng, y.shape)
            fits = all(k + (n - 1) * s < size for k, n, s, size in zip(where[0], length, other, y.shape, strict=True))
            begin = where[0] if fits else (0, 0)
            if not fits and any(n > size for n, size in zip(length, y.shape, strict=True)):
                continue
            part = apply(ops.slice, y, start=begin, length=length, step=other if fits else (1, 1))
            pool.append(apply(ops.place, x, part, start=start, step=step))
        elif kind == "same":
            start, length, step = region(rng, x.shape)
            part = apply(ops.neg, apply(ops.slice, x, start=start, length=length, step=step))
            once = apply(ops.place, x, part, start=start, step=step)
            pool.append(apply(ops.place, once, part, start=start, step=step))
        elif kind == "slice":
            start, length, step = region(rng, x.shape)
            pool.append(apply(ops.slice, x, start=start, length=length, step=step))
        elif kind == "permute":
            pool.append(apply(ops.permute, x, dims=(1, 0)))
        elif kind == "cat":
            if x.shape[1] == y.shape[1]:
                pool.append(apply(ops.cat, x, y, dim=0))
        else:
            pool.append(apply(ops.neg, x))
    settled(given, *rng.sample(pool[2:] or pool, min(3, len(pool[2:] or pool))))
