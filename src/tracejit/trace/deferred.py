"""The gradient tape behind a program run: steps that are made when somebody looks at them.

Most tapes that a program leaves are walked back by another program, which needs the saved values and not the steps. So
a run only takes hold of the values, in batches, and a tensor that lives on gets a step that stands for the real one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tracejit.tensor.autograd import Send, SlotOf
from tracejit.tensor.dispatch import compute, detached, wrap
from tracejit.tensor.modes import set_grad_enabled
from tracejit.tensor.state import untraced
from tracejit.tensor.summing import as_tensor, begun
from tracejit.tensor.tape import TapeNode, held, next_positions
from tracejit.tensor.tensor import Tensor
from tracejit.trace.pullback import Given, Held, pullback_of
from tracejit.trace.tape import Entry, Spent, TapePlan

LOOKS, RARE = 8, 4
"""Runs of which somebody wanted all that a lean tape does not keep, after which further runs leave all of it; RARE
others make up for one."""


class Run:
    """The run of a program that left a tape: of a lean one what it `kept`, None for what it let go of."""

    __slots__ = ("batches", "kept", "numbers", "plan", "whole")

    def __init__(self, plan: TapePlan, numbers: list[Any], kept: list[Any]) -> None:
        self.plan, self.numbers, self.kept = plan, numbers, kept
        self.whole = plan.lean is None
        # Weak, for they lead here.
        self.batches: list[weakref.ref[Batch]] = []

    def restore(self) -> None:
        """Give the batches what the tape's steps saved, where the run kept other values."""
        if self.whole:
            return
        self.whole = True
        plan, numbers = self.plan, self.numbers
        lean = plan.lean
        assert lean is not None
        plan.looks += RARE
        if plan.looks >= RARE * LOOKS and plan.ask is not None:
            ask, plan.ask = plan.ask, None
            ask(None)
        arrays = zip(lean.kept, lean.arrays(self.kept), strict=True)
        values: dict[int, Any] = {slot: wrap(array) for slot, array in arrays if array is not None}
        with untraced(), set_grad_enabled(False):
            lean.again(values, numbers.__getitem__, compute, detached)
        batches = [found() for found in self.batches]
        for batch in batches:
            if batch is not None:
                batch.complete(values)
        _enter(plan.entries[1], values.get, batches)

    def let_go(self) -> None:
        """Let go of what no step needs any more."""
        lean = self.plan.lean
        if lean is None:
            return
        wanted: set[int] = set()
        for found in self.batches:
            batch = found()
            if batch is not None:
                wanted |= self.plan.wants(batch.number, batch.released)
        self.kept = [array if k in wanted else None for k, array in enumerate(self.kept)]


