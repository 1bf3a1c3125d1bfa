"""The gradient tape of a segment as data: taken down once by the recorder, put back after a program ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracejit.symbols import sizes_in
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tape import TapeNode
from tracejit.trace.lean import Lean
from tracejit.trace.tree import Derived


@dataclass(eq=False, slots=True)
class NodePlan:
    """One step of the tape, with slots in place of tensors.

    An edge is None, ("leaf", slot), ("outer", slot, which) for the step that made a tensor from outside, or
    ("node", plan, which). A saved value is ("slot", slot, changes in place since), ("number", number) or
    ("plain", value). Nobody walks through a step that is `done`; its edges say whether it leads to a tensor, which
    decides whether a gradient to that tensor is refused. `shown` is how many steps of views stand right behind it.
    """

    op: Any
    attrs: tuple[Any, ...]
    avals: tuple[Any, ...]
    outs: int
    position: float
    done: bool
    label: str | None
    edges: tuple[Any, ...] = ()
    saved: tuple[Any, ...] = ()
    results: tuple[Any, ...] = ()
    shown: int = 0


OUTSIDE = "the gradient leads to steps made before the region or before the last look at memory"
UNKNOWN = "a tensor that a gradient needs is unknown to the trace"


class Untraceable(Exception):
    """A part of the tape lies outside of the segment and cannot be named by slots."""


def is_behind(t: Any) -> bool:
    """Whether a tensor is a view whose base was changed since the view's own step was right."""
    return t._base is not None and t._cell is not None and t._seen != t._cell[0]


@dataclass(eq=False, slots=True)
class TapeReader:
    """Takes down tape steps; `slot_of` names a tensor, `outer` the steps that made tensors from outside.

    `troubles` says of a step why it cannot be put back: something is amiss with it or with what a gradient walks to
    through it. Below a step that is done nothing is walked, and what has no name there is left out. Both are by the
    steps' ids.
    """

    slot_of: Callable[[Any], int | None]
    outer: dict[int, int]
    first: int
    plans: dict[int, NodePlan | None] = field(default_factory=dict)
    troubles: dict[int, str] = field(default_factory=dict)

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
            if node.seq < self.first:
                # It is not looked at any further: it may be a step that is not made yet.
                self.plans[id(node)], self.troubles[id(node)] = None, OUTSIDE
                continue
            if node.hooks or node.retain:
                self.plans[id(node)], self.troubles[id(node)] = None, "a gradient hook was registered"
                continue
            self.plans[id(node)] = NodePlan(
                node.op, node.attrs, node.avals, node.outs, node.seq, node.done, node.label, shown=node.shown
            )
            order.append(node)
            stack.extend(e[0] for e in node.edges if type(e) is tuple and id(e[0]) not in self.outer)
        # What a step leads to is older.
        for node in sorted(order, key=lambda node: node.seq):
            self._fill(node)
        plan, trouble = self.plans[id(root)], self.troubles.get(id(root))
        if plan is None or trouble is not None:
            raise Untraceable(trouble)
        return plan

    def roots(self, tensors: dict[int, Any]) -> dict[int, tuple[NodePlan, int] | str]:
        """For each slot whose tensor a step of the segment made: the plan and which of its results, or why none."""
        found: dict[int, tuple[NodePlan, int] | str] = {}
        for slot, t in tensors.items():
            if t._node is None or id(t._node) in self.outer:
                continue
            try:
                found[slot] = (self.read(t._node), t._index)
            except Untraceable as e:
                found[slot] = str(e)
        return found

    def _fill(self, node: TapeNode) -> None:
        plan = self.plans[id(node)]
        assert plan is not None
        plan.edges = tuple(map(self._edge, node.edges))
        if plan.done:
            return
        try:
            for e, known in zip(node.edges, plan.edges, strict=True):
                if type(e) is tuple and id(e[0]) in self.troubles:
                    raise Untraceable(self.troubles[id(e[0])])
                if e is not None and known is None:
                    raise Untraceable(UNKNOWN)
            plan.saved = tuple(None if s is None else self._saved(*s) for s in node.saved)
            plan.results = tuple(self._saved(*s) for s in node.results)
        except Untraceable as e:
            self.troubles[id(node)] = str(e)

    def _edge(self, edge: Any) -> Any:
        """An edge, None if it leads to what has no name."""
        if type(edge) is not tuple:
            slot = None if edge is None else self.slot_of(edge)
            return None if slot is None else ("leaf", slot)
        node, which = edge
        if id(node) in self.outer:
            return ("outer", self.outer[id(node)], which)
        plan = self.plans[id(node)]
        return None if plan is None else ("node", plan, which)

    def _slot(self, tensor: Any) -> int:
        slot = self.slot_of(tensor)
        if slot is None:
            raise Untraceable(UNKNOWN)
        return slot

    def _saved(self, value: Any, version: int) -> Any:
        if isinstance(value, Scalar):
            return ("number", value.source)
        if not hasattr(value, "_version"):
            return ("plain", value)
        return ("slot", self._slot(value), value._version - version)


