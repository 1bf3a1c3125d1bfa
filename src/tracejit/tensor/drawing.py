"""Composites as data: the operations that one is made of, and those of its gradient, taken down without values.

In: a composite with the tensors and plain values of a call. Out: `Drawing`, from which graphs are made, and the
operations one by one.
Must not know: when a composite is drawn, programs, what runs them.

The composite's Python runs on tensors that have shapes, types and histories, and memory that nobody looks at. Then the
gradient rules of the steps that it left on the tape run as a backward pass would run them. So what is taken down is
what eager would do, in its order: sums of several gradients have the order in which `backward` adds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

from tracejit.aval import Aval
from tracejit.ops.contraction import PRODUCTS
from tracejit.ops.record import Op, ops
from tracejit.symbols import present
from tracejit.tensor.draft import Draft, Gradients, Unfit
from tracejit.tensor.modes import set_grad_enabled
from tracejit.tensor.state import state
from tracejit.tensor.tape import TapeNode, pull
from tracejit.tensor.tensor import Tensor, aval_of

_FAMILIES = ("elementwise", "reduction", "contraction", "view", "place", "create")
"""What is fused, and computed again where that saves memory."""
_COMPUTED_ONCE = frozenset((*PRODUCTS, ops.conv2d, ops.conv2d_input_grad, ops.conv2d_weight_grad))
"""Operations of the library in whose programs there is more than themselves; those on whole numbers look up rows. All
others are programs of their own anyway."""


class Drawing(Draft):
    """What a composite does, and its gradient: `steps` on values that are told by their places.

    The first places are those of the tensors that it was given, `out` is that of its result, -1 if there is none.
    `homes` are the places of what is left in tensors given that are changed in place, `bumps` says how often they are.
    With `differentiable`: the first `length` steps lead to the result; `cotangent` is the place of the result's
    gradient, `gradients` has for each tensor given the gradients that go there, in their order; `saved` are the values
    that the steps of the tape keep, `given` the tensors given that they keep or show parts of, `shown` these parts,
    `keeps_out` says whether they keep the result.
    """

    def __init__(self, tensors: list[Tensor], run: Callable[[list[Tensor]], Any], deep: bool = False) -> None:
        super().__init__(deep)
        self.flags = tuple([t._requires_grad for t in tensors])
        self.homes: dict[int, int] = {}
        self.bumps: dict[int, int] = {}
        self.saved: list[int] = []
        self.given: list[int] = []
        self.shown: list[int] = []
        self.keeps_out = False
        self._cells: Counter[int] = Counter()
        ghosts = [self.ghost(t) for t in tensors]
        self._given = {id(ghost): k for k, ghost in enumerate(ghosts)}
        with self.taking():
            out = run(ghosts)
            if out is None and self.homes:
                self.out, self.differentiable = -1, False
            elif type(out) is not Tensor or out._base is not None or id(out) in self._given:
                # A view, or what was given: its memory is not its own.
                raise Unfit
            else:
                self._finish(ghosts, out)
            if self.homes and not self.homes.keys().isdisjoint(self.given):
                raise Unfit
            if self.homes and any(step.op is not None and step.op.family not in _FAMILIES for step in self.steps):
                # It may refuse, when half of it is done.
                raise Unfit
        del self._cells, self._given

    def fits(self, op: Op, operands: list[Any]) -> bool:
        """Whether an operation can be taken down: composites with several results run as they stand."""
        if len(op.results) > 1:
            return False
        if op.family in _FAMILIES or op in _COMPUTED_ONCE:
            return True
        return op.family == "library" and not any(isinstance(a, Aval) and a.dtype.is_floating_point for a in operands)

    # --- the session ----------------------------------------------------------------------------------------------

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Take a change in place down."""
        place = self._given.get(id(target))
        tracked = state.grad_enabled and (target._requires_grad or value._requires_grad)
        if place is None or tracked or self._cells[id(target._cell)] > 1:
            # Of others that show its memory it would have to be known which value they have.
            raise Unfit
        self.homes[place] = self._places[id(target)] = self.place(value)
        self.bumps[place] = self.bumps.get(place, 0) + 1
        target._bump()

    def note(self, tensor: Tensor) -> int:
        """Give a tensor the next place."""
        self._cells[id(tensor._cell)] += 1
        return super().note(tensor)

    # --- the gradient ---------------------------------------------------------------------------------------------

    def _finish(self, ghosts: list[Tensor], out: Tensor) -> None:
        self.out = self.place(out)
        self.differentiable = out._node is not None
        self.gradients: list[list[int]] = [[] for _ in ghosts]
        if not self.differentiable:
            return
        self.length = self.steps_of[out._node] + 1
        if self.steps[self.length - 1].out != self.out:
            raise Unfit
        linked = _reached(out._node)
        for node in linked:
            at = self.steps_of[node]
            mask = sum(1 << i for i, edge in enumerate(node.edges) if edge is not None)
            self.steps[at] = self.steps[at]._replace(mask=mask)
            self._take_saved(node, at, ghosts)
        ct = self.made(aval_of(out))
        self.cotangent = self.note(ct)
        with set_grad_enabled(False):
            self._walk(linked, ct, ghosts)

    def _take_saved(self, node: TapeNode, at: int, ghosts: list[Tensor]) -> None:
        for entry in node.saved:
            if entry is not None and isinstance(entry[0], Tensor):
                self._keep(entry[0], self.place(entry[0]), ghosts)
        if node.results:
            # A step saves its result without the history, as another tensor.
            result = node.results[0][0]
            self._places[id(result)] = self.steps[at].out
            self._alive.append(result)
            self._keep(result, self.steps[at].out, ghosts)

    def _keep(self, tensor: Tensor, place: int, ghosts: list[Tensor]) -> None:
        for k, ghost in enumerate(ghosts):
            if tensor._cell is ghost._cell:
                if k not in self.given:
                    self.given.append(k)
                if place != k:
                    self.shown.append(place)
                return
        if place == self.out:
            self.keeps_out = True
        elif place not in self.saved:
            self.saved.append(place)

    def _walk(self, linked: list[TapeNode], root: Tensor, ghosts: list[Tensor]) -> None:
        at = {id(ghost): k for k, ghost in enumerate(ghosts)}
        found = Gradients(self, lambda edge: None if type(edge) is tuple else at[id(edge)])
        found.send((linked[0], 0), root)
        for node in linked:
            cts = found.pending.pop(node, None)
            if cts is not None:
                for edge, g in zip(node.edges, pull(node, cts, False), strict=True):
                    found.send(edge, g)
        for k, places in found.ends.items():
            self.gradients[k] = places

    # --- what to keep ---------------------------------------------------------------------------------------------

    def kept(self) -> list[int]:
        """The values to keep for the gradient: from them all that the tape would save is computed again.

        They take no more memory than what the tape would save. Values are dropped that others lead to, from the last
        to the first; then a value gives way to what it is made of where that is smaller, as an index is than the mask
        of what it chooses. Products, convolutions and what looks up rows are not computed again.
        """
        by_out = {step.out: step for step in self.steps}
        free = {*self.given, *((self.out,) if self.keeps_out else ())}

        def leads(place: int, known: set[int]) -> bool:
            if place in known or place in free:
                return True
            step = by_out.get(place)
            if step is None or (step.op is not None and step.op.family not in _FAMILIES):
                return False
            return all(leads(a, known) for a in step.args if type(a) is int)

        kept = set(self.saved)
        for place in sorted(kept, reverse=True):
            if leads(place, kept - {place}):
                kept.remove(place)
        changed = True
        while changed:
            changed = False
            for place in sorted(kept, reverse=True):
                step = by_out.get(place)
                if step is None or (step.op is not None and step.op.family not in _FAMILIES):
                    continue
                rest = kept - {place}
                missing = {a for a in step.args if type(a) is int and not leads(a, rest)}
                # A view has no memory of its own, and one that is spread has fewer elements than its shape says.
                is_view = step.op is None or (step.op.family == "view" and place not in self.copied)
                if is_view or sum(map(self._nbytes, missing)) < self._nbytes(place):
                    kept = rest | missing
                    changed = True
        return sorted(kept)

    def _nbytes(self, place: int) -> int:
        aval = self.avals[place]
        return prod(present(aval.shape)) * aval.dtype.itemsize


def _reached(root: TapeNode) -> list[TapeNode]:
    """The steps that lead to one, itself the first, newest first."""
    seen = {root}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is tuple and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=lambda node: node.seq, reverse=True)
