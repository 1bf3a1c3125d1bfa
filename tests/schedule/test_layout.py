"""Products computed the way round in which they are read."""

from __future__ import annotations

import numpy as np

from tests.programs import check, graph_of, make
from tracejit.ir.node import Node
from tracejit.schedule.layout import turn_products

A, B = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)


def swapped(x: Node) -> Node:
    return make("permute", x, dims=(1, 0))


def test_a_product_that_is_only_read_transposed_is_turned() -> None:
    graph = turn_products(graph_of(lambda a, b: make("exp", swapped(make("matmul", a, b))), A, B))
    (product,) = [n for n in graph.nodes() if n.name == "matmul"]
    assert product.shape == (5, 3)
    assert graph.outputs[0].args == (product,)


def test_a_product_that_is_also_read_as_it_is_stays() -> None:
    def both(a: Node, b: Node) -> tuple[Node, ...]:
        product = make("matmul", a, b)
        return product, swapped(product)

    graph = graph_of(both, A, B)
    assert turn_products(graph) is graph


def test_turning_keeps_the_bits() -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((33, 65)).astype(np.float32), rng.standard_normal((65, 17)).astype(np.float32)]
    compiled = check(graph_of(lambda a, b: swapped(make("matmul", a, b)), *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["call"]