def needed_slots(root: NodePlan, seen: set[NodePlan]) -> list[int]:
    """The slots whose values the tape below a step saved, but for steps that have been seen, which those here join."""
    out: dict[int, None] = {}
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
        if not plan.done:
            stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node")
    return list(out)


def depends_on_sizes(roots: dict[int, tuple[NodePlan, int]]) -> bool:
    """Whether steps of the tape below some roots hold sizes that stay open, or what follows from them."""
    seen: set[NodePlan] = set()
    stack = [plan for plan, _ in roots.values()]
    while stack:
        plan = stack.pop()
        if plan in seen:
            continue
        seen.add(plan)
        plain = [entry[1] for entry in plan.saved if entry is not None and entry[0] == "plain"]
        numbers = [entry[1] for entry in plan.saved if entry is not None and entry[0] == "number"]
        if any(type(n) is Derived for n in numbers) or any(True for _ in sizes_in((plan.attrs, plan.avals, *plain))):
            return True
        if not plan.done:
            stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node")
    return False


Spent = tuple[frozenset[int], tuple[int, ...], tuple[int, ...]]
"""Steps of a part that let go of what they saved, and the places of the tensors and results that only they did."""


@dataclass(eq=False, slots=True)
class Part:
    """A stretch of a tape that is put back at once.

    `order` are its steps as they were recorded. `tensors` are the slots of leaves and saved operands, `results` those
    of saved results, `outer` those of tensors from outside whose steps it leads to, `links` steps of earlier parts that
    it leads to: part and place. `operands` are the places of saved ones among `tensors`, `bare` those that steps of the
    part made, with step and result, first the `left` ones that a run leaves; `numbers` are the indices of saved
    numbers. `edges`, `saved` and `kept` have an entry for each step: an edge is None, ("node", place, which), ("outer",
    place, which) or ("leaf", place), a saved value None, ("tensor", place, changes), ("number", number) or ("plain",
    value), a saved result a place with its changes. Links count on behind `outer`. `away` are the places of tensors,
    and those of results, that a run leaves none of, `checked` those of saved operands and of results whose memory must
    be as it was. `behind` are the places of steps of views that stand right behind the step of their base, with its
    part and place, and how far behind it they stand.
    """

    order: list[NodePlan]
    tensors: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    outer: list[int] = field(default_factory=list)
    links: list[tuple[int, int]] = field(default_factory=list)
    operands: list[int] = field(default_factory=list)
    bare: list[tuple[int, int, int]] = field(default_factory=list)
    left: int = 0
    numbers: list[int] = field(default_factory=list)
    edges: list[tuple[Any, ...]] = field(default_factory=list)
    saved: list[tuple[Any, ...]] = field(default_factory=list)
    kept: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    away: tuple[list[int], list[int]] = ([], [])
    checked: tuple[list[int], list[int]] = ([], [])
    behind: list[tuple[int, int, int, float]] = field(default_factory=list)

    def holds(self, at: int) -> bool:
        """Whether a step saved a tensor."""
        return bool(self.kept[at]) or any(e is not None and e[0] == "tensor" for e in self.saved[at])

    def spent(self, gone: frozenset[int]) -> Spent:
        """Steps that let go of what they saved, with the tensors and results that only they did."""
        tensors: set[int] = set()
        results: set[int] = set()
        for at in range(len(self.order)):
            tensors.update(e[1] for e in self.edges[at] if e is not None and e[0] == "leaf")
            if at not in gone:
                tensors.update(e[1] for e in self.saved[at] if e is not None and e[0] == "tensor")
                results.update(place for place, _ in self.kept[at])
        return (
            gone,
            tuple(i for i in range(len(self.tensors)) if i not in tensors),
            tuple(i for i in range(len(self.results)) if i not in results),
        )


