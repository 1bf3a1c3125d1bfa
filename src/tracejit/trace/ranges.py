"""Ranges of index operands that come from outside, checked when the event is met, and of whole numbers.

So an index out of range raises where eager raises, with the same traceback and nothing done that eager would not
have done. An index that is itself computed in the segment is checked by its kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.eager import REDUCTION_WORK, is_rare
from tracejit.kernels.index import check_launch
from tracejit.kernels.launch import Operand, Ptr
from tracejit.ops.dynamic import DYNAMIC, room
from tracejit.ops.record import Op, ops
from tracejit.runtime.build import build
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.team import launch
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tensor import Tensor
from tracejit.trace.tree import Event, Step, path

Range = tuple[int, int, int]
"""Slot, smallest value, and one more than the greatest."""

_INDEXED = frozenset(op for op in ops if op.looks_at == "index" and op is not ops.check_index)
_MOVES = frozenset((ops.reshape, ops.permute, ops.expand, ops.copy))


def index_ranges(steps: list[Step], last: Event | None, binds: dict[int, Any], shapes: Any) -> tuple[Range, ...]:
    """The ranges that the steps of a new event need of tensors from outside.

    `shapes(slot)` gives the shape of a slot's tensor. Rearranged and int32 indices are traced back to what they are of.
    """
    if not any(step.op in _INDEXED for step in steps):
        return ()
    outside, made = _origins(path(last))
    outside.update(binds)
    for step in steps:
        for out in step.outs:
            made[out] = step
    found: dict[Range, None] = {}
    for step in steps:
        if step.op not in _INDEXED:
            continue
        if step.op is ops.wrap_index:
            size = step.attrs[0]
            low = -size
        else:
            size, low = shapes(step.args[0])[step.attrs[0]], 0
        slot = _origin(step, made)
        if slot in outside:
            found[slot, low, size] = None
    return tuple(found)


def _origins(events: list[Event]) -> tuple[set[int], dict[int, Step]]:
    """The slots that hold what tensors from outside held, and the step that made each slot."""
    outside: set[int] = set()
    made: dict[int, Step] = {}
    for event in events:
        outside.update(event.binds)
        for step in event.steps:
            for out in step.outs:
                made[out] = step
        outside.difference_update(target for target, _, _ in event.assigned)
    return outside, made


def _origin(step: Step, made: dict[int, Step]) -> int:
    """The slot that a step's indices were rearranged from."""
    slot: int = step.args[0 if step.op is ops.wrap_index else 1]
    while slot in made and made[slot].op in _MOVES:
        slot = made[slot].args[0]
    return slot


def looking_steps(events: list[Event]) -> list[Step]:
    """The steps that look at values, which they may refuse."""
    return [step for event in events for step in event.steps if step.op is not None and step.op.looks_at]


def may_refuse(events: list[Event]) -> bool:
    """Whether an index is only known to be in range when a kernel meets it, so that the program may refuse.

    So it may if a kernel looks at anything else.
    """
    looking = looking_steps(events)
    outside, made = _origins(events) if looking else (set(), {})
    return any(step.op not in _INDEXED or _origin(step, made) not in outside for step in looking)


_addresses: dict[int, int] = {}
"""The kernels that look, by the numbers of the types that have one: NumPy makes a type's name anew, in 1.5 us."""
_KINDS = {np.dtype(name).num: name for name in ("int64", "int32")}


def in_range(t: Any, low: int, high: int) -> bool:
    """Whether all elements of a concrete tensor lie in [low, high), or are left for a GPU's program to look at."""
    array = t._array
    if type(array) is DeviceArray:
        # To look would be to wait for what computes it. The program looks itself, before it changes anything.
        return True
    if array.flags.c_contiguous:
        kind = array.dtype.num
        address = _addresses.get(kind)
        if address is None and kind in _KINDS and not is_rare(("range", kind), REDUCTION_WORK):
            one = Operand(_KINDS[kind], (1,), (1,))
            address = _addresses[kind] = build(check_launch(one, Ptr(0), 0, 1).function).address
        if address is not None:
            return not launch(address, array.size, 1.0, array, low, high)
    return not array.size or (int(array.min()) >= low and int(array.max()) < high)


def bound_numbers(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], outs: tuple[Any, ...]) -> None:
    """Let whole numbers vary only within the integer types of the operation, beyond which eager may raise, and within a
    tensor of which they say where a part begins.
    """
    if op in DYNAMIC and type(args[-1]) is Scalar:
        source = args[-1].source
        source.low, source.high = max(source.low, 0), min(source.high, room(op, args, attrs))
        return
    for a in args:
        if type(a) is Scalar and a.source.kind == "i":
            for t in (*args, *outs):
                if isinstance(t, Tensor) and t._dtype.category == 1:
                    limits = np.iinfo(t._dtype.np)
                    a.source.low, a.source.high = max(a.source.low, limits.min), min(a.source.high, limits.max)
