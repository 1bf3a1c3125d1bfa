"""The passes together: the same bits, fewer nodes, a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.ir.random_graphs import random_graph, random_inputs
from tests.ops.text_runner import run_text
from tests.updates import RandomUpdates
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.check import GraphError
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import interpret, oracle
from tracejit.ir.node import Node, apply, input, item, scalar
from tracejit.ir.pattern import EXACT, FAST
from tracejit.ir.text import parse_graph, print_graph
from tracejit.ops.record import Op, ops
from tracejit.passes import PASSES, Making, run_passes

F32 = dtypes.float32


def one_nan(x: Any) -> Any:
    return np.where(np.isnan(x), np.array(np.nan, x.dtype), x) if x.dtype.kind == "f" else x


def outputs_of(text: str) -> tuple[str, ...]:
    """The body that passes leave of a graph, for graphs small enough to read."""
    graph, _ = run_passes(parse_graph(text), check=True)
    return tuple(line.split("  #")[0].strip() for line in print_graph(graph).splitlines()[1:])


@pytest.mark.parametrize("seed", range(150))
def test_passes_keep_every_bit(seed: int) -> None:
    graph = random_graph(seed)
    after, report = run_passes(graph, check=True)
    for given in (random_inputs(graph, seed), random_inputs(graph, seed + 1)):
        for stage in (*report.stages, after):
            for run in (oracle, run_text):
                before, now = (interpret(g, given, [0.75, 3], run) for g in (graph, stage))
                for b, n in zip(before, now, strict=True):
                    assert one_nan(b).tobytes() == one_nan(n).tobytes()
    assert after.homes == graph.homes
    assert after.inputs == graph.inputs


def made(graph: Graph) -> Graph:
    """A graph whose nodes are made once more, each in its simplest form."""
    making, now = Making(), dict[Node, Node]()
    for node in graph.nodes():
        args = tuple([now[a] for a in node.args])
        if isinstance(node.op, Op):
            now[node] = making.make(node.op, args, node.attrs)
        else:
            now[node] = item(args[0], node.attrs[0]) if args else node
    outputs = tuple(now[o] for o in graph.outputs)
    return dataclasses.replace(graph, outputs=outputs, lines={}, labels={}, rest=making.rest)


@pytest.mark.parametrize("kind", [random_graph, lambda seed: RandomUpdates(seed).graph])
@pytest.mark.parametrize("seed", range(150))
def test_what_is_made_in_its_simplest_form_is_what_the_first_pass_leaves(
    kind: Callable[[int], Graph], seed: int
) -> None:
    graph = kind(seed)
    (first, *_) = run_passes(graph, passes=PASSES[:1])[1].stages
    assert made(graph).outputs == first.outputs
    # There is nothing left to do, and nothing is tried.
    after = made(graph)
    tried = after.rest[EXACT].copy()
    assert tried.issuperset(node for node in after.nodes() if isinstance(node.op, Op))
    assert run_passes(after)[0].outputs == run_passes(graph)[0].outputs


@pytest.mark.parametrize("seed", range(20))
def test_a_second_run_finds_nothing(seed: int) -> None:
    after, _ = run_passes(random_graph(seed))
    assert run_passes(after)[0] is after


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("t = mul(full(1, shape=(2, 3), dtype=f32), x)\n    return t", "return x0"),
        ("t = mul(x, full(2, shape=(1, 3), dtype=f32))\n    return t", "t0 = mul(x0, 2.0)"),
        ("t = add(expand(x, shape=(2, 3)), y)\n    return t", "t0 = add(x0, x1)"),
        ("t = expand(y, shape=(2, 3))\n    u = sub(x, t)\n    return u", "t0 = sub(x0, x1)"),
        ("t = tanh(copy(x))\n    return t", "t0 = tanh(x0)"),
        ("t = copy(x)\n    return t", "return x0"),
        ("t = neg(div(mul(x, 0.2), 2))\n    return t", "t0 = mul(x0, 0.2)"),
        ("t = add(full(2, shape=(3,), dtype=f32), full(0.5, shape=(2, 1), dtype=f32))\n    return t",
         "t0 = full(2.5, shape=(2, 3), dtype=f32)"),
        ("t = permute(reshape(full(3, shape=(6,), dtype=i8), shape=(2, 3)), dims=(1, 0))\n    return t",
         "t0 = full(3, shape=(3, 2), dtype=i8)"),
        ("t = exp(full(1.0, shape=(2,), dtype=f32))\n    return t", "t0 = full(1.0, shape=(2,), dtype=f32)"),
        ("t = div(mul(2, x), 4)\n    return t", "t0 = mul(x0, 2.0)"),
        ("t = mul(x, full(s, shape=(2, 3), dtype=f32))\n    return t", "t0 = mul(x0, s0)"),
        ("t = add(y, full(1.0, shape=(2, 3), dtype=f32))\n    return t", "t0 = full(1.0, shape=(2, 3), dtype=f32)"),
    ],
)  # fmt: skip
def test_what_is_left(body: str, left: str) -> None:
    assert outputs_of(f"def g(x: f32[2, 3], y: f32[3], s: float):\n    {body}\n")[0] == left


def test_equal_nodes_are_computed_once() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), (), (apply(ops.add, apply(ops.mul, 2, x), apply(ops.mul, x, 2.0)),))
    after, _ = run_passes(graph)
    assert [n.name for n in after.nodes() if not n.is_number] == ["input", "mul", "add"]


def test_an_unchanged_home_keeps_its_place() -> None:
    x, y = (input(k, Aval((2,), F32)) for k in (0, 1))
    graph = Graph((x, y), (), (apply(ops.mul, x, 1), apply(ops.add, y, x)), {0: 0, 1: 1})
    after, _ = run_passes(graph)
    assert after.outputs[0] is x
    assert after.homes == {0: 0, 1: 1}
    assert after.unchanged == {0}


@pytest.mark.parametrize(
    ("body", "checks"),
    [
        ("t = take(x, i, dim=0)\n    u = slice(cat(t, x, dim=0), start=(2,), length=(4,), step=(1,))\n    return u",
         "check(take)"),
        ("t = take(x, reshape(reshape(i, shape=(2, 1)), shape=(2,)), dim=0)\n    check(t)\n    return x",
         "check(take)"),
        ("t = take(x, i, dim=0)\n    check(t)\n    return t", ""),
        ("t = take(x, i, dim=0)\n    u = slice(t, start=(0,), length=(0,), step=(1,))\n    return u", "check(take)"),
        ("t = take(x, slice(i, start=(0,), length=(0,), step=(1,)), dim=0)\n    check(t)\n    return x", ""),
    ],
)  # fmt: skip
def test_what_may_refuse_values_stays(body: str, checks: str) -> None:
    graph = parse_graph(f"def g(x: f32[4], i: i64[2]):\n    {body}\n")
    after, _ = run_passes(graph)
    assert (f"check({', '.join(n.name for n in after.checks)})" if after.checks else "") == checks
    assert all(n.args[1] is graph.inputs[1] for n in after.checks)


def test_lines_and_labels_go_over_to_replacements() -> None:
    x = input(0, Aval((2,), F32))
    y = apply(ops.exp, x)
    z = apply(ops.mul, apply(ops.add, y, apply(ops.neg, x)), 1)
    graph = Graph((x,), (), (z,), lines={y: "a.py:1", z: "a.py:2", x: "a.py:0"}, labels={z: "f", y: "g"})
    after, _ = run_passes(graph)
    new = apply(ops.sub, y, x)
    assert after.outputs == (new,)
    assert after.lines == {x: "a.py:0", y: "a.py:1", new: "a.py:2"}
    assert after.labels == {new: "f", y: "g"}


def test_other_levels_do_more() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), (), (apply(ops.sub, x, x),))
    assert run_passes(graph)[0] is graph
    assert run_passes(graph, soundness=FAST)[0].outputs[0].name == "full"


def test_the_report_counts() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), ("f",), (apply(ops.mul, apply(ops.add, x, scalar(0, "f")), 1),))
    _, report = run_passes(graph)
    assert [r.name for r in report.runs[: len(PASSES)]] == [p.__name__ for p in PASSES]
    assert report.runs[0].before == 5
    assert report.runs[-1].after == 3
    assert all(r.seconds >= 0 for r in report.runs)
    assert "5 ->" in str(report)


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), (), (apply(ops.exp, x),))

    def breaks(g: Graph, soundness: str) -> Graph:
        wrong = Node()
        wrong.op, wrong.args, wrong.attrs, wrong.aval = ops.exp, (x,), (), Aval((3,), F32)
        return dataclasses.replace(g, outputs=(wrong,))

    with pytest.raises(GraphError, match="after breaks: "):
        run_passes(graph, check=True, passes=(breaks,))