Entry = tuple[int, int, int, int]
"""A slot, the part and the place there of the step that made it, and which of its results it is."""


@dataclass(eq=False, slots=True)
class TapePlan:
    """What to put back on the tape: the steps in order, and the step that made each root slot, with which result it is.

    `parts` are the steps in stretches, `places` says where each is: a view with a step is saved in a later part than
    that of its step, so that parts do not hold themselves. `ahead` are the edges of steps that are done, `pullbacks`
    programs for its gradients, `work` what passes over it went through (`trace/pullback.py`). With `lean` a run leaves
    what that keeps (`trace/lean.py`); `entries` are the root slots that it leaves, and those that it does not. `ask`,
    given the slots that a program for the gradients wants in memory, or None, says whether further runs leave other
    tapes, in which case this one is `dated`. `looks` weighs the runs of which somebody wanted more than was kept,
    `wanted` is what `wants` found.
    """

    order: list[NodePlan]
    roots: dict[int, tuple[NodePlan, int]]
    parts: list[Part]
    places: dict[NodePlan, tuple[int, int]]
    ahead: dict[NodePlan, tuple[Any, ...]]
    lean: Lean | None = None
    entries: tuple[list[Entry], list[Entry]] = field(default_factory=lambda: ([], []))
    ask: Callable[[frozenset[int] | None], bool] | None = None
    pullbacks: dict[Any, Any] = field(default_factory=dict)
    work: int = 0
    dated: bool = False
    looks: int = 0
    wanted: dict[tuple[int, frozenset[int]], frozenset[int]] = field(default_factory=dict)

    def edges_of(self, step: NodePlan) -> tuple[Any, ...]:
        """The edges that a step gets."""
        return self.ahead.get(step, step.edges)

    def leaves(self) -> set[int]:
        """The slots of the leaves that edges lead to."""
        return {e[1] for step in self.order for e in self.edges_of(step) if e is not None and e[0] == "leaf"}

    def wants(self, number: int, released: frozenset[int]) -> frozenset[int]:
        """Which parts of what a run leaves for a lean tape a part needs of which some steps are released."""
        assert self.lean is not None
        known = self.wanted.get((number, released))
        if known is None:
            part = self.parts[number]
            _, tensors, results = part.spent(released)
            left = {part.tensors[i] for i in part.away[0] if i not in tensors}
            left |= {part.results[i] for i in part.away[1] if i not in results}
            places = frozenset().union(*map(self.lean.sources.__getitem__, left))
            known = self.wanted[number, released] = frozenset(self.lean.needed(places))
        return known

    def is_spent(self) -> bool:
        """Whether all ways back are refused, and the steps hold no tensors and lead to leaves and each other alone."""
        refused: set[NodePlan] = set()
        for step in self.order:
            edges = [e for e in self.edges_of(step) if e is not None]
            if step.op is None or step.results or any(e[0] == "outer" for e in edges):
                return False
            if any(e is not None and e[0] == "slot" for e in step.saved):
                return False
            if step.done or any(e[0] == "node" and e[1] in refused for e in edges):
                refused.add(step)
        return all(step in refused for step, _ in self.roots.values())


