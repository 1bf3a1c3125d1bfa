"""The sizes of a call, as events at open sizes find them (`trace/opening.py`).

In: events whose sizes are symbols. Out: a function for each of them, which takes the sizes of a call as far as they are
open and gives what follows from them.
Must not know: how such events are made, matching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tracejit.symbols import Size, Trail, is_open, text
from tracejit.trace.closing import map_sizes
from tracejit.trace.tree import Event, External


class OpenExternal(External):
    """What a tensor from outside must be like, whatever its sizes."""

    __slots__ = ()

    def holds(self, array: Any, dtype: Any) -> bool:
        """Whether memory is like that of such a tensor."""
        if array is None or array.ndim != len(self.shape) or dtype is not self.dtype:
            return False
        flags, strides = array.flags, self.strides
        if flags.writeable is not self.writeable or bool(flags.c_contiguous) is not (strides is None):
            return False
        if strides is not None:
            whole = not any(s % array.itemsize for s in array.strides)
            if not whole or not all(map(_admits, strides, array.strides)):
                return False
        return all(map(_admits, self.shape, array.shape))

    def sizes(self, array: Any) -> list[int]:
        """Those of the sizes and, in elements, of the strides of an array that are open here."""
        found = [n for size, n in zip(self.shape, array.shape, strict=True) if is_open(size)]
        if self.strides is not None:
            step = array.itemsize
            found += [s // step for size, s in zip(self.strides, array.strides, strict=True) if is_open(size)]
        return found


def _admits(size: Any, n: int) -> bool:
    """Whether a size or a stride in bytes may be this one: any, if it is open."""
    return n >= 0 if is_open(size) else bool(size == n)


def binds_of(event: Event) -> Iterator[External]:
    """What an event binds, in the order of its operands."""
    for slot in dict.fromkeys(event.operands):
        if slot in event.binds:
            yield event.binds[slot]


def found_in(pattern: Any, given: Any, sizes: list[int]) -> bool:
    """Whether the key of a call is like that of an event at open sizes; `sizes` gets what stands in their place."""
    if type(pattern) is Size:
        sizes.append(given)
        return type(given) is int
    if isinstance(pattern, tuple):
        return (
            type(pattern) is type(given)
            and len(pattern) == len(given)
            and all(found_in(p, g, sizes) for p, g in zip(pattern, given, strict=True))
        )
    return pattern is given or bool(pattern == given)


def added(n: Any, out: list[Any]) -> Any:
    """A value, which a list then has, too."""
    out.append(n)
    return n


def elements_of(external: External) -> tuple[int, ...] | None:
    """The strides in elements, None where these lie in order."""
    if external.strides is None:
        return None
    return tuple([s // external.dtype.itemsize for s in external.strides])


def write_fits(events: list[Event], trail: Trail, marks: list[tuple[int, int]]) -> None:
    """Give each event the function that finds its sizes.

    `fit(sizes, given)`: `sizes` has those found so far, by symbols and atoms, and gets new ones; `given` are those of
    the call that are open: of tensors from outside in the order of the operands, then of the key. It gives shapes and
    strides of results, ranges and counts of draws, None if the event is not for these sizes.
    """
    conditions = list(trail.conditions)
    known: list[int] = []
    begun, ended = 0, trail.symbols
    for event, (condition, atom) in zip(events, marks, strict=True):
        lines = [f"s{i} = sizes[{i}]" for i in known]
        new: list[int] = []
        tests: list[str] = []
        for k, face in enumerate(_open_faces(event)):
            atoms = next(iter(face.terms)) if type(face) is Size and len(face.terms) == 1 else ()
            if len(atoms) == 1 and face.terms[atoms] == 1 and atoms[0] not in known and atoms[0] not in new:
                new.append(atoms[0])
                lines.append(f"s{atoms[0]} = given[{k}]")
            else:
                tests.append(f"given[{k}] == {text(face)}")
        atoms_now = range(ended, atom)
        lines += [f"s{i} = {trail.atoms[i]}" for i in atoms_now]
        new += atoms_now
        lines += [f"if not ({c}): return None" for c in (*tests, *conditions[begun:condition])]
        lines += [f"sizes[{i}] = s{i}" for i in new]
        lines.append(f"return {_wanted(event)}")
        known += new
        begun, ended = condition, atom
        scope: dict[str, Any] = {}
        body = "\n".join([f"        {line}" for line in lines])
        whole = f"def fit(sizes, given):\n    try:\n{body}\n    except ZeroDivisionError:\n        return None"
        exec(compile(whole, f"<sizes of {event.name}>", "exec"), scope)
        event.fit = scope["fit"]
        event.binds = {
            slot: OpenExternal(x.shape, x.dtype, x.requires_grad, x.leaf, x.strides, x.writeable)
            for slot, x in event.binds.items()
        }


def _open_faces(event: Event) -> list[Any]:
    """What a call's sizes are compared with, as `given` has them."""
    out: list[Any] = []
    for external in binds_of(event):
        out += filter(is_open, (*external.shape, *(elements_of(external) or ())))
    map_sizes(event.key, lambda n: added(n, out) if is_open(n) else n)
    return out


def _wanted(event: Event) -> str:
    results = [(r.aval.shape, r.strides) for r in event.results]
    ranges = [(low, high) for _, low, high in event.ranges]
    return _tuple([_tuple(map(_expression, part)) for part in (results, ranges, [d[3] for d in event.draws])])


def _expression(x: Any) -> str:
    return _tuple(map(_expression, x)) if isinstance(x, tuple) else text(x)


def _tuple(items: Any) -> str:
    return f"({''.join([f'{item}, ' for item in items])})"


class _Layout:
    """What there is of the array of a tensor from outside."""

    def __init__(self, external: External, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
        self.shape, self.ndim, self.itemsize = shape, len(shape), external.dtype.itemsize
        self.strides, self.flags = strides, self
        self.writeable, self.c_contiguous = external.writeable, strides is None


def given_by(event: Event, array_of: Callable[[int], tuple[Any, Any]]) -> list[int] | None:
    """The open sizes of what an event binds, whose arrays and types are told by slots; None where one does not fit."""
    given: list[int] = []
    for slot in dict.fromkeys(event.operands) if event.binds else ():
        external = event.binds.get(slot)
        if external is not None:
            assert isinstance(external, OpenExternal)
            array, dtype = array_of(slot)
            if not external.holds(array, dtype):
                return None
            given += external.sizes(array)
    return given


def find(made: Event, event: Event, sizes: list[Any], at: Callable[[Any], Any]) -> Any:
    """What the function of an event at open sizes gives for another event, with what that has `at` its sizes."""
    if made.binds.keys() != event.binds.keys():
        return None

    def array_of(slot: int) -> tuple[Any, Any]:
        other = event.binds[slot]
        return _Layout(other, at(other.shape), at(other.strides)), other.dtype

    given = given_by(made, array_of)
    assert made.fit is not None
    return None if given is None or not found_in(made.key, at(event.key), given) else made.fit(sizes, given)
