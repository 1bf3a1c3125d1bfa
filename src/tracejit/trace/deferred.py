"""The gradient tape behind a program run: steps that are made when somebody looks at them.

Most tapes that a program leaves are walked back by another program, which needs the saved values and not the steps. So
a run only takes hold of the values, in batches, and a tensor that lives on gets a step that stands for the real one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from tracejit.tensor.tape import TapeNode, held, next_positions
from tracejit.tensor.tensor import Tensor
from tracejit.trace.tape import Part, TapePlan


class Batch:
    """The steps of one part of a tape with what they hold; `released` are those that let go of it."""

    __slots__ = ("numbers", "outer", "part", "positions", "released", "results", "steps", "tensors", "versions")

    def __init__(self, part: Part, values: list[Any], numbers: list[Any], outer: list[TapeNode]) -> None:
        self.part = part
        self.numbers = numbers
        self.positions = next_positions(len(part.order))
        self.tensors: list[Any] = [values[slot] for slot in part.tensors]
        self.results: list[Any] = [held(values[slot]) for slot in part.results]
        # The versions are those of now: a later change in place is one too many.
        self.versions = [t._version for t in self.tensors] + [t._version for t in self.results]
        self.outer = outer
        self.released: frozenset[int] = frozenset()
        # Weak, for a cycle would keep what the steps saved until the next garbage collection.
        self.steps: dict[int, weakref.ref[Deferred]] = {}

    def step(self, at: int) -> Deferred:
        """What stands for a step, by its place."""
        found = self.steps.get(at)
        node = None if found is None else found()
        if node is None:
            node = Deferred.__new__(Deferred)
            node.batch, node.at, node.seq = self, at, self.positions[at]
            self.steps[at] = weakref.ref(node)
        return node

    def holds_itself(self) -> bool:
        """Whether a saved tensor, or the base of one, has a step of this batch: a cycle."""
        for t in self.tensors:
            for node in (t._node, None if t._base is None else t._base._node):
                if type(node) is Deferred and node.batch is self:
                    return True
        return False

    def make(self) -> list[TapeNode]:
        """Make all steps real."""
        part = self.part
        versions = self.versions
        behind = len(self.tensors)
        made: list[TapeNode] = []
        for i, step in enumerate(part.order):
            found = self.steps.get(i)
            node: Any = None if found is None else found()
            if node is None:
                node = TapeNode.__new__(TapeNode)
            else:
                node.__class__ = TapeNode
                del node.batch, node.at
            made.append(node)
            node.op, node.attrs, node.avals, node.outs = step.op, step.attrs, step.avals, step.outs
            node.label, node.done = step.label, step.done
            node.seq = self.positions[i]
            node.edges = tuple([self._edge(e, made) for e in part.edges[i]])
            if i in self.released:
                node.done = True
                continue
            node.saved = tuple([self._value(e) for e in part.saved[i]])
            node.results = tuple([(self.results[k], versions[behind + k] - times) for k, times in part.kept[i]])
        return made

    def _edge(self, edge: Any, made: list[TapeNode]) -> Any:
        if edge is None:
            return None
        if edge[0] == "node":
            return made[edge[1]], edge[2]
        if edge[0] == "outer":
            return self.outer[edge[1]], edge[2]
        return self.tensors[edge[1]]

    def _value(self, entry: Any) -> tuple[Any, int]:
        if entry is None:
            return None, 0
        if entry[0] == "tensor":
            return self.tensors[entry[1]], self.versions[entry[1]] - entry[2]
        return (self.numbers[entry[1].index] if entry[0] == "number" else entry[1]), 0


class Deferred(TapeNode):
    """Stands for a step of a batch until somebody looks at it; it then is the step."""

    batch: Batch
    at: int


def _deferred(name: str) -> property:
    def get(node: Deferred) -> Any:
        node.batch.make()
        return getattr(node, name)

    def put(node: Deferred, value: Any) -> None:
        node.batch.make()
        setattr(node, name, value)

    return property(get, put)


def _planned(name: str) -> property:
    return property(lambda node: getattr(node.batch.part.order[node.at], name))


for _name in ("edges", "saved", "results", "hooks", "retain", "done"):
    setattr(Deferred, _name, _deferred(_name))
for _name in ("op", "attrs", "avals", "outs", "label"):
    setattr(Deferred, _name, _planned(_name))


def restore(plan: TapePlan, values: list[Any], numbers: list[Any], outer: Callable[[Any], Any]) -> None:
    """Put a tape back: each root slot's tensor gets the step that made it.

    `outer` gives the step that had made a tensor from outside before the segment changed it.
    """
    batches: list[Batch] = []
    for part in plan.parts:
        before = [outer(values[slot]) for slot in part.outer]
        before += [batches[k].step(at) for k, at in part.links]
        batches.append(Batch(part, values, numbers, before))
    for slot, (step, which) in plan.roots.items():
        k, at = plan.places[step]
        t: Tensor = values[slot]
        t._index, t._node, t._requires_grad = which, batches[k].step(at), True
        if t._base is not None:
            t._seen = t._version
    for batch in batches:
        if batch.holds_itself():
            batch.make()


def let_go(
    batch: Batch, steps: frozenset[int], tensors: tuple[int, ...], results: tuple[int, ...]
) -> Callable[[], None]:
    """Release steps of a batch, with the tensors and results that no other one saved; what puts them back."""
    back = partial(_take_back, batch, batch.released, batch.tensors, batch.results)
    batch.released = batch.released | steps
    batch.tensors, batch.results = list(batch.tensors), list(batch.results)
    for i in tensors:
        batch.tensors[i] = None
    for i in results:
        batch.results[i] = None
    return back


def _take_back(batch: Batch, released: frozenset[int], tensors: list[Any], results: list[Any]) -> None:
    batch.released, batch.tensors, batch.results = released, tensors, results
