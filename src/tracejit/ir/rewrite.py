"""Rebuilding a graph from its leaves up, with what is beside it carried along."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tracejit.ir.graph import Graph, topological
from tracejit.ir.node import Node, as_one, item, remake
from tracejit.ops.record import Op

# More steps at one node than any chain of rules needs: two rules undo each other.
_LIMIT = 100


class Settling:
    """Applies a step to nodes again and again until it gives None; `known` are nodes for which it does."""

    def __init__(self, step: Callable[[Node], Node | None], known: set[Node]) -> None:
        self._step, self._known = step, known

    def at(self, node: Node) -> Node:
        """What becomes of a node whose operands are at rest.

        Raises: RuntimeError if it never comes to rest.
        """
        if node in self._known:
            return node
        better = self._step(node)
        if better is not None:
            return self._settle(better, _LIMIT)
        self._known.add(node)
        return node

    def through(self, node: Node) -> Node:
        """What becomes of a node whose operands may be new, too.

        Raises: RuntimeError if it never comes to rest.
        """
        return node if node in self._known else self._settle(node, _LIMIT)

    def _settle(self, node: Node, left: int) -> Node:
        if not left:
            raise RuntimeError(f"rewriting {node!r} does not come to an end")
        args = tuple([a if a in self._known else self._settle(a, left - 1) for a in node.args])
        new = node if args == node.args else remake(node, args)
        better = None if new in self._known else self._step(new)
        if better is not None:
            return self._settle(better, left - 1)
        self._known.add(new)
        return new


Turn = Callable[[Node, Callable[[Node], Node]], Node]
"""What a node becomes, told what it has become so far, and what brings a node to rest."""


def rewrite(
    graph: Graph,
    step: Callable[[Node], Node | None],
    rest: set[Node] | None = None,
    turns: Mapping[Node, Turn] | None = None,
) -> Graph:
    """The graph with `step` applied to each node, operands first, again and again until it gives None; before that with
    each of `turns` applied once to what has become of its node.

    Source lines and labels go over to what replaces a node. `rest` holds nodes for which `step` gives None, and those
    that are found are entered.

    Raises: RuntimeError if a node never comes to rest.
    """
    known: set[Node] = set() if rest is None else rest
    turns = {} if turns is None else turns
    if not turns and known.issuperset(graph.nodes()):
        return graph
    settling = Settling(step, known)
    moved: dict[Node, Node] = {}
    for node in graph.nodes():
        new = node
        if moved and not moved.keys().isdisjoint(node.args):
            new = remake(node, tuple([moved.get(a, a) for a in node.args]))
        if node in turns:
            new = as_one(settling.through(turns[node](new, settling.through)), node)
        elif new not in known:
            new = settling.at(new)
        if new is not node:
            moved[node] = new
    return _replaced(graph, moved)


def rewrite_at(graph: Graph, nodes: Collection[Node], step: Callable[[Node], Node]) -> Graph:
    """The graph with `step` applied once to what has become of some of its nodes, whose operands may be new by then."""
    moved: dict[Node, Node] = {}
    for node in graph.nodes() if nodes else ():
        new = node
        if moved and not moved.keys().isdisjoint(node.args):
            new = remake(node, tuple([moved.get(a, a) for a in node.args]))
        if node in nodes:
            new = as_one(step(new), node)
        if new is not node:
            moved[node] = new
    return _replaced(graph, moved)


def rewrite_together(graph: Graph, groups: Sequence[tuple[Node, ...]], step: Callable[..., Node]) -> Graph:
    """The graph with each of some groups of nodes replaced by the results, in their order, of one node, which `step`
    makes of what has become of them; the graph itself if one of a group would need another's result.
    """
    leader = {node: group[0] for group in groups for node in group}
    members = {group[0]: group for group in groups}
    before: dict[Node, set[Node]] = {}
    for node in graph.nodes():
        before.setdefault(leader.get(node, node), set()).update([leader.get(a, a) for a in node.args])
    after: dict[Node, list[Node]] = {}
    for one, needed in before.items():
        for other in needed:
            after.setdefault(other, []).append(one)
    left = {one: len(needed) for one, needed in before.items()}
    ready = [one for one, count in left.items() if not count]
    for one in ready:
        for later in after.get(one, ()):
            left[later] -= 1
            if not left[later]:
                ready.append(later)
    if len(ready) < len(left):
        return graph
    moved: dict[Node, Node] = {}
    for one in ready:
        group = members.get(one, (one,))
        new = [
            node if moved.keys().isdisjoint(node.args) else remake(node, tuple([moved.get(a, a) for a in node.args]))
            for node in group
        ]
        if one in members:
            whole = step(*new)
            new = [item(whole, k) for k in range(len(group))]
        moved.update((node, other) for node, other in zip(group, new, strict=True) if node is not other)
    return _replaced(graph, moved)


def _replaced(graph: Graph, moved: dict[Node, Node]) -> Graph:
    """The graph with some of its nodes replaced, and all that read them."""
    if not moved:
        return graph
    roots = tuple(moved.get(o, o) for o in graph.roots)
    if roots == graph.roots:
        return graph
    lines, labels = (_Carried(beside, graph, moved, roots) for beside in (graph.lines, graph.labels))
    many = len(graph.outputs)
    return replace(graph, outputs=roots[:many], checks=roots[many:], lines=lines, labels=labels)


class _Carried(Mapping[Node, str]):
    """What is beside a graph when some of its nodes were `moved`; worked out when somebody asks."""

    def __init__(
        self, beside: Mapping[Node, str], graph: Graph, moved: dict[Node, Node], roots: tuple[Node, ...]
    ) -> None:
        self._origin = beside, graph.nodes(), moved, (*roots, *graph.inputs)

    @cached_property
    def _marks(self) -> dict[Node, str]:
        beside, nodes, moved, roots = self._origin
        marks = {node: text for node, text in beside.items() if node not in moved}
        settled = {node for node in nodes if node not in moved}
        for node, new in moved.items():
            if node in beside:
                _mark(new, beside[node], marks, settled)
            settled.add(new)
        left = set(topological(roots))
        del self._origin
        return {node: text for node, text in marks.items() if node in left}

    def __getitem__(self, node: Node) -> str:
        return self._marks[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)


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
