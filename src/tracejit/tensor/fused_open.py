"""Composites as programs for any sizes: drawn and planned once, where sizes change from call to call.

In: calls of a composite that differ in sizes alone. Out: `Opening`, which has programs that serve all of them.
Must not know: how a composite is called, when a program for one layout is worth it.

A program for each layout would be used once where each batch has another length. When a kind of calls has been met
with several layouts, the sizes that differed become symbols, the composite is drawn with them (`open_drawing.py`), and
what the drawing gives is a template, whose kernels are launched one after another (`Template.run`).
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.config import logger
from tracejit.ir.graph import Graph
from tracejit.symbols import Places, Sightings, Trail, Wanted, fill
from tracejit.template import Template
from tracejit.tensor.draft import Number
from tracejit.tensor.fused_unit import Fused, Sizes
from tracejit.tensor.open_drawing import Layout, OpenDrawing
from tracejit.tensor.remembered import remember, was_made
from tracejit.tensor.tensor import Tensor

_log = logger("fusion")
_LAYOUTS = 16
"""Layouts of a kind from which on it is planned: before that, each may be one that stays."""
_WORK = 0.25
"""Work from which on it is: a part of that for which a layout gets its own program, as it serves all of them."""
_AGAIN = 4
"""Layouts from which on it is where an earlier process has planned it."""
_WAYS = 4
"""Plans of a kind: where none of them serves, layouts have programs of their own."""
_MAX_KINDS = 1024
_building = threading.Lock()
"""Of who plans with symbols that others plan with, too."""


class OpenFused(Fused):
    """The programs of a composite for operands of one kind, whatever their sizes."""

    drawing: OpenDrawing
    _forward: Callable[..., Any]

    def __init__(self, name: str, drawing: OpenDrawing, trail: Trail) -> None:
        self.trail = trail
        self._built: list[Template] = []
        super().__init__(name, drawing, tuple(drawing.kinds))
        if self.differentiable:
            # Before the program for the result is laid out: where that serves, this one does.
            usual = (False,) * len(self.several)
            self._pulls[(None, *usual)] = self.build_pull(None, 1, usual)
        self._finish()
        self._holds = trail.function([])

    def fits(self, sizes: Sizes) -> bool:
        """Whether the programs are those for these sizes."""
        try:
            return self._holds(sizes) is not None
        except ZeroDivisionError:
            return False

    def build(self, graph: Graph) -> Any:
        """The program of a graph."""
        template = Template(graph, self.trail, 0, self.drawing.numbers)
        if not template.is_short:
            raise NotImplementedError
        self._built.append(template)
        return template.run

    def _finish(self) -> None:
        for template in self._built:
            template.build_own()
        self._built.clear()

    def run(self, arrays: list[np.ndarray], numbers: list[float], sizes: Sizes) -> list[np.ndarray] | None:
        """The result and the values that are kept; None if the program refused."""
        found: Any = self._forward(sizes, arrays, numbers)
        return None if found is None or found[1] else found[0]

    def pull(
        self, arrays: list[np.ndarray], ct: np.ndarray, totals: list[np.ndarray | None], sizes: Sizes
    ) -> list[np.ndarray] | None:
        """The gradients of the operands, as of programs for one layout."""
        begun = tuple([total is not None for total in totals])
        program = self._pulls.get((None, *begun))
        if program is None:
            with _building:
                program = self.build_pull(None, 1, begun)
                self._finish()
            self._pulls[(None, *begun)] = program
        given = [*arrays, np.ascontiguousarray(ct), *[total for total in totals if total is not None]]
        found: Any = program(sizes, given, ())
        return None if found is None or found[1] else found[0]

    @functools.cached_property
    def _open(self) -> tuple[list[Any], list[Any], list[Any], Callable[[Sizes], Any]]:
        """Types, attributes of the steps and numbers, with the function that gives their sizes."""
        wanted = Wanted()
        avals = [wanted(aval.shape) for aval in self.avals]
        attrs = [wanted(step.attrs) for step in self.steps] if self.differentiable else []
        numbers = list(map(wanted, self.drawing.numbers))
        return avals, attrs, numbers, self.trail.function(wanted.values, unconditional=True)

    def shape_of(self, k: int, sizes: Sizes) -> tuple[int, ...]:
        """The shape of a tensor given."""
        avals, _, _, found = self._open
        return fill(avals[k], found(sizes))  # type: ignore[no-any-return]

    def at(self, sizes: Sizes) -> Fused:
        """The unit for the calls of some sizes."""
        avals, attrs, numbers, function = self._open
        found = function(sizes)
        values = [fill(n, found) for n in numbers]
        values = [float(n) if kind == "f" else n for n, kind in zip(values, self.kinds, strict=True)]
        unit = copy.copy(self)
        unit.avals = [aval._replace(shape=fill(shape, found)) for aval, shape in zip(self.avals, avals, strict=True)]
        unit.steps = [
            step._replace(
                attrs=fill(attr, found), args=tuple([(values[a.index],) if type(a) is Number else a for a in step.args])
            )
            for step, attr in zip(self.steps, attrs, strict=True)
        ]
        return unit


class Opening:
    """The calls of a composite that differ in sizes alone."""

    __slots__ = ("met", "ways", "work")

    def __init__(self) -> None:
        self.met = Sightings()
        self.work = 0.0
        self.ways: list[tuple[OpenFused, Places]] = []

    def find(self, tensors: list[Tensor]) -> tuple[Fused, Sizes] | None:
        """The programs that serve these tensors, and what their symbols stand for."""
        sizes = _sizes_of(tensors)
        if sizes is None:
            return None
        for unit, places in self.ways:
            values = places.values(sizes)
            if values is not None and min(values) > 1 and unit.fits(tuple(values)):
                return unit, tuple(values)
        return None

    def meet(self, kind: tuple[Any, ...], tensors: list[Tensor], work: float) -> bool:
        """Note a call for which there are no programs, and its share of the work that is worth them. Whether it is time
        to plan.
        """
        sizes = _sizes_of(tensors)
        if sizes is None:
            return False
        met = self.met.note(sizes)
        self.work += work
        if met >= _LAYOUTS and self.work > _WORK:
            return True
        return met == _AGAIN and was_made(_without_sizes(kind))

    def plan(self, kind: tuple[Any, ...], name: str, tensors: list[Tensor], run: Callable[[list[Tensor]], Any]) -> None:
        """Make programs for the sizes that were met, and others like them."""
        trail = Trail()
        values, places = self.met.plan(trail)
        try:
            drawing = OpenDrawing(tensors, _layouts(tensors, values), run)
            self.ways.append((OpenFused(name, drawing, trail), places))
            remember(_without_sizes(kind))
        except Exception:  # noqa: BLE001 - a composite may raise anything
            # What there is to say of it the composite says itself, one layout after another.
            self.met.begin_again(False)
            _log.info("%s has no programs for all sizes", name)
            return
        self.met.begin_again(len(self.ways) < _WAYS)
        self.work = 0.0


_openings: dict[Any, Opening] = {}


def clear_openings() -> None:
    """Forget all programs."""
    _openings.clear()


def _without_sizes(kind: tuple[Any, ...]) -> tuple[Any, ...]:
    # Only shapes and strides are tuples there.
    return tuple([len(entry) if type(entry) is tuple else entry for entry in kind])


def opening_of(kind: tuple[Any, ...]) -> Opening:
    """The calls that differ from those of a kind in sizes alone."""
    key = _without_sizes(kind)
    found = _openings.get(key)
    if found is None:
        if len(_openings) >= _MAX_KINDS:
            _openings.clear()
        found = _openings[key] = Opening()
    return found


def _sizes_of(tensors: list[Tensor]) -> tuple[int, ...] | None:
    """Shapes, and strides where elements do not lie in order; None where these are not whole elements."""
    sizes: list[int] = []
    for t in tensors:
        array = t._array
        sizes += array.shape
        if not array.flags.c_contiguous:
            for stride in array.strides:
                if stride < 0 or stride % array.itemsize:
                    return None
                sizes.append(stride // array.itemsize)
    return tuple(sizes)


def _layouts(tensors: list[Tensor], values: list[Any]) -> list[Layout]:
    rest = iter(values)

    def part(rank: int) -> tuple[Any, ...]:
        return tuple([next(rest) for _ in range(rank)])

    return [
        (part(t._array.ndim), None if t._array.flags.c_contiguous else part(t._array.ndim)) for t in tensors
    ]
