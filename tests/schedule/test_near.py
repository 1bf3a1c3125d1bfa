"""Programs that the second caches hold: what each thread goes on with is what it made itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.programs import graph_of, make
from tracejit.codegen.library import panel_columns, plan_call
from tracejit.ir.node import Node
from tracejit.passes.pipeline import run_passes
from tracejit.schedule import cost
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.spaces import COLUMN, LOOP, Group

RNG = np.random.default_rng(3)
ROWS, WIDTH = 96, 128


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def turned(x: Node) -> Node:
    return make("permute", x, dims=(1, 0))


def backward(ct: Node, h: Node, x: Node, w: Node, v: Node, bias: Node) -> tuple[Node, ...]:
    """Two layers backwards: the updated weights and bias, and the gradient of what went into the first."""
    d = make("mul", make("neg", h), make("matmul", ct, turned(v)))
    after = make("tanh", make("matmul", d, turned(w)))

    def updated(old: Node, gradient: Node) -> Node:
        return make("sub", old, make("mul", gradient, 0.1))

    weight = updated(w, make("matmul", turned(x), d))
    other = updated(v, make("matmul", turned(h), ct))
    return weight, other, updated(bias, make("sum", d, dim=0)), after


def plan_of_backward() -> Plan:
    arrays = [floats(ROWS, WIDTH), floats(ROWS, WIDTH), floats(ROWS, WIDTH)]
    arrays += [floats(WIDTH, WIDTH), floats(WIDTH, WIDTH), floats(WIDTH)]
    graph = run_passes(graph_of(backward, *arrays, homes={0: 3, 1: 4, 2: 5}))[0]
    return make_plan(arrange_products(graph, panel_columns), plan_call)


def names(group: Group) -> list[str]:
    return [value.name for value in group.members]


def test_a_gradient_and_its_update_are_one_strand() -> None:
    plan = plan_of_backward()
    updates = [g for g in plan.groups if g.kind == LOOP and g.numel == WIDTH * WIDTH]
    assert len(updates) == 2
    for update in updates:
        (strand,) = [s for s in plan.strands if update in s.groups]
        (gradient,) = {r.source.call for v in update.members for r in v.reads if r.source.call is not None}
        (product,) = [g for g in plan.groups if gradient in g.members]
        assert product in strand.groups


def test_what_makes_rows_is_parted_from_sums_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of_backward()
    (columns,) = [g for g in plan.groups if g.kind == COLUMN]
    (rows,) = [g for g in plan.groups if "neg" in names(g)]
    assert names(columns) == ["sum"]
    # The gradient goes back through both layers by rows.
    (strand,) = [s for s in plan.strands if rows in s.groups]
    assert [names(g)[-1] for g in plan.groups if g in strand.groups] == ["matmul", "mul", "matmul", "tanh"]
    monkeypatch.setattr(cost, "NEAR_BYTES", (1, 0))
    (columns,) = [g for g in plan_of_backward().groups if g.kind == COLUMN]
    assert names(columns) == ["neg", "mul", "sum"]


def test_every_value_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def overlaps() -> int:
        places = [(b.offset, b.offset + b.nbytes) for b in plan_of_backward().arena]
        return sum(a < d and c < b for (a, b), (c, d) in itertools.combinations(places, 2))

    assert overlaps() == 0
    monkeypatch.setattr(cost, "NEAR_BYTES", (1, 0))
    assert overlaps() > 0
