"""Trees on disk: a process that meets a function again follows the tree that another one recorded.

In: a region's tree, or the bytes of one. Out: the bytes, or the tree. Must not know: programs; they have a cache of
their own (`compiler.py`).

Following asks of every operation whether it is the one of the tree, so a tree that does not fit costs time and nothing
else. One that was recorded from other text is not taken all the same: its lines would be wrong.

The tree is put down as tables, whose rows name each other by numbers: its chains of events and of steps of the tape are
longer than `pickle` can follow.
"""

from __future__ import annotations

import io
import os
import pickle
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import numpy as np

from tracejit.config import logger
from tracejit.runtime.cache import STORE, TREE
from tracejit.tensor.generator import Generator, default_generator
from tracejit.tensor.tensor import Tensor
from tracejit.trace.crossing import Crossing
from tracejit.trace.structure import Kept
from tracejit.trace.tape import NodePlan
from tracejit.trace.tree import Event, Number, Place, Segment, Stop

_log = logger("cache")
_PACKAGE = __name__.partition(".")[0]
_BUILTINS = {"Ellipsis"} | {
    t.__name__ for t in (bool, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple, type)
}
_ARRAYS = ("_reconstruct", "_frombuffer", "scalar")
"""NumPy's functions that make an array or a number of what was written of one."""
_SINGLE = (type(None), type(...), type(NotImplemented))
"""Classes of one value: `pickle` writes them as the class of that value."""


class Tree(NamedTuple):
    """What a region has learnt: its tree, the events of it, its segments and their ends, what runs eagerly, and which
    numbers its proofs found to change.
    """

    root: Segment
    events: list[Event]
    segments: list[Segment]
    cuts: list[Stop]
    eager_units: dict[Any, str]
    hints: frozenset[Any]


# --- the tables -------------------------------------------------------------------------------------------------------


class _Tables:
    """The rows of a tree."""

    def __init__(self) -> None:
        self.segments: list[tuple[int, int]] = []
        self.places: list[tuple[Any, ...]] = []
        self.events: list[tuple[Any, ...]] = []
        self.stops: list[tuple[Any, ...]] = []
        self.plans: list[tuple[Any, ...]] = []
        self.files: dict[str, Any] = {}


_PLAIN = (
    *("kind", "function", "key", "operands", "binds", "numbers", "layout", "grad", "line", "name", "steps", "results"),
    *("output", "draws", "leaves", "assigned", "ranges", "slots", "count", "watched", "shown"),
    "renewed",
)
"""The fields of an event that are kept as they are."""
_PLAN = ("op", "attrs", "avals", "outs", "position", "done", "label", "saved", "results", "shown")
_STOP = ("slots", "numbers", "reason", "line", "behind", "obstacle", "silent", "eager", "cause", "lean")
_CROSSING = ("entries", "steps", "targets", "views", "leaves", "released")


class _Writer:
    """Puts a tree down as tables, without the events in `left_out`."""

    def __init__(self, root: Segment, left_out: set[Event], generation: int) -> None:
        self.tables = _Tables()
        self._generation = generation
        self._left_out = left_out
        self._segments = {root: 0}
        self._places: dict[Place, int] = {}
        self._events: dict[Event, int] = {}
        self._plans: dict[NodePlan, int] = {}
        found = self._walk(root)
        for place in found:
            self._place(place)
        self.tables.segments = [(segment.number, self._places[segment.root]) for segment in self._segments]

    def _walk(self, root: Segment) -> list[Place]:
        """All places, and numbers for places, events and segments."""
        found: list[Place] = []
        segments = [root]
        for segment in segments:
            todo = [segment.root]
            while todo:
                place = todo.pop()
                self._places[place] = len(found)
                found.append(place)
                for event in place.events:
                    if event not in self._left_out:
                        self._events[event] = len(self._events)
                        todo.append(event.next)
                if place.cut is not None and place.cut.next is not None:
                    self._segments[place.cut.next] = len(segments)
                    segments.append(place.cut.next)
        for event in self._events:
            self._event(event)
        return found

    def _place(self, place: Place) -> None:
        self.tables.places.append(
            (
                self._segments[place.segment],
                [self._events[e] for e in place.events if e in self._events],
                self._stop(place.cut),
                self._stop(place.end),
                place.grown,
                None if place.model is None else self._places.get(place.model),
            )
        )

    def _event(self, event: Event) -> None:
        crossing = event.crossing
        self.tables.events.append(
            (
                *(getattr(event, name) for name in _PLAIN),
                None if crossing is None else tuple(getattr(crossing, name) for name in _CROSSING),
                None if event.before is None else self._events[event.before],
                self._places[event.parent],
                self._places[event.next],
            )
        )
        self._note_file(event.line)

    def _stop(self, stop: Stop | None) -> int | None:
        if stop is None:
            return None
        tape = {
            slot: found if isinstance(found, str) else (self._plan(found[0]), found[1])
            for slot, found in stop.tape.items()
        }
        self.tables.stops.append(
            (
                *(getattr(stop, name) for name in _STOP),
                None if stop.last is None else self._events[stop.last],
                tape,
                None if stop.next is None else self._segments[stop.next],
                self._programs(stop),
            )
        )
        self._note_file(stop.line)
        return len(self.tables.stops) - 1

    def _programs(self, stop: Stop) -> dict[Any, Kept]:
        """Where the programs of a segment are on disk."""
        found = {}
        for alive, executable in stop.programs.items():
            key = None if executable.built is None else getattr(executable.built.compiled, "key", None)
            if key is not None and executable.generation == self._generation:
                found[alive] = Kept(key, executable.built.results, executable.left)
        return found

    def _plan(self, root: NodePlan) -> int:
        """The number of a step of the tape; those that it leads to have smaller ones."""
        todo = [root]
        while todo:
            plan = todo[-1]
            missing = [e[1] for e in plan.edges if e is not None and e[0] == "node" and e[1] not in self._plans]
            if missing and plan not in self._plans:
                todo += missing
                continue
            todo.pop()
            if plan in self._plans:
                continue
            edges = tuple(
                ("node", self._plans[e[1]], e[2]) if e is not None and e[0] == "node" else e for e in plan.edges
            )
            self._plans[plan] = len(self.tables.plans)
            self.tables.plans.append((*(getattr(plan, name) for name in _PLAN), edges))
        return self._plans[root]

    def _note_file(self, line: str) -> None:
        name = line.rpartition(":")[0]
        if name and name not in self.tables.files:
            self.tables.files[name] = _file(name)


