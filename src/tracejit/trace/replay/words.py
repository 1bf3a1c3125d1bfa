"""Guards as words of memory: one native call compares hundreds of them with what they were.

CPython gives no public way to ask whether an object changed, but its objects keep it in known words: a dict its
version, a class its version, a list its items. What is read here was laid down for CPython 3.11 to 3.13 and is tried
out once, when first needed; a guard whose words do not behave as expected stays with Python (`words_of` gives None).
Every address belongs to an object that the guard keeps alive.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tracejit.runtime.entry import ENTRY, LIST_ITEMS
from tracejit.runtime.objects import peek, slot_offset
from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.guards import ABSENT, Guard

advance = ENTRY.advance
hold = ENTRY.hold
"""0 if all words of a table are what they were, else the place of the first that is not."""

Word = tuple[int, int]
"""An address, and what stands there."""

_POINTER = 8
_TYPE = _POINTER
_USED = 16
_VERSION = 24
_KEYS = 32
_VALUES = 40
_CELL = 16
_SIZE = 16
_ITEMS = LIST_ITEMS
_CLASS_VERSION = 384
# Of an array: memory, rank, sizes, strides, base, element type, flags, weak references.
_ARRAY, _ARRAY_END = 16, 80


def table(words: list[Word]) -> np.ndarray:
    """Words as `hold` takes them."""
    out = np.empty(2 * len(words) + 1, np.int64)
    out[0] = len(words)
    if words:
        out[1:] = np.array(words, np.int64).ravel()
    return out


_nobody = object()
NEVER = table([(id(_nobody), -1)])
"""A table that never holds: no object has so many references."""


@cache
def _function_offset(name: str) -> int | None:
    def sample(a: Any = 1, *, b: Any = 2) -> Any:
        return a, b

    address = id(getattr(sample, name))
    for offset in range(2 * _POINTER, types.FunctionType.__basicsize__, _POINTER):
        if peek(id(sample) + offset) == address:
            return offset
    return None


class _Sample:
    def method(self) -> None:
        """Nothing."""


def _set(own: Any, value: Any) -> None:
    own.x = value


def _seen_by_version(fields: dict[str, Any], own: Any) -> bool:
    """Whether the version of a dict changes whenever an attribute of its object is set, also by warm code."""
    seen: set[int] = set()
    for count in range(1, 201):
        _set(own, count % 2)
        seen.add(peek(id(fields) + _VERSION))
        if len(seen) != count:
            return False
    return True


@cache
def _dicts_tell() -> bool:
    """Whether the version of a dict with a table of its own changes with every change."""
    plain: dict[Any, Any] = {"a": 1}
    seen = {peek(id(plain) + _VERSION)}
    changes: tuple[Callable[[], Any], ...] = (
        lambda: plain.update(a=2),
        lambda: plain.pop("a"),
        lambda: plain.setdefault("b", 1),
        plain.clear,
    )
    for count, change in enumerate(changes, 2):
        change()
        seen.add(peek(id(plain) + _VERSION))
        if len(seen) != count:
            return False
    own = _Sample()
    fields = own.__dict__
    fields.update({str(k): k for k in range(100)})
    fields["x"] = 0
    return peek(id(fields) + _VALUES) == 0 and _seen_by_version(fields, own)


@cache
def _fields_tell() -> bool:
    """Whether the version also changes for dicts whose values lie with the object."""
    own = _Sample()
    fields = own.__dict__
    if not _seen_by_version(fields, own):
        return False
    before = peek(id(fields) + _VERSION)
    del own.x  # type: ignore[attr-defined]
    return peek(id(fields) + _VERSION) != before and _dicts_tell()


def _tells(d: dict[Any, Any]) -> bool:
    """Whether the version of this dict says that it changed."""
    return _dicts_tell() if peek(id(d) + _VALUES) == 0 else _fields_tell()


@cache
def _counts_tell() -> bool:
    """Whether a dict's count of entries is where it is expected, also when an object's attribute is set."""
    own = _Sample()
    fields = own.__dict__
    if peek(id(fields) + _USED) != 0:
        return False
    own.x = 1  # type: ignore[attr-defined]
    return peek(id(fields) + _USED) == 1


@cache
def _classes_tell() -> bool:
    """Whether the version of a class changes when the class or its base does."""

    class Base:
        def f(self) -> None:
            """Nothing."""

    class Derived(Base):
        pass

    instance = Derived()
    seen = set()
    for change in (lambda: None, lambda: setattr(Derived, "g", 1), lambda: setattr(Base, "f", 2)):
        change()
        for name in ("f", "g"):
            getattr(instance, name, None)
        seen.add(_class_version(Derived))
    return len(seen) == 3 and 0 not in seen


def _class_version(cls: type) -> int:
    return peek(id(cls) + _CLASS_VERSION) & 0xFFFF_FFFF


@cache
def _lists_tell() -> bool:
    sample = [object(), object(), object()]
    items = peek(id(sample) + _ITEMS)
    return peek(id(sample) + _SIZE) == 3 and all(peek(items + _POINTER * i) == id(x) for i, x in enumerate(sample))


@cache
def _cells_tell() -> bool:
    value = object()
    full, empty = types.CellType(value), types.CellType()
    return peek(id(full) + _CELL) == id(value) and peek(id(empty) + _CELL) == 0


def count_up(cells: list[tuple[list[int], int]]) -> np.ndarray | None:
    """A table for `advance` that adds to the number in each list, None if that cannot be done natively."""
    return table([(id(cell), times) for cell, times in cells]) if _lists_tell() else None


def slot_words(x: Any, name: str, value: Any) -> list[Word] | None:
    """The word of a slot, if it can be told."""
    cls: Any = type(x)
    offset = slot_offset(cls, name)
    if offset is None or peek(id(x) + offset) != id(value):
        return None
    return [(id(x) + offset, id(value))]


def entry_words(d: dict[Any, Any], key: Any, value: Any) -> list[Word] | None:
    """The words of one entry of a dict: its table, the key and the value there."""
    keys, values = peek(id(d) + _KEYS), peek(id(d) + _VALUES)
    if values:
        # One value alone in the object's row of values stands at its key's place, which never changes.
        row = [at for at in range(values, values + 8 * min(len(d) + 1, 30), _POINTER) if peek(at) == id(value)]
        if sys.version_info < (3, 13) or len(row) != 1 or sum(v is value for v in d.values()) != 1:
            return None
        return [(id(d) + _KEYS, keys), (id(d) + _VALUES, values), (row[0], id(value))]
    size = dict.__sizeof__(d) - type(d).__basicsize__
    name = next((k for k in d if k is key), None)
    if name is None:
        name = next((k for k in d if type(k) is type(key) and k == key), None)
    if name is None:
        return None
    for at in range(keys + 4 * _POINTER, keys + size - _POINTER, _POINTER):
        if peek(at) == id(name) and peek(at + _POINTER) == id(value):
            return [(id(d) + _KEYS, keys), (at, id(name)), (at + _POINTER, id(value))]
    return None


def words_of(guard: Guard, moving: frozenset[int]) -> list[Word] | None:
    """The words that say that a guard holds, None if Python has to look.

    `moving` are the ids of dicts that change all the time: their entries are looked at one by one.
    """
    kind, x, value = guard.kind, guard.container, guard.expected
    if kind in ("item", "keys", "filled") and isinstance(x, dict):
        if kind == "filled" and _counts_tell():
            return [(id(x) + _USED, peek(id(x) + _USED))]
        if id(x) not in moving and _tells(x):
            return [(id(x) + _VERSION, peek(id(x) + _VERSION))]
        if kind != "item" or value is ABSENT or not _dicts_tell():
            return None
        return entry_words(x, guard.key, value)
    if kind == "type":
        return [(id(x) + _TYPE, id(value))] if peek(id(x) + _TYPE) == id(value) else None
    if kind == "class" and _classes_tell():
        getattr(x, guard.key, None)
        version = _class_version(x)
        return [(id(x) + _CLASS_VERSION, peek(id(x) + _CLASS_VERSION))] if version else None
    if kind == "list" and isinstance(x, list) and _lists_tell():
        items = peek(id(x) + _ITEMS)
        words = [(id(x) + _SIZE, len(value)), (id(x) + _ITEMS, items)]
        return words + [(items + _POINTER * i, id(e)) for i, e in enumerate(value)]
    if kind == "cell" and _cells_tell():
        return [(id(x) + _CELL, 0 if value is ABSENT else id(value))]
    if kind == "slot" and isinstance(x, types.FunctionType):
        offset = _function_offset(guard.key)
        return None if offset is None else [(id(x) + offset, 0 if value is None else id(value))]
    if kind == "slot" and value is not ABSENT:
        return slot_words(x, guard.key, value)
    return None


def tensor_words(t: Tensor, hooks: bool) -> list[Word] | None:
    """The words that say that a tensor has the same memory, no other history, and (with `hooks`) no hooks."""
    names = ["_array", "_requires_grad", "_node", "_cell"] + (["_hooks"] if hooks else [])
    words: list[Word] = []
    for name in names:
        found = slot_words(t, name, getattr(t, name))
        if found is None:
            return None
        words += found
    return words


@cache
def _arrays_tell() -> bool:
    """Whether an array's rank, sizes and strides are where they are expected."""
    sample = np.zeros((3, 4, 5))[::2, 1:]
    if np.ndarray.__basicsize__ < _ARRAY_END or peek(id(sample) + _ARRAY) != sample.ctypes.data:
        return False
    _, rank, sizes, strides, base, kind, *_ = (peek(id(sample) + at) for at in range(_ARRAY, _ARRAY_END, _POINTER))
    if rank & 0xFFFF_FFFF != 3 or base != id(sample.base) or kind != id(sample.dtype):
        return False
    found = [peek(at + _POINTER * k) for at in (sizes, strides) for k in range(3)]
    return found == [*sample.shape, *sample.strides]


