"""Which pass broke it: every stage runs in the interpreter, and the first that differs is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tracejit.dtypes import from_numpy
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import Runner, interpret, oracle
from tracejit.passes.pipeline import Report


class Difference(NamedTuple):
    """Where a stage first differs from the graph that the passes began with."""

    run: int
    name: str
    output: int
    place: tuple[int, ...]
    before: Any
    after: Any


def first_difference(
    graph: Graph, report: Report, inputs: Sequence[Any], scalars: Sequence[Any] = (), run: Runner = oracle
) -> Difference | None:
    """The first run of a pass whose graph computes other bits than `graph`; None if all compute the same.

    NaN equals NaN, whatever its payload. Only graphs that passes keep every bit of can be told apart this way.
    Cost: one interpretation of each stage.
    """
    expected = interpret(graph, inputs, scalars, run)
    for at, (one, stage) in enumerate(zip(report.runs, report.stages, strict=True)):
        if at and stage is report.stages[at - 1]:
            continue
        for k, (a, b) in enumerate(zip(expected, interpret(stage, inputs, scalars, run), strict=True)):
            wrong = np.argwhere(differs(a, b))
            if len(wrong):
                place = tuple(int(i) for i in wrong[0])
                return Difference(at, one.name, k, place, a[place], b[place])
    return None


def differs(a: Any, b: Any) -> Any:
    """Where two arrays of one type differ in their bits; NaN equals NaN, whatever its payload."""
    if not from_numpy(a.dtype).is_floating_point:
        return a != b
    return ~((a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b)))
