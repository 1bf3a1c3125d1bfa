"""Islands: nodes that only meet the rest of a graph in what they read and in what they leave to the caller.

In: a graph. Out: runs of elementwise nodes that nothing else reads, such as an optimizer's update of one parameter; and
of each whether its values are one loop whatever is around them.
Must not know: memory, kernel text.

Most of a deep model's training step is such updates, and they are alike: which values share a kernel, and what the
kernel's text is, is worked out once for all of a kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tracejit.ir.graph import Graph
from tracejit.ir.node import INPUT, ITEM, Node
from tracejit.ops import Op, ops
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import LOOP, Partition
from tracejit.schedule.values import Body, Number, Read, Value, unfold

_INTEGERS = frozenset((int,))
_FEWEST = 3
"""Nodes from which on one value in their place is less work."""


def _are_known(sizes: tuple[Any, ...]) -> bool:
    return _INTEGERS.issuperset(map(type, sizes))


def _runs(graph: Graph) -> dict[Node, list[Node]]:
    """The nodes that follow one another but for inputs, numbers and views, compute element by element, have one shape,
    and are read by each other alone: each run in order, under its last node.
    """
    outputs = Counter(graph.outputs)
    found: dict[Node, list[Node]] = {}
    read_outside: set[Node] = set()
    wanted: set[Node] = set()
    run: list[Node] = []
    shape: tuple[int, ...] | None = None
    # From the end: all that reads a node has been seen.
    for node in reversed(graph.nodes()):
        family = node.family
        if family == "elementwise" and node not in read_outside and outputs[node] < 2 and _are_known(node.shape):
            if node in wanted:
                if node.shape == shape:
                    run.append(node)
                    wanted.update(node.args)
                    continue
            elif 0 not in node.shape:
                _end(run, found)
                read_outside |= wanted
                run, wanted, shape = [node], set(node.args), node.shape
                continue
        elif family == INPUT or node.is_number or (family == "view" and _copies_nothing(node)):
            read_outside.update(node.args)
            continue
        _end(run, found)
        read_outside |= wanted
        read_outside.update(node.args)
        run, wanted = [], set()
    _end(run, found)
    return found


def _end(run: list[Node], found: dict[Node, list[Node]]) -> None:
    if len(run) >= _FEWEST:
        found[run[0]] = run[::-1]


def _copies_nothing(view: Node) -> bool:
    """Whether a view is surely one of memory as it lies, and so no value of its own."""
    if view.op is not ops.reshape:
        return True
    (seen,) = view.args
    return seen.family in ("library", ITEM) or (seen.op == INPUT and seen.attrs[1] is None)


class Islands:
    """The islands of a graph, each under its last node; `nodes` are those that are part of one."""

    def __init__(self, graph: Graph) -> None:
        self.runs = _runs(graph)
        self.nodes = {node for run in self.runs.values() for node in run}
        self._outputs = frozenset(graph.outputs) if self.runs else frozenset()
        self._bodies: dict[tuple[Any, ...], Body | None] = {}
        self._rows: set[tuple[int, int]] = set()
        self._rows_are_open = False

    def note_rows(self, outer: int, size: int) -> None:
        """Takes note of a reduction over so many rows of this size: what reads rows may share its kernel."""
        if _are_known((outer, size)):
            self._rows.add((outer, outer * size))
        else:
            self._rows_are_open = True

    def value(self, run: list[Node], reads: Mapping[Node, Read | Number]) -> Value | None:
        """The value that stands for all those of a run, None if they may share kernels with others."""
        key, leaves = self._kind(run)
        shape = run[0].shape
        args: list[Read] = []
        sources: dict[Value, int] = {}
        for leaf in leaves:
            read = reads[leaf]
            assert isinstance(read, Read)
            source = read.source
            if not _are_known((*source.shape, *read.shape, *read.strides, read.offset)):
                return None
            number = sources.setdefault(source, len(sources))
            key += (number, source.kind, source.dtype, source.shape, read.shape, read.strides, read.offset)
            args.append(read)
        numel = run[0].tensor.numel
        if not all(self._is_apart(source, numel) for source in sources):
            return None
        kind = (shape, *key)
        if kind not in self._bodies:
            self._bodies[kind] = self._body(run, leaves, args, reads)
        body = self._bodies[kind]
        if body is None:
            return None
        return Value(kinds.ISLAND, None, shape, run[-1].dtype, tuple(args), body=body, nodes=tuple(run))

    def _kind(self, run: list[Node]) -> tuple[list[Any], list[Node]]:
        """What a run computes of what it reads, and that."""
        number: dict[Node, int] = {}
        leaves: list[Node] = []
        key: list[Any] = []
        for k, node in enumerate(run):
            key += (node.op, node.attrs, node.dtype, node in self._outputs)
            for arg in node.args:
                if arg.is_number:
                    key.append(arg)
                    continue
                at = number.get(arg)
                if at is None:
                    leaves.append(arg)
                    at = number[arg] = -len(leaves)
                key.append(at)
            number[node] = k
        return key, leaves

    def _is_apart(self, source: Value, numel: int) -> bool:
        """Whether no value of so many elements can share the kernel that makes what it reads."""
        if source.kind in (kinds.INPUT, kinds.RESULT):
            return True
        if source.kind == kinds.REDUCTION:
            outer, size, inner = source.layout
            if not _are_known(source.layout):
                return False
            # Columns and long rows are complete when their kernel is done.
            return inner > 1 or size > cost.BLOCK or numel not in (outer, outer * size)
        if source.kind != kinds.ELEMENTWISE or self._rows_are_open:
            return False
        # A sum that goes on may be cut.
        return source.op is not ops.add and source.numel != numel and (source.numel, numel) not in self._rows

    def _body(
        self, run: list[Node], leaves: list[Node], args: list[Read], reads: Mapping[Node, Read | Number]
    ) -> Body | None:
        """What a run does, None if that by itself is no single loop."""
        number = {leaf: -1 - k for k, leaf in enumerate(leaves)}
        steps: list[tuple[Op, Any, tuple[Any, ...], tuple[int | Number, ...]]] = []
        for k, node in enumerate(run):
            operands: list[int | Number] = []
            for arg in node.args:
                read = reads[arg] if arg.is_number else None
                operands.append(read if isinstance(read, Number) else number[arg])
            assert isinstance(node.op, Op)
            steps.append((node.op, node.dtype, node.attrs, tuple(operands)))
            number[node] = k
        body = Body(tuple(steps), tuple([k for k, node in enumerate(run) if node in self._outputs]))
        values = unfold(
            Value(kinds.ISLAND, None, run[0].shape, run[-1].dtype, tuple(args), body=body, nodes=tuple(run))
        )
        groups = Partition(values).groups
        return replace(body, cuts=groups[0].cuts) if [group.kind for group in groups] == [LOOP] else None