class Batch:
    """The steps of one part of a tape with what they hold; `released` are those that let go of it.

    `run` stands for the run of the program that left the tape, `number` says which part it is. Of tensors that its
    steps made it holds the memory, and `bare` leads to themselves: holding them it would hold itself.
    """

    __slots__ = (
        *("__weakref__", "bare", "number", "numbers", "outer", "part", "positions", "released", "results", "run"),
        *("steps", "tensors", "versions"),
    )

    def __init__(self, run: Run, number: int, values: list[Any], numbers: list[Any], outer: list[TapeNode]) -> None:
        self.run, self.number = run, number
        self.part = part = run.plan.parts[number]
        self.numbers = numbers
        self.positions: list[Any] = next_positions(len(part.order))
        if run.whole:
            self.tensors: list[Any] = [values[slot] for slot in part.tensors]
            self.results: list[Any] = [held(values[slot]) for slot in part.results]
        else:
            away = run.plan.lean.away  # type: ignore[union-attr]
            self.tensors = [None if slot in away else values[slot] for slot in part.tensors]
            self.results = [None if slot in away else held(values[slot]) for slot in part.results]
            run.batches.append(weakref.ref(self))
        self.bare: dict[int, weakref.ref[Tensor]] = {}
        self._bare(part.bare[: part.left])
        # The versions are those of now: a later change in place is one too many.
        self.versions = [0 if t is None else t._version for t in (*self.tensors, *self.results)]
        self.outer = outer
        self.released: frozenset[int] = frozenset()
        # Weak, for a cycle would keep what the steps saved until the next garbage collection.
        self.steps: dict[int, weakref.ref[Deferred]] = {}

    def _bare(self, places: list[tuple[int, int, int]]) -> None:
        """Hold of tensors that steps of the part made the memory alone."""
        for i, _, _ in places:
            t = self.tensors[i]
            if t is not None:
                self.bare[i] = weakref.ref(t)
                self.tensors[i] = _without_step(t)

    def complete(self, values: dict[int, Any]) -> None:
        """Take what the run did not leave."""
        part, behind = self.part, len(self.tensors)
        for i in part.away[0]:
            t = self.tensors[i] = values.get(part.tensors[i])
            self.versions[i] = 0 if t is None else t._version
        for i in part.away[1]:
            t = values.get(part.results[i])
            self.results[i] = None if t is None else held(t)
            self.versions[behind + i] = 0 if t is None else t._version
        self._bare(part.bare[part.left :])

    def tensor(self, i: int) -> Any:
        """A leaf or a saved operand, itself if it is still there."""
        found = self.bare.get(i)
        t = None if found is None else found()
        return self.tensors[i] if t is None else t

    def step(self, at: int) -> Deferred:
        """What stands for a step, by its place."""
        found = self.steps.get(at)
        node = None if found is None else found()
        if node is None:
            node = Deferred.__new__(Deferred)
            node.batch, node.at, node.seq = self, at, self.positions[at]
            if self.part.order[at].shown:
                node.shown = self.part.order[at].shown
            self.steps[at] = weakref.ref(node)
        return node

    def holds_itself(self) -> bool:
        """Whether a saved tensor, or the base of one, has a step of this batch: a cycle."""
        for t in self.tensors:
            if t is None:
                continue
            for node in (t._node, None if t._base is None else t._base._node):
                if type(node) is Deferred and node.batch is self:
                    return True
        return False

    def make(self) -> list[TapeNode]:
        """Make all steps real."""
        self.run.restore()
        made: list[TapeNode] = []
        for i in range(len(self.part.order)):
            found = self.steps.get(i)
            node: Any = None if found is None else found()
            if node is None:
                node = TapeNode.__new__(TapeNode)
            else:
                node.__class__ = TapeNode
                del node.batch, node.at
            made.append(node)
        tensors = [None if t is None else self.tensor(i) for i, t in enumerate(self.tensors)]
        self.fill(made, tensors, self.results, self.versions, self.numbers, self.outer)
        for i, at, which in self.part.bare:
            t = tensors[i]
            if t is not None and t is self.tensors[i]:
                t._index, t._node, t._requires_grad = which, made[at], True
        return made

    def fill(
        self,
        made: list[TapeNode],
        tensors: list[Any],
        results: list[Any],
        versions: list[int],
        numbers: Any,
        outer: list[TapeNode],
    ) -> None:
        """Give steps what they are made of."""
        part = self.part
        behind = len(tensors)

        def edge_of(edge: Any) -> Any:
            if edge is None:
                return None
            if edge[0] == "node":
                return made[edge[1]], edge[2]
            if edge[0] == "outer":
                return outer[edge[1]], edge[2]
            return tensors[edge[1]]

        def value_of(entry: Any) -> tuple[Any, int]:
            if entry is None:
                return None, 0
            if entry[0] == "tensor":
                return tensors[entry[1]], versions[entry[1]] - entry[2]
            return (numbers[entry[1].index] if entry[0] == "number" else entry[1]), 0

        for i, (node, step) in enumerate(zip(made, part.order, strict=True)):
            node.op, node.attrs, node.avals, node.outs = step.op, step.attrs, step.avals, step.outs
            if step.shown > node.shown:
                node.shown = step.shown
            node.label, node.done = step.label, step.done
            node.seq = self.positions[i]
            node.edges = tuple([edge_of(e) for e in part.edges[i]])
            if i in self.released:
                node.done = True
                continue
            node.saved = tuple([value_of(e) for e in part.saved[i]])
            node.results = tuple([(results[k], versions[behind + k] - times) for k, times in part.kept[i]])

    def is_intact(self) -> bool:
        """Whether what its steps saved is there, or is made again, and as it was."""
        tensors, versions, behind = self.tensors, self.versions, len(self.tensors)
        operands, results = self.part.checked
        return (
            not self.released
            and all(tensors[k]._version == versions[k] for k in operands)
            and all(self.results[k]._version == versions[behind + k] for k in results)
        )

    def links(self) -> list[TapeNode]:
        """The steps of earlier parts that it leads to."""
        return self.outer[len(self.part.outer) :]


