"""Islands: nodes that only meet the rest of a graph in what they read and in what they leave to the caller.

In: a graph. Out: runs of elementwise nodes that nothing else reads, such as an optimizer's update of one parameter; and
of each whether its values are one loop whatever is around them.
Must not know: memory, kernel text.

Most of a deep model's training step is such updates, and they are alike: which values share a kernel, and what the
kernel's text is, is worked out once for all of a kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tracejit.ir.graph import Graph
from tracejit.ir.node import INPUT, ITEM, Node
from tracejit.ops import Op, ops
from tracejit.ops.contraction import PRODUCTS
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.groups import Partition
from tracejit.schedule.spaces import LOOP
from tracejit.schedule.values import Body, Number, Read, Value, number_of, unfold

_INTEGERS = frozenset((int,))
_FEWEST = 3
"""Nodes from which on one value in their place is less work."""


def _are_known(sizes: Iterable[Any]) -> bool:
    return _INTEGERS.issuperset(map(type, sizes))


def _runs(graph: Graph) -> list[list[Node]]:
    """The nodes that follow one another but for inputs, numbers and views, compute element by element, have one shape,
    and are read by each other alone: each run in order.
    """
    repeated = {node for node, times in Counter(graph.outputs).items() if times > 1}
    found: list[list[Node]] = []
    read_outside: set[Node] = set()
    wanted: set[Node] = set()
    run: list[Node] = []
    shape: tuple[int, ...] | None = None
    # From the end: all that reads a node has been seen.
    for node in reversed(graph.nodes()):
        family = node.family
        if family == "elementwise" and node not in read_outside and node not in repeated:
            own = node.shape
            if node in wanted:
                if own is shape or (_are_known(own) and own == shape):
                    run.append(node)
                    wanted.update(node.args)
                    continue
            elif _are_known(own) and 0 not in own:
                _end(run, found)
                read_outside |= wanted
                run, wanted, shape = [node], set(node.args), own
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


def _end(run: list[Node], found: list[list[Node]]) -> None:
    if len(run) >= _FEWEST:
        found.append(run[::-1])


def _copies_nothing(view: Node) -> bool:
    """Whether a view is surely one of memory as it lies, and so no value of its own."""
    if view.op is not ops.reshape:
        return True
    (seen,) = view.args
    return seen.family in ("library", ITEM) or (seen.op == INPUT and seen.attrs[1] is None)


@dataclass(slots=True)
class Run:
    """Nodes that may be an island, in order: those that are `results`, what they compute (`key`) of what they read
    (`leaves`).

    In the graph that is left without them, what they read is computed as soon as there are `after` of its outputs.
    """

    nodes: list[Node]
    results: list[int]
    key: list[Any]
    leaves: list[Node]
    after: int = 0

    @property
    def outputs(self) -> list[Node]:
        """Those of its nodes that are results."""
        return [self.nodes[k] for k in self.results]

    def reads(self, leaf: Node) -> int:
        """In how many places something that it reads is an operand."""
        # Nothing else in the key is a negative number.
        return self.key.count(-1 - self.leaves.index(leaf))


def _run(nodes: list[Node], outputs: Collection[Node]) -> Run:
    number: dict[Node, int] = {}
    leaves: list[Node] = []
    key: list[Any] = []
    for k, node in enumerate(nodes):
        key += (node.op, node.attrs, node.dtype)
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
    results = [k for k, node in enumerate(nodes) if node in outputs]
    return Run(nodes, results, [*results, *key], leaves)


def detach(graph: Graph) -> tuple[Graph, list[Run]]:
    """What is left of a graph without its runs, and these in the order in which they come about.

    Outputs that are left keep their order; what a run reads is among them where the first of its own outputs was.
    """
    outputs = frozenset(graph.outputs)
    run_of: dict[Node, Run] = {}
    for nodes in _runs(graph):
        run = _run(nodes, outputs)
        if not any(_may_take_in(run, leaf, outputs) for leaf in run.leaves):
            run_of.update(dict.fromkeys(run.outputs, run))
    if not run_of:
        return graph, []
    left: list[Node] = []
    runs: list[Run] = []
    met: set[Node] = set()
    for output in graph.outputs:
        run_here = run_of.get(output)
        if run_here is None:
            left.append(output)
        elif output not in met:
            left += _computed(run_here, output)
            run_here.after = len(left)
            runs.append(run_here)
            met.update(run_here.outputs)
    return replace(graph, outputs=tuple(left), homes={}), runs


def _computed(run: Run, first: Node) -> list[Node]:
    """What a run reads but inputs, in the order in which it is come upon on the way down from the first of its outputs:
    so everything stays in the order of the whole graph.
    """
    computed = [leaf for leaf in run.leaves if leaf.op != INPUT]
    if len(computed) < 2:
        return computed
    inside, left = set(run.nodes), set(computed)
    found: list[Node] = []
    rest = [*run.nodes, first]
    while rest:
        node = rest.pop()
        if node in inside:
            inside.remove(node)
            rest += reversed(node.args)
        elif node in left:
            left.remove(node)
            found.append(node)
    return found


def _may_take_in(run: Run, leaf: Node, outputs: Collection[Node]) -> bool:
    """Whether a product that a run reads may do itself what reads it, or what adds it up."""
    base = leaf
    while base.family == "view":
        base = base.args[0]
    if base.op is ops.add:
        return True
    if base.op not in PRODUCTS or leaf in outputs:
        return False
    return run.reads(leaf) == 1


class Islands:
    """What islands do, each kind once."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[Any, ...], Body | None] = {}
        self._rows: set[tuple[int, int]] = set()
        self._rows_are_open = False

    def note_rows(self, outer: int, size: int) -> None:
        """Takes note of a reduction over so many rows of this size: what reads rows may share its kernel."""
        if _are_known((outer, size)):
            self._rows.add((outer, outer * size))
        else:
            self._rows_are_open = True

    def value(self, run: Run, reads: Mapping[Node, Read | Number]) -> Value | None:
        """The value that stands for all those of a run, None if they may share kernels with others."""
        last = run.nodes[-1]
        args: list[Read] = []
        sources: dict[Value, int] = {}
        sizes: list[Any] = []
        key = [last.shape, *run.key]
        for leaf in run.leaves:
            read = reads[leaf]
            assert isinstance(read, Read)
            source = read.source
            sizes += (*source.shape, *read.shape, *read.strides, read.offset)
            number = sources.setdefault(source, len(sources))
            key += (number, source.kind, source.dtype, source.shape, read.shape, read.strides, read.offset)
            args.append(read)
        numel = last.tensor.numel
        if not _are_known(sizes) or not all(self._is_apart(source, numel) for source in sources):
            return None
        island = Value(kinds.ISLAND, None, last.shape, last.dtype, tuple(args), nodes=tuple(run.nodes))
        kind = tuple(key)
        try:
            island.body = self._bodies[kind]
        except KeyError:
            island.body = self._bodies[kind] = _body(run, island)
        return None if island.body is None else island

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
        if source.kind == kinds.SCAN:
            return source.numel != numel
        if source.kind != kinds.ELEMENTWISE or self._rows_are_open:
            return False
        # A sum that goes on may be cut.
        return source.op is not ops.add and source.numel != numel and (source.numel, numel) not in self._rows


def _body(run: Run, island: Value) -> Body | None:
    """What a run does, None if that by itself is no single loop."""
    number = {leaf: -1 - k for k, leaf in enumerate(run.leaves)}
    steps: list[tuple[Op, Any, tuple[Any, ...], tuple[int | Number, ...]]] = []
    for k, node in enumerate(run.nodes):
        assert isinstance(node.op, Op)
        operands = tuple([number_of(arg) if arg.is_number else number[arg] for arg in node.args])
        steps.append((node.op, node.dtype, node.attrs, operands))
        number[node] = k
    body = island.body = Body(tuple(steps), tuple(run.results))
    groups = Partition(unfold(island)).groups
    return replace(body, cuts=groups[0].cuts) if [group.kind for group in groups] == [LOOP] else None
