"""The gradient tape of a segment as data: taken down once by the recorder, made real again after a program ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tape import TapeNode, held, next_position


@dataclass(eq=False, slots=True)
class NodePlan:
    """One step of the tape, with slots in place of tensors.

    An edge is None, ("leaf", slot), ("outer", slot, which) for the step that made a tensor from outside, or
    ("node", plan, which). A saved value is ("slot", slot, changes in place since), ("number", number) or
    ("plain", value).
    """

    op: Any
    attrs: tuple[Any, ...]
    avals: tuple[Any, ...]
    outs: int
    position: int
    done: bool
    label: str | None
    edges: tuple[Any, ...] = ()
    saved: tuple[Any, ...] = ()
    results: tuple[Any, ...] = ()


OUTSIDE = "the gradient leads to steps made before the region or before the last look at memory"


class Untraceable(Exception):
    """A part of the tape lies outside of the segment and cannot be named by slots."""


@dataclass(eq=False, slots=True)
class TapeReader:
    """Takes down tape steps; `slot_of` names a tensor, `outer` the steps that made tensors from outside."""

    slot_of: Callable[[Any], int | None]
    outer: dict[int, int]
    first: int
    plans: dict[int, NodePlan] = field(default_factory=dict)

    def read(self, root: TapeNode) -> NodePlan:
        """The plan of a step and of all that it leads to.

        Raises: Untraceable if it leads out of the segment.
        """
        order: list[TapeNode] = []
        stack = [root]
        while stack:
            node = stack.pop()
            if id(node) in self.plans:
                continue
            if node.hooks or node.retain:
                raise Untraceable("a gradient hook was registered")
            if node.seq < self.first:
                raise Untraceable(OUTSIDE)
            self.plans[id(node)] = NodePlan(
                node.op, node.attrs, node.avals, node.outs, node.seq, node.done, node.label
            )
            order.append(node)
            if not node.done:
                stack.extend(
                    e[0] for e in node.edges if type(e) is tuple and id(e[0]) not in self.outer
                )
        for node in order:
            self._fill(self.plans[id(node)], node)
        return self.plans[id(root)]

    def _fill(self, plan: NodePlan, node: TapeNode) -> None:
        if node.done:
            return
        plan.edges = tuple(self._edge(e) for e in node.edges)
        plan.saved = tuple(None if s is None else self._saved(*s) for s in node.saved)
        plan.results = tuple(self._saved(*s) for s in node.results)

    def _edge(self, edge: Any) -> Any:
        if edge is None:
            return None
        if type(edge) is tuple:
            node, which = edge
            if id(node) in self.outer:
                return ("outer", self.outer[id(node)], which)
            return ("node", self.plans[id(node)], which)
        return ("leaf", self._slot(edge))

    def _slot(self, tensor: Any) -> int:
        slot = self.slot_of(tensor)
        if slot is None:
            raise Untraceable("a tensor that a gradient needs is unknown to the trace")
        return slot

    def _saved(self, value: Any, version: int) -> Any:
        if isinstance(value, Scalar):
            return ("number", value.source)
        if not hasattr(value, "_version"):
            return ("plain", value)
        return ("slot", self._slot(value), value._version - version)


def needed_slots(root: NodePlan) -> list[int]:
    """The slots whose values the tape below a step saved."""
    out: dict[int, None] = {}
    seen: set[NodePlan] = set()
    stack = [root]
    while stack:
        plan = stack.pop()
        if plan in seen:
            continue
        seen.add(plan)
        for entry in (*plan.saved, *plan.results):
            # Also those whose memory moved on: what they say when they are used names their version.
            if entry is not None and entry[0] == "slot":
                out[entry[1]] = None
        stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node")
    return list(out)


@dataclass(eq=False, slots=True)
class TapePlan:
    """What to put back on the tape: the steps in order, and the step that made each root slot."""

    order: list[NodePlan]
    roots: dict[int, tuple[NodePlan, int]]


def plan_tape(roots: dict[int, tuple[NodePlan, int]]) -> TapePlan:
    """The plan for the steps below some roots."""
    found: dict[NodePlan, None] = {}
    stack = [plan for plan, _ in roots.values()]
    while stack:
        plan = stack.pop()
        if plan not in found:
            found[plan] = None
            stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node")
    # In the order in which they were recorded: the order in which gradients are added depends on it.
    return TapePlan(sorted(found, key=lambda plan: plan.position), roots)


def restore(
    plan: TapePlan, values: list[Any], number: Callable[[Any], Any], outer: Callable[[Any], Any]
) -> None:
    """Make the tape real: each root slot's tensor gets the step that made it.

    `outer` gives the step that had made a tensor from outside before the segment changed it.
    """
    made: dict[NodePlan, TapeNode] = {}
    tensor = values.__getitem__
    for step in plan.order:
        made[step] = node = TapeNode.__new__(TapeNode)
        node.op, node.attrs, node.avals, node.outs = step.op, step.attrs, step.avals, step.outs
        node.label, node.done = step.label, step.done
        node.hooks = node.retain = None
        node.seq = next_position()
        node.edges = tuple(_edge(e, made, tensor, outer) for e in step.edges) if step.edges else ()
        node.saved = (
            tuple((None, 0) if s is None else _value(s, tensor, number) for s in step.saved) if step.saved else ()
        )
        node.results = tuple(_result(s, tensor) for s in step.results) if step.results else ()
    for slot, (step, which) in plan.roots.items():
        t = values[slot]
        t._node, t._index, t._requires_grad = made[step], which, True
        if t._base is not None:
            t._seen = t._version


def _edge(
    edge: Any, made: dict[NodePlan, TapeNode], tensor: Callable[[int], Any], outer: Callable[[Any], Any]
) -> Any:
    if edge is None:
        return None
    if edge[0] == "node":
        return made[edge[1]], edge[2]
    if edge[0] == "outer":
        return outer(tensor(edge[1])), edge[2]
    return tensor(edge[1])


def _result(entry: Any, tensor: Callable[[int], Any]) -> tuple[Any, int]:
    t = tensor(entry[1])
    return held(t), t._version - entry[2]


def _value(entry: Any, tensor: Callable[[int], Any], number: Callable[[Any], Any]) -> tuple[Any, int]:
    if entry[0] == "number":
        return number(entry[1]), 0
    if entry[0] == "plain":
        return entry[1], 0
    t = tensor(entry[1])
    return t, t._version - entry[2]
