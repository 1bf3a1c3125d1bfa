"""The programs of a drawn composite, and what its steps on the tape must know.

In: a drawing. Out: `Fused`, of which calls that differ in nothing but values are run.
Must not know: which calls those are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.ir.graph import Graph
from tracejit.tensor.array_program import NO_NUMBERS, ArrayProgram
from tracejit.tensor.draft import Rules, Unfit, run_again
from tracejit.tensor.drawing import Drawing
from tracejit.tensor.tape import next_positions
from tracejit.tensor.tensor import Tensor

_MAX_PULLS = 8
"""Programs for the gradients of one unit: they differ in how the result's gradient lies in memory, and in which sums
there are already."""


def _no_number(index: int) -> Any:
    """A unit with run-time numbers changes tensors and has no gradient. Raises: Unfit."""
    raise Unfit


Sizes = tuple[int, ...]
"""What the symbols of a unit stand for in a call, if it has any."""


class Fused:
    """The programs of a composite for operands of one kind, and what its steps on the tape must know.

    `kinds` are those of the numbers that its programs are given.
    """

    def __init__(self, name: str, drawing: Drawing, kinds: tuple[str, ...]) -> None:
        self.name, self.drawing, self.kinds = name, drawing, kinds
        self.avals, self.flags = drawing.avals, drawing.flags
        self.differentiable = drawing.differentiable
        self.returns = drawing.out >= 0
        self.bumps = drawing.bumps
        self.kept: list[int] = []
        count = len(self.flags)
        if self.differentiable:
            self.steps = drawing.steps[: drawing.length]
            self.out = drawing.avals[drawing.out]
            self.given, self.keeps_out = drawing.given, drawing.keeps_out
            self.holds = bool(drawing.saved or drawing.given or drawing.keeps_out)
            self.kept = drawing.kept()
            free = {*self.given, *((drawing.out,) if self.keeps_out else ())}
            self.again = drawing.needed([*drawing.saved, *drawing.shown], {*self.kept, *free})
            self.positions = functools.partial(next_positions, sum(1 for step in self.steps if step.mask))
            self.wanted = [k for k in range(count) if drawing.gradients[k]]
            self.several = [k for k in self.wanted if len(drawing.gradients[k]) > 1]
            self._left = [*self.kept, *self.given, *((drawing.out,) if self.keeps_out else ())]
            self._pulls: dict[Any, Callable[..., Any]] = {}
        inputs = [(k, drawing.strides[k]) for k in range(count)]
        outputs = [[place] for place in (*((drawing.out,) if self.returns else ()), *self.kept)]
        homes = dict(enumerate(drawing.homes, len(outputs)))
        outputs += [[place] for place in drawing.homes.values()]
        self._forward: Callable[..., Any] = self.build(drawing.graph(name, inputs, outputs, [], homes, self.kinds))

    def build(self, graph: Graph) -> Any:
        """The program of a graph. Raises: NotImplementedError if it cannot be compiled."""
        return ArrayProgram(graph)

    def run(self, arrays: list[np.ndarray], numbers: list[float], sizes: Sizes) -> list[np.ndarray] | None:
        """The result, if there is one, and the values that are kept; None if the program refused."""
        found: list[np.ndarray] | None = self._forward(arrays, np.array(numbers) if numbers else NO_NUMBERS)
        return found

    def shape_of(self, k: int, sizes: Sizes) -> tuple[int, ...]:
        """The shape of a tensor given."""
        return self.avals[k].shape

    def at(self, sizes: Sizes) -> Fused:
        """The unit for the calls of some sizes."""
        return self

    def pull(
        self, arrays: list[np.ndarray], ct: np.ndarray, totals: list[np.ndarray | None], sizes: Sizes
    ) -> list[np.ndarray] | None:
        """The gradients of the operands, from what a call left, the result's and the sums that they are added to.

        None if they cannot be compiled.
        """
        strides = None if ct.flags.c_contiguous else ct.strides
        key = (strides, *[total is not None for total in totals])
        program = self._pulls.get(key)
        if program is None:
            odd = strides is not None and any(s < 0 or s % ct.itemsize for s in strides)
            if strides is not None and (odd or len(self._pulls) >= _MAX_PULLS):
                return self.pull(arrays, np.ascontiguousarray(ct), totals, sizes)
            program = self._pulls[key] = self.build_pull(strides, ct.itemsize, key[1:])
        return program([*arrays, ct, *[total for total in totals if total is not None]])

    def build_pull(self, strides: tuple[int, ...] | None, size: int, begun: tuple[Any, ...]) -> Any:
        """The program for the gradients, of which some are added to sums that are `begun`."""
        drawing = self.drawing
        # What was kept is as the program made it, whatever an operand that it is equal to looked like.
        inputs = [(place, drawing.strides[place] if place in self.given else None) for place in self._left]
        inputs.append((drawing.cotangent, None if strides is None else tuple([s // size for s in strides])))
        outputs = [drawing.gradients[k] for k in self.wanted]
        totals = [self.wanted.index(k) for k, there in zip(self.several, begun, strict=True) if there]
        try:
            return self.build(drawing.graph(f"{self.name}_backward", inputs, outputs, totals, {}, self.kinds))
        except (Unfit, NotImplementedError):
            return self.no_program

    def rule(self, rules: Rules, left: list[Tensor], ct: Tensor) -> list[list[Tensor]]:
        """The gradients of each tensor that gets any, as operations that are taken down: from what stands for what a
        call left and for the result's gradient."""
        drawing = self.drawing
        known: dict[int, Any] = dict(zip(self._left, left, strict=True))
        known[drawing.cotangent] = ct
        places = [place for k in self.wanted for place in drawing.gradients[k]]
        steps = [drawing.steps[at] for at in sorted(drawing.needed(places, known))]
        run_again(steps, known, _no_number, rules.apply, rules.detach)
        return [[known[place] for place in drawing.gradients[k]] for k in self.wanted]

    @staticmethod
    def no_program(*_: Any) -> None:
        """Stands for a program that cannot be made."""
