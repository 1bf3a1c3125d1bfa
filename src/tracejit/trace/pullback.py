"""The gradient of steps that a program left, as one program, for a backward pass that runs outside of regions.

In: a tape, and the gradients of some of its results. Out: what goes to its leaves, and to the steps from outside that
it leads to.
Must not know: who walks the tape, how the steps are held.

A region without a backward pass of its own, as a compiled model is, leaves a tape that nobody has compiled. Walked step
by step its gradient takes several times what its result took. The rules of its steps run once on tensors without values
(`tensor/draft.py`), in the order in which a backward pass runs them, and what they do is compiled like a region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.config import logger
from tracejit.tensor.array_program import ArrayProgram
from tracejit.tensor.blank import blank
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.draft import Gradients, Number, Rules, Unfit
from tracejit.tensor.modes import set_grad_enabled
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tape import TapeNode, pull
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import address_of, signed
from tracejit.trace.lean import is_fused, is_view
from tracejit.trace.tape import Spent, TapePlan

_log = logger("fusion")
WORK = 1 << 23
"""Elements that passes over a tape go through from which on a program for them is worth its compilation."""
_STEP_WORK = 1 << 12
"""As how many elements a step counts, however small."""
_PULLBACKS = 8
"""Programs of one tape: they differ in sizes, and in which results have gradients."""

Given = tuple[int, int, int, Tensor]
"""A gradient that a pass brings: part and place of the step, which of its results, and the gradient."""
Steps = dict[int, list[TapeNode]]
"""The steps of parts, by the parts' numbers."""
Make = Callable[[dict[int, Tensor], dict[int, TapeNode], dict[int, Any]], Steps]
"""Makes the steps of some parts from tensors and steps from outside, by their slots, and numbers, by their indices."""


@dataclass(slots=True)
class Held:
    """What the steps of some parts hold: tensors and steps from outside by their slots, and numbers by their indices.

    `operands` are the slots of what was saved.
    """

    parts: tuple[int, ...]
    tensors: dict[int, Any]
    operands: list[int]
    outer: dict[int, TapeNode]
    numbers: dict[int, Any]


