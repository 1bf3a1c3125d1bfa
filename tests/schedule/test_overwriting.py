"""A loop writes over an operand that nobody else reads, where the result has the same size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import check, graph_of, make
from tracejit.codegen.library import plan_call
from tracejit.compiler import compile_graph
from tracejit.ir.node import Node
from tracejit.schedule.plan import make_plan

RNG = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def ended(x: Node, w: Node, bias: Node) -> Node:
    y = make("conv2d", x, w, stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)
    return make("relu", make("add", y, make("reshape", bias, shape=(1, 16, 1, 1))))


def test_what_follows_a_convolution_takes_its_place() -> None:
    plan = make_plan(graph_of(ended, floats(2, 4, 9, 9), floats(16, 4, 3, 3), floats(16)), plan_call)
    convolution, end = plan.groups[0].members[0].results[0], plan.groups[1].members[-1]
    assert plan.storage[end] is plan.storage[convolution]
    assert plan.storage[end].kind == "output"


@pytest.mark.parametrize(
    "function",
    [
        lambda y, z: (make("exp", y), y),  # an output
        lambda y, z: (make("exp", y), make("sum", y, dim=1)),  # somebody else reads it
        lambda y, z: (make("add", y, make("permute", y, dims=(1, 0))),),  # it is read elsewhere, too
        lambda y, z: (make("add", make("slice", y, start=(0, 0), length=(20, 40), step=(1, 1)), z),),  # a part of it
        lambda y, z: (make("cast", y, dtype=tj.float64),),  # the result has no room in it
        lambda y, z: (make("cat", make("exp", y), z, dim=0),),  # it goes into a part of something
    ],
)
def test_what_must_stay_is_not_written_over(function: Any) -> None:
    x, w, z = floats(40, 8), floats(8, 40), floats(20, 40)

    def build(x: Node, w: Node, z: Node) -> tuple[Node, ...]:
        return tuple(function(make("matmul", x, w), z))

    graph = graph_of(build, x, w, z)
    plan = make_plan(graph, plan_call)
    (product,) = (v for group in plan.groups if group.kind == "call" for v in group.members[0].results)
    assert [v for v in plan.storage if plan.storage[v] is plan.storage[product]] == [product]
    check(graph, [x, w, z])


def test_each_operand_takes_the_place_of_one_result() -> None:
    def build(*x: Node) -> tuple[Node, ...]:
        a, b = make("matmul", x[0], x[1]), make("matmul", x[1], x[0])
        return make("add", a, b), make("mul", a, b)

    arrays = [floats(90, 90), floats(90, 90)]
    plan = make_plan(graph_of(build, *arrays), plan_call)
    places = [plan.storage[v] for group in plan.groups for v in group.members[0].results or group.members]
    assert len(places) == 4
    assert len(set(places)) == 2
    check(graph_of(build, *arrays), arrays)


def test_a_chain_of_operations_takes_no_memory_but_that_of_its_result() -> None:
    def chain(x: Node, w: Node) -> Node:
        y = make("tanh", make("matmul", x, w))
        return make("exp", make("mul", make("cumsum", y, dim=0), y))

    graph = graph_of(chain, floats(300, 200), floats(200, 200))
    assert compile_graph(graph).arena_bytes == 300 * 200 * 4
