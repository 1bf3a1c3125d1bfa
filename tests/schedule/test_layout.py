"""Products computed the way round in which they are read, and added up where they are computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest

from tests.programs import check, graph_of, make
from tracejit.ir.node import Node
from tracejit.kernels.gemm import panel_columns
from tracejit.ops.contraction import LONGEST_ADDED
from tracejit.schedule import cost, layout
from tracejit.schedule.layout import accumulate_products, arrange_products, share_factors, turn_products

A, B = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)


def swapped(x: Node) -> Node:
    return make("permute", x, dims=(1, 0))


def test_a_product_that_is_only_read_transposed_is_turned() -> None:
    graph = turn_products(graph_of(lambda a, b: make("exp", swapped(make("matmul", a, b))), A, B))
    (product,) = [n for n in graph.nodes() if n.name == "matmul"]
    assert product.shape == (5, 3)
    assert graph.outputs[0].args == (product,)


@pytest.mark.parametrize("single", [True, False])
def test_a_product_of_bfloat16_is_turned_and_nothing_else(single: bool) -> None:
    def turned(a: Node, b: Node) -> Node:
        return make("exp", swapped(make("bfloat16_matmul", a, b, single=single)))

    a, b = np.ones((40, 1), np.float32), np.ones((1, 50), np.float32)
    graph = arrange_products(graph_of(turned, a, b), panel_columns)
    (product,) = [n for n in graph.nodes() if "matmul" in n.name]
    assert (product.name, product.shape, product.attrs) == ("bfloat16_matmul", (50, 40), (single,))
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


def steps(count: int, rows: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.standard_normal((rows, 30 + 10 * (k % 2))).astype(np.float32) for k in range(2 * count)]


def total(*arrays: Node) -> Node:
    products = [make("matmul", swapped(a), b) for a, b in zip(arrays[::2], arrays[1::2], strict=True)]
    return functools.reduce(lambda left, right: make("add", left, right), products)


def test_products_that_are_added_up_need_no_memory_but_their_sum() -> None:
    arrays = steps(4)
    graph = accumulate_products(graph_of(total, *arrays))
    assert [len(n.args) for n in graph.nodes() if n.name == "matmul_add"] == [7]
    compiled = check(graph_of(total, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["call"] * 2
    # The first product lies where the sum will be.
    assert compiled.arena_bytes == 0


def test_long_sums_are_cut_so_that_what_they_add_up_need_not_wait() -> None:
    count = 2 * cost.CHAIN + 3
    arrays = steps(count)
    graph = accumulate_products(graph_of(total, *arrays))
    assert [len(n.args) // 2 for n in graph.nodes() if n.name == "matmul_add"] == [cost.CHAIN, cost.CHAIN, 2]
    compiled = check(graph_of(total, *arrays), arrays)
    assert len(compiled.groups) == 4
    # The sums before the last lie in one place.
    assert compiled.arena_bytes == -(-30 * 40 * 4 // 64) * 64


def cell_gradients(*arrays: Node) -> tuple[Node, Node]:
    """The gradients of a cell's two matrices: steps of what comes from its gates, of its input, of its state."""
    gates = arrays[::3]
    return tuple(total(*chain.from_iterable(zip(gates, arrays[at::3], strict=True))) for at in (1, 2))


def cell_arrays(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.standard_normal((32, (64, 40, 40)[k % 3])).astype(np.float32) for k in range(3 * count)]


