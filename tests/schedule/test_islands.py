"""Updates of many arrays: what is alike is planned once, and comes to what each would have come to by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import check, graph_of, make
from tests.updates import RandomUpdates
from tracejit.codegen import generate as cpu
from tracejit.codegen.cuda import generate as gpu
from tracejit.codegen.library import panel_columns, plan_call
from tracejit.compiler import describe
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.schedule import islands
from tracejit.schedule.groups import Partition
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.spaces import CALL, Group
from tracejit.schedule.strands import Partings, parting
from tracejit.schedule.values import ISLAND

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def arrange(graph: Graph) -> Graph:
    return arrange_products(graph, panel_columns)


def islands_of(plan: Plan) -> list[Group]:
    return [group for group in plan.groups if group.members[0].kind == ISLAND]


def written(plan: Plan) -> list[Any]:
    """All that a plan comes to: groups with reasons, memory, texts for both kinds of machine with their operands."""
    found: list[Any] = [(g.kind, g.ops, g.stage, g.cuts, g.lines) for g in describe(plan)]
    found += [plan.arena_bytes, plan.stages]
    found += [(strand.parts, sorted(plan.stage[group] for group in strand.groups)) for strand in plan.strands]
    number = {id(buffer): k for k, buffer in enumerate(dict.fromkeys(plan.storage.values()))}
    places = {id(b): (b.kind, b.index, b.offset, b.first, b.last) for b in plan.storage.values()}
    assert len(number) == len(places)
    for group in plan.groups:
        if group.kind == CALL:
            call = group.members[0]
            memory = [plan.storage[value] for value in (*(r.source for r in call.reads), *call.results)]
            found.append([places[id(buffer)] for buffer in memory])
            continue
        for kernel in (k for generate in (cpu.generate, gpu.generate) for step in generate(group, plan) for k in step):
            slots = [(places.get(id(s.buffer)), s.offset) if hasattr(s, "buffer") else s for s in kernel.slots]
            found.append((kernel.text, kernel.units, slots))
    return found


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 1 << 30))
def test_the_plan_is_that_of_all_values_one_by_one(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    graph = RandomUpdates(seed).graph
    found = written(make_plan(graph, plan_call, arrange=arrange))
    with monkeypatch.context() as patch:
        patch.setattr(islands, "_FEWEST", 1 << 30)
        plan = make_plan(graph, plan_call, arrange=arrange)
    assert not islands_of(plan)
    assert found == written(plan)


def test_some_random_updates_are_islands_and_some_are_not() -> None:
    graphs = [RandomUpdates(seed).graph for seed in range(60)]
    assert sum(len(islands_of(make_plan(graph, plan_call))) for graph in graphs) > 40
    assert sum(not islands_of(make_plan(graph, plan_call)) for graph in graphs) > 10


@pytest.mark.parametrize("seed", range(40))
def test_islands_of_a_kind_are_parted_as_each_by_itself(seed: int) -> None:
    plan = make_plan(RandomUpdates(seed).graph, plan_call)
    ways = Partings()
    assert [ways.of(group) for group in plan.groups] == [parting(group) for group in plan.groups]


@pytest.mark.parametrize("seed", range(12))
@np.errstate(all="ignore")
def test_random_updates_have_the_bits_of_their_operations(seed: int) -> None:
    graph = RandomUpdates(seed).graph
    check(graph, [floats(*node.shape) for node in graph.inputs], (0.5, 0.25))


def update(array: Node, mean: Node, gradient: Node, rate: float = 0.1) -> tuple[Node, Node]:
    after = make("add", make("mul", gradient, rate), make("mul", mean, 0.9))
    return make("sub", array, make("tanh", after)), after


def updated(*arrays: Node) -> tuple[Node, ...]:
    """Three arrays at a time: what is written over, its mean, and a gradient."""
    return tuple(out for k in range(0, len(arrays), 3) for out in update(*arrays[k : k + 3]))


HOMES = {0: 0, 1: 1, 2: 3, 3: 4, 4: 6, 5: 7}


def test_equal_updates_are_placed_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = []
    place = Partition._place
    monkeypatch.setattr(Partition, "_place", lambda self, value: placed.append(value) or place(self, value))
    graph = graph_of(updated, *(floats(8, 8) for _ in range(9)), homes=HOMES)
    plan = make_plan(graph, plan_call)
    assert len(islands_of(plan)) == len(plan.groups) == 3
    # Those of the first, which shows that they are one loop.
    assert len(placed) == 5


def test_updates_with_other_numbers_or_shapes_are_of_other_kinds() -> None:
    def function(*arrays: Node) -> tuple[Node, ...]:
        return (*updated(*arrays[:6]), *update(*arrays[6:9], rate=0.2), *updated(*arrays[9:]))

    shapes = [(8, 8)] * 9 + [(8,)] * 3
    plan = make_plan(graph_of(function, *(floats(*s) for s in shapes), homes={**HOMES, 6: 9, 7: 10}), plan_call)
    bodies = [group.members[0].body for group in islands_of(plan)]
    assert len(bodies) == 4
    assert len(set(bodies)) == 3


def test_what_a_row_kernel_can_take_in_is_no_island() -> None:
    def by_rows(*arrays: Node) -> tuple[Node, ...]:
        return update(arrays[0], arrays[1], make("sum", arrays[2], dim=1))

    def by_columns(*arrays: Node) -> tuple[Node, ...]:
        return update(arrays[0], arrays[1], make("sum", arrays[2], dim=0))

    arrays = floats(8), floats(8), floats(8, 8)
    plan = make_plan(graph_of(by_rows, *arrays, homes={0: 0, 1: 1}), plan_call)
    assert not islands_of(plan)
    assert [value.name for value in plan.groups[0].members] == ["sum", "mul", "mul", "add", "tanh", "sub"]
    graph = graph_of(by_columns, *arrays, homes={0: 0, 1: 1})
    plan = make_plan(graph, plan_call)
    assert len(islands_of(plan)) == 1
    assert describe(plan)[1].cuts == ("sum -> mul: mul has 8 elements, the group 64",)


def test_what_is_read_by_something_else_is_no_island() -> None:
    def function(*arrays: Node) -> tuple[Node, ...]:
        after, mean = update(*arrays)
        return after, mean, make("matmul", mean, mean)

    plan = make_plan(graph_of(function, *(floats(8, 8) for _ in range(3)), homes={0: 0, 1: 1}), plan_call)
    assert not islands_of(plan)


def test_an_island_reads_all_before_it_writes_over_it() -> None:
    def function(*arrays: Node) -> tuple[Node, ...]:
        return (*update(*arrays), make("matmul", arrays[0], arrays[1]))

    arrays = [floats(8, 8) for _ in range(3)]
    graph = graph_of(function, *arrays, homes={0: 0, 1: 1})
    plan = make_plan(graph, plan_call)
    (island,) = islands_of(plan)
    (product,) = [group for group in plan.groups if group.kind == CALL]
    assert plan.stage[product] < plan.stage[island]
    check(graph, arrays)