def array_words(array: np.ndarray) -> list[Word] | None:
    """The words that say that an array is as it was, whatever its elements are: also NumPy changes arrays in place."""
    if type(array) is not np.ndarray or not _arrays_tell():
        return None
    head = [(id(array) + at, peek(id(array) + at)) for at in range(_ARRAY, _ARRAY_END, _POINTER)]
    inner = [(at + _POINTER * k, peek(at + _POINTER * k)) for at in (head[2][1], head[3][1]) for k in range(array.ndim)]
    return [*head, (id(array) + _TYPE, id(np.ndarray)), *inner]


def sole_words(t: Tensor, own: dict[str, Any], references: int) -> list[Word] | None:
    """The words that say that nobody but its holders has a tensor: `own` is its `__dict__`, empty."""
    if not _counts_tell() or sys.implementation.name != "cpython":
        return None
    of_array = array_words(t._array)
    if of_array is None:
        return None
    words: list[Word] = [(id(t), references), (id(t) + _TYPE, id(type(t))), (id(t._array), 2), (id(own) + _USED, 0)]
    words += of_array
    for name in ("_array", "_cell", "_base", "_grad", "_node", "_hooks", "_requires_grad"):
        found = slot_words(t, name, getattr(t, name))
        if found is None:
            return None
        words += found
    offset = Tensor.__weakrefoffset__
    # From 3.12 on, it lies before the object.
    return [*words, (id(t) + offset, 0)] if offset and peek(id(t) + offset) == 0 else None