@pytest.mark.parametrize("count", [2, 5, 12])
def test_gradients_of_a_cells_matrices_are_added_up_together(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = cell_arrays(count)
    graph = graph_of(cell_gradients, *arrays)
    names = [n.name for n in arrange_products(graph, panel_columns).nodes()]
    pieces = -(-(count - 1) // cost.CHAIN)
    assert (names.count("matmul"), names.count("matmul_add"), names.count("matmul_add_both")) == (2, 0, pieces)
    together = check(graph, arrays)
    # A program from disk is planned when it is asked for its groups.
    assert len(together.groups) == 2 + pieces
    assert together.arena_bytes <= 2 * 64 * 40 * 4
    monkeypatch.setattr(cost, "CHAIN", 1)
    monkeypatch.setattr(layout, "share_factors", lambda graph: graph)
    assert len(check(graph, arrays).groups) == 2 * count


def test_sums_of_which_one_needs_the_other_stay_apart() -> None:
    def build(a: Node, b: Node, c: Node, d: Node) -> Node:
        first = make("add", make("matmul", a, b), make("matmul", c, d))
        return make("add", make("matmul", a, first), make("matmul", c, make("exp", first)))

    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((32, 32)).astype(np.float32) for _ in range(4)]
    graph = accumulate_products(graph_of(build, *arrays))
    assert [n.name for n in graph.nodes()].count("matmul_add") == 2
    assert share_factors(graph) is graph
    check(graph_of(build, *arrays), arrays)


def test_sums_that_would_need_each_other_in_turn_stay_apart() -> None:
    def build(*x: Node) -> tuple[Node, ...]:
        def added(factor: Node, second: Node) -> Node:
            return make("add", make("matmul", x[0], x[1]), make("matmul", factor, second))

        # Those with one first factor together, both pairs would need what the other makes.
        first, other = added(x[2], x[0]), added(x[3], x[0])
        return added(x[3], make("exp", first)), added(x[2], make("exp", other))

    rng = np.random.default_rng(6)
    arrays = [rng.standard_normal((32, 32)).astype(np.float32) for _ in range(4)]
    graph = accumulate_products(graph_of(build, *arrays))
    assert share_factors(graph) is graph
    check(graph_of(build, *arrays), arrays)


def test_a_product_that_is_read_elsewhere_or_long_is_added_apart() -> None:
    def read(*arrays: Node) -> tuple[Node, ...]:
        product = make("matmul", swapped(arrays[0]), arrays[1])
        other = make("matmul", swapped(arrays[2]), arrays[3])
        return make("add", product, other), make("exp", other)

    for build, arrays in ((read, steps(2)), (total, steps(2, rows=LONGEST_ADDED + 1))):
        graph = graph_of(build, *arrays)
        assert accumulate_products(graph) is graph
        check(graph, arrays)


def test_a_sum_that_goes_on_in_the_memory_of_a_result_keeps_it() -> None:
    def both(*arrays: Node) -> tuple[Node, ...]:
        first = total(*arrays[:4])
        return first, make("add", first, make("matmul", swapped(arrays[4]), arrays[5]))

    check(graph_of(both, *steps(3)), steps(3))


def test_a_product_along_one_element_becomes_part_of_what_reads_it() -> None:
    def step(x: Node, ct: Node, w: Node) -> tuple[Node, ...]:
        grad = swapped(make("matmul", swapped(x), ct))
        return grad, make("sub", w, make("mul", grad, 0.1))

    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 30), (1, 7), (7, 30))]
    arrays[0][0, :3], arrays[1][0, :3] = 0.0, -0.0
    compiled = check(graph_of(step, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["loop"]
    stacks = [rng.standard_normal(shape) for shape in ((3, 5, 1), (3, 1, 40))]
    check(graph_of(lambda a, b: make("matmul", a, b), *stacks), stacks)
    # Along rows of 4 elements a loop would be slow: these are a product, and what reads it goes along all of memory.
    narrow = [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4), (1, 70), (70, 4))]
    compiled = check(graph_of(step, *narrow), narrow)
    assert [g.kind for g in compiled.groups] == ["call", "loop"]


def cell(count: int) -> Callable[..., Node]:
    def build(h: Node, w: Node, *xs: Node) -> Node:
        for x in xs[:count]:
            h = make("tanh", make("add", make("matmul", h, swapped(w)), x))
        return h

    return build


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_matrix_that_many_products_are_with_is_packed_once(kind: type) -> None:
    rng = np.random.default_rng(5)
    rows, size = 20, 70
    shapes = [(rows, size), (size, size), *[(rows, size)] * cost.SHARED]
    arrays = [rng.standard_normal(shape).astype(kind) for shape in shapes]
    graph = arrange_products(graph_of(cell(cost.SHARED), *arrays), panel_columns)
    names = [n.name for n in graph.nodes()]
    assert (names.count("pack_panels"), names.count("matmul_panels"), names.count("matmul")) == (1, cost.SHARED, 0)
    check(graph_of(cell(cost.SHARED), *arrays), arrays)


def test_few_products_and_small_ones_pack_for_themselves() -> None:
    for rows, size, count in ((20, 70, cost.SHARED - 1), (4, 70, cost.SHARED), (20, 10, cost.SHARED)):
        arrays = [np.ones((rows, size), np.float32), np.ones((size, size), np.float32)]
        arrays += [np.ones((rows, size), np.float32)] * count
        graph = graph_of(cell(count), *arrays)
        assert arrange_products(graph, panel_columns) is graph