def plan_tape(
    roots: dict[int, tuple[NodePlan, int]], lives: set[int], own: set[int], lean: Lean | None
) -> TapePlan:
    """The plan for the steps below some roots.

    `lives` are the slots of tensors that are still there, `own` those of tensors that lead to no other one with a step.
    With `lean` a run leaves what that keeps.

    What lies between a step that is done and what can be named is left out: nobody walks there.
    """
    found: dict[NodePlan, None] = {}
    stack = [plan for plan, _ in roots.values()]
    while stack:
        plan = stack.pop()
        if plan not in found:
            found[plan] = None
            if not plan.done:
                stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node")
    ahead = _ends([plan for plan in found if plan.done], {plan for plan, _ in roots.values()}, lives)
    # In the order in which they were recorded: the order in which gradients are added depends on it.
    order = sorted(found, key=lambda plan: plan.position)
    saved = {e[1] for plan in order for e in plan.saved if e is not None and e[0] == "slot"}
    ends = {plan for slot, (plan, _) in roots.items() if slot in saved and slot not in own}
    parts = [Part([])]
    place: dict[NodePlan, tuple[int, int]] = {}
    for plan in order:
        place[plan] = (len(parts) - 1, len(parts[-1].order))
        parts[-1].order.append(plan)
        if plan in ends and plan is not order[-1]:
            parts.append(Part([]))
    bases = {plan.position: place[plan] for plan in order}
    for plan in order:
        whole = int(plan.position)
        if plan.position != whole and whole in bases:
            number, here = place[plan]
            parts[number].behind.append((here, *bases[whole], plan.position - whole))
    tape = TapePlan(order, roots, parts, place, ahead, lean)
    for k, part in enumerate(parts):
        _fill_part(part, k, tape)
        at = {slot: i for i, slot in enumerate(part.tensors)}
        part.bare = [
            (at[slot], place[plan][1], which)
            for slot, (plan, which) in roots.items()
            if slot in own and slot in at and place[plan][0] == k
        ]
        gone: frozenset[int] = frozenset() if lean is None else lean.away
        tensors, results = ([i for i, s in enumerate(slots) if s in gone] for slots in (part.tensors, part.results))
        part.away = tensors, results
        part.checked = (
            [i for i in part.operands if part.tensors[i] not in gone],
            [i for i, s in enumerate(part.results) if s not in gone],
        )
        # Those that a run leaves first.
        part.bare.sort(key=lambda one: part.tensors[one[0]] in gone)
        part.left = sum(part.tensors[i] not in gone for i, _, _ in part.bare)
    for slot, (plan, which) in roots.items():
        tape.entries[lean is not None and slot in lean.away].append((slot, *place[plan], which))
    return tape


def _ends(
    starts: list[NodePlan], roots: set[NodePlan], lives: set[int]
) -> dict[NodePlan, tuple[Any, ...]]:
    """For each of some steps the first edges on its ways that lead to leaves, roots or out of the segment."""
    below: dict[NodePlan, None] = {}
    stack = list(starts)
    while stack:
        plan = stack.pop()
        if plan not in below:
            below[plan] = None
            stack.extend(e[1] for e in plan.edges if e is not None and e[0] == "node" and e[1] not in roots)
    ends: dict[Any, int] = {}
    # Sets of ends as the bits of a number: a deep tape has many steps, and a large model many leaves.
    sets: dict[NodePlan, int] = {}
    for plan in sorted(below, key=lambda plan: plan.position):
        reached = 0
        for e in plan.edges:
            if e is None or (e[0] == "leaf" and e[1] not in lives):
                continue
            if e[0] == "node" and e[1] not in roots:
                reached |= sets[e[1]]
            else:
                reached |= 1 << ends.setdefault(e, len(ends))
        sets[plan] = reached
    return {plan: tuple(e for e, bit in ends.items() if sets[plan] >> bit & 1) for plan in starts}


def _fill_part(part: Part, number: int, tape: TapePlan) -> None:
    tensors: dict[int, int] = {}
    results: dict[int, int] = {}
    outer: dict[int, int] = {}
    for plan in part.order:
        for e in tape.edges_of(plan):
            if e is not None and e[0] == "outer":
                outer.setdefault(e[1], len(outer))
    links: dict[tuple[int, int], int] = {}

    def edge(e: Any) -> Any:
        if e is None:
            return None
        if e[0] == "outer":
            return ("outer", outer[e[1]], e[2])
        if e[0] == "leaf":
            return ("leaf", tensors.setdefault(e[1], len(tensors)))
        at = tape.places[e[1]]
        if at[0] == number:
            return ("node", at[1], e[2])
        return ("outer", links.setdefault(at, len(outer) + len(links)), e[2])

    def value(e: Any) -> Any:
        if e is None or e[0] != "slot":
            return e
        return ("tensor", tensors.setdefault(e[1], len(tensors)), e[2])

    for plan in part.order:
        part.edges.append(tuple(map(edge, tape.edges_of(plan))))
        part.saved.append(tuple(map(value, plan.saved)))
        part.kept.append(tuple((results.setdefault(e[1], len(results)), e[2]) for e in plan.results))
    part.operands = sorted({e[1] for saved in part.saved for e in saved if e is not None and e[0] == "tensor"})
    part.numbers = sorted({e[1].index for saved in part.saved for e in saved if e is not None and e[0] == "number"})
    part.tensors, part.results, part.outer, part.links = list(tensors), list(results), list(outer), list(links)
