"""Operations taken down without values, from which graphs are made.

In: what runs on tensors that have shapes, types and histories, and memory that nobody looks at. Out: `Draft`, its
operations one by one, and graphs of them.
Must not know: what runs, programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tracejit.aval import Aval
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ops.record import Op, ops
from tracejit.tensor.blank import blank
from tracejit.tensor.dispatch import compute, detached, wrap
from tracejit.tensor.scalar import Scalar, settled
from tracejit.tensor.state import state
from tracejit.tensor.tape import TapeNode, enter
from tracejit.tensor.tensor import Tensor, aval_of


class Unfit(Exception):
    """What runs does what cannot be taken down."""


class Never(Unfit):
    """What runs does what keeps it from being one program, whatever its operands."""


class Step(NamedTuple):
    """One operation: of its operands the places of tensors, numbers in tuples of one, run-time numbers as `Number`.

    Without `op` it is a detach. `out` is the place of its result, the first of several, which are side by side.
    The bits of `mask` say which operands require gradients if it is a step of the tape that leads to the result.
    """

    op: Op | None
    args: tuple[Any, ...]
    attrs: tuple[Any, ...]
    out: int
    mask: int


class Number:
    """A number that each run is given: the source of the `Scalar` that stands for it."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def fix(self, value: float) -> None:
        """Python calculates with it. Raises: Unfit."""
        raise Unfit

    def avoid(self, special: tuple[float, ...], value: float) -> None:
        """Python asks whether it is one of some. Raises: Unfit."""
        raise Unfit