def _file(name: str) -> tuple[int, int] | None:
    """What tells whether a file of the user's is as it was."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _read(tables: _Tables, region: Any) -> Tree:
    """The tree of tables."""
    segments = [Segment(region, number) for number, _ in tables.segments]
    places = [Place(segments[row[0]]) for row in tables.places]
    for segment, (_, at) in zip(segments, tables.segments, strict=True):
        segment.root = places[at]
    events: list[Event] = []
    for row in tables.events:
        values = dict(zip(_PLAIN, row, strict=False))
        watched = values.pop("watched")
        crossing, before, parent, behind = row[len(_PLAIN) :]
        event = Event(before=None if before is None else events[before], parent=places[parent], **values)
        event.watched = watched
        event.next = places[behind]
        if crossing is not None:
            event.crossing = Crossing(*crossing)
        for n in event.numbers:
            n.region, n.event = region, event
        for _, seed, offset, _ in event.draws:
            seed.region = offset.region = region
        events.append(event)
    plans: list[NodePlan] = []
    for *fields, edges in tables.plans:
        plan = NodePlan(**dict(zip(_PLAN, fields, strict=True)))
        plan.edges = tuple(
            ("node", plans[e[1]], e[2]) if e is not None and e[0] == "node" else e for e in edges
        )
        plans.append(plan)
    stops: list[Stop] = []
    for *fields, last, tape, following, programs in tables.stops:
        stops.append(
            Stop(
                last=None if last is None else events[last],
                tape={s: f if isinstance(f, str) else (plans[f[0]], f[1]) for s, f in tape.items()},
                next=None if following is None else segments[following],
                kept=programs,
                **dict(zip(_STOP, fields, strict=True)),
            )
        )
    for place, (_, members, cut, end, grown, model) in zip(places, tables.places, strict=True):
        place.events = [events[e] for e in members]
        place.cut = None if cut is None else stops[cut]
        place.end = None if end is None else stops[end]
        place.grown = grown
        if model is not None:
            place.model = places[model]
            places[model].peers.add(place)
    cuts = [place.cut for place in places if place.cut is not None]
    return Tree(segments[0], events, segments, cuts, {}, frozenset())


# --- bytes ------------------------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Writes what a tree may consist of: values of this package, of NumPy and of Python."""

    def reducer_override(self, x: Any) -> Any:
        """How an object is written."""
        if type(x) is Number:
            return _number, (x.index, x.value, x.varies, x.fixed, x.low, x.high)
        if isinstance(x, Tensor):
            raise pickle.PicklingError("a tensor is part of the tree")
        if type(x) is Generator:
            if x is not default_generator:
                raise pickle.PicklingError("random numbers come from a generator of the program's")
            return "default_generator"
        if isinstance(x, type | FunctionType | BuiltinFunctionType) and x not in _SINGLE:
            if not _is_known(x.__module__, x.__qualname__):
                raise pickle.PicklingError(f"{x!r} is part of the tree")
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads nothing but that."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands under a name."""
        if _is_known(module, name):
            found = super().find_class(module, name)
            # A name may lead through a module of this package to what that one imports.
            if _is_known(getattr(found, "__module__", None) or module, name):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} cannot be part of a tree")


def _is_known(module: str | None, name: str) -> bool:
    if module == "builtins":
        return name in _BUILTINS
    if module is None or module.partition(".")[0] != "numpy":
        return module is not None and module.partition(".")[0] == _PACKAGE
    kind = getattr(np, name, None)
    return name in _ARRAYS or (isinstance(kind, type) and issubclass(kind, np.generic | np.ndarray | np.dtype))


def _number(index: int, value: float | int, varies: bool, fixed: bool, low: int, high: int) -> Number:
    made = Number(None, index, value, varies)
    made.fixed, made.low, made.high = fixed, low, high
    return made


# --- the disk ---------------------------------------------------------------------------------------------------------


def keep(digest: str, region: Any, left_out: list[Event], hints: frozenset[Any]) -> None:
    """Put the tree of a region on disk, if it holds nothing but what another process can have, too."""
    out = io.BytesIO()
    try:
        tables = _Writer(region.root, set(left_out), region.generation).tables
        _Pickler(out, protocol=5).dump((vars(tables), region.eager_units, hints))
    except (pickle.PicklingError, TypeError, AttributeError) as e:
        _log.debug("the tree of %s is not kept: %s", region.name, e)
        return
    STORE.put(digest, region.name, "", out.getvalue(), TREE)


def recall(digest: str, region: Any) -> Tree | None:
    """The tree that was put on disk for a region, if its lines are still those of the program's text."""
    data = STORE.get(digest, TREE)
    if data is None:
        return None
    try:
        rows, eager_units, hints = _Unpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError) as e:
        _log.debug("a tree on disk cannot be read: %s", e)
        return None
    tables = _Tables()
    vars(tables).update(rows)
    if any(_file(name) != found for name, found in tables.files.items()):
        return None
    return _read(tables, region)._replace(eager_units=eager_units, hints=hints)
