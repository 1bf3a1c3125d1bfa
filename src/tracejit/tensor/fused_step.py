"""A composite's steps on the tape as one, until somebody looks at them.

In: a composite that ran as one program, and what the program left for its gradient. Out: the gradients of its operands
by one program, or the steps that the operations would have left.
Must not know: how programs are made, who walks the tape.

Whoever asks such a step for its operation, its edges or what it saved gets the real steps: it becomes the last of them,
and the others take the positions on the tape that were left for them. So hooks, second gradients, compiled regions and
errors know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tracejit.aval import Aval
from tracejit.eager import run_op
from tracejit.ops.record import Op
from tracejit.tensor.dispatch import attach, wrap
from tracejit.tensor.summing import as_tensor, begun
from tracejit.tensor.tape import TapeNode, enter, held
from tracejit.tensor.tensor import Tensor

Saved = tuple[Tensor, int]
"""A tensor, and the version of its memory when it was saved."""


class Unit(Protocol):
    """What a fused step must know of its composite.

    `steps` are its operations (`drawing.Step`) up to the result of type `out`, `avals` the types of their values by
    place, of which the first are those of the tensors given. `flags` says which of the tensors given require
    gradients. `kept` are the places of the values that a call leaves, `given` which of the tensors given it does;
    `keeps_out` says whether it leaves the result, `holds` whether its steps save any tensor. `again` are the
    operations to compute again where steps are made. `wanted` are the tensors given that get gradients, `several`
    those that get more than one.
    """

    steps: list[Any]
    out: Aval
    avals: list[Aval]
    flags: tuple[bool, ...]
    kept: list[int]
    given: list[int]
    keeps_out: bool
    holds: bool
    again: set[int]
    wanted: list[int]
    several: list[int]

    def positions(self) -> list[int]:
        """Positions on the tape for the steps that a call stands for."""

    def shape_of(self, k: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor given, at some sizes."""

    def at(self, sizes: tuple[int, ...]) -> Unit:
        """The unit whose `steps` and `avals` are those at some sizes."""

    def pull(
        self, arrays: list[np.ndarray], ct: np.ndarray, totals: list[np.ndarray | None], sizes: tuple[int, ...]
    ) -> list[np.ndarray] | None:
        """The gradients of the tensors given, from what a call left, the result's and the sums they are added to.

        None if there is no program for it.
        """


