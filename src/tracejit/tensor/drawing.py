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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from tracejit.aval import Aval
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ops.contraction import PRODUCTS
from tracejit.ops.record import Op, ops
from tracejit.tensor.autograd import detached, set_grad_enabled
from tracejit.tensor.dispatch import compute, wrap
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import TapeNode, enter, pull
from tracejit.tensor.tensor import Tensor, aval_of

_FAMILIES = ("elementwise", "reduction", "contraction", "view", "place", "create")
"""What is fused, and computed again where that saves memory."""
_COMPUTED_ONCE = frozenset((*PRODUCTS, ops.conv2d, ops.conv2d_input_grad, ops.conv2d_weight_grad))
"""Operations of the library in whose programs there is more than themselves; those on whole numbers look up rows. All
others are programs of their own anyway."""


class Unfit(Exception):
    """The composite does what cannot be taken down, for operands of this kind."""


class Never(Unfit):
    """The composite does what keeps it from being one program, whatever its operands."""


class Step(NamedTuple):
    """One operation: of its operands the places of tensors, numbers in tuples of one, run-time numbers as `Number`.

    Without `op` it is a detach.
    The bits of `mask` say which operands require gradients if it is a step of the tape that leads to the result.
    """

    op: Op | None
    args: tuple[Any, ...]
    attrs: tuple[Any, ...]
    out: int
    mask: int


