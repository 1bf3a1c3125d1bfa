"""One operation on operands whose sizes change from call to call: what is planned once serves all of them.

In: a record, arrays and numbers. Out: new arrays.
Must not know: when a program for one layout is worth it.

Calls are of one *kind* if they differ in sizes alone. When a kind has been met with several layouts, the sizes that
differed become symbols, and the operation is planned with them; its kernels are then launched one after another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.dtypes import FROM_NUMPY
from tracejit.eager_single import MAX_PROGRAMS, graph_of, number_kind, word
from tracejit.ops import Op
from tracejit.symbols import Places, Sightings, Trail
from tracejit.template import Template

_LAYOUTS = 16
"""Layouts of a kind from which on it is planned: before that, each may be one that stays."""
_PROGRAMS = 3
"""Programs for single layouts of a kind from which on it is planned."""
_TEMPLATES = 4
"""Plans of a kind: where none of them serves, layouts have programs of their own."""
_RUNS = 64
"""Runs of a plan with one layout until that gets a program, which begins in a tenth of the time."""
_runs: dict[int, int] = {}
"""How often, by hashes of layouts: two that have one only cost time."""


def is_new(key: Any) -> bool:
    """Notes a use of a layout; whether it has been used so rarely so far that a program of its own is not worth it."""
    if len(_runs) >= MAX_PROGRAMS:
        _runs.clear()
    mark = hash(key)
    runs = _runs[mark] = _runs.get(mark, 0) + 1
    return runs <= _RUNS


class Kind:
    """The calls of one kind."""

    __slots__ = ("given", "met", "programs", "ways")

    def __init__(self, given: list[Any]) -> None:
        self.given = given
        self.met = Sightings()
        self.programs = 0
        self.ways: list[tuple[Template, Places]] = []

    def run(self, sizes: list[int], arrays: list[Any], numbers: list[Any]) -> tuple[list[np.ndarray], int] | None:
        """The results and the code of a launch that failed or 0; None if there is no plan for these sizes."""
        given = [float(n) if number_kind(n) == "f" else word(n) for n in numbers]
        for template, places in self.ways:
            values = places.values(sizes)
            found = None if values is None else template.run(values, arrays, given)
            if found is not None:
                return found
        return None

    def meet(self, op: Op, attrs: tuple[Any, ...], sizes: list[int], lasting: bool) -> bool:
        """Note a call for which there is no plan; with `lasting` it would get a program. Whether there is one now."""
        met = self.met.note(sizes)
        self.programs += lasting
        if not met or (met < _LAYOUTS and self.programs <= _PROGRAMS):
            return False
        self._plan(op, attrs)
        self.met.begin_again(bool(self.ways) and len(self.ways) < _TEMPLATES)
        self.programs = 0
        return bool(self.ways)

    def _plan(self, op: Op, attrs: tuple[Any, ...]) -> None:
        trail = Trail()
        values, places = self.met.plan(trail)
        rest = iter(values)
        given: list[Any] = []
        for one in self.given:
            if isinstance(one, str):
                given.append(one)
                continue
            number, rank, turned = one
            shape = tuple([next(rest) for _ in range(rank)])
            strides = tuple([next(rest) for _ in range(rank)]) if turned else None
            given.append((Aval(shape, FROM_NUMPY[number]), strides))
        try:
            template = Template(graph_of(op, given, attrs, {})[0], trail, 0)
        except NotImplementedError:
            return
        if template.is_short:
            template.build_own()
            self.ways.append((template, places))


_kinds: dict[Any, Kind] = {}


def kind_of(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> tuple[Kind, list[int]]:
    """The calls that differ from this one in sizes alone, and its sizes."""
    given: list[Any] = []
    sizes: list[int] = []
    for a in args:
        if type(a) is not np.ndarray:
            given.append(number_kind(a))
            continue
        turned = not a.flags.c_contiguous
        given.append((a.dtype, a.ndim, turned))
        sizes += a.shape
        if turned:
            size = a.itemsize
            sizes += [stride // size for stride in a.strides]
    key = (op, attrs, *given)
    found = _kinds.get(key)
    if found is None:
        if len(_kinds) >= MAX_PROGRAMS:
            _kinds.clear()
        found = _kinds[key] = Kind(given)
    return found, sizes
