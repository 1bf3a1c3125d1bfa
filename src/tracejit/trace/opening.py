"""Openings: one branch of the tree for all sizes, where calls bring sizes that may never come again.

In: branches that differ in sizes alone. Out: `Opening`, a chain of events whose sizes are symbols, each with a function
that finds the sizes of a call and whether all is decided by them as it was here.
Must not know: matching, programs.

A branch for new sizes (`trace/growth.py`) costs more than most calls take, and is worth it where they come again. Here
Python's part of each event runs once more, on tensors whose shapes are symbols (`tensor/shade.py`): what it decides by
them is on their trail. What needs a real `int`, or memory, fixes the size or ends the attempt. So the events hold for
all sizes that meet the conditions, whatever the sizes from which the symbols were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from tracejit.aval import Aval
from tracejit.config import logger
from tracejit.ops.dynamic import DYNAMIC
from tracejit.ops.record import Op
from tracejit.symbols import Real, Size, Trail, opened, present
from tracejit.tensor.open_drawing import lies_in_order, shown, strides_of_view
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.shade import shaded
from tracejit.tensor.state import state
from tracejit.tensor.tape import current
from tracejit.tensor.tensor import Tensor, aval_of
from tracejit.trace.backward import arguments_of
from tracejit.trace.closing import at_sizes, map_sizes, steps_at
from tracejit.trace.fits import added, binds_of, elements_of, find, write_fits
from tracejit.trace.growth import Sketch, Ungrown, alike, put_behind, segment_like
from tracejit.trace.tree import (
    Derived,
    Event,
    External,
    Number,
    Place,
    Static,
    Stop,
    path,
    rebuild,
    same_number,
)

_log = logger("trace")
BRANCHES = 6
"""Branches that differ in sizes alone from which on their place gets an opening."""
OPENINGS = 4
"""Openings of a place: where the sizes of none fit, branches grow as without."""
_COMPARED = 16
"""Branches, the newest, that tell which sizes differ, and with which an opening is compared."""
_MORE = 4
"""Branches more from which on one that is for other sizes is made."""
_MISFITS = 16
"""Calls at other sizes than those of an opening from which on it may give way to another."""


class OpenSketch(Sketch):
    """A recorder whose tensors have sizes that are symbols."""

    def __init__(self, region: Any, place: Place) -> None:
        super().__init__(region, place)
        self.events: list[Event] = []

    def put_down(self, event: Event) -> None:
        """Keep an event: the tree has others in its place."""
        self.events.append(event)

    def made(self, aval: Aval) -> Tensor:
        """A tensor that an operation makes."""
        return shaded(aval.shape, aval.dtype)

    def view(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Tensor:
        """What an operation shows of a tensor."""
        (x,) = args
        current(x)
        aval = op.infer(aval_of(x), *attrs)
        steps = strides_of_view(op, aval_of(x).shape, x._array.steps, attrs)
        out = shaded(aval.shape, aval.dtype, None if steps is None or lies_in_order(aval.shape, steps) else steps)
        return shown(op, x, attrs, steps is not None, out)

    def step(self, unit: Any, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Write an operation down, with sizes among its operands as numbers that follow from those of each run."""
        return super().step(unit, op, tuple([_derived(a) if type(a) in (Size, Real) else a for a in args]), attrs)


def _derived(a: Any) -> Scalar:
    if type(a) is Real:
        return Scalar(a.value, Derived(a, "f"))
    return Scalar(present(a), Derived(a, "i"))


# --- what may differ --------------------------------------------------------------------------------------------------