class Draft:
    """What runs, as `steps` on values that are told by their places; what is `deep` has composites in it."""

    def __init__(self, deep: bool = False) -> None:
        self.deep = deep
        self.steps: list[Step] = []
        self.avals: list[Aval] = []
        self.strides: list[tuple[int, ...] | None] = []
        self.steps_of: dict[TapeNode, int] = {}
        self.copied: set[int] = set()
        """Reshapes that are copies."""
        self._places: dict[int, int] = {}
        self._alive: list[Tensor] = []

    def made(self, aval: Aval) -> Tensor:
        """A tensor that an operation makes."""
        return wrap(blank(aval.shape, aval.dtype.np))

    def view(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Tensor:
        """What an operation shows of a tensor."""
        return compute(op, args, attrs)  # type: ignore[no-any-return]

    def leaf(self, tensor: Tensor) -> Tensor:
        """A tensor without its history."""
        return detached(tensor)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """What runs inside is taken down; its tensors are forgotten at the end."""
        session, state.session = state.session, self
        try:
            yield
        finally:
            state.session = session
        del self._places, self._alive, self.steps_of

    def fits(self, op: Op, operands: list[Any]) -> bool:
        """Whether an operation can be taken down."""
        raise NotImplementedError

    # --- the session ----------------------------------------------------------------------------------------------

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Take an operation down."""
        attrs = settled(attrs)
        known = [aval_of(a) if isinstance(a, Tensor) else a.value if type(a) is Scalar else a for a in args]
        if op.origin is not None or not self.fits(op, known):
            raise Unfit
        if any(not isinstance(a, Aval) and type(a) not in (int, float, bool) for a in known):
            raise Unfit
        places = tuple([
            self.place(a) if isinstance(a, Tensor) else a.source if type(a) is Scalar else (a,) for a in args
        ])  # fmt: skip
        if op.family == "view":
            out = self.view(op, args, attrs)
            if out._base is None and op.plain is None:
                # Its elements do not lie so that strides could say it.
                self.copied.add(len(self.avals))
        else:
            avals = op.infer(*known, *attrs)
            if len(op.results) > 1:
                outs = tuple(map(self.made, avals))
                first, *_ = [self.note(out) for out in outs]
                self.steps.append(Step(op, places, attrs, first, 0))
                return outs
            out = self.made(avals)
            mask = sum(1 << i for i, a in enumerate(args) if isinstance(a, Tensor) and a._requires_grad)
            if mask and state.grad_enabled and op.rules:
                enter(op, args, attrs, (out,), mask)
        if out._node is not None:
            self.steps_of[out._node] = len(self.steps)
        self.steps.append(Step(op, places, attrs, self.note(out), 0))
        return out

    def detach(self, tensor: Tensor) -> Tensor:
        """Take a detach down."""
        out = self.leaf(tensor)
        self.steps.append(Step(None, (self.place(tensor),), (), self.note(out), 0))
        return out

    def assign(self, target: Tensor, value: Tensor) -> None:
        """A change in place. Raises: Unfit."""
        raise Unfit

    def composite(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take a composite down, operation by operation. Raises: Never, if what runs does not ask for that."""
        if not self.deep:
            raise Never
        return function.function(*args, **kwargs)

    def _refuse(self, *_: Any) -> Any:
        raise Never

    # What reads or draws is no function of its operands.
    backward = host = read = draw = require = stands_on = finish = _refuse

    def place(self, tensor: Tensor) -> int:
        """The place of a tensor. Raises: Unfit for one from elsewhere."""
        found = self._places.get(id(tensor))
        if found is None:
            raise Unfit
        return found

    def note(self, tensor: Tensor) -> int:
        """Give a tensor the next place."""
        place = self._places[id(tensor)] = len(self.avals)
        self._alive.append(tensor)
        self.avals.append(aval_of(tensor))
        self.strides.append(None)
        return place

    def ghost(self, like: Tensor) -> Tensor:
        """A tensor like another one, on memory that nobody looks at, with the next place."""
        array = like._array
        strides = None if array.flags.c_contiguous else array.strides
        if strides is not None and any(s < 0 or s % array.itemsize for s in strides):
            raise Unfit
        ghost = wrap(blank(array.shape, array.dtype, strides))
        ghost._requires_grad = like._requires_grad
        ghost._share()
        self.note(ghost)
        if strides is not None:
            self.strides[-1] = tuple([s // array.itemsize for s in strides])
        return ghost

    # --- graphs ---------------------------------------------------------------------------------------------------

    def graph(
        self,
        name: str,
        inputs: list[tuple[int, tuple[int, ...] | None]],
        outputs: list[list[int]],
        totals: list[int],
        homes: dict[int, int],
        scalars: tuple[str, ...],
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
                else nodes.scalar(a.index, scalars[a.index])
                if type(a) is Number
                else nodes.const(a[0])
                for a in step.args
            ])  # fmt: skip
            if step.op is not None and len(step.op.results) > 1:
                several = nodes.make(step.op, args, step.attrs)
                made.update((step.out + k, nodes.item(several, k)) for k in range(len(step.op.results)))
            else:
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
        return Graph(tuple(leaves), scalars, tuple(sums), homes, name)

    def needed(self, places: Iterable[int], known: Iterable[int]) -> set[int]:
        """The steps that lead from known values to others."""
        by_out = {
            step.out + k: at
            for at, step in enumerate(self.steps)
            for k in range(1 if step.op is None else len(step.op.results))
        }
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


def run_again(
    steps: Iterable[Step],
    known: dict[int, Any],
    number: Callable[[int], Any],
    apply: Callable[[Op, tuple[Any, ...], tuple[Any, ...]], Any],
    detach: Callable[[Any], Any],
) -> None:
    """Add what steps of single results make of known values to these; `number` gives a run-time number by its index."""
    for step in steps:
        args = tuple([
            known[a] if type(a) is int else number(a.index) if type(a) is Number else a[0] for a in step.args
        ])  # fmt: skip
        known[step.out] = detach(args[0]) if step.op is None else apply(step.op, args, step.attrs)


class Gradients:
    """Where gradients go while rules run: those of steps are added up as they come, those of ends are kept in order.

    `end_of` tells an end of its tape from steps, by which it is kept.
    """

    def __init__(self, rules: Draft, end_of: Callable[[Any], Any]) -> None:
        self.rules, self.end_of = rules, end_of
        self.pending: dict[TapeNode, list[Any]] = {}
        self.ends: dict[Any, list[int]] = {}

    def send(self, edge: Any, g: Tensor | None) -> None:
        """Send a gradient, if there is one, along an edge, if there is one."""
        if edge is None or g is None:
            return
        end = self.end_of(edge)
        if end is not None:
            self.ends.setdefault(end, []).append(self.rules.place(g))
            return
        node, which = edge
        slots = self.pending.setdefault(node, [None] * node.outs)
        before = slots[which]
        slots[which] = g if before is None else ops.add(before, g)


class Rules(Draft):
    """What the gradient rules of steps do."""

    def fits(self, op: Op, operands: list[Any]) -> bool:
        """Whether an operation can be taken down: all can."""
        return True

    def composite(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the operations of a composite down."""
        return function.function(*args, **kwargs)
