"""Following an opening: calls at sizes that may never come again take a branch that is for all sizes.

In: a follower at a place that has no event for its call, or behind events at open sizes. Out: the follower in an
opening, or back in the tree with the events that it has passed at the sizes of its call.
Must not know: how openings are made, programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracejit.aval import Aval
from tracejit.trace.closing import close
from tracejit.trace.growth import grow_cut, grow_end, resembles, structural
from tracejit.trace.opening import Openings, found_in
from tracejit.trace.tree import Event, Result, Stop


def take_opening(follower: Any, kind: str, function: Any, tensors: list[Any], numbers: list[Any]) -> bool:
    """Go on at the beginning of an opening that has not been tried for this call, if there is one or can be one."""
    place, region = follower.place, follower.region
    if follower.growth is not None or not follower.grows or not place.events:
        return False
    openings = place.openings
    if openings is None and not place.events[0].next.grown and not place.events[-1].next.grown:
        return False
    model = next((e for e in place.events[:2] if resembles(e, kind, function, tensors, follower.values)), None)
    if model is None or not region.may_open(tensors, structural(model, numbers)):
        return False
    if openings is None:
        openings = place.openings = Openings()
    opening = openings.next(region, place, follower.tried_openings)
    if opening is None:
        return False
    follower.tried_openings.append(opening)
    follower.opening, follower.place = opening, opening.root
    follower.sizes = [None] * opening.count
    return True


def find_sizes(follower: Any, event: Event, key: Any, tensors: list[Any]) -> bool:
    """Whether a call may be an event at open sizes; its sizes, and what follows from them, are then known."""
    given: list[int] = []
    binds = event.binds
    if binds:
        met: set[int] = set()
        for slot, t in zip(event.operands, tensors, strict=True):
            external = binds.get(slot)
            if external is None or slot in met:
                continue
            met.add(slot)
            array = t._array
            if array is None or array.ndim != len(external.shape):
                return False
            given += array.shape
            if external.strides is not None:
                size = array.itemsize
                if any(s < 0 or s % size for s in array.strides):
                    return False
                given += [s // size for s in array.strides]
    if not found_in(event.key, key, given):
        return False
    assert event.fit is not None
    try:
        follower.found = event.fit(follower.sizes, given)
    except ZeroDivisionError:
        return False
    return follower.found is not None


def results_at(event: Event, found: Any) -> tuple[Iterable[Result], Iterable[Any]]:
    """Results and draws of an event at the sizes of a call."""
    results = [
        Result(r.slot, Aval(shape, r.aval.dtype), r.requires_grad, strides, r.source)
        for r, (shape, strides) in zip(event.results, found[0], strict=True)
    ]
    return results, [(*draw[:3], count) for draw, count in zip(event.draws, found[2], strict=True)]


def leave_opening(follower: Any) -> bool:
    """Go back into the tree, with what was passed in it, if the follower is in an opening."""
    if follower.opening is None:
        return False
    close(follower)
    return True


def end_otherwise(follower: Any, stop: Stop, executable: Any) -> Stop | None:
    """The end of a segment in the tree, where the program of the opening is not for these sizes; None if it refused."""
    opening, at_end = follower.opening, follower.place.end is stop
    if executable.obstacle is not None:
        opening.place.openings.drop(opening)
    elif not executable.misfit:
        return None
    close(follower)
    if not (grow_end(follower) if at_end else grow_cut(follower, stop.reason)):
        return None
    ended: Stop | None = follower.place.end if at_end else follower.place.cut
    return ended
