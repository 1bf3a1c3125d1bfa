"""Nodes are interned and typed by their records."""

from __future__ import annotations

import gc
import math

import pytest

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ir.node import apply, const, input, item, scalar
from tracejit.ir.rewrite import rewrite
from tracejit.ops.record import ops

X = input(0, Aval((2, 3), dtypes.float32))


def test_equal_nodes_are_one() -> None:
    assert apply(ops.add, X, 1) is apply(ops.add, X, 1)
    assert apply(ops.add, X, 1) is not apply(ops.add, X, 1.0)
    assert input(0, Aval((2, 3), dtypes.float32)) is X
    assert input(0, Aval((2, 3), dtypes.float64)) is not X


def test_constants_are_keyed_by_type_and_bits() -> None:
    assert const(0.0) is not const(-0.0)
    assert const(math.nan) is const(float("nan"))
    assert const(1) is not const(True)
    assert const(1) is not const(1.0)


def test_nodes_nobody_holds_are_forgotten() -> None:
    gc.collect()  # cycles that earlier tests left would otherwise go in between
    before = len(nodes._interned)
    kept = apply(ops.tanh, apply(ops.exp, X))
    assert len(nodes._interned) == before + 2
    del kept
    gc.collect()
    assert len(nodes._interned) == before


def test_wrong_operands_raise_at_birth() -> None:
    with pytest.raises(RuntimeError, match=r"size of tensor a \(3\) must match the size of tensor b \(4\)"):
        apply(ops.add, X, input(1, Aval((4,), dtypes.float32)))
    with pytest.raises(TypeError, match="operands of types"):
        apply(ops.add, X, input(1, Aval((3,), dtypes.float64)))
    with pytest.raises(TypeError, match="exp has one result"):
        item(apply(ops.exp, X), 0)


def test_numbers_have_no_shape() -> None:
    assert scalar(0, "f").is_number
    with pytest.raises(TypeError, match="const is not a single tensor"):
        const(1).shape


def test_a_graph_knows_its_inputs() -> None:
    with pytest.raises(ValueError, match="input 0 of graph g is"):
        Graph((input(1, X.tensor),), (), (), name="g")
    with pytest.raises(ValueError, match="is not an input of graph g"):
        Graph((X,), (), (input(1, X.tensor),), name="g")
    with pytest.raises(ValueError, match="is not a scalar of graph g"):
        Graph((X,), ("i",), (apply(ops.mul, X, scalar(0, "f")),), name="g")
    with pytest.raises(ValueError, match="is not a scalar of graph g"):
        Graph((X,), ("f",), (apply(ops.mul, X, scalar(1, "f")),), name="g")
    with pytest.raises(ValueError, match="cannot live in input 0"):
        Graph((X,), (), (apply(ops.sum, X, dim=0),), {0: 0})
    with pytest.raises(ValueError, match="is not a tensor"):
        Graph((X,), (), (const(1),))


def test_nodes_come_after_their_operands_once() -> None:
    y = apply(ops.exp, X)
    z = apply(ops.mul, y, apply(ops.add, y, X))
    order = Graph((X,), (), (z, y)).nodes()
    assert order.index(X) < order.index(y) < order.index(z)
    assert len(order) == len(set(order)) == 4


def test_deep_graphs_need_no_recursion() -> None:
    y = X
    for _ in range(20_000):
        y = apply(ops.neg, y)
    assert len(Graph((X,), (), (y,)).nodes()) == 20_001


def test_rewriting_that_never_rests_is_an_error() -> None:
    y = apply(ops.exp, X)
    graph = Graph((X,), (), (y,))

    def turn(node: nodes.Node) -> nodes.Node | None:
        if node.op is ops.exp:
            return apply(ops.tanh, X)
        return apply(ops.exp, X) if node.op is ops.tanh else None

    with pytest.raises(RuntimeError, match="does not come to an end"):
        rewrite(graph, turn)


def test_rewriting_nothing_gives_the_graph_itself() -> None:
    graph = Graph((X,), (), (apply(ops.exp, X),))
    assert rewrite(graph, lambda node: None) is graph


def test_nodes_at_rest_are_not_looked_at_again() -> None:
    y = apply(ops.neg, apply(ops.exp, X))
    graph, seen, rest = Graph((X,), (), (y,)), [], set()

    def look(node: nodes.Node) -> nodes.Node | None:
        seen.append(node)
        return apply(ops.tanh, X) if node.op is ops.exp else None

    after = rewrite(graph, look, rest)
    assert [n.name for n in after.nodes()] == ["input", "tanh", "neg"]
    assert set(after.nodes()) <= rest
    seen.clear()
    assert rewrite(after, look, rest) is after
    assert not seen


def test_rewriting_goes_on_with_what_it_made() -> None:
    # What is put below a node is rewritten, too, before the node is looked at again.
    def step(node: nodes.Node) -> nodes.Node | None:
        if node.op is ops.neg:
            return apply(ops.exp, apply(ops.sin, node.args[0]))
        return apply(ops.cos, node.args[0]) if node.op is ops.sin else None

    graph = Graph((X,), (), (apply(ops.tanh, apply(ops.neg, X)),))
    assert rewrite(graph, step).outputs == (apply(ops.tanh, apply(ops.exp, apply(ops.cos, X))),)


def test_other_operands_of_one_type_leave_the_type() -> None:
    y = apply(ops.add, apply(ops.exp, X), X)
    again = nodes.remake(y, (apply(ops.tanh, X), X))
    assert again is apply(ops.add, apply(ops.tanh, X), X)
    wide = nodes.remake(y, (input(1, Aval((4, 2, 3), dtypes.float32)), X))
    assert wide.shape == (4, 2, 3)
    number = nodes.remake(apply(ops.mul, X, 1), (X, const(2.5)))
    assert number is apply(ops.mul, X, 2.5)
    with pytest.raises(TypeError, match="a node of kind 'input' has no operands"):
        nodes.remake(X, ())