def _without_step(t: Tensor) -> Tensor:
    """The same tensor, or view, without the step that made it."""
    bare = held(t)
    if t._base is not None:
        bare._base, bare._view, bare._seen = t._base, t._view, t._version
    return bare


class Deferred(TapeNode):
    """Stands for a step of a batch until somebody looks at it; it then is the step."""

    deferred = True
    batch: Batch
    at: int

    def push_all(self, pending: dict[TapeNode, list[Any]], slot_of: SlotOf, send: Send) -> Walked | None:
        """Walk back all steps of the batch that have gradients; what lets go of them then, None if it is not done."""
        return push(self.batch, pending, slot_of, send)


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


def restore(
    plan: TapePlan, values: list[Any], numbers: list[Any], outer: Callable[[Any], Any], kept: list[Any]
) -> None:
    """Put a tape back: each root slot's tensor gets the step that made it.

    `outer` gives the step that had made a tensor from outside before the segment changed it, `kept` is what a lean one
    keeps.
    """
    batches: list[Batch] = []
    run = Run(plan, numbers, kept)
    for number, part in enumerate(plan.parts):
        before = [outer(values[slot]) for slot in part.outer]
        before += [batches[k].step(at) for k, at in part.links]
        batches.append(Batch(run, number, values, numbers, before))
        for at, of, base, distance in part.behind:
            # Who looks at a view of the same base later comes behind those that were looked at.
            batches[-1].positions[at] = batches[of].positions[base] + distance
    _enter(plan.entries[0], values.__getitem__, batches)


def _enter(entries: list[Entry], value_of: Callable[[int], Any], batches: Sequence[Batch | None]) -> None:
    """Give tensors the steps that made them."""
    for slot, k, at, which in entries:
        t, batch = value_of(slot), batches[k]
        if t is not None and batch is not None:
            t._index, t._node, t._requires_grad = which, batch.step(at), True
            if t._base is not None:
                t._seen = t._version
    for batch in batches:
        if batch is not None and batch.holds_itself():
            batch.make()


# --- walked back by one program ---------------------------------------------------------------------------------------


def push(first: Batch, pending: dict[TapeNode, list[Any]], slot_of: SlotOf, send: Send) -> Walked | None:
    """Walk back the tape of a run as far as `pending` has gradients for it, and send on what comes out.

    None, and nothing is done, if there is no program for it, or something stands in the way.
    """
    run = first.run
    mine = [node for node in pending if type(node) is Deferred and node.batch.run is run]
    batches = _reached([node.batch for node in mine])
    if batches is None or not all(batch.is_intact() for batch in batches) or any(array is None for array in run.kept):
        return None
    begin = batches[0].positions[0]
    if any(node.seq > begin for node in pending if type(node) is not Deferred or node.batch.run is not run):
        # Its turn would come between those of the tape.
        return None
    given: list[Given] = []
    for node in mine:
        for which, total in enumerate(pending[node]):
            if total is not None:
                ct = as_tensor(total)
                ct = ct if ct._array.flags.c_contiguous else wrap(np.ascontiguousarray(ct._array))
                given.append((node.batch.number, node.at, which, ct))
    given.sort(key=lambda one: one[:3])
    held = _held(run, batches)
    pullback = pullback_of(run.plan, given, held, partial(_steps, batches))
    if pullback is None:
        return None
    edges = [held.tensors[end] if type(end) is int else (held.outer[end[0]], end[1]) for end in pullback.targets]
    if len({id(e) if type(e) is not tuple else (id(e[0]), e[1]) for e in edges}) < len(edges):
        # Two gradients go to one place, which the steps' would do in another order.
        return None
    # In the order in which the steps' would come: leaves get their gradients in it.
    places = [slot_of(edge) for edge in edges]
    sums = [slots[index] for slots, index in map(places.__getitem__, pullback.several)]
    totals = [None if total is None else as_tensor(total)._array for total in sums]
    arrays = [held.tensors[slot]._array for slot in held.operands]
    found = pullback.run(run.kept, [*arrays, *[ct._array for *_, ct in given]], held.numbers.values(), totals)
    if found is None:
        return None
    run.plan.looks = max(0, run.plan.looks - 1)
    for node in mine:
        del pending[node]
    for k, ((slots, index), edge, gradient) in enumerate(zip(places, edges, found, strict=True)):
        if slots[index] is None or k in pullback.several:
            slots[index] = begun(gradient)
        else:
            send(edge, wrap(gradient))
    return Walked([(batch, pullback.spent[batch.number]) for batch in batches])


