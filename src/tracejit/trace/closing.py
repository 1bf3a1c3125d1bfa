"""Events at open sizes as events at the sizes of a call, where that leaves an opening (`trace/opening.py`).

In: a follower in an opening. Out: the follower in the tree, which has the events that it has passed.
Must not know: how openings are made, matching, programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from tracejit.symbols import Real, Size
from tracejit.trace.tree import (
    Derived,
    Event,
    External,
    Mapping,
    Number,
    Place,
    Sequence,
    Static,
    Step,
    path,
)


def close(follower: Any) -> None:
    """Leave an opening, if the follower is in one: the tree gets the events that it has passed, at its sizes."""
    opening = follower.opening
    if opening is None:
        return
    opening.misfits += 1
    follower.opening = None
    passed = path(follower.last, opening.events[0].before)
    closing = _Closing(follower.sizes)
    stands: dict[Event, Event] = {}
    place, last = opening.place, opening.events[0].before
    for event in passed:
        last = stands[event] = closing.event(event, place, last)
        follower.region.enter(place, last)
        place.events.append(last)
        follower.region.recorded_events += 1
        place = last.next
    follower.last, follower.place = last, place
    put_in_place(follower, stands)


def put_in_place(follower: Any, stands: dict[Event, Event]) -> None:
    """Let what a follower has noted of events be of those that stand for them."""
    follower.mutators = [stands.get(event, event) for event in follower.mutators]
    follower.drawn = [(stands.get(event, event), *rest) for event, *rest in follower.drawn]


def at_sizes(x: Any, sizes: list[Any]) -> Any:
    """A value that may have open sizes in it, for those of a call, by their atoms."""
    return _Closing(sizes).value(x)


def map_sizes(x: Any, f: Callable[[Any], Any]) -> Any:
    """Attributes or a layout of arguments, with `f` of each whole number in it."""
    kind = type(x)
    if kind in (int, Size):
        return f(x)
    if kind is Static:
        value = map_sizes(x.value, f)
        return x if value is x.value else Static(value)
    if kind is Sequence:
        return Sequence(x.kind, tuple([map_sizes(item, f) for item in x.items]))
    if kind is Mapping:
        return Mapping(tuple([(key, map_sizes(item, f)) for key, item in x.items]))
    if isinstance(x, tuple):
        items = [map_sizes(item, f) for item in x]
        if all(map(_is_same, items, x)):
            return x
        return kind(*items) if hasattr(x, "_fields") else kind(items)
    return x


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is int and type(b) is int and a == b)


def steps_at(event: Event, sizes: list[Any]) -> list[tuple[Any, list[Any]]]:
    """The attributes of an event's steps for some sizes, and their numbers that no run is given, with their types."""
    closing = _Closing(sizes)
    found = []
    for step in event.steps:
        args = [closing.argument(a) for a in step.args]
        found.append((closing.value(step.attrs), [(type(a.value), a.value) for a in args if type(a) is Static]))
    return found


class _Closing:
    """Events at the sizes of a call."""

    def __init__(self, sizes: list[Any]) -> None:
        self.sizes = sizes
        self.numbers: dict[Any, Any] = {}

    def value(self, x: Any) -> Any:
        """A value that may have sizes in it."""
        return map_sizes(x, self.size)

    def size(self, n: Any) -> int:
        if type(n) is int:
            return n
        return sum([factor * prod([self.sizes[i] for i in atoms]) for atoms, factor in n.terms.items()])

    def number(self, n: Any) -> Any:
        """A run-time number of the event that is closed."""
        made = self.numbers.get(n)
        return n if made is None else made

    def _new_number(self, n: Number) -> Number:
        made = self.numbers[n] = Number(n.region, n.index, n.value, n.varies)
        made.fixed, made.low, made.high = n.fixed, n.low, n.high
        return made

    def argument(self, a: Any) -> Any:
        """An operand of a step."""
        if type(a) is Derived:
            n = a.size
            return Static(self.size(n.size) / self.size(n.by) if type(n) is Real else self.size(n))
        return self.number(a) if type(a) is Number else a

    def event(self, e: Event, place: Place, before: Event | None) -> Event:
        """The event, at a place of the tree."""
        numbers = tuple(map(self._new_number, e.numbers))
        draws = tuple([
            (generator, self._new_number(seed), self._new_number(offset), self.value(count))
            for generator, seed, offset, count in e.draws
        ])  # fmt: skip
        made = replace(
            e,
            key=self.value(e.key),
            binds={slot: self._external(external) for slot, external in e.binds.items()},
            numbers=numbers,
            layout=self.value(e.layout),
            before=before,
            parent=place,
            steps=[
                Step(s.op, tuple(map(self.argument, s.args)), self.value(s.attrs), s.outs, s.view) for s in e.steps
            ],
            results=tuple([
                replace(r, aval=r.aval._replace(shape=self.value(r.aval.shape)), strides=self.value(r.strides))
                for r in e.results
            ]),
            output=self.value(e.output),
            draws=draws,
            ranges=tuple([(slot, self.value(low), self.value(high)) for slot, low, high in e.ranges]),
            next=Place(place.segment),
            match=None,
            met=0,
            cells=[],
            fit=None,
        )  # fmt: skip
        for n in numbers:
            n.event = made
        return made

    def _external(self, x: External) -> External:
        shape, strides = self.value(x.shape), self.value(x.strides)
        return External(shape, x.dtype, x.requires_grad, x.leaf, strides, x.writeable, x.gpu)
