"""The graph: what a program computes from its inputs, what it only looks at, and which outputs overwrite an input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from tracejit.aval import Aval
from tracejit.ir.node import INPUT, SCALAR, Node
from tracejit.ops.record import Op


@dataclass(frozen=True)
class Graph:
    """Outputs over inputs; every output has memory of its own, also if it is an input or another output.

    `inputs[k]` is the input node of index k (also those nothing uses). `scalars` are the kinds ("f"/"i") of the
    run-time numbers by index. `homes` says that output `o` is written into the memory of input `homes[o]` (same shape
    and type, contiguous), in place, when everything that reads the old value is done. `lines` and `labels` are
    beside the graph: a node's line in the user's source, and the name of the composite it came from. `rest` is what
    passes note down for the graphs that are made of this one: the nodes that a rewriting step leaves as they are.
    `checks` are computed and given to nobody: operations that may refuse their operands, and that no output needs.
    """

    inputs: tuple[Node, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Node, ...]
    homes: dict[int, int] = field(default_factory=dict)
    name: str = "graph"
    lines: Mapping[Node, str] = field(default_factory=dict, repr=False)
    labels: Mapping[Node, str] = field(default_factory=dict, repr=False)
    rest: dict[str, set[Node]] = field(default_factory=dict, repr=False, compare=False)
    checks: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        for k, node in enumerate(self.inputs):
            if node.op != INPUT or node.attrs[0] != k:
                raise ValueError(f"input {k} of graph {self.name} is {node!r}")
        for o, k in self.homes.items():
            if self.outputs[o].aval != self.inputs[k].aval or self.inputs[k].attrs[1] is not None:
                raise ValueError(f"output {o} cannot live in input {k}: {self.outputs[o]!r}, {self.inputs[k]!r}")
        for node in self.nodes():
            if node.op == INPUT and (node.attrs[0] >= len(self.inputs) or self.inputs[node.attrs[0]] is not node):
                raise ValueError(f"{node!r} is not an input of graph {self.name}")
            if node.op == SCALAR and self.scalars[node.attrs[0] : node.attrs[0] + 1] != (node.attrs[1],):
                raise ValueError(f"{node!r} is not a scalar of graph {self.name}")
        for node in self.outputs:
            if not isinstance(node.aval, Aval):
                raise ValueError(f"output {node!r} of graph {self.name} is not a tensor")

    def checking(self, checks: Iterable[Node]) -> Graph:
        """The graph with those checks that no output with elements needs, and that have something to look at."""
        needed: set[Node] = set()
        rest = list(self.outputs)
        while rest:
            node = rest.pop()
            if node not in needed and _has_elements(node):
                needed.add(node)
                rest += node.args
        left = tuple([node for node in dict.fromkeys(checks) if node not in needed and _looks_at_something(node)])
        return replace(self, checks=left)

    @property
    def unchanged(self) -> set[int]:
        """The outputs that are what their home holds already: nothing is to be written for them."""
        return {o for o, k in self.homes.items() if self.outputs[o] is self.inputs[k]}

    @property
    def roots(self) -> tuple[Node, ...]:
        """What is computed for the sake of others than nodes: outputs, then checks."""
        return self.outputs + self.checks

    @cached_property
    def _nodes(self) -> tuple[Node, ...]:
        return tuple(topological(self.roots))

    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the roots need, each after its operands."""
        return self._nodes

    @cached_property
    def _readers(self) -> dict[Node, list[Node]]:
        readers: dict[Node, list[Node]] = {}
        for node in self.nodes():
            for arg in node.args:
                found = readers.get(arg)
                if found is None:
                    readers[arg] = [node]
                else:
                    found.append(node)
        return readers

    def readers(self) -> Mapping[Node, list[Node]]:
        """The nodes that read each node, once for each place where they do."""
        return self._readers


def _has_elements(node: Node) -> bool:
    return not isinstance(node.aval, Aval) or node.aval.numel != 0


def _looks_at_something(node: Node) -> bool:
    op = node.op
    return isinstance(op, Op) and bool(op.looks_at) and _has_elements(node.args[op.params.index(op.looks_at)])


def topological(roots: Iterable[Node]) -> list[Node]:
    """The nodes below `roots`, each once and after its operands, in an order that depends on the graph alone."""
    # A dict keeps the order in which nodes are done.
    done: dict[Node, None] = {}
    stack: list[Node | None] = list(roots)
    stack.reverse()
    while stack:
        node = stack.pop()
        if node is None:
            # All above the node that comes next is done.
            done[stack.pop()] = None  # type: ignore[index]
            continue
        if node in done:
            continue
        for arg in node.args:
            if arg not in done:
                stack += (node, None)
                stack += reversed(node.args)
                break
        else:
            done[node] = None
    return list(done)
