"""Rebuilding a graph from its leaves up, with what is beside it carried along."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from tracejit.ir.graph import Graph
from tracejit.ir.node import ITEM, Node, item, make
from tracejit.ops.record import Op

# More steps at one node than any chain of rules needs: two rules undo each other.
_LIMIT = 100


def rewrite(graph: Graph, step: Callable[[Node], Node | None], rest: set[Node] | None = None) -> Graph:
    """The graph with `step` applied to each node, operands first, again and again until it gives None.

    Source lines and labels go over to what replaces a node. `rest` holds nodes for which `step` gives None, and those
    that are found are entered.

    Raises: RuntimeError if a node never comes to rest.
    """
    known: set[Node] = set() if rest is None else rest

    def settle(old: Node, new: Node) -> Node:
        for _ in range(_LIMIT):
            if new in known:
                return new
            better = step(new)
            if better is None:
                known.add(new)
                return new
            new = better
        raise RuntimeError(f"rewriting {old!r} does not come to an end")

    return _rebuild(graph, settle)


def rewrite_at(graph: Graph, nodes: Collection[Node], step: Callable[[Node], Node]) -> Graph:
    """The graph with `step` applied once to what has become of some of its nodes, whose operands may be new by then."""
    return _rebuild(graph, lambda old, new: step(new) if old in nodes else new) if nodes else graph


def _rebuild(graph: Graph, replacement: Callable[[Node, Node], Node]) -> Graph:
    """The graph with each node, given its new operands, replaced."""
    moved: dict[Node, Node] = {}
    for node in graph.nodes():
        kept = node
        if moved and not moved.keys().isdisjoint(node.args):
            kept = _with_args(node, tuple(moved.get(a, a) for a in node.args))
        new = replacement(node, kept)
        if new is not node:
            moved[node] = new
    outputs = tuple(moved.get(o, o) for o in graph.outputs)
    if outputs == graph.outputs:
        return graph
    better = replace(graph, outputs=outputs, lines={}, labels={})
    left = {*better.nodes(), *graph.inputs}
    standing = {node for node in graph.nodes() if node not in moved}
    for beside, carried in ((graph.lines, better.lines), (graph.labels, better.labels)):
        marks = _carried(beside, moved, standing)
        carried.update({node: text for node, text in marks.items() if node in left})
    return better


def _carried(beside: dict[Node, str], moved: dict[Node, Node], standing: set[Node]) -> dict[Node, str]:
    """What is beside a graph when some of its nodes were replaced and the others are `standing`."""
    marks = {node: text for node, text in beside.items() if node not in moved}
    settled = set(standing)
    for node, new in moved.items():
        if node in beside:
            _mark(new, beside[node], marks, settled)
        settled.add(new)
    return marks


def _with_args(node: Node, args: tuple[Node, ...]) -> Node:
    if args == node.args:
        return node
    if isinstance(node.op, Op):
        return make(node.op, args, node.attrs)
    if node.op == ITEM:
        return item(args[0], node.attrs[0])
    raise TypeError(f"a node of kind '{node.op}' has no operands")


def _mark(node: Node, text: str, marks: dict[Node, str], settled: set[Node]) -> None:
    """Give `text` to a node and to the new ones below it, down to those that stood before."""
    if node.is_number or node in marks:
        return
    marks[node] = text
    stack = [node] if node not in settled else []
    while stack:
        for n in stack.pop().args:
            if isinstance(n.op, Op) and n not in marks and n not in settled:
                marks[n] = text
                stack.append(n)