def _faces(event: Event) -> list[Any]:
    """All that an event has of Python that may be a size: shapes and strides of tensors, whole numbers of the call."""
    out: list[Any] = []
    for external in binds_of(event):
        out += external.shape
        if external.strides is not None:
            size = external.dtype.itemsize
            if any(s < 0 or s % size for s in external.strides):
                raise Ungrown
            out += [s // size for s in external.strides]
    layout = event.key[0] if event.kind == "op" else event.layout
    map_sizes(layout, lambda n: added(n, out))
    return out


def _has_sizes(output: Any) -> bool:
    if isinstance(output, (tuple, list)):
        return any(map(_has_sizes, output))
    return type(output) is Size


# --- openings ---------------------------------------------------------------------------------------------------------


class Opening:
    """A branch for all sizes behind a place of the tree, which has `root` in its stead.

    `count` is how many symbols and atoms there are, the first of them the `symbols`.
    """

    def __init__(self, place: Place, sketch: OpenSketch, root: Place, trail: Trail) -> None:
        self.place, self.root, self.trail = place, root, trail
        self.events = sketch.events
        self.symbols, self.count = trail.symbols, len(trail.values)
        self.runs = self.misfits = 0

    def holds(self, sizes: list[Any]) -> bool:
        """Whether all that was decided by sizes, its program included, would be decided alike."""
        try:
            return self.trail.function([])(sizes[: self.symbols]) is not None
        except ZeroDivisionError:
            return False

    @property
    def is_useless(self) -> bool:
        """Whether most calls that take it have other sizes than it is for."""
        return self.misfits > _MISFITS and self.misfits > self.runs


class Openings:
    """The openings of a place, and from how many branches on another one is made."""

    def __init__(self) -> None:
        self.made: list[Opening] = []
        self._from = BRANCHES

    def next(self, region: Any, place: Place, tried: list[Opening]) -> Opening | None:
        """An opening that has not been tried, made if it is time for one."""
        for opening in self.made:
            if opening not in tried and not opening.is_useless:
                return opening
        return self.another(region, place)

    def another(self, region: Any, place: Place) -> Opening | None:
        """One more opening, if it is time for one: for the branches that were made where no other served."""
        if len(self.made) >= OPENINGS or len(place.events) < self._from:
            return None
        made = open_branch(region, place, self.made)
        self._from = 2 * len(place.events)
        if made is not None:
            self._from = len(place.events) + _MORE
            self.made = [made, *[one for one in self.made if not one.is_useless]]
        return made

    def prefer(self, opening: Opening) -> None:
        """Let an opening be tried first: it served the last call."""
        if self.made[0] is not opening:
            self.made.remove(opening)
            self.made.insert(0, opening)

    def drop(self, opening: Opening) -> None:
        """Forget an opening that has no program, as the next one would have none, either, until much has changed."""
        self.made = [one for one in self.made if one is not opening]
        self._from = 2 * len(opening.place.events)


# --- making one -------------------------------------------------------------------------------------------------------


def _ways(place: Place) -> list[tuple[list[Event], Stop]]:
    """The branches behind a place that are like the newest, with their ends, that one the last."""
    newest = place.events[-1]
    root = newest.next.model or newest.next
    found: list[tuple[list[Event], Stop]] = []
    for event in reversed(place.events):
        if event.next is not root and event.next.model is not root:
            continue
        events = [event]
        while events[-1].next.events:
            events.append(events[-1].next.events[0])
        last = events[-1].next
        stop = last.end or last.cut
        if stop is None:
            continue
        if len(found) == _COMPARED:
            break
        if found and not (
            len(events) == len(found[0][0])
            and (last.end is None) is (found[0][0][-1].next.end is None)
            and all(map(alike, events, found[0][0]))
            and all(map(_same_numbers, events, found[0][0]))
        ):
            continue
        found.append((events, stop))
    return found[::-1]


def _same_numbers(a: Event, b: Event) -> bool:
    """Whether two events have the same numbers, but for those that are given to each run."""
    return all(
        (n.varies and not n.fixed) or same_number(n.value, m.value) for n, m in zip(a.numbers, b.numbers, strict=True)
    )


def open_branch(region: Any, place: Place, others: list[Opening]) -> Opening | None:
    """An opening for the branches of a place, of which the newest is for none of the others; None if there are too few,
    or their events cannot be for all sizes.
    """
    ways = _ways(place)
    if len(ways) < BRANCHES:
        return None
    try:
        if any(_serves(other, ways[-1][0]) for other in others):
            return None
        return _open(region, place, ways)
    except Exception as e:  # noqa: BLE001 - a composite may raise anything on tensors without memory
        _log.info("%s: calls that differ in sizes have no opening: %s %s", region.name, type(e).__name__, e)
        return None


def _open(region: Any, place: Place, ways: list[tuple[list[Event], Stop]]) -> Opening:
    models, stop = ways[-1]
    if any(e.crossing is not None or (e.kind == "op" and e.function in DYNAMIC) for e in models):
        raise Ungrown
    if any(x.gpu or not x.leaf for e in models for x in e.binds.values()) or state.exposed is not None:
        raise Ungrown
    seen = [list(chain.from_iterable(map(_faces, events))) for events, _ in ways]
    trail = Trail()
    values = list(seen[-1])
    for places, symbol in opened(seen, trail):
        for at in places:
            values[at] = symbol
    if not trail.symbols:
        raise Ungrown
    root = Place(place.segment)
    sketch = OpenSketch(region, root)
    session, mode = state.session, state.grad_enabled
    state.session = sketch
    marks: list[tuple[int, int]] = []
    try:
        _begin(sketch, path(models[0].before), root)
        rest = iter(values)
        for model in models:
            state.grad_enabled = model.grad
            _repeat(sketch, model, rest)
            made = sketch.last
            assert made is not None
            if not alike(made, model) or _has_sizes(made.output):
                raise Ungrown
            made.line = model.line
            marks.append((len(trail.conditions), len(trail.values)))
        state.grad_enabled = mode
        _end(sketch, models[-1].next, stop)
    finally:
        state.session, state.grad_enabled = session, mode
        sketch.put_back()
    marks[-1] = len(trail.conditions), len(trail.values)
    root.events = sketch.events[:1]
    for event, following in zip(sketch.events, sketch.events[1:], strict=False):
        event.next.events = [following]
    write_fits(sketch.events, trail, marks)
    opening = Opening(place, sketch, root, trail)
    end = sketch.place.end or sketch.place.cut
    assert end is not None
    end.opening = opening
    if 2 * sum([_serves(opening, events) for events, _ in ways]) < len(ways):
        raise Ungrown
    return opening


def _begin(sketch: OpenSketch, events: list[Event], root: Place) -> None:
    """Let the sketch stand behind the events that come before an opening, whose sizes are known."""
    numbers: dict[int, Any] = {}
    for event in events:
        numbers.update((n.index, n.value) for n in event.numbers)
        numbers.update((n.index, n.value) for _, seed, offset, _ in event.draws for n in (seed, offset))
    put_behind(sketch, events, numbers, lambda _, external: _ghost(external, external.shape, elements_of(external)))
    sketch.place = root
    sketch.gpu = False


def _ghost(external: External, shape: tuple[Any, ...], steps: tuple[Any, ...] | None) -> Tensor:
    t = shaded(shape, external.dtype, steps, external.writeable)
    t._requires_grad = external.requires_grad
    return t


def _repeat(sketch: OpenSketch, model: Event, values: Iterator[Any]) -> None:
    """Run an event once more, with open sizes in the place of its own."""
    known = sketch.by_slot
    for slot in dict.fromkeys(model.operands):
        external = model.binds.get(slot)
        if external is not None:
            shape = tuple([next(values) for _ in external.shape])
            steps = None if external.strides is None else tuple([next(values) for _ in external.strides])
            known[slot] = _ghost(external, shape, steps)
    tensors = [known[slot] for slot in model.operands]

    def size(_: Any) -> Any:
        return next(values)

    if model.kind == "op":
        left, right = iter(tensors), iter(model.numbers)
        args = [
            next(left) if k is Tensor else _number(sketch, next(right)) if k in ("f", "i") and type(k) is str else k
            for k in model.key[1]
        ]
        sketch.apply(model.function, tuple(args), map_sizes(model.key[0], size), True)
    elif model.kind == "composite":
        floats = [n.value for n in model.numbers]
        layout = map_sizes(model.layout, size)
        sketch.composite(model.function, rebuild(layout[0], tensors, floats), rebuild(layout[1], tensors, floats))
    elif model.kind == "detach":
        sketch.detach(tensors[0])
    elif model.kind == "assign":
        sketch.assign(tensors[0], tensors[1])
    elif model.kind == "require":
        sketch.require(tensors[0], True)
    else:
        for leaf, before, _ in model.leaves:
            known[leaf]._grad = None if before is None else known[before]
        sketch.backward(model.function, arguments_of(model.key, tensors))


def _number(sketch: OpenSketch, n: Number) -> Scalar:
    made = sketch.number(n.value, n.varies)
    made.fixed = n.fixed
    return Scalar(n.value, made)


def _end(sketch: OpenSketch, behind: Place, stop: Stop) -> None:
    """End the segment as the branch that is the model."""
    made = sketch.stop(stop.reason)
    made.line, made.silent, made.eager, made.note = stop.line, stop.silent, set(stop.eager), stop.note
    if behind.end is stop:
        sketch.place.end = made
        return
    made.next = segment_like(sketch.region, sketch.place.segment.number + 1, stop)
    sketch.place.cut = made


def _serves(opening: Opening, events: Sequence[Event]) -> bool:
    """Whether an opening is for the sizes of a branch.

    Raises: Ungrown if it says something else of these than the branch.
    """
    sizes: list[Any] = [None] * opening.count
    if len(events) != len(opening.events):
        return False
    for made, event in zip(opening.events, events, strict=True):
        found = find(made, event, sizes, lambda x: x) if alike(made, event) else None
        if found is None:
            return False
        results = tuple([(r.aval.shape, r.strides) for r in event.results])
        ranges = tuple([(low, high) for _, low, high in event.ranges])
        if found != (results, ranges, tuple([d[3] for d in event.draws])):
            raise Ungrown
        if steps_at(made, sizes) != [(step.attrs, _constants(step.args)) for step in event.steps]:
            raise Ungrown
    return opening.holds(sizes)


def _constants(args: tuple[Any, ...]) -> list[Any]:
    """The numbers among the operands of a step that no run is given, with their types."""
    return [(type(a.value), a.value) for a in args if type(a) is Static]


def sizes_in_other(passed: list[Event], sizes: list[Any], other: Opening) -> list[Any] | None:
    """The sizes of a call that has passed events of an opening, as another one has them; None if it is not for them."""
    found: list[Any] = [None] * other.count
    if len(passed) > len(other.events):
        return None
    for made, event in zip(other.events, passed, strict=False):
        if not alike(made, event) or find(made, event, found, partial(at_sizes, sizes=sizes)) is None:
            return None
    return found

