"""The passes in their order, and what runs, times and checks them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tracejit import config
from tracejit.ir.check import check as check_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, make, make_as
from tracejit.ir.pattern import EXACT, Rule, RuleSet
from tracejit.ir.rewrite import Settling, rewrite
from tracejit.ops.record import Op
from tracejit.passes import dynamic, operands, parts, simplify, views
from tracejit.passes.products import join_products
from tracejit.passes.slices import slice_operands

Pass = Callable[[Graph, str], Graph]

# Rounds over all passes: one opens the way for another, and the last round finds nothing to do.
_ROUNDS = 8


_FEW = 3
"""Operands of a node up to which the steps that may change it are noted down by their operations."""


class _Step:
    """What is tried with a node: the first step that changes it counts."""

    def __init__(self, soundness: str, *rules: tuple[Rule, ...]) -> None:
        self._rules = [RuleSet(some, soundness) for some in rules]
        self._fitting: dict[tuple[Op | str, ...], list[Callable[[Node], Node | None]]] = {}

    def _find(self, around: tuple[Op | str, ...]) -> list[Callable[[Node], Node | None]]:
        return operands.fitting(around) + [rule.apply for rules in self._rules for rule in rules.fitting(around)]

    def fitting(self, node: Node) -> list[Callable[[Node], Node | None]]:
        """What may change a node of this operation on operands of such operations."""
        around = (node.op, *[a.op for a in node.args])
        steps = self._fitting.get(around)
        if steps is None:
            steps = self._find(around)
            if len(node.args) <= _FEW:
                self._fitting[around] = steps
        return steps

    def __call__(self, node: Node) -> Node | None:
        for step in self.fitting(node):
            new = step(node)
            if new is not None:
                return new
        return None


_made = functools.cache(_Step)


def _step(soundness: str) -> _Step:
    return _made(soundness, dynamic.RULES, views.RULES, parts.RULES, simplify.RULES)


def simplified(graph: Graph, soundness: str) -> Graph:
    """Operands in their plainest form, numbers alone computed; chains of views one view, views that move nothing gone;
    algebra, as far as `soundness` allows. All at once, since each node that changes changes all that follow from it.
    """
    return rewrite(graph, _step(soundness), graph.rest.setdefault(soundness, set()))


class Making:
    """Makes nodes as `simplified` leaves them, so that none has to be made anew when what it reads changes.

    What becomes of a node depends on nothing but what it is computed from, so it does not matter that no graph is there
    yet. `rest` is for the graph of such nodes, on which the pass then finds nothing to do.
    """

    def __init__(self) -> None:
        self._settled: set[Node] = set()
        self.rest = {EXACT: self._settled}
        self._step = _step(EXACT)
        self._settling = Settling(self._step, self._settled)
        self._known: dict[tuple[Any, ...], tuple[Any, bool]] = {}

    def make(self, op: Op, args: tuple[Node, ...], attrs: tuple[Any, ...]) -> Node:
        """As `ir.node.make`; operands must have been made here, too."""
        # Layers are alike. A record's typing rule is told types of tensors, numbers and attributes; which steps are
        # tried follows from the operations. Whether one of them changes a node is asked of each.
        alike: list[Any] = [op, attrs]
        for a in args:
            alike += (a,) if a.aval is None else (a.op, a.aval)
        key = tuple(alike)
        found = self._known.get(key)
        if found is None:
            node = make(op, args, attrs)
            found = self._known[key] = node.aval, bool(self._step.fitting(node))
        else:
            node = make_as(op, args, attrs, found[0])
        if found[1]:
            return self._settling.at(node)
        self._settled.add(node)
        return node


def restructured(graph: Graph, soundness: str) -> Graph:
    """Work in other pieces: slices of operands for those of results, one product for those of all steps.

    All at once, and in its simplest form, since in a loop over steps whatever changes one changes all that follow.
    """
    while turns := join_products(graph) | slice_operands(graph):
        graph = rewrite(graph, _step(soundness), graph.rest.setdefault(soundness, set()), turns)
    return graph


PASSES: tuple[Pass, ...] = (simplified, restructured)


@dataclass(frozen=True)
class PassRun:
    """One run of one pass."""

    name: str
    seconds: float
    before: int
    after: int


@dataclass(frozen=True)
class Report:
    """What the passes did, in the order in which they ran; `stages` are the graphs after each run."""

    runs: tuple[PassRun, ...]
    stages: tuple[Graph, ...]

    def __str__(self) -> str:
        return "\n".join(
            f"{r.name:<16} {r.before:>6} -> {r.after:>6} nodes {r.seconds * 1e3:8.2f} ms" for r in self.runs
        )


def run_passes(
    graph: Graph, *, soundness: str = EXACT, check: bool | None = None, passes: tuple[Pass, ...] = PASSES
) -> tuple[Graph, Report]:
    """The graph after all passes, repeated until they change nothing, and the report.

    A pass has nothing left to do on the graph that it gave: it is not run on it again. What looks at values is a root
    meanwhile, so that it is a check of the graph if a pass finds that nobody needs its result.

    With `check`, by default the setting TRACEJIT_CHECK, the graph is checked before and after each pass.

    Raises: GraphError naming the pass whose graph is wrong.
    """
    checking = config.SETTINGS.check if check is None else check
    if checking:
        check_graph(graph)
    looking = [node for node in graph.nodes() if isinstance(node.op, Op) and node.op.looks_at]
    if looking:
        graph = replace(graph, checks=tuple(looking))
    runs: list[PassRun] = []
    stages: list[Graph] = []
    nodes = len(graph.nodes())
    rest: dict[Pass, Graph] = {}
    for _ in range(_ROUNDS):
        start_of_round = graph
        for one in passes:
            if rest.get(one) is graph:
                continue
            began = time.perf_counter()
            after = one(graph, soundness)
            seconds = time.perf_counter() - began
            count = nodes if after is graph else len(after.nodes())
            runs.append(PassRun(one.__name__, seconds, nodes, count))
            if checking and after is not graph:
                check_graph(after, f"after {one.__name__}: ")
            graph, nodes = after, count
            rest[one] = graph
            stages.append(graph)
        if graph is start_of_round:
            break
    if looking:
        graph = graph.checking(graph.checks)
    graph.rest.clear()
    report = Report(tuple(runs), tuple(stages))
    config.logger("passes").debug("graph %s\n%s", graph.name, report)
    return graph, report
