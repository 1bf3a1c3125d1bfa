"""The pass that breaks a graph is found by interpreting every stage."""

from __future__ import annotations

import numpy as np

from tests.ir.random_graphs import random_graph, random_inputs
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.eager import run_op
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, input
from tracejit.ir.rewrite import rewrite
from tracejit.ops.record import ops
from tracejit.passes import PASSES, run_passes
from tracejit.passes.bisect import first_difference


def adds_zero(graph: Graph, soundness: str) -> Graph:
    """A pass that is wrong at -0.0 alone."""
    return rewrite(graph, lambda n: apply(ops.add, n.args[0], 0.0) if n.op is ops.neg else None)


def test_sound_passes_show_no_difference() -> None:
    graph = random_graph(3)
    _, report = run_passes(graph)
    assert first_difference(graph, report, random_inputs(graph, 3), [0.5, 2], run_op) is None


def test_the_wrong_pass_and_element_are_named() -> None:
    x = input(0, Aval((3,), dtypes.float32))
    exp: Node = apply(ops.exp, x)
    graph = Graph((x,), (), (exp, apply(ops.neg, apply(ops.neg, apply(ops.mul, x, 1)))))
    _, report = run_passes(graph, passes=(adds_zero, PASSES[0]))
    found = first_difference(graph, report, [np.float32([1, -0.0, 2])])
    assert found is not None
    assert (found.name, found.output, found.place) == ("adds_zero", 1, (1,))
    assert np.signbit(found.before)
    assert not np.signbit(found.after)
    assert first_difference(graph, report, [np.float32([1, 2, 3])]) is None
