"""Composites that run eagerly as one program, forward and backward.

In: a call of a composite outside of regions. Out: what its operations would give one after the other, bit for bit,
with one step on the tape; or nothing, and the composite runs as it stands.
Must not know: regions; what a composite computes.

Operation by operation, a softmax goes through memory five times, and its gradient ten times. A composite that was
called often enough with operands of one kind is drawn (`drawing.py`) and compiled like a region: one program for its
result, for what it changes in place and for the values that its gradient needs, and one for the gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.config import PRODUCTS, logger
from tracejit.dtypes import dtype, get_default_dtype
from tracejit.eager_open import is_new
from tracejit.runtime.team import address_of
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.draft import Never, Number
from tracejit.tensor.drawing import Drawing
from tracejit.tensor.fused_open import clear_openings, opening_of
from tracejit.tensor.fused_step import FusedStep
from tracejit.tensor.fused_unit import Fused, Sizes
from tracejit.tensor.remembered import remember, was_made
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import current
from tracejit.tensor.tensor import Tensor

_log = logger("fusion")
NO = object()
"""Stands for the result of a call that is not fused."""

WORK = 1 << 23
"""Elements that calls of one kind go through from which on a program for the result and one for the gradients, 20 to
70 ms each to build, are worth it: they save several nanoseconds for each."""
USE_WORK, TRACKED_USE_WORK = 1 << 13, 1 << 15
"""What they save for a call however small, 20 us and, with gradients, 100 to 200 us, counts as so many."""
_AGAIN = 4
"""What is on disk is worth it after such a part of the calls after which building is, but not for a first one."""
_MAX_UNITS = 1024
_REFUSALS = 4
"""Kinds of operands for which a composite turns out not to be one program, after which it is not looked at again."""
_PLAIN = frozenset((int, bool, str, type(None), dtype))


_units: dict[Any, Fused | None] = {}
_work: dict[Any, int] = {}


def _look(value: Any, key: list[Any], tensors: list[Tensor]) -> bool:
    """Note what a composite was given; whether a program can stand for it."""
    kind = type(value)
    if isinstance(value, Tensor):
        array = value._array
        if type(array) is not np.ndarray or not array.size:
            return False
        if value._base is not None:
            # A change in place of what it shows may have given it a history.
            current(value)
        key += (array.shape, value._dtype, value._requires_grad, None if array.flags.c_contiguous else array.strides)
        tensors.append(value)
    elif kind is float:
        # Equal numbers may differ in their sign.
        key += (kind, value or repr(value))
    elif kind is tuple or kind is list:
        key += (kind, len(value))
        return all(_look(v, key, tensors) for v in value)
    elif kind in _PLAIN:
        key += (kind, value)
    else:
        return False
    return True


def _refilled(value: Any, left: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return left.pop(0)
    if type(value) is tuple or type(value) is list:
        return type(value)(_refilled(v, left) for v in value)
    return value


def clear() -> None:
    """Forget all programs and all work."""
    _units.clear()
    _work.clear()
    clear_openings()


def call(composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a composite gives, by one program; `NO` where it is to run as it stands.

    One that never will be a program is told so: it is not `whole`.

    Cost: 3 to 6 us beyond the program; where there is none, 2 to 4 us.
    """
    tracked = state.grad_enabled
    key: list[Any] = [composite, tracked, get_default_dtype(), PRODUCTS.bfloat16]
    tensors: list[Tensor] = []
    for a in args:
        if isinstance(a, Tensor) and type(a._array) is np.ndarray and a._base is None:
            # As `_look` does, without its call.
            array = a._array
            if not array.size:
                return NO
            key += (array.shape, a._dtype, a._requires_grad, None if array.flags.c_contiguous else array.strides)
            tensors.append(a)
        elif not _look(a, key, tensors):
            return NO
    numbers: list[float] = []
    open_numbers = not tracked and bool(composite.mutates)
    for k, a in kwargs.items():
        key.append(k)
        if open_numbers and type(a) is float:
            # What changes tensors step by step has numbers that change, too.
            numbers.append(a)
        elif not _look(a, key, tensors):
            return NO
    kind = tuple(key)
    unit = _units.get(kind, NO)
    sizes: Sizes = ()
    if unit is NO:
        unit, sizes = _found(kind, composite, args, kwargs, tensors, len(numbers))
    if unit is None:
        return NO
    assert isinstance(unit, Fused)
    sources: tuple[Any, ...] = ()
    if unit.differentiable:
        found = [_source(t) for t in tensors]
        if len(unit.wanted) > 1 and _meet(found):
            return NO
        sources = tuple(found)
    arrays = [t._array for t in tensors]
    if unit.bumps and not _are_apart(arrays, [tensors[k] for k in unit.bumps]):
        return NO
    outs = unit.run(arrays, numbers, sizes)
    if outs is None:
        # What the operations say of it, they say themselves.
        return NO
    for changed, times in unit.bumps.items():
        for _ in range(times):
            tensors[changed]._bump()
    if not unit.returns:
        return None
    out = wrap(outs[0])
    if unit.differentiable:
        FusedStep.put(unit, tensors, sources, out, outs[1:], sizes)
    return out


