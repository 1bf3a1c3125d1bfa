"""Groups that read the same memory, of which none needs another, are one group."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests import programs
from tests.cuda import running
from tests.programs import input_of, make, random_array
from tracejit.codegen.library import plan_call
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.schedule import cost, islands
from tracejit.schedule import plan as plans
from tracejit.schedule.order import Order, order
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.siblings import Siblings
from tracejit.schedule.spaces import Group
from tracejit.schedule.strands import Parting, parting
from tracejit.trace.compiled import region_of

Function = Callable[..., tuple[tj.Tensor, ...]]


def planned(f: Function, *args: tj.Tensor) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What each group of a compiled function is, its operations and its cuts; the function equals eager."""
    g = tj.compile(f)
    expected = [x.numpy().tobytes() for x in f(*args)]
    for _ in range(4):
        assert [x.numpy().tobytes() for x in g(*args)] == expected
    infos = region_of(g).executables()[0][1].compiled.groups
    return [(info.kind, tuple(sorted(info.ops)), info.cuts) for info in infos]


def groups(f: Function, *args: tj.Tensor) -> list[tuple[str, tuple[str, ...]]]:
    """The kinds and operations of the groups alone."""
    return [(kind, ops) for kind, ops, _ in planned(f, *args)]


def operand(*shape: int) -> tj.Tensor:
    tj.manual_seed(0)
    return tj.randn(*shape)


def test_sums_of_the_same_columns_are_one() -> None:
    a = operand(300, 200)
    assert groups(lambda a: (a.sum(0), (a * a).sum(0)), a) == [("column", ("mul", "sum", "sum"))]


def test_sums_of_the_same_rows_are_one() -> None:
    a = operand(500, 300)
    assert groups(lambda a: (a.sum(1), (a * a).sum(1)), a) == [("row", ("mul", "sum", "sum"))]


def test_sums_of_long_rows_are_one() -> None:
    a = operand(40, 5000)
    assert groups(lambda a: (a.sum(1), (a * a).sum(1)), a) == [("blocks", ("mul", "sum", "sum"))]


def test_more_than_two_become_one() -> None:
    def f(a: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return a.sum(0), (a * a).sum(0), a.abs().amax(0)

    assert groups(f, operand(300, 200)) == [("column", ("abs", "amax", "mul", "sum", "sum"))]


def test_chains_of_siblings_meet_in_one() -> None:
    def f(a: tj.Tensor, b: tj.Tensor, c: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * b).sum(0), (c * c).sum(0), (b * c).sum(0)

    a = operand(300, 200)
    assert groups(f, a, a + 1, a + 2) == [("column", ("mul", "mul", "mul", "sum", "sum", "sum"))]


@pytest.mark.parametrize("shape", [(16, 8), (3000, 40)])
def test_rows_that_caches_hold_and_short_ones_stay_apart(shape: tuple[int, int]) -> None:
    assert len(groups(lambda a: (a.sum(1), (a * a).sum(1)), operand(*shape))) == 2


def test_what_needs_the_other_stays_apart() -> None:
    def f(a: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (((a - a.mean(0)) * a).sum(0),)

    column = [cuts for kind, ops, cuts in planned(f, operand(300, 200)) if kind == "column" and "sub" in ops]
    assert "input -> sub: sum reads it too, but the one waits for the other" in column[0]


def test_what_can_wait_does() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * a).sum(0), (a * (a @ b).exp()).sum(0)

    a = operand(300, 300)
    assert groups(f, a, a)[-1] == ("column", ("exp", "mul", "mul", "sum", "sum"))


def test_what_comes_after_it_waits_too() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * a).sum(0).sqrt(), (a * (a @ b).exp()).sum(0).sqrt()

    a = operand(300, 300)
    assert groups(f, a, a)[1:] == [("column", ("exp", "mul", "mul", "sum", "sum")), *[("loop", ("sqrt",))] * 2]


def test_what_the_last_stage_would_wait_for_stays_apart() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return a @ ((a * a).sum(0) * b), (a * (a @ b).exp()).sum(0)

    a = operand(300, 300)
    (late,) = [cuts for kind, ops, cuts in planned(f, a, a) if kind == "column" and "exp" in ops]
    assert "input -> mul: mul reads it too, but the one can begin before the other" in late


def test_what_would_be_kept_longer_stays_apart() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        c = b @ b
        return (a * c).sum(0), (a * ((a @ c) @ b).exp()).sum(0)

    a = operand(300, 300)
    (late,) = [cuts for kind, ops, cuts in planned(f, a, a) if kind == "column" and "exp" in ops]
    assert "input -> mul: mul reads it too, but the one can begin before the other" in late


