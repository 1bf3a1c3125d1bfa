"""Groups that are alike share their texts, and get those that each would have got by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ir.random_graphs import random_graph
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.codegen import repeated
from tracejit.codegen.generate import generate
from tracejit.codegen.library import panel_columns, plan_call
from tracejit.codegen.repeated import Texts
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, input
from tracejit.ops.record import ops
from tracejit.passes import run_passes
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.spaces import CALL


def plan_of(graph: Graph) -> Plan:
    return make_plan(arrange_products(run_passes(graph)[0], panel_columns), plan_call)


def written(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many groups a plan has, and for how many of them texts are written, which are as they should be."""
    count = 0

    def counted(group: object, plan: Plan) -> object:
        nonlocal count
        count += 1
        return generate(group, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(repeated, "generate", counted)
    texts = Texts(plan)
    groups = [group for group in plan.groups if group.kind != CALL]
    for group in groups:
        assert texts.generate(group) == generate(group, plan)
    return len(groups), count


def steps(cell: Callable[[Node, Node], Node], count: int = 6) -> Graph:
    """A loop of equal steps, each of which reads another row of the first input."""
    x, w = input(0, Aval((count, 8, 32), dtypes.float32)), input(1, Aval((32, 32), dtypes.float32))
    h = input(2, Aval((8, 32), dtypes.float32))
    for k in range(count):
        cut = apply(ops.slice, x, start=(k, 0, 0), length=(1, 8, 32), step=(1, 1, 1))
        h = cell(apply(ops.reshape, cut, shape=(8, 32)), apply(ops.matmul, h, w))
    return Graph((x, w, input(2, Aval((8, 32), dtypes.float32))), (), (h,))


@pytest.mark.parametrize("seed", range(80))
def test_each_group_gets_its_own_text(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written(plan_of(random_graph(seed)), monkeypatch)


def test_equal_steps_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first and the last step may work on other memory.
    groups, count = written(plan_of(steps(lambda x, h: apply(ops.tanh, apply(ops.add, x, h)))), monkeypatch)
    assert groups == 6
    assert count < groups


def test_rows_of_equal_steps_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell(x: Node, h: Node) -> Node:
        y = apply(ops.add, x, h)
        return apply(ops.sub, y, apply(ops.reshape, apply(ops.amax, y, dim=1), shape=(8, 1)))

    groups, count = written(plan_of(steps(cell)), monkeypatch)
    assert groups == 6
    assert count < groups


def test_steps_with_other_numbers_are_not_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter((0.5, 0.25, 0.125, 3.0, 5.0, 7.0))
    graph = steps(lambda x, h: apply(ops.tanh, apply(ops.add, x, apply(ops.mul, h, next(numbers)))))
    groups, count = written(plan_of(graph), monkeypatch)
    assert count == groups == 6