class FusedStep(TapeNode):
    """The step of a composite that ran as one program."""

    fused = True
    unit: Unit
    sources: tuple[Any, ...]
    values: list[np.ndarray] | None
    given: tuple[Saved, ...]
    arrays: list[np.ndarray]
    final: Saved | None
    sizes: tuple[int, ...]

    @classmethod
    def put(
        cls,
        unit: Unit,
        tensors: list[Tensor],
        sources: tuple[Any, ...],
        out: Tensor,
        values: list[Any],
        sizes: tuple[int, ...],
    ) -> None:
        """Put the step that made `out` on the tape; `values` are those that the unit keeps."""
        node: FusedStep = cls.__new__(cls)
        node.unit, node.sources, node.values, node.sizes = unit, sources, values, sizes
        node.given = tuple([(tensors[k], tensors[k]._version) for k in unit.given])
        node.arrays = [t._array for t, _ in node.given]
        node.final = (held(out), out._version) if unit.keeps_out else None
        if node.final is not None:
            node.arrays.append(out._array)
        node.seq = unit.positions()[-1]
        out._index, out._node, out._requires_grad = 0, node, True

    def push(
        self,
        ct: Tensor,
        slot_of: Callable[[Any], tuple[list[Any], int]],
        send: Callable[[Any, Tensor], None],
    ) -> bool:
        """Send the gradients of the operands on, if that is all that is asked for and nothing stands in the way."""
        unit, values = self.unit, self.values
        array = ct._array
        if values is None or type(array) is not np.ndarray or array.dtype != unit.out.dtype.np or not self._is_intact():
            return False
        totals: list[np.ndarray | None] = []
        for k in unit.several:
            slots, index = slot_of(self.sources[k])
            total = slots[index]
            if total is None:
                totals.append(None)
                continue
            total = slots[index] = as_tensor(total)
            if type(total._array) is not np.ndarray or total._dtype is not unit.avals[k].dtype:
                return False
            if total._shape != unit.shape_of(k, self.sizes):
                return False
            totals.append(np.ascontiguousarray(total._array))
        found = unit.pull([*values, *self.arrays], array, totals, self.sizes)
        if found is None:
            return False
        for k, gradient in zip(unit.wanted, found, strict=True):
            edge = self.sources[k]
            slots, index = slot_of(edge)
            if slots[index] is None or k in unit.several:
                slots[index] = begun(gradient)
            else:
                send(edge, wrap(gradient))
        return True

    def left(self) -> list[np.ndarray] | None:
        """The arrays that the gradient is made of, as the unit's `rule` takes them, if the unit is for one layout."""
        return None if self.values is None or self.sizes or not self._is_intact() else [*self.values, *self.arrays]

    def _is_intact(self) -> bool:
        """Whether what was saved is as it was."""
        saved = self.given if self.final is None else (*self.given, self.final)
        for (t, version), known in zip(saved, self.arrays, strict=True):
            if t._array is not known or t._version != version:
                return False
        return True

    def release(self) -> None:
        """Let go of what the gradient needs."""
        if self.unit.holds:
            self.values, self.given, self.arrays, self.final = None, (), [], None

    # --- the real steps -------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the steps that the operations would have left, and become the last of them."""
        unit = self.unit = self.unit.at(self.sizes)
        released = self.values is None
        kept = {} if released else dict(zip(unit.kept, self.values or (), strict=True))
        values: list[Any] = [self._stand_in(k, flag) for k, flag in enumerate(unit.flags)]
        leaves = {id(values[k]): source for k, source in enumerate(self.sources) if type(source) is not tuple}
        values += [None] * (len(unit.avals) - len(values))
        made: list[TapeNode] = []
        for at, step in enumerate(unit.steps):
            args = tuple([values[a] if type(a) is int else a[0] for a in step.args])
            out = values[step.out] = self._value(step, at, args, kept, released)
            if step.mask:
                enter(step.op, args, step.attrs, (out,), step.mask)
                made.append(out._node)
        entry_of = self._entries(values)
        for position, node in enumerate(made, int(self.seq) - len(made) + 1):
            node.seq = position
            node.edges = tuple([leaves.get(id(e), e) if isinstance(e, Tensor) else e for e in node.edges])
            if released:
                node.release()
                continue
            node.saved = tuple([e if e is None or not isinstance(e[0], Tensor) else entry_of(*e) for e in node.saved])
            node.results = tuple([entry_of(*e) for e in node.results])
        hooks, retain = self.hooks, self.retain
        self.__dict__ = made[-1].__dict__
        self.__class__ = TapeNode  # type: ignore[assignment]
        if hooks:
            self.hooks = hooks
        if retain:
            self.retain = retain

    def _entries(self, values: list[Any]) -> Callable[[Tensor, int], Saved]:
        """What a step saves in place of a tensor that stands for what there was when the composite ran."""
        unit = self.unit
        entries = self.given if self.final is None else (*self.given, self.final)
        tensors = {id(values[k]): t for k, (t, _) in zip(unit.given, self.given, strict=False)}
        versions = {id(t._cell): version for t, version in entries}
        # What is computed again from changed memory is not what it was: who asks for it is told what was changed.
        changed = next((entry for entry in entries if entry[0]._version != entry[1]), None)
        lost = () if changed is None else {id(values[unit.steps[at].out]._array) for at in unit.again}

        def entry_of(t: Tensor, version: int) -> Saved:
            if id(t._cell) in versions:
                return tensors.get(id(t), t), versions[id(t._cell)]
            return changed if changed is not None and id(t._array) in lost else (t, version)

        return entry_of

    def _stand_in(self, k: int, flag: bool) -> Tensor:
        """A tensor in the place of one that was given, with the history that it had."""
        at = self.unit.given.index(k) if self.given and k in self.unit.given else None
        t = wrap(_nothing(self.unit.avals[k]) if at is None else self.arrays[at])
        t._requires_grad = flag
        if at is not None:
            t._cell = self.given[at][0]._share()
        if type(self.sources[k]) is tuple:
            t._node, t._index = self.sources[k]
        return t

    def _value(self, step: Any, at: int, args: tuple[Any, ...], kept: dict[int, Any], released: bool) -> Tensor:
        """What an operation gave, where a gradient needs it."""
        unit = self.unit
        if step.out in kept:
            return wrap(kept[step.out])
        if at == len(unit.steps) - 1 and self.final is not None:
            out = wrap(self.final[0]._array)
            out._cell = self.final[0]._share()
            return out
        if released or at not in unit.again:
            return wrap(_nothing(unit.avals[step.out]))
        if step.op is None:
            out = wrap(args[0]._array)
            out._cell = args[0]._share()
            return out
        arrays = tuple([a._array if isinstance(a, Tensor) else a for a in args])
        out = wrap(_computed(step.op, arrays, step.attrs))
        if step.op.family == "view":
            attach(step.op, args[0], step.attrs, out)
        return out


def _nothing(aval: Any) -> np.ndarray:
    """An array that says a shape and a type and has one element."""
    return np.broadcast_to(np.zeros((), aval.dtype.np), aval.shape)


def _computed(op: Op, arrays: tuple[Any, ...], attrs: tuple[Any, ...]) -> np.ndarray:
    found: np.ndarray = run_op(op, arrays, attrs)
    return found if op.family == "view" or found.flags.c_contiguous else np.ascontiguousarray(found)


def _real(name: str) -> property:
    def get(node: FusedStep) -> Any:
        node.make()
        return getattr(node, name)

    def put(node: FusedStep, value: Any) -> None:
        node.make()
        setattr(node, name, value)

    return property(get, put)


for _name in ("op", "attrs", "edges", "saved", "results", "avals", "done"):
    setattr(FusedStep, _name, _real(_name))
