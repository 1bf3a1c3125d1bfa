"""The checker finds what is wrong with a graph and says where."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ir.random_graphs import random_graph
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.check import GraphError, check
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, const, input
from tracejit.ops.record import ops

X = input(0, Aval((2, 3), dtypes.float32))


def made(op: Any, args: tuple[Node, ...], attrs: tuple[Any, ...] = (), aval: Any = X.aval) -> Node:
    """A node past the constructor."""
    node = Node()
    node.op, node.args, node.attrs, node.aval = op, args, attrs, aval
    return node


POOL = (1, 1, 4, 4)
POOLED = apply(
    ops.max_pool2d,
    apply(ops.full, 0, shape=POOL, dtype=dtypes.float32),
    kernel=(2, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1), ceil_mode=False,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_graphs_that_were_built_are_right(seed: int) -> None:
    check(random_graph(seed))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (made(ops.add, (X,)), r"add takes the operands \('x', 'y'\), got 1"),
        (made(ops.cat, (), (0,)), "cat takes the operands"),
        (made(ops.sum, (X,)), r"sum takes the attributes \('dim',\), got \(\)"),
        (made(ops.sum, (X,), ({},)), "attribute dim: an attribute of type dict has no text"),
        (made(ops.reshape, (const(1),), ((2, 3),)), "operand x is a number, which the family view does not take"),
        (made(ops.full, (X,), ((2, 3), dtypes.float32)), "operand value is a tensor, which the family create"),
        (made(ops.exp, (POOLED,)), "operand x has several results"),
        (made(ops.exp, (X,), (), Aval((2,), dtypes.float32)), r"typed again it is f32\[2,3\]"),
        (made(ops.add, (const(1), const(2))), "its typing rule refuses it: add: no operand is a tensor"),
        (made(ops.permute, (X,), ((0, 5),)), "its typing rule refuses it"),
    ],
)
def test_a_wrong_node_is_found(node: Node, message: str) -> None:
    graph = Graph((X,), (), (X,))
    object.__setattr__(graph, "outputs", (apply(ops.exp, X), node))
    vars(graph).pop("_nodes")  # they are of the outputs before
    with pytest.raises(GraphError, match=message):
        check(graph)


def test_the_error_shows_the_place() -> None:
    y = apply(ops.exp, X)
    wrong = made(ops.tanh, (y,), (), Aval((7,), dtypes.float32))
    graph = Graph((X,), (), (wrong,), lines={wrong: "train.py:12"})
    with pytest.raises(GraphError) as error:
        check(graph, "after fold: ")
    assert str(error.value) == (
        "after fold: train.py:12: tanh: typed again it is f32[2,3], and not the node that its operands and attributes "
        "stand for\n  t0 = exp(x0)  # f32[2,3]\n> t1 = tanh(t0)  # f32[7]"
    )


@pytest.mark.parametrize(
    ("homes", "message"),
    [
        ({0: 0, 1: 0}, "outputs 0 and 1 have one home, input 0"),
        ({2: 0}, "home 0 of output 2: there are 2 inputs and 2 outputs"),
        ({0: 1}, r"output 0 is f32\[2,3\], its home, input 1, is f32\[3\]"),
    ],
)
def test_wrong_homes_are_found(homes: dict[int, int], message: str) -> None:
    y = input(1, Aval((3,), dtypes.float32))
    graph = Graph((X, y), (), (apply(ops.exp, X), apply(ops.neg, X)))
    graph.homes.update(homes)
    with pytest.raises(GraphError, match=message):
        check(graph)


def test_strides_fit_the_shape() -> None:
    x = input(0, Aval((2, 3), dtypes.float32), (1,))
    with pytest.raises(GraphError, match=r"its strides \(1,\) do not fit its shape \(2, 3\)"):
        check(Graph((x,), (), (x,)))