class Number:
    """A number that each run is given: the source of the `Scalar` that the composite's Python has for it."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def fix(self, value: float) -> None:
        """Python calculates with it. Raises: Unfit."""
        raise Unfit

    def avoid(self, special: tuple[float, ...], value: float) -> None:
        """Python asks whether it is one of some. Raises: Unfit."""
        raise Unfit


class Drawing:
    """What a composite does, and its gradient: `steps` on values that are told by their places.

    The first places are those of the tensors that it was given, `out` is that of its result, -1 if there is none.
    `homes` are the places of what is left in tensors given that are changed in place, `bumps` says how often they are.
    With `differentiable`: the first `length` steps lead to the result; `cotangent` is the place of the result's
    gradient, `gradients` has for each tensor given the gradients that go there, in their order; `saved` are the values
    that the steps of the tape keep, `given` the tensors given that they keep or show parts of, `shown` these parts,
    `keeps_out` says whether they keep the result.
    """

    def __init__(self, tensors: list[Tensor], run: Callable[[list[Tensor]], Any]) -> None:
        self.steps: list[Step] = []
        self.avals: list[Aval] = []
        self.strides: list[tuple[int, ...] | None] = []
        self.flags = tuple([t._requires_grad for t in tensors])
        self.homes: dict[int, int] = {}
        self.bumps: dict[int, int] = {}
        self.saved: list[int] = []
        self.given: list[int] = []
        self.shown: list[int] = []
        self.keeps_out = False
        self._places: dict[int, int] = {}
        self._cells: Counter[int] = Counter()
        self._alive: list[Tensor] = []
        self._steps_of: dict[TapeNode, int] = {}
        ghosts = [self._ghost(t) for t in tensors]
        self._given = {id(ghost): k for k, ghost in enumerate(ghosts)}
        session, state.session = state.session, self
        try:
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
        finally:
            state.session = session
        del self._places, self._alive, self._steps_of, self._cells, self._given

    # --- the session ----------------------------------------------------------------------------------------------

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Take an operation down."""
        known = [aval_of(a) if isinstance(a, Tensor) else a.value if type(a) is Scalar else a for a in args]
        if len(op.results) > 1 or op.origin is not None or not _fits(op, known):
            raise Unfit
        if any(not isinstance(a, Aval) and type(a) not in (int, float, bool) for a in known):
            raise Unfit
        places = tuple([
            self.place(a) if isinstance(a, Tensor) else a.source if type(a) is Scalar else (a,) for a in args
        ])  # fmt: skip
        if op.family == "view":
            out = compute(op, args, attrs)
        else:
            aval = op.infer(*known, *attrs)
            out = wrap(np.empty(aval.shape, aval.dtype.np))
            mask = sum(1 << i for i, a in enumerate(args) if isinstance(a, Tensor) and a._requires_grad)
            if mask and state.grad_enabled and op.rules:
                enter(op, args, attrs, (out,), mask)
        if out._node is not None:
            self._steps_of[out._node] = len(self.steps)
        self.steps.append(Step(op, places, attrs, self._note(out), 0))
        return out

    def detach(self, tensor: Tensor) -> Tensor:
        """Take a detach down."""
        out = detached(tensor)
        self.steps.append(Step(None, (self.place(tensor),), (), self._note(out), 0))
        return out

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

    def _refuse(self, *_: Any) -> Any:
        raise Never

    # What reads or draws is no function of its operands; composites inside are units of their own.
    composite = backward = host = read = draw = finish = _refuse

    # --- tensors --------------------------------------------------------------------------------------------------

    def place(self, tensor: Tensor) -> int:
        """The place of a tensor. Raises: Unfit for one from elsewhere."""
        found = self._places.get(id(tensor))
        if found is None:
            raise Unfit
        return found

    def _note(self, tensor: Tensor) -> int:
        place = self._places[id(tensor)] = len(self.avals)
        self._alive.append(tensor)
        self._cells[id(tensor._cell)] += 1
        self.avals.append(aval_of(tensor))
        self.strides.append(None)
        return place

    def _ghost(self, like: Tensor) -> Tensor:
        array = like._array
        if array.flags.c_contiguous:
            made = np.empty(array.shape, array.dtype)
        else:
            if any(s < 0 or s % array.itemsize for s in array.strides):
                raise Unfit
            room = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize
            made = np.ndarray(array.shape, array.dtype, np.empty(room, np.uint8), 0, array.strides)
        ghost = wrap(made)
        ghost._requires_grad = like._requires_grad
        ghost._share()
        self._note(ghost)
        if not array.flags.c_contiguous:
            self.strides[-1] = tuple([s // array.itemsize for s in array.strides])
        return ghost

    # --- the gradient ---------------------------------------------------------------------------------------------

    def _finish(self, ghosts: list[Tensor], out: Tensor) -> None:
        self.out = self.place(out)
        self.differentiable = out._node is not None
        self.gradients: list[list[int]] = [[] for _ in ghosts]
        if not self.differentiable:
            return
        self.length = self._steps_of[out._node] + 1
        if self.steps[self.length - 1].out != self.out:
            raise Unfit
        linked = _reached(out._node)
        for node in linked:
            at = self._steps_of[node]
            mask = sum(1 << i for i, edge in enumerate(node.edges) if edge is not None)
            self.steps[at] = self.steps[at]._replace(mask=mask)
            self._take_saved(node, at, ghosts)
        ct = wrap(np.empty(out._shape, out._dtype.np))
        self.cotangent = self._note(ct)
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
        pending: dict[TapeNode, Any] = {linked[0]: root}
        for node in linked:
            ct = pending.pop(node, None)
            if ct is None:
                continue
            for edge, g in zip(node.edges, pull(node, [ct], False), strict=True):
                if edge is None or g is None:
                    continue
                if type(edge) is tuple:
                    before = pending.get(edge[0])
                    pending[edge[0]] = g if before is None else ops.add(before, g)
                else:
                    self.gradients[at[id(edge)]].append(self.place(g))

    # --- graphs ---------------------------------------------------------------------------------------------------

    def graph(
        self,
        name: str,
        inputs: list[tuple[int, tuple[int, ...] | None]],
        outputs: list[list[int]],
        totals: list[int],
        homes: dict[int, int],
        scalars: int,
    ) -> Graph:
        """What leads from values with their strides, and run-time numbers, to sums of values.

        `totals` are the outputs whose sum begins with one more input, in the order of these inputs; `homes` are those
        that are written into an input.
        """
        made: dict[int, nodes.Node] = {}
        leaves: list[nodes.Node] = []
        for place, strides in inputs:
            made[place] = nodes.input(len(leaves), self.avals[place], strides)
            leaves.append(made[place])
        wanted = self.needed([place for places in outputs for place in places], made)
        for at in sorted(wanted):
            step = self.steps[at]
            args = tuple([
                made[a]
                if type(a) is int
                else nodes.scalar(a.index, "f")
                if type(a) is Number
                else nodes.const(a[0])
                for a in step.args
            ])  # fmt: skip
            made[step.out] = args[0] if step.op is None else nodes.make(step.op, args, step.attrs)
        sums = []
        for k, places in enumerate(outputs):
            terms = [made[place] for place in places]
            if k in totals:
                leaves.append(nodes.input(len(leaves), terms[0].tensor))
                terms.insert(0, leaves[-1])
            total = terms[0]
            for term in terms[1:]:
                total = nodes.make(ops.add, (total, term))
            sums.append(total)
        return Graph(tuple(leaves), ("f",) * scalars, tuple(sums), homes, name)

    def needed(self, places: Iterable[int], known: Iterable[int]) -> set[int]:
        """The steps that lead from known values to others."""
        by_out = {step.out: at for at, step in enumerate(self.steps)}
        found: set[int] = set()
        stack = list(places)
        done = set(known)
        while stack:
            place = stack.pop()
            if place in done:
                continue
            done.add(place)
            if place not in by_out:
                raise Unfit
            at = by_out[place]
            found.add(at)
            stack.extend(a for a in self.steps[at].args if type(a) is int)
        return found

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
                is_view = step.op is None or step.op.family == "view"
                if is_view or sum(map(self._nbytes, missing)) < self._nbytes(place):
                    kept = rest | missing
                    changed = True
        return sorted(kept)

    def _nbytes(self, place: int) -> int:
        aval = self.avals[place]
        return int(np.prod(aval.shape)) * aval.dtype.itemsize


def _fits(op: Op, operands: list[Any]) -> bool:
    if op.family in _FAMILIES or op in _COMPUTED_ONCE:
        return True
    return op.family == "library" and not any(isinstance(a, Aval) and a.dtype.is_floating_point for a in operands)


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