def layer(x: Node, w: Node, b: Node) -> Node:
    return make("relu", make("add", make("matmul", x, swapped(w)), b))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_product_ends_with_its_bias_and_relu(kind: type, rows: int) -> None:
    rng = np.random.default_rng(rows)
    arrays = [rng.standard_normal(shape).astype(kind) for shape in ((rows, 30), (70, 30), (70,))]
    graph = arrange_products(graph_of(layer, *arrays), panel_columns)
    assert graph.outputs[0].name == "matmul_relu"
    compiled = check(graph_of(layer, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["call"]
    gaps = [arrays[0], arrays[1], np.repeat(arrays[2], 2)[::2]]
    check(graph_of(layer, *gaps), gaps)


def masked(x: Node, w: Node, h: Node) -> tuple[Node, ...]:
    d = make("where", make("le", h, 0.0), 0.0, make("matmul", x, w))
    return d, make("matmul", h, swapped(w))


def multiplied(x: Node, w: Node, h: Node) -> tuple[Node, ...]:
    slope = make("reshape", make("exp", h), shape=(2, h.shape[0] // 2, h.shape[1]))
    product = make("reshape", make("matmul", x, w), shape=slope.shape)
    return make("mul", slope, product), make("sin", slope)


def moved(x: Node, w: Node, h: Node) -> tuple[Node, ...]:
    row = make("reshape", make("slice", h, start=(0, 0), length=(1, h.shape[1]), step=(1, 1)), shape=(h.shape[1],))
    y = make("add", make("matmul", x, w), make("exp", row))
    return (make("matmul", swapped(y), y),)


def linear(x: Node, w: Node, h: Node) -> Node:
    return make("add", make("matmul", x, w), make("reshape", make("sum", h, dim=0), shape=(h.shape[1],)))


ENDS = [("matmul_mask", masked), ("matmul_mul", multiplied), ("matmul_bias", moved), ("matmul_bias", linear)]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("end", "function"), ENDS)
def test_a_product_ends_with_what_alone_reads_it(end: str, function: Callable[..., Any], kind: type) -> None:
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(shape).astype(kind) for shape in ((40, 30), (30, 70), (40, 70))]
    graph = graph_of(function, *arrays)
    assert end in [n.name for n in arrange_products(graph, panel_columns).nodes()]
    check(graph, arrays)
    # Few rows are not multiplied by panels.
    few = [arrays[0][:4], arrays[1], arrays[2][:4]]
    graph = graph_of(function, *few)
    assert end not in [n.name for n in arrange_products(graph, panel_columns).nodes()]
    check(graph, few)


def test_what_would_have_to_be_kept_for_it_is_no_gate() -> None:
    def derivative(x: Node, w: Node, t: Node) -> Node:
        return make("mul", make("matmul", x, w), make("sub", 1.0, make("mul", t, t)))

    def activated(x: Node, w: Node, row: Node) -> Node:
        return make("tanh", make("add", make("matmul", x, w), row))

    def squared(x: Node, w: Node, v: Node) -> Node:
        return make("mul", make("matmul", x, w), make("matmul", x, v))

    rng = np.random.default_rng(5)
    for function, shape in ((derivative, (40, 70)), (activated, (70,)), (squared, (30, 70))):
        arrays = [rng.standard_normal(s).astype(np.float32) for s in ((40, 30), (30, 70), shape)]
        graph = graph_of(function, *arrays)
        assert arrange_products(graph, panel_columns) is graph
        check(graph, arrays)


@pytest.mark.parametrize("wanted", ["product", "sum"])
def test_a_product_that_is_read_elsewhere_stays_alone(wanted: str) -> None:
    def both(x: Node, w: Node, b: Node) -> tuple[Node, ...]:
        product = make("matmul", x, w)
        total = make("add", product, b)
        return make("relu", total), make("exp", product if wanted == "product" else total)

    arrays = [np.ones(shape, np.float32) for shape in ((5, 30), (30, 7), (7,))]
    graph = graph_of(both, *arrays)
    assert arrange_products(graph, panel_columns) is graph
    check(graph, arrays)


def test_what_is_no_bias_is_no_end_of_a_product() -> None:
    for shapes in (((5, 30), (30, 7), (5, 7)), ((5, 30), (30, 7), (5, 1)), ((5, 30), (30, 1), (1,))):
        arrays = [np.ones(shape, np.float32) for shape in shapes]
        graph = graph_of(lambda x, w, b: make("relu", make("add", make("matmul", x, w), b)), *arrays)
        assert "matmul_relu" not in [n.name for n in arrange_products(graph, panel_columns).nodes()]
        check(graph, arrays)
