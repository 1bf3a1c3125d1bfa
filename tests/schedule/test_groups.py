"""What is fused, and the order of groups: no group waits for one that waits for it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import RandomGraph, graph_of, make, random_array
from tracejit.codegen.library import plan_call
from tracejit.ir.node import Node
from tracejit.schedule.plan import Plan, launches_of, make_plan
from tracejit.schedule.values import Value, writers


def plan_of(function: object, *arrays: object) -> Plan:
    return make_plan(graph_of(function, *arrays), plan_call)  # type: ignore[arg-type]


@settings(max_examples=200)
@given(st.integers(0, 1 << 30))
def test_every_value_is_read_after_it_is_written(seed: int) -> None:
    plan = make_plan(RandomGraph(seed, size=40).graph, plan_call)
    group_of = {value: group for group in plan.groups for value in group.members}
    for group in plan.groups:
        for value in group.members:
            for source in [r.source for r in value.reads]:
                for writer in writers(source):
                    other = group_of[writer]
                    if other is not group:
                        assert plan.stage[other] + launches_of(other) <= plan.stage[group]
                        assert source in plan.storage
            for part in value.after:
                assert plan.stage[group_of[part]] < plan.stage[group]


@settings(max_examples=100)
@given(st.integers(0, 1 << 30))
def test_each_value_is_in_one_group(seed: int) -> None:
    plan = make_plan(RandomGraph(seed, size=40).graph, plan_call)
    members: list[Value] = [value for group in plan.groups for value in group.members]
    assert len(members) == len(set(members))


def test_a_value_between_two_keeps_them_apart() -> None:
    x = random_array(random.Random(1), (8, 8), "float32", "contiguous")

    def around(x: Node) -> Node:
        e = make("exp", x)
        return make("add", e, make("matmul", e, e))

    plan = plan_of(around, x)
    assert [g.kind for g in plan.groups] == ["loop", "call", "loop"]
    assert [c.reason for c in plan.cuts] == ["another kernel lies between them"]


def test_long_rows_go_in_blocks_and_are_put_together() -> None:
    x = random_array(random.Random(1), (2, 9000), "float32", "contiguous")
    plan = plan_of(lambda x: make("sum", make("exp", x), dim=1), x)
    assert [(g.kind, launches_of(g)) for g in plan.groups] == [("blocks", 2)]
    (partial,) = plan.partials.values()
    assert partial.nbytes == 2 * 3 * 4
