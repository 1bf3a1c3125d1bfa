"""What a program computed, given to the tensors that a segment left in Python's hands.

In: a follower behind its segment, the arrays of a run. Out: values, views and the gradient tape as eager would have
left them.
Must not know: matching, how programs are made.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tracejit.ops.record import Op
from tracejit.tensor.dispatch import attach, compute, detached, wrap
from tracejit.trace.closing import at_sizes
from tracejit.trace.deferred import restore
from tracejit.trace.executable import Executable
from tracejit.trace.open_program import OpenExecutable
from tracejit.trace.structure import READ
from tracejit.trace.tree import Number


def land(follower: Any, executable: Executable, arrays: list[tuple[int, Any]]) -> None:
    """Give the tensors that live on what a program computed."""
    values = follower.values
    kept: list[Any] = []
    for slot, array in arrays:
        if slot == READ:
            # Python has read it before.
            continue
        if slot < 0:
            kept.append(array)
            continue
        t = values[slot]
        if t is None:
            values[slot] = wrap(array)
        else:
            t._array = array
    for slot, times in executable.bumps:
        cell = values[slot]._share()
        cell[0] += times
    for slot, source, op, attrs in executable.views:
        if isinstance(executable, OpenExecutable):
            attrs = at_sizes(attrs, follower.sizes)
        _view(follower, slot, source, op, attrs)
    for before, after in executable.renamed:
        # A replay has made those that Python holds, with all of their slots.
        if values[after] is None:
            values[after] = values[before]
    if executable.tape is not None:
        restore(executable.tape, values, follower.numbers, partial(node_before, follower), kept)
    # The step that is restored for such a view is that of before its base was changed.
    for slot in executable.behind:
        values[slot]._seen = -1


def node_before(follower: Any, t: Any) -> Any:
    """The step that had made a tensor when the segment met it."""
    return next((node for other, node, _ in follower.rebased if other is t), t._node)


def _view(follower: Any, slot: int, source: int, op: Op | None, attrs: tuple[Any, ...]) -> None:
    """Give a view its memory: that of the tensor it was taken of."""
    t, base = follower.values[slot], follower.values[source]
    if op is None:
        made = detached(base)
    else:
        step = tuple([follower.numbers[a.index] if type(a) is Number else a for a in attrs])
        # Without its history, so that the view is not recorded.
        made = compute(op, *op.of_step(detached(base), step))
        attach(op, base, step, made)
    if t is None:
        follower.values[slot] = made
        return
    t._array, t._cell, t._base = made._array, made._cell, made._base
    if made._base is not None:
        t._view, t._seen = made._view, made._seen
