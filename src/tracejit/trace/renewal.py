"""Other tensors on memory that a segment changed: they are taken again of what is there now.

In: a recorder, a view or a detached tensor. Out: the steps that lead to it from the newest slot of its memory, and the
slot that is its own from then on.
Must not know: matching, programs.

To the steps of a segment a slot is a value, which no change touches. Who shows changed memory so needs another slot,
and gets it where it is used next; and a view is changed as its base with a part put in.
"""

from __future__ import annotations

from typing import Any

from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tensor import Tensor
from tracejit.trace.tree import Static, Step
from tracejit.trace.unit import Unit


def is_renewable(recorder: Any, t: Tensor) -> bool:
    """Whether a tensor, or what it is a view of, is one whose memory this segment alone has changed."""
    slot = recorder.exact(t)
    if slot is None or t._base is not None:
        return slot in recorder.parts and _is_whole(recorder, t._base)
    return _is_whole(recorder, t)


def _is_whole(recorder: Any, t: Any) -> bool:
    """Whether all of a tensor's memory is the tensor's, and has a slot for what is there now."""
    found = recorder.named.get(id(t))
    if found is None or found[0] in recorder.parts or t._base is not None:
        return False
    newest = recorder.newest.get(recorder.owner.get(found[0], found[0]))
    return t._version in (found[1], newest and newest[1])


def renew(recorder: Any, unit: Unit, t: Tensor) -> int:
    """Take a tensor again, as steps of the unit: its slot from here on."""
    before = recorder.exact(t)
    if t._base is None:
        root = recorder.owner.get(before, before)
        (slot,) = recorder.new_slots(1)
        unit.steps.append(Step(None, (recorder.newest[root][0],), (), (slot,), True))
        recorder.owner[slot] = root
    else:
        slot = recorder.slot_in(unit, t._base)
        for op, step in t._view:
            (new,) = recorder.new_slots(1)
            args, attrs = op.of_step(slot, step)
            numbers = [a.source if type(a) is Scalar else Static(a) for a in args[1:]]
            unit.steps.append(Step(op, (slot, *numbers), attrs, (new,), True))
            recorder.note_view(slot, new)
            slot = new
    unit.renewed.append((before, slot))
    recorder.name(t, slot)
    return slot  # type: ignore[no-any-return]
