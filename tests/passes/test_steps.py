"""Passes for programs that go step by step: slices of operands, products of all steps at once, gradients of splits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.check import check
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import interpret
from tracejit.ir.node import Node, apply, input
from tracejit.ops.record import Op, ops
from tracejit.passes import run_passes

SHAPES = ((4, 6, 5), (5, 8), (8,), (4, 8))


def leaves() -> list[Node]:
    return [input(k, Aval(shape, dtypes.float32)) for k, shape in enumerate(SHAPES)]


def passed(x: list[Node], *outputs: Node) -> tuple[Graph, Counter[str]]:
    """The graph after all passes, which computes what it did before, and how often it has each operation."""
    graph = Graph(tuple(x), (), outputs)
    after, _ = run_passes(graph, check=True)
    check(after)
    rng = np.random.default_rng(0)
    arrays = [rng.choice([-0.0, 0.0, 1.5, -2.25, 1e-3], node.shape).astype(np.float32) for node in x]
    for a, b in zip(interpret(graph, arrays), interpret(after, arrays), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return after, Counter(node.name for node in after.nodes())


def part(x: Node, dim: int, start: int, length: int) -> Node:
    at = tuple(start if d == dim else 0 for d in range(len(x.shape)))
    size = tuple(length if d == dim else n for d, n in enumerate(x.shape))
    return apply(ops.slice, x, start=at, length=size, step=(1,) * len(at))


def spread(x: Node, dim: int, start: int, whole: int) -> Node:
    at = tuple(start if d == dim else 0 for d in range(len(x.shape)))
    shape = tuple(whole if d == dim else n for d, n in enumerate(x.shape))
    return apply(ops.unslice, x, shape=shape, start=at, step=(1,) * len(at))


def steps(x: Node, matrix: Node, dim: int, places: Any, op: Op = ops.matmul, **attrs: Any) -> list[Node]:
    shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
    return [apply(op, apply(ops.reshape, part(x, dim, t, 1), shape=shape), matrix, **attrs) for t in places]


@pytest.mark.parametrize("dim", [0, 1])
def test_products_of_all_steps_are_one(dim: int) -> None:
    x = leaves()
    products = steps(x[0], x[1], dim, range(SHAPES[0][dim]))
    _, count = passed(x, *(apply(ops.relu, p) for p in products))
    assert count["matmul"] == 1


@pytest.mark.parametrize("single", [True, False])
def test_products_of_bfloat16_are_joined_with_their_like(single: bool) -> None:
    x = leaves()
    products = steps(x[0], x[1], 1, range(6), ops.bfloat16_matmul, single=single)
    _, count = passed(x, *products, *steps(x[0], x[1], 1, range(5)))
    assert (count["bfloat16_matmul"], count["matmul"]) == (1, 5)


def test_some_of_the_steps_stay_apart() -> None:
    x = leaves()
    _, count = passed(x, *steps(x[0], x[1], 1, range(1, 6)))
    assert count["matmul"] == 5


def test_parts_of_a_sum_become_sums_of_parts() -> None:
    x = leaves()
    total = apply(ops.add, x[3], x[2])
    after, count = passed(x, apply(ops.tanh, part(total, 1, 0, 4)), apply(ops.sigmoid, part(total, 1, 4, 4)))
    assert count["add"] == 2
    assert all(node.args[0].op is not ops.add for node in after.nodes() if node.op is ops.slice)


@pytest.mark.parametrize("depth", [1, 8, 200])
def test_parts_of_a_long_chain_become_chains_of_parts(depth: int) -> None:
    x = leaves()
    total = x[3]
    for k in range(depth):
        total = apply(ops.add if k % 2 else ops.mul, total, x[2])
        if k == depth // 2:
            total = part(total, 1, 1, 6)
            x = [*x[:2], part(x[2], 0, 1, 6), *x[3:]]
    leaf = leaves()
    halves = [apply(ops.tanh, part(total, 1, 0, 3)), apply(ops.exp, part(total, 1, 3, 3))]
    after, count = passed(leaf, *halves)
    assert count["add"] + count["mul"] == 2 * depth
    assert all(node.args[0].name == "input" for node in after.nodes() if node.op is ops.slice)


@pytest.mark.parametrize("seed", range(60))
def test_parts_of_parts_of_anything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = leaves()
    made = [x[3], x[2]]
    for _ in range(25):
        a, b = (made[k] for k in rng.integers(max(len(made) - 6, 0), len(made), 2))
        way = rng.integers(5)
        if way < 2 and a.shape and a.shape[-1] > 1:
            start, step = (int(k) for k in rng.integers([0, 1], [2, 3]))
            size = -(-(a.shape[-1] - start) // step)
            lead = len(a.shape) - 1
            cut = {"start": (*[0] * lead, start), "length": (*a.shape[:-1], size), "step": (*[1] * lead, step)}
            made.append(apply(ops.slice, a, **cut))
        elif way == 2:
            made.append(apply(ops.neg, a))
        elif a.shape[-1] == b.shape[-1] or 1 in (a.shape[-1], b.shape[-1]):
            made.append(apply(ops.add, a, b))
    after, _ = passed(x, *(apply(ops.abs, node) for node in made[-4:]))
    assert run_passes(after)[0] is after


@pytest.mark.parametrize("why", ["an output", "overlap", "no elementwise reader", "a whole reader"])
def test_a_sum_stays_whole_for(why: str) -> None:
    x = leaves()
    total = apply(ops.add, x[3], x[2])
    first, second = part(total, 1, 0, 4), part(total, 1, 3 if why == "overlap" else 4, 4)
    if why == "overlap":
        second = part(total, 1, 3, 5)
    outputs = [apply(ops.tanh, first), apply(ops.exp, second)]
    outputs += {"an output": [total], "a whole reader": [apply(ops.neg, total)]}.get(why, [])
    if why == "no elementwise reader":
        outputs[0] = apply(ops.sum, first, dim=1)
    _, count = passed(x, *outputs)
    assert count["add"] == 1


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 1, 2, 3), (1, 2, 3, 0), (2, 1, 0, 3)])
def test_gradients_of_a_split_are_joined(order: tuple[int, ...]) -> None:
    x = leaves()
    gates = [apply(ops.tanh, part(x[3], 1, 2 * k, 2)) for k in range(4)]
    first, *rest = (spread(gates[k], 1, 2 * k, 8) for k in order)
    total = first
    for other in rest:
        total = apply(ops.add, total, other)
    _, count = passed(x, total)
    assert count["unslice"] == 0
    assert count["cat"] == 1


def test_parts_that_do_not_touch_stay_apart() -> None:
    x = leaves()
    a, b = (apply(ops.tanh, part(x[3], 1, k, 2)) for k in (0, 5))
    _, count = passed(x, apply(ops.add, spread(a, 1, 0, 8), spread(b, 1, 5, 8)))
    assert count["unslice"] == 2
