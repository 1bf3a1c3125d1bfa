"""Sums of columns that are read back where they are made: the same bits, in one kernel, and why not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.programs import check, graph_of, make, random_array
from tracejit.codegen.library import plan_call
from tracejit.compiler import plan_graph
from tracejit.ir.node import Node
from tracejit.schedule.plan import launches_of, make_plan

KINDS = ["float32", "float64", "bfloat16", "float16", "int64"]


def drawn(*shape: int, kind: str = "float32", layout: str = "contiguous") -> np.ndarray:
    return random_array(random.Random(str((shape, kind, layout))), shape, kind, layout)


def normed(x: Node, weight: Node) -> tuple[Node, ...]:
    """Columns about their mean, by their deviation; with what was found on the way."""
    n = x.shape[0]
    mean = make("div", make("sum", x, dim=0), n)
    low = make("sub", x, mean)
    variance = make("div", make("sum", make("mul", low, low), dim=0), n)
    scale = make("mul", make("div", 1.0, make("sqrt", make("add", variance, 0.25))), weight)
    return make("mul", low, scale), mean, scale


def kinds_of(compiled: Any) -> list[str]:
    return [group.kind for group in compiled.groups]


@pytest.mark.parametrize("shape", [(2, 2), (3, 63), (7, 64), (5, 65), (256, 16), (33, 130), (2, 1000)], ids=str)
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_columns_are_normed_by_one_kernel(shape: tuple[int, int], kind: str) -> None:
    arrays = [drawn(*shape, kind=kind), drawn(shape[1], kind=kind)]
    assert kinds_of(check(graph_of(normed, *arrays), arrays)) == ["strip"]


@pytest.mark.parametrize("layout", ["transposed", "sliced", "reversed", "broadcast"])
@pytest.mark.parametrize("shape", [(6, 70), (40, 9)], ids=str)
def test_operands_of_any_layout(layout: str, shape: tuple[int, int]) -> None:
    arrays = [drawn(*shape, layout=layout), drawn(shape[1], layout="reversed")]
    compiled = check(graph_of(normed, *arrays), arrays)
    assert "strip" in kinds_of(compiled)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e-40])
def test_special_values(special: float) -> None:
    x = drawn(9, 70)
    x[3, 5] = x[8, 69] = special
    x[:, 11] = special
    arrays = [x, drawn(70)]
    with np.errstate(all="ignore"):
        check(graph_of(normed, *arrays), arrays)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fold", ["sum", "amax", "amin", "prod"])
def test_every_fold(kind: str, fold: str) -> None:
    def f(x: Node) -> tuple[Node, ...]:
        found = make(fold, x, dim=0)
        return make("sub", x, found), make("mul", found, found)

    x = drawn(6, 35, kind=kind)
    assert kinds_of(check(graph_of(f, x), [x])) == ["strip"]


@pytest.mark.parametrize("rows", [257, 600])
def test_columns_of_more_rows_than_a_block_are_put_together_by_a_kernel_of_their_own(rows: int) -> None:
    arrays = [drawn(rows, 20), drawn(20)]
    compiled = check(graph_of(normed, *arrays), arrays)
    assert "strip" not in kinds_of(compiled)
    assert "column" in kinds_of(compiled)


def test_columns_that_nobody_reads_back_are_as_they_were() -> None:
    def f(x: Node) -> tuple[Node, ...]:
        return make("exp", x), make("mul", make("sum", x, dim=0), 2.0)

    x = drawn(30, 50)
    assert "strip" not in kinds_of(check(graph_of(f, x), [x]))


def test_what_is_written_over_is_read_before() -> None:
    """A running mean is moved where it is, though a later visit reads what it was."""

    def f(x: Node, running: Node) -> tuple[Node, ...]:
        mean = make("div", make("sum", x, dim=0), x.shape[0])
        moved = make("add", make("mul", running, 0.9), make("mul", mean, 0.1))
        low = make("sub", x, mean)
        spread = make("sum", make("mul", low, make("sub", x, running)), dim=0)
        return make("mul", low, make("add", spread, running)), moved

    arrays = [drawn(12, 70), drawn(70)]
    compiled = check(graph_of(f, *arrays, homes={1: 1}), arrays)
    assert kinds_of(compiled) == ["strip"]


def test_rows_of_a_matrix_that_changes_are_copied_at_the_end() -> None:
    def f(x: Node) -> tuple[Node, ...]:
        low = make("sub", x, make("sum", x, dim=0))
        return (make("mul", low, make("sum", make("mul", low, x), dim=0)),)

    x = drawn(12, 70)
    assert kinds_of(check(graph_of(f, x, homes={0: 0}), [x])) == ["strip", "loop"]


def test_images_of_a_batch() -> None:
    """Means of images come to one for each channel, in one kernel; with it what is made of several such sums."""

    def f(x: Node, y: Node, running: Node) -> tuple[Node, ...]:
        rows, others = (make("sum", make("mul", t, t), dim=2) for t in (x, y))
        total, other = make("sum", rows, dim=0), make("sum", others, dim=0)
        low = make("sub", rows, make("div", total, x.shape[0]))
        ratio = make("div", make("add", total, make("sum", make("mul", low, low), dim=0)), other)
        return make("mul", x, make("reshape", ratio, shape=(x.shape[1], 1))), make("add", running, ratio)

    for shape in ((4, 6, 40), (2, 70, 49), (9, 3, 100)):
        arrays = [drawn(*shape), drawn(*shape), drawn(shape[1])]
        compiled = check(graph_of(f, *arrays, homes={1: 2}), arrays)
        assert sorted(kinds_of(compiled)) == ["loop", "row", "row", "strip"], shape


def test_what_is_dear_is_not_computed_in_each_visit() -> None:
    def f(x: Node) -> Node:
        e = make("exp", make("sub", x, make("amax", x, dim=0)))
        return make("div", make("tanh", e), make("sum", make("tanh", e), dim=0))

    x = drawn(20, 40)
    compiled = check(graph_of(f, x), [x])
    assert len(compiled.groups) > 1
    cuts = [cut for group in compiled.groups for cut in group.cuts]
    assert any("it would be computed again in each visit of a strip" in cut for cut in cuts)


def test_groups_of_other_devices_and_open_sizes_have_none() -> None:
    graph = graph_of(normed, drawn(8, 40), drawn(40))
    assert [(g.kind, launches_of(g)) for g in make_plan(graph, plan_call).groups] == [("strip", 1)]
    for plan in (make_plan(graph, plan_call, strips=False), plan_graph(graph, plan_call, strands=False).plan):
        assert "strip" not in [group.kind for group in plan.groups]
