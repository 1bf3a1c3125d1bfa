"""Following an opening: calls at sizes that may never come again take a branch that is for all sizes.

In: a follower at a place that has no event for its call, or behind events at open sizes. Out: the follower in an
opening, or back in the tree with the events that it has passed at the sizes of its call.
Must not know: how openings are made, programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracejit.aval import Aval
from tracejit.trace.closing import close, put_in_place
from tracejit.trace.fits import found_in, given_by
from tracejit.trace.growth import grow_cut, grow_end, resembles, structural
from tracejit.trace.opening import Openings, sizes_in_other
from tracejit.trace.tree import Event, Result, Stop, path


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
    by_slot = dict(zip(event.operands, tensors, strict=True))
    given = given_by(event, lambda slot: (by_slot[slot]._array, by_slot[slot]._dtype))
    if given is None or not found_in(event.key, key, given):
        return False
    assert event.fit is not None
    follower.found = event.fit(follower.sizes, given)
    return follower.found is not None


def results_at(event: Event, found: Any) -> tuple[Iterable[Result], Iterable[Any]]:
    """Results and draws of an event at the sizes of a call."""
    results = [
        Result(r.slot, Aval(shape, r.aval.dtype), r.requires_grad, strides, r.source)
        for r, (shape, strides) in zip(event.results, found[0], strict=True)
    ]
    return results, [(*draw[:3], count) for draw, count in zip(event.draws, found[2], strict=True)]


def leave_opening(follower: Any) -> bool:
    """Go on in another opening, or in the tree, where that which the follower is in has not what the call does."""
    opening = follower.opening
    if opening is None:
        return False
    if not _go_over(follower):
        close(follower)
        if follower.place is not opening.place:
            # For later calls: this one is behind its beginning.
            opening.place.openings.another(follower.region, opening.place)
    return True


def end_otherwise(follower: Any, stop: Stop, executable: Any) -> Stop | None:
    """The end of a segment in another opening or in the tree, where a program is not for these sizes; None if it
    refused.
    """
    place, at_end = follower.opening.place, follower.place.end is stop
    if executable.obstacle is not None:
        place.openings.drop(follower.opening)
    elif not executable.misfit:
        return None
    ended: Stop | None = None
    if _go_over(follower):
        ended = follower.place.end if at_end else follower.place.cut
    if ended is None:
        close(follower)
        place.openings.another(follower.region, place)
        if grow_end(follower) if at_end else grow_cut(follower, stop.reason):
            ended = follower.place.end if at_end else follower.place.cut
    return ended


def _go_over(follower: Any) -> bool:
    """Stand in another opening, behind what the follower has passed, if there is one for these sizes."""
    opening = follower.opening
    passed = path(follower.last, opening.events[0].before)
    for other in opening.place.openings.made:
        if not passed or other in follower.tried_openings or other.is_useless:
            continue
        follower.tried_openings.append(other)
        sizes = sizes_in_other(passed, follower.sizes, other)
        if sizes is None:
            continue
        opening.misfits += 1
        stands = dict(zip(passed, other.events, strict=False))
        follower.opening, follower.sizes = other, sizes
        put_in_place(follower, stands)
        follower.last = stands[passed[-1]]
        follower.place = follower.last.next
        return True
    return False
