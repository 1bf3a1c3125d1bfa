"""Rebuilding a graph from its leaves up, with what is beside it carried along."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from tracejit.ir.graph import Graph, topological
from tracejit.ir.node import ITEM, Node, item, make
from tracejit.ops.record import Op

# More steps at one node than any chain of rules needs: two rules undo each other.
_LIMIT = 100


def rewrite(graph: Graph, step: Callable[[Node], Node | None]) -> Graph:
    """The graph with `step` applied to each node, operands first, again and again until it gives None.

    Source lines and labels go over to what replaces a node.

    Raises: RuntimeError if a node never comes to rest.
    """

    def settle(old: Node, new: Node) -> Node:
        for _ in range(_LIMIT):
            better = step(new)
            if better is None:
                return new
            new = better
        raise RuntimeError(f"rewriting {old!r} does not come to an end")

    return _rebuild(graph, settle)


def rewrite_at(graph: Graph, nodes: Collection[Node], step: Callable[[Node], Node]) -> Graph:
    """The graph with `step` applied once to what has become of some of its nodes, whose operands may be new by then."""
    return _rebuild(graph, lambda old, new: step(new) if old in nodes else new)


def _rebuild(graph: Graph, replacement: Callable[[Node, Node], Node]) -> Graph:
    """The graph with each node, given its new operands, replaced."""
    done: dict[Node, Node] = {}
    settled: set[Node] = set()
    lines: dict[Node, str] = {}
    labels: dict[Node, str] = {}
    for node in graph.nodes():
        new = replacement(node, _with_args(node, tuple(done[a] for a in node.args)))
        done[node] = new
        for beside, result in ((graph.lines, lines), (graph.labels, labels)):
            if node in beside:
                _mark(new, beside[node], result, settled)
        settled.add(new)
    outputs = tuple(done[o] for o in graph.outputs)
    if outputs == graph.outputs:
        return graph
    kept = {*topological(outputs), *graph.inputs}
    for k in graph.inputs:
        for beside, result in ((graph.lines, lines), (graph.labels, labels)):
            if k in beside:
                result[k] = beside[k]
    return replace(
        graph,
        outputs=outputs,
        lines={n: text for n, text in lines.items() if n in kept},
        labels={n: text for n, text in labels.items() if n in kept},
    )


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
