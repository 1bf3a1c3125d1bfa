"""Reductions and what is fused with them as GPU kernels, run as PTX: the bits of the documented orders."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.cuda.orders import fold
from tests.cuda.running import Execution, check
from tests.programs import RandomGraph, graph_of, make, random_array, same_bits
from tests.test_compiler import keep, layer_norm, softmax
from tracejit import dtypes
from tracejit.ir.node import Node

RNG = np.random.default_rng(13)
REDUCED = [((7,), 0), ((3, 40), 1), ((300, 5), 0), ((4, 300, 3), 1), ((2, 9000), 1), ((2, 1), 1), ((5, 33), 0)]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


KINDS = {
    "sum": ["float32", "float16", "bfloat16", "float64", "int64", "uint8"],
    "prod": ["float32", "int64"],
    "amax": ["float32", "bfloat16", "float16", "uint8"],
    "amin": ["float32", "float64", "int8"],
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds])
def test_each_reduction(name: str, kind: str) -> None:
    for shape, dim in REDUCED if (name, kind) == ("sum", "float32") else REDUCED[3:5]:
        x = random_array(random.Random(5), shape, kind, "contiguous")
        check(graph_of(lambda x, dim=dim: make(name, x, dim=dim), x), [x])


@pytest.mark.parametrize("name", ["sum", "amax"])
def test_orders_are_near_numpys(name: str) -> None:
    """The reference that kernels are compared with computes what it should."""
    for shape, dim in REDUCED:
        x = RNG.standard_normal(shape)
        np.testing.assert_allclose(fold(name, x, dim), getattr(np, {"sum": "sum", "amax": "max"}[name])(x, axis=dim))


@pytest.mark.parametrize("name", ["amax", "amin", "sum"])
def test_nan_and_infinities(name: str) -> None:
    x = floats(6, 70)
    x[1, 3], x[2, 5], x[3, 69], x[4, 0], x[4, 1] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    x[5] = [0.0, -0.0] * 35
    for dim in (0, 1):
        check(graph_of(lambda x, dim=dim: make(name, x, dim=dim), x), [x])


@pytest.mark.parametrize("layout", ["transposed", "sliced", "reversed", "broadcast"])
def test_layouts_of_operands(layout: str) -> None:
    for shape, dim in (((6, 40), 1), ((40, 6), 0)):
        x = random_array(random.Random(2), shape, "float32", layout)
        check(graph_of(lambda x, dim=dim: make("sum", make("mul", x, x), dim=dim), x), [x])


@pytest.mark.parametrize("columns", [1, 2, 33, 256, 257, 1000])
def test_softmax(columns: int) -> None:
    x = floats(3, columns)
    execution = check(graph_of(softmax, x), [x])
    assert len(execution.kernels) == 1
    (result,) = Execution(graph_of(softmax, x), [x], (), False).run()
    wide = np.exp(x - x.max(axis=1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(result, wide / wide.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("columns", [36, 37])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_layer_norm(kind: str, columns: int) -> None:
    arrays = [floats(4, columns).astype(kind), floats(columns).astype(kind), floats(columns).astype(kind)]
    execution = check(graph_of(layer_norm, *arrays), arrays)
    assert len(execution.kernels) == 1
    (result,) = Execution(graph_of(layer_norm, *arrays), arrays, (), True).run()
    x, gamma, beta = (a.astype(np.float64) for a in arrays)
    hat = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(result, hat * gamma + beta, rtol=1e-4, atol=2e-2 if kind == "float16" else 1e-5)


def test_cross_entropy() -> None:
    def loss(x: Node, target: Node) -> Node:
        shifted = make("sub", x, keep(make("amax", x, dim=1), x))
        total = make("log", make("sum", make("exp", shifted), dim=1))
        picked = make("reshape", make("gather", shifted, make("reshape", target, shape=(64, 1)), dim=1), shape=(64,))
        return make("div", make("sum", make("sub", total, picked), dim=0), 64)

    arrays = [floats(64, 10), RNG.integers(0, 10, 64)]
    execution = check(graph_of(loss, *arrays), arrays)
    families = [k.doc.split(":")[0] for k in execution.kernels]
    # The gather in the middle checks its index first.
    assert families == ["Row by row", "Library", "Library", "Row by row"]


def test_a_bias_gradient_goes_with_its_producer() -> None:
    def backward(h: Node, ct: Node) -> tuple[Node, ...]:
        g = make("mul", ct, make("sub", 1, make("mul", h, h)))
        return g, make("sum", g, dim=0)

    arrays = [floats(300, 40), floats(300, 40)]
    execution = check(graph_of(backward, *arrays), arrays)
    assert [k.doc.split(":")[0] for k in execution.kernels] == ["Column by column", "Blocks of rows put together"]


def test_a_whole_sum_has_two_stages() -> None:
    x = floats(3 * 4096 + 17)
    execution = check(graph_of(lambda x: make("sum", make("mul", x, x), dim=0), x), [x])
    assert [(k.blocks, k.threads) for k in execution.kernels] == [(4, 512), (1, 256)]


@pytest.mark.parametrize("shape", [(3, 64), (3, 65), (2, 5000), (300, 40)])
def test_an_order_depends_on_neither_alignment_nor_fusion_nor_type(shape: tuple[int, ...]) -> None:
    x = floats(*shape)
    dim = int(shape[0] < 10)

    def alone(x: Node) -> Node:
        return make("sum", x, dim=dim)

    def fused(x: Node) -> tuple[Node, ...]:
        # The double beside it halves what a thread takes at a time; the exponential has visits of its own.
        total = make("sum", make("add", x, 0.0), dim=dim)
        return total, make("exp", x), make("cast", x, dtype=dtypes.float64)

    plain = Execution(graph_of(alone, x), [x], (), True).run()[0]
    assert same_bits(Execution(graph_of(alone, x), [x], (), False).run()[0], plain)
    assert same_bits(Execution(graph_of(fused, x), [x], (), True).run()[0], plain)
    # Of small whole numbers nothing is rounded: there float64 would agree in any order; here it must not.
    assert not same_bits(np.sum(x, axis=dim, dtype=np.float64).astype(np.float32), plain) or x.size < 200


@pytest.mark.parametrize("seed", [3, 12, 29, 41, 107, 231])
def test_random_graphs(seed: int) -> None:
    drawn = RandomGraph(seed)
    scalars = (0.75 if drawn.scalars == "f" else 3,)
    check(drawn.graph, drawn.arrays, scalars, vectors=seed % 2 == 0)
