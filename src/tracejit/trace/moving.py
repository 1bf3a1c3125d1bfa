"""Subscripts that move: what a call reads or changes at another place than the calls before.

In: an operation on a part of a tensor, and what the tree has at its place. Out: the same as operations on parts that
begin at numbers of the run, so that another place is neither a branch nor a program.
Must not know: how events are matched, programs.

A slice that begins where it did in the other calls is a view that costs nothing, and stays one. That it moves shows at
the first call that brings another start; from then on all that stands in the same line of the user's text is taken to
move, such as the further rounds of a loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tracejit.ops.dynamic import DYNAMIC
from tracejit.ops.record import Op, ops
from tracejit.tensor.dispatch import apply
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor
from tracejit.trace.source import user_line
from tracejit.trace.tree import Event, Place

STARTS: dict[Op, Op] = {ops.slice: ops.dynamic_slice, ops.place: ops.dynamic_place}
"""Operations on a part of a tensor whose start is structure, and those with a start that is a number."""

Dims = tuple[int, ...]


def known_to_move(
    region: Any, place: Place, op: Op, tensors: Sequence[Any], attrs: tuple[Any, ...], rest: bool
) -> Dims:
    """The dimensions along which a part moves that is used here, as far as the tree or the user's line says so.

    Of the `rest` of a part that moves the line says nothing.
    """
    rank = len(attrs[0])
    dims: Dims = ()
    if place.moving is not None:
        dims = place.moving.get((op, rank), ())
    elif region.moving and not rest:
        dims = region.moving.get((op, rank, user_line()), ())
        if dims:
            place.moving = {(op, rank): dims}
    if not dims:
        return ()
    shape, step = tensors[0]._shape, attrs[-1]
    length = attrs[1] if op is ops.slice else tensors[1]._shape
    # What goes from end to end cannot move.
    return tuple([d for d in dims if _span(length[d], step[d]) < shape[d]])


def begins_to_move(follower: Any, op: Op, tensors: list[Any], attrs: tuple[Any, ...], rest: bool) -> Dims:
    """The dimensions along which what the tree does not know begins elsewhere than what it has here, or moves already.

    The place of the tree and the line of the text then say so, too.
    """
    place, rank = follower.place, len(attrs[0])
    known = known_to_move(follower.region, place, op, tensors, attrs, rest)
    if known:
        return known
    for event in place.events:
        dims = _moved(event, op, tensors, attrs, follower.values)
        if dims:
            place.moving = {**(place.moving or {}), (op, rank): dims}
            line = user_line()
            if not rest:
                follower.region.moving[op, rank, line] = dims
            if event.function is op:
                was, now = ([starts[0][d] for d in dims] for starts in (event.key[0], attrs))
                text = f"the start of a part changed from {was} to {now}: now a run-time number"
                follower.region.note("promotion", line, text)
            return dims
    return ()


def _moved(event: Event, op: Op, tensors: list[Any], attrs: tuple[Any, ...], values: list[Any]) -> Dims:
    """The dimensions along which a part begins elsewhere than an event's; none if that is not all that differs."""
    if event.kind != "op" or event.grad is not state.grad_enabled or len(event.operands) != len(tensors):
        return ()
    for slot, t in zip(event.operands, tensors, strict=True):
        external = event.binds.get(slot)
        if external is None:
            if slot < len(values) and values[slot] is not t:
                return ()
        elif external.dtype is not t._dtype or external.shape != t._shape:
            return ()
    if event.function is STARTS[op]:
        return (event.key[0][0],)
    if event.function is not op:
        return ()
    start, *rest = event.key[0]
    if rest != list(attrs[1:]):
        return ()
    return tuple([d for d, (was, now) in enumerate(zip(start, attrs[0], strict=True)) if was != now])


def in_motion(dims: Dims, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """An operation on a part, with its starts along some dimensions as numbers of the run."""
    return _slice(dims, args[0], *attrs) if op is ops.slice else _place(dims, *args, *attrs)


def _slice(dims: Dims, x: Tensor, start: Any, length: Any, step: Any) -> Any:
    for dim in dims:
        x = apply(ops.dynamic_slice, (x, start[dim]), (dim, _span(length[dim], step[dim])))
        start = (*start[:dim], 0, *start[dim + 1 :])
    return x if x._shape == length else _rest(ops.slice, (x,), (start, length, step))


def _place(dims: Dims, x: Tensor, src: Tensor, start: Any, step: Any) -> Any:
    if not dims:
        return src if src._shape == x._shape else _rest(ops.place, (x, src), (start, step))
    dim, *others = dims
    at, start = start[dim], (*start[:dim], 0, *start[dim + 1 :])
    span = _span(src._shape[dim], step[dim])
    part = src
    if src._shape != (*x._shape[:dim], span, *x._shape[dim + 1 :]):
        part = _place(tuple(others), apply(ops.dynamic_slice, (x, at), (dim, span)), src, start, step)
    return apply(ops.dynamic_place, (x, part, at), (dim,))


def _rest(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    session: Any = state.session
    # The operation before may have been the one with which the call left the tree.
    return apply(op, args, attrs) if session is None else session.apply(op, args, attrs, True)


def _span(length: int, step: int) -> int:
    """How many places there are from the first to the last of a part, both with them."""
    return (length - 1) * step + 1 if length else 0


def come_to_rest(tensors: Iterable[Tensor]) -> None:
    """Let views know where they lie by plain numbers: those of a segment mean nothing behind it."""
    for t in tensors:
        if t._base is not None and any(op in DYNAMIC for op, _ in t._view):
            t._view = tuple([(op, tuple([a.value if type(a) is Scalar else a for a in step])) for op, step in t._view])