def test_other_dimensions_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a.sum(0), a.sum(1), a.sum()), operand(1000, 300))
    assert [kind for kind, _, _ in found] == ["column", "row", "blocks"]
    assert found[1][2] == (
        "input -> sum: sum reads it too, but a column kernel and a row kernel do not go through memory alike",
    )


def test_other_places_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a.abs().sum(0), a.flip(1).exp().sum(0)), operand(300, 300))
    assert [kind for kind, _, _ in found] == ["column", "column"]
    assert found[1][2] == ("input -> exp: abs reads it too, but they read it in different order",)


def test_few_elements_for_all_rows_keep_no_one_apart() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        mean = a.mean(0)
        return ((a - mean) * b).sum(1), (a - b).exp().sum(1)

    a = operand(1000, 300)
    assert ("row", ("exp", "mul", "sub", "sub", "sum", "sum")) in groups(f, a, a + 1)


def test_parameters_are_still_written_in_place() -> None:
    def f(p: tj.Tensor, g: tj.Tensor) -> tuple[tj.Tensor, ...]:
        first, second = p.sum(0), (p * p).sum(0)
        p.sub_(g * 0.5)
        return first, second, p.sum(0), (p * p).sum(0)

    c = tj.compile(f)
    g = operand(300, 200)
    p, q = g + 1, g + 1
    for _ in range(5):
        assert [x.numpy().tobytes() for x in c(p, g)] == [x.numpy().tobytes() for x in f(q, g)]
        assert p.numpy().tobytes() == q.numpy().tobytes()
    infos = region_of(c).executables()[0][1].compiled.groups
    assert [i.kind for i in infos].count("column") <= 2


def test_gradients_of_a_layer_norm_are_one_pass() -> None:
    norm = tj.nn.LayerNorm(128)

    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        (norm(x) @ w).tanh().sum().backward()
        found = tuple(p.grad for p in norm.parameters())
        for p in norm.parameters():
            p.grad = None
        return found  # type: ignore[return-value]

    columns = [ops for kind, ops in groups(f, operand(768, 128), operand(128, 128)) if kind == "column"]
    assert [ops.count("sum") for ops in columns] == [2]


def test_loops_over_the_same_are_one() -> None:
    assert groups(lambda a: (a.relu(), a * 2), operand(300, 200)) == [("loop", ("mul", "relu"))]


def test_a_loop_goes_along_with_the_rows_of_another() -> None:
    assert groups(lambda a, b: ((a + b).relu(), a * 2), operand(300, 200), operand(200)) == [
        ("loop", ("add", "mul", "relu"))
    ]


def test_islands_become_siblings_as_their_values_do() -> None:
    def f(a: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * a + a).relu(), (a * 2 - 1).abs()

    a = operand(300, 200)
    assert groups(f, a) == [("loop", ("abs", "add", "mul", "mul", "relu", "sub"))]


def test_loops_with_elementary_functions_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a.tanh(), a.exp(), a * 2), operand(300, 200))
    assert [(kind, ops) for kind, ops, _ in found] == [("loop", ("tanh",)), ("loop", ("exp", "mul"))]
    assert found[1][2] == (
        "input -> exp: tanh reads it too, but each of them is busy with elementary functions, which want all registers",
    )


def test_loops_along_and_across_rows_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a + a.T, a * 2), operand(300, 300))
    assert [ops for _, ops, _ in found] == [("add",), ("mul",)]
    assert found[1][2] == (
        "input -> mul: add reads it too, but the one goes through memory in one loop, the other in several",
    )


def test_results_written_in_place_and_others_of_the_same_are_one_loop() -> None:
    def f(p: tj.Tensor, g: tj.Tensor) -> tuple[tj.Tensor, ...]:
        p.sub_(g * 0.5 + p * 0.1)
        return ((g * g + 1).abs(),)

    c = tj.compile(f)
    g = operand(300, 200)
    p, q = g + 1, g + 1
    for _ in range(5):
        assert c(p, g)[0].numpy().tobytes() == f(q, g)[0].numpy().tobytes()
        assert p.numpy().tobytes() == q.numpy().tobytes()
    infos = region_of(c).executables()[0][1].compiled.groups
    assert [i.kind for i in infos] == ["loop"]