def _source(t: Tensor) -> Any:
    if not t._requires_grad:
        return None
    return t if t._node is None else (t._node, t._index)


def _are_apart(arrays: list[np.ndarray], changed: list[Tensor]) -> bool:
    """Whether no operand shares memory with another one, and those that are changed may be."""
    if not all(t._array.flags.writeable and t._base is None for t in changed):
        return False
    spans = sorted([(address_of(a), a.nbytes) if a.flags.c_contiguous else _span(a) for a in arrays])
    return all(low + size <= following for (low, size), (following, _) in itertools.pairwise(spans))


def _span(array: np.ndarray) -> tuple[int, int]:
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, high - low


def _meet(sources: list[Any]) -> bool:
    """Whether two gradients go to one place: there the operations' would alternate."""
    places = [(id(s[0]), s[1]) if type(s) is tuple else id(s) for s in sources if s is not None]
    return len(set(places)) < len(places)


def _found(
    kind: tuple[Any, ...],
    composite: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    numbers: int,
) -> tuple[Fused | None, Sizes]:
    """The programs for calls of a kind, or for all that differ from them in sizes, if there was enough work for them.

    With the latter comes what their symbols stand for.
    """
    opening = None if composite.mutates or composite.deep else opening_of(kind)
    found = opening.find(tensors) if opening is not None and opening.ways else None
    if found is not None and is_new(kind):
        return found

    def run(ghosts: list[Tensor]) -> Any:
        left = list(ghosts)
        given = [_refilled(a, left) for a in args]
        named = {k: _refilled(a, left) for k, a in kwargs.items()}
        if numbers:
            floats = [k for k, a in kwargs.items() if type(a) is float]
            named.update((k, Scalar(kwargs[k], Number(at))) for at, k in enumerate(floats))
        return composite.function(*given, **named)

    tracked = state.grad_enabled and any(t._requires_grad for t in tensors)
    work = sum([t._array.size for t in tensors]) + (TRACKED_USE_WORK if tracked else USE_WORK)
    unit = _made(kind, composite, tensors, numbers, run, work if found is None else WORK + 1)
    if unit is not None:
        return unit, ()
    if found is None and opening is not None and opening.meet(kind, tensors, work / WORK):
        opening.plan(kind, _name(composite), tensors, run)
        found = opening.find(tensors)
    return found or (None, ())


def _name(composite: Any) -> str:
    return composite.function.__name__.strip("_")  # type: ignore[no-any-return]


def _made(
    kind: tuple[Any, ...], composite: Any, tensors: list[Tensor], numbers: int, run: Callable[[list[Tensor]], Any],
    work: int,
) -> Fused | None:
    """The programs for calls of a kind, if there was enough work for them."""
    if len(_work) >= _MAX_UNITS:
        _work.clear()
    # A region's first call, which is eager, is not to build what the region's program does itself.
    least = max(composite.deep, 2)
    more = min(work, (WORK + 1) // least)
    done = _work[kind] = _work.get(kind, 0) + more
    # What is on disk takes a millisecond or two, which a few calls save. For a first call nobody looks there.
    if done <= WORK and not (done == max(least // _AGAIN, 2) * more and was_made(kind)):
        return None
    if len(_units) >= _MAX_UNITS:
        _units.clear()
    unit = None
    try:
        unit = Fused(_name(composite), Drawing(tensors, run, composite.deep > 0), ("f",) * numbers)
        composite.refusals = -_MAX_UNITS
    except Never:
        composite.whole = False
    except Exception:  # noqa: BLE001 - a composite may raise anything
        # What there is to say of it the composite says itself.
        composite.refusals += 1
        composite.whole = composite.refusals < _REFUSALS
        _log.info("%r runs operation by operation", composite)
    if unit is not None:
        remember(kind)
    # Another thread may have made it, too, or forgotten all work.
    _work.pop(kind, None)
    _units[kind] = unit
    return unit
