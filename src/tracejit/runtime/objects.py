"""How CPython lays out objects: words of memory, slots of classes, copies of objects with slots.

In: objects. Out: addresses, offsets, new objects.
Must not know: what the objects are for.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tracejit.runtime.arrays import table_of
from tracejit.runtime.entry import ENTRY

_POINTER = 8


def peek(address: int) -> int:
    """The word at an address."""
    return ctypes.c_int64.from_address(address).value


@cache
def slot_offset(cls: Any, name: str) -> int | None:
    """Where instances of a class keep a slot, None if that cannot be told."""
    descriptor = next((c.__dict__[name] for c in cls.__mro__ if name in c.__dict__), None)
    if type(descriptor) is not types.MemberDescriptorType:
        return None
    # A descriptor's object head, type, name and qualified name, then the C structure: name, kind, offset.
    offset = peek(peek(id(descriptor) + 5 * _POINTER) + 2 * _POINTER)
    return offset if 0 < offset < cls.__basicsize__ else None


def slot_place(cls: Any, name: str) -> int:
    """Where instances of a class keep a slot that `slot_offset` can tell."""
    offset = slot_offset(cls, name)
    assert offset is not None
    return offset


def _slow_copier(template: Any, names: list[str]) -> Callable[[], Any]:
    cls: Any = type(template)
    values = [(name, getattr(template, name)) for name in names]

    def copy() -> Any:
        made = cls.__new__(cls)
        for name, value in values:
            setattr(made, name, value)
        return made

    return copy


def copy_call(template: Any, names: tuple[str, ...], scope: dict[str, Any], key: str) -> str:
    """The expression, in generated text, of an object of the template's class with the same values in the named slots.

    What it needs is entered in `scope`. Cost: a tenth of a microsecond where the slots' places can be told.
    """
    cls: Any = type(template)
    held = [name for name in names if hasattr(template, name)]
    offsets = [slot_offset(cls, name) for name in held]
    if None in offsets:
        scope[key] = _slow_copier(template, held)
        return f"{key}()"
    scope["stamp"] = ENTRY.stamp
    scope[f"{key}_like"] = template
    scope[f"{key}_slots"] = np.array([len(offsets), *offsets], np.int64)
    return f"stamp({key}_like, {key}_slots)"


def make_call(
    template: Any,
    names: tuple[str, ...],
    slot: str,
    array: tuple[tuple[int, ...], Any],
    place: int,
    scope: dict[str, Any],
    key: str,
) -> str | None:
    """As `copy_call`, with a new array of this shape and type in one more slot; None if slots' places cannot be told.

    The address of its elements goes to a place among what the text calls `pointers`.
    """
    cls: Any = type(template)
    held = [name for name in names if hasattr(template, name) and name != slot]
    offsets = [slot_offset(cls, name) for name in (*held, slot)]
    shape, dtype = array
    if None in offsets or not isinstance(dtype, np.dtype) or dtype.hasobject:
        return None
    scope["make"] = ENTRY.make
    scope[f"{key}_like"] = template
    # The table has the address of the type, which is kept here.
    scope[f"{key}_type"] = dtype
    words = [len(held), *offsets, place, *table_of(shape, dtype)]
    scope[f"{key}_table"] = np.array(words, np.int64)
    return f"make({key}_like, {key}_table, pointers)"