class RandomSiblings:
    """Chains over the same few arrays, some of them folded, some written over what they read."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        rows, columns = rng.choice([(6, 40), (40, 6), (17, 33), (3, 300), (2, 5000), (300, 4)])
        shapes = [(rows, columns)] * rng.choice([1, 2, 3]) + rng.sample([(columns,), (rows, 1)], rng.choice([0, 1]))
        kind = rng.choice(["float32", "float32", "float32", "float64", "bfloat16", "int32"])
        layouts = ["contiguous"] * 3 + ["transposed"]
        self.arrays = [random_array(rng, shape, kind, rng.choice(layouts)) for shape in shapes]
        self.inputs = [input_of(k, a) for k, a in enumerate(self.arrays)]
        self.pool = list(self.inputs)
        if rng.random() < 0.3:
            # Some siblings can begin later than others.
            folded = make("amax", self.inputs[0], dim=rng.choice([0, 1]))
            self.pool.append(make("reshape", folded, shape=(1, columns) if folded.shape == (columns,) else (rows, 1)))
        outputs = [self._chain() for _ in range(rng.randint(2, 6))]
        homes: dict[int, int] = {}
        for o, node in enumerate(outputs):
            fits = [k for k, i in enumerate(self.inputs) if (i.aval, i.attrs[1]) == (node.aval, None)]
            fits = [k for k in fits if k not in homes.values()]
            if fits and rng.random() < 0.3:
                homes[o] = rng.choice(fits)
        self.graph = Graph(tuple(self.inputs), (), tuple(outputs), homes)

    def _chain(self) -> Node:
        rng = self.rng
        x = make("add", self.inputs[0], rng.choice(self.pool))
        for _ in range(rng.randint(0, 4)):
            other = rng.choice([x, *self.pool])
            x = make(rng.choice(["mul", "sub", "maximum"]), x, other) if rng.random() < 0.6 else make("abs", x)
        if rng.random() < 0.2:
            x = make("permute", x, dims=(1, 0))
        if rng.random() < 0.6:
            x = make(rng.choice(["sum", "amax"]), x, dim=rng.choice([0, 1]))
        return x


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The kinds of groups that become one, of whatever size."""
    monkeypatch.setattr(cost, "is_read_once", lambda nbytes, row: True)
    found: list[tuple[str, str]] = []
    merge = Siblings._merge
    monkeypatch.setattr(Siblings, "_merge", lambda self, a, b: found.append((a.kind, b.kind)) or merge(self, a, b))
    return found


@np.errstate(all="ignore")
def test_random_siblings_have_the_bits_of_their_operations(merges: list[tuple[str, str]]) -> None:
    for seed in range(150):
        made = RandomSiblings(seed)
        # Its program may be found on disk, its plan is not.
        make_plan(made.graph, plan_call)
        programs.check(made.graph, made.arrays)
    assert {(kind, kind) for kind in ("loop", "row", "column", "strip", "blocks")} == set(merges)


@np.errstate(all="ignore")
def test_random_siblings_on_a_gpu_have_the_bits_of_their_operations(merges: list[tuple[str, str]]) -> None:
    for seed in range(1000, 1025):
        made = RandomSiblings(seed)
        running.check(made.graph, made.arrays)
    assert len(merges) > 5


def groups_in(plan: Plan) -> list[tuple[int, str, list[str]]]:
    """The stage, kind and operations of each group of a plan."""
    return [(plan.stage[g], g.kind, [v.name for v in plan.unfolded(g).members]) for g in plan.groups]


def test_random_siblings_need_no_more_stages(
    merges: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(300):
        graph = RandomSiblings(seed).graph
        merges.clear()
        plan = make_plan(graph, plan_call)
        fewer = len(merges)
        with monkeypatch.context() as patch:
            patch.setattr(cost, "is_read_once", lambda nbytes, row: False)
            apart = make_plan(graph, plan_call)
        assert len(plan.groups) == len(apart.groups) - fewer
        assert plan.stages <= apart.stages
        # Islands stay apart from strips that read their operands back.
        plan = make_plan(graph, plan_call, strips=False)
        with monkeypatch.context() as patch:
            patch.setattr(islands, "_FEWEST", 1 << 30)
            assert groups_in(make_plan(graph, plan_call, strips=False)) == groups_in(plan)


def test_siblings_are_parted_as_one_group(merges: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Parting | None, Parting | None]] = []

    def noted(before: Mapping[Group, set[Group]], *rest: Any, **more: Any) -> Order:
        asked.extend((rest[2][group], parting(group)) for group in before)
        return order(before, *rest, **more)

    monkeypatch.setattr(plans, "order", noted)
    for seed in range(300):
        make_plan(RandomSiblings(seed).graph, plan_call)
    assert len(merges) > 50
    assert any(found is not None for found, _ in asked)
    assert all(found == expected for found, expected in asked)