class Pullback:
    """The programs for gradients of some results of a tape, on values of some sizes.

    `targets` are where they go: a leaf by its slot, or by that of its tensor a step from outside, and which of its
    results it is. `several` are those of them that get more than one, `spent` says for each part which steps let go of
    what they saved, and what goes with them.
    """

    def __init__(self, plan: TapePlan, given: list[Given], held: Held, make: Make) -> None:
        self._rules = rules = Rules()
        self._lean = plan.lean
        self._kinds = tuple("i" if type(n) is int else "f" for n in held.numbers.values())
        with rules.taking(), set_grad_enabled(False):
            kept = self._kept()
            self._first = len(kept)
            saved = {slot: rules.ghost(held.tensors[slot]) for slot in held.operands}
            cts = [rules.ghost(ct) for *_, ct in given]
            self._inputs = list(enumerate(rules.strides))
            numbers = {i: Scalar(n, Number(k)) for k, (i, n) in enumerate(held.numbers.items())}
            if plan.lean is not None:
                plan.lean.again(kept, numbers.__getitem__, rules.apply, rules.detach)
                saved.update({slot: kept[slot] for slot in held.tensors if slot in plan.lean.away})
            tensors = {slot: saved[slot] if slot in saved else wrap(np.empty(())) for slot in held.tensors}
            outer = {slot: TapeNode.__new__(TapeNode) for slot in held.outer}
            steps = make(tensors, outer, numbers)
            leaves = {id(t): slot for slot, t in tensors.items()}
            slots = {node: slot for slot, node in outer.items()}

            def end_of(edge: Any) -> Any:
                if type(edge) is not tuple:
                    return leaves[id(edge)]
                return (slots[edge[0]], edge[1]) if edge[0] in slots else None

            found = Gradients(rules, end_of)
            for (k, at, which, _), ct in zip(given, cts, strict=True):
                found.send((steps[k][at], which), ct)
            self._walk(plan, steps, found)
        sums = found.ends
        self.targets = list(sums)
        self._sums = list(sums.values())
        self.several = [k for k, terms in enumerate(self._sums) if len(terms) > 1]
        self._programs: dict[tuple[bool, ...], ArrayProgram | None] = {}
        self._saved = held.operands

    def reads(self) -> frozenset[int]:
        """The slots of saved values that operations read which want them in memory."""
        rules, count = self._rules, len(self._inputs)
        maker = {step.out: step for step in rules.steps}
        found: set[int] = set()
        for at in rules.needed([place for places in self._sums for place in places], range(count)):
            step = rules.steps[at]
            if is_fused(step.op):
                continue
            for a in step.args:
                while type(a) is int and a in maker and is_view(maker[a].op):
                    (a,) = (b for b in maker[a].args if type(b) is int)
                if type(a) is int and 0 <= a - self._first < len(self._saved):
                    found.add(self._saved[a - self._first])
        return frozenset(found)

    def _kept(self) -> dict[int, Tensor]:
        """What stands for the values that a lean tape keeps, those in its block first."""
        lean = self._lean
        if lean is None:
            return {}
        found = list(zip(lean.kept, lean.avals, strict=True))
        found = [*found[lean.apart :], *found[: lean.apart]]
        return {slot: self._rules.ghost(wrap(blank(aval.shape, aval.dtype.np))) for slot, aval in found}

    def _walk(self, plan: TapePlan, steps: Steps, found: Gradients) -> None:
        """Run the rules of the steps to which gradients come, in the order of a backward pass."""
        self.spent: dict[int, Spent] = {}
        for k in sorted(steps, reverse=True):
            part, walked = plan.parts[k], []
            for at in range(len(part.order) - 1, -1, -1):
                node = steps[k][at]
                cts = found.pending.pop(node, None)
                if cts is None:
                    continue
                if part.holds(at):
                    walked.append(at)
                for edge, g in zip(node.edges, pull(node, cts, False), strict=True):
                    found.send(edge, g)
            self.spent[k] = part.spent(frozenset(walked))

    def run(
        self, kept: list[Any], arrays: list[np.ndarray], numbers: Iterable[Any], totals: list[np.ndarray | None]
    ) -> list[np.ndarray] | None:
        """What goes to the targets; `kept` is what the run left for a lean tape, `totals` are the sums that those of
        several gradients are added to.

        None if the program refuses, or there is none.
        """
        begun = tuple([total is not None for total in totals])
        if begun not in self._programs:
            self._programs[begun] = self._build(totals)
        program = self._programs[begun]
        if program is None:
            return None
        words = np.zeros(max(1, len(self._kinds)))
        for k, n in enumerate(numbers):
            if type(n) is int:
                words.view(np.int64)[k] = signed(n)
            else:
                words[k] = n
        arrays = [*arrays, *[total for total in totals if total is not None]]
        if self._lean is None:
            return program(arrays, words)
        apart = self._lean.apart
        first = self._lean.offsets + address_of(kept[apart]) if len(kept) > apart else None
        return program([*kept[:apart], *arrays], words, first)

    def _build(self, totals: list[np.ndarray | None]) -> ArrayProgram | None:
        begun = [k for k, total in zip(self.several, totals, strict=True) if total is not None]
        try:
            return ArrayProgram(self._rules.graph("backward", self._inputs, self._sums, begun, {}, self._kinds))
        except (Unfit, NotImplementedError) as e:
            _log.info("the gradient of what a program left runs operation by operation: %r", e)
            return None


def pullback_of(plan: TapePlan, given: list[Given], held: Held, make: Make) -> Pullback | None:
    """The pullback for what a pass brings to a tape; None if there is none, or passes were not yet worth one."""
    shown = [t._array for t in (*[held.tensors[slot] for slot in held.operands], *[ct for *_, ct in given])]
    if plan.dated or any(type(array) is not np.ndarray for array in shown):
        return None
    key = (held.parts, *[(*where, ct._dtype) for *where, ct in given], *[(a.shape, a.strides) for a in shown])
    if key in plan.pullbacks:
        return plan.pullbacks[key]  # type: ignore[no-any-return]
    plan.work += sum([array.size for array in shown]) + _STEP_WORK * len(plan.order)
    # A lean tape is there for its program.
    if (plan.work < WORK and plan.lean is None) or len(plan.pullbacks) >= _PULLBACKS:
        return None
    made = None
    try:
        made = Pullback(plan, given, held, make)
    except (Unfit, NotImplementedError, RuntimeError) as e:
        # What there is to say of it the steps say themselves.
        _log.info("the gradient of what a program left runs operation by operation: %r", e)
    plan.pullbacks[key] = made
    if made is not None and plan.lean is None and plan.ask is not None:
        ask, plan.ask = plan.ask, None
        plan.dated = ask(made.reads())
        if plan.dated:
            # Further runs leave a lean tape, which has a program of its own. The rest of this pass goes step by step.
            plan.pullbacks.clear()
            return None
    return made