def _reached(first: list[Batch]) -> list[Batch] | None:
    """The batches that some lead to within their run, in order; None if a step on the way has been made real."""
    found = {batch.number: batch for batch in first}
    queue = list(found.values())
    for batch in queue:
        for node in batch.links():
            if type(node) is not Deferred:
                return None
            if node.batch.number not in found:
                found[node.batch.number] = node.batch
                queue.append(node.batch)
    return [found[number] for number in sorted(found)]


def _held(run: Run, batches: list[Batch]) -> Held:
    tensors: dict[int, Any] = {}
    operands: dict[int, None] = {}
    outer: dict[int, TapeNode] = {}
    for batch in batches:
        part = batch.part
        tensors.update(zip(part.results, batch.results, strict=True))
        operands.update(dict.fromkeys((*part.results, *[part.tensors[k] for k in part.operands])))
        outer.update(zip(part.outer, batch.outer, strict=False))
    for batch in batches:
        # What is a leaf of one is itself, and not what another one saved of its memory.
        tensors.update(zip(batch.part.tensors, batch.tensors, strict=True))
    numbers = {i: batch.numbers[i] for batch in batches for i in batch.part.numbers}
    lean = run.plan.lean
    if lean is not None:
        numbers.update({i: run.numbers[i] for i in lean.numbers})
        operands = {slot: None for slot in operands if slot not in lean.away}
    return Held(tuple(batch.number for batch in batches), tensors, list(operands), outer, numbers)


def _steps(
    batches: list[Batch], tensors: dict[int, Tensor], outer: dict[int, TapeNode], numbers: dict[int, Any]
) -> dict[int, list[TapeNode]]:
    """The steps of batches on other values."""
    made: dict[int, list[TapeNode]] = {}
    for batch in batches:
        part = batch.part
        steps = made[batch.number] = [TapeNode.__new__(TapeNode) for _ in part.order]
        before = [outer[slot] for slot in part.outer] + [made[k][at] for k, at in part.links]
        operands, results = [tensors[slot] for slot in part.tensors], [tensors[slot] for slot in part.results]
        versions = [t._version for t in (*operands, *results)]
        batch.fill(steps, operands, results, versions, numbers, before)
    return made


class Walked:
    """Steps that were walked back, until they let go of what they saved."""

    __slots__ = ("_spent",)

    def __init__(self, spent: list[tuple[Batch, Spent]]) -> None:
        self._spent = spent

    def release(self) -> None:
        """Let go of it."""
        for batch, what in self._spent:
            let_go(batch, *what)


# --- let go of, and taken back ----------------------------------------------------------------------------------------


def let_go(
    batch: Batch, steps: frozenset[int], tensors: tuple[int, ...], results: tuple[int, ...]
) -> Callable[[], None]:
    """Release steps of a batch, with the tensors and results that no other one saved; what puts them back."""
    back = partial(_take_back, batch, batch.released, batch.tensors, batch.results, batch.run.kept)
    batch.released = batch.released | steps if batch.released else steps
    batch.tensors, batch.results = list(batch.tensors), list(batch.results)
    for i in tensors:
        batch.tensors[i] = None
    for i in results:
        batch.results[i] = None
    batch.run.let_go()
    return back


def _take_back(batch: Batch, released: frozenset[int], tensors: list[Any], results: list[Any], kept: list[Any]) -> None:
    batch.released, batch.tensors, batch.results, batch.run.kept = released, tensors, results, kept
