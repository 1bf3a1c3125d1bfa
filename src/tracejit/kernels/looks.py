"""Looks at tensors: kernels that read what Python objects hold, by tables that say where.

In: a table that trace/replay/arrivals.py lays out, the addresses of objects. Out: whether they are as the table says.
Must not know: Python. Nothing here counts references, makes or changes an object.

An object is only read as what it is known to be: its type is compared first, and an attribute's place is read only in
objects of that type.
"""

from __future__ import annotations

from typing import Any

from tracejit.kernels.emit import part
from tracejit.kernels.memory import by_hand, load_arg, load_i64, store_i64

# Words of a table of tensors.
KERNEL = 0
TENSORS = 1
READY = 2
CONSTANTS = 3
SPANS = 4
POINTERS = 5
ROWS = 6

# Words of a row; behind them are pairs (where a slot is, what must be there), sizes, and places among the pointers.
LENGTH = 0
CLASS = 1
MEMORY = 2
HISTORY = 3
ARRAY_CLASS = 4
FLAGS = 5
DIMENSIONS = 6
NBYTES = 7
PAIRS = 8
PLACES = 9
ROW_WORDS = 10

# Where CPython keeps an object's class, and NumPy what an array is, as words from the object's address on.
OBJECT_CLASS = 1
ARRAY_DATA = 2
ARRAY_DIMENSIONS = 3
ARRAY_SIZES = 4
ARRAY_FLAGS = 8
C_CONTIGUOUS = 0x0001
WRITEABLE = 0x0400

_LOW_32 = 0xFFFF_FFFF


@part
def _first_above(table, count, value):  # type: ignore[no-untyped-def]
    """The first place of a sorted table whose word is greater than a value."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if load_i64(table, middle) <= value:
            low = middle + 1
        else:
            high = middle
    return low


@part
def _fits(row, tensor, none):  # type: ignore[no-untyped-def]
    """The address of a tensor's elements if the tensor is as a row says, else 0."""
    if load_i64(tensor, OBJECT_CLASS) != load_i64(row, CLASS):
        return 0
    pairs = load_i64(row, PAIRS)
    at = row + 8 * ROW_WORDS
    for k in range(pairs):
        if load_i64(tensor + load_i64(at, 2 * k), 0) != load_i64(at, 2 * k + 1):
            return 0
    history = load_i64(row, HISTORY)
    if history != 0:
        node = load_i64(tensor + history, 0)
        if node == 0 or node == none:
            return 0
    array = load_i64(tensor + load_i64(row, MEMORY), 0)
    if array == 0 or load_i64(array, OBJECT_CLASS) != load_i64(row, ARRAY_CLASS):
        return 0
    dimensions = load_i64(row, DIMENSIONS)
    if load_i64(array, ARRAY_DIMENSIONS) & _LOW_32 != dimensions:
        return 0
    if load_i64(array, ARRAY_FLAGS) & (C_CONTIGUOUS | WRITEABLE) != load_i64(row, FLAGS):
        return 0
    sizes, wanted = load_i64(array, ARRAY_SIZES), at + 16 * pairs
    for k in range(dimensions):
        if load_i64(sizes, k) != load_i64(wanted, k):
            return 0
    return load_i64(array, ARRAY_DATA)


def look_at_tensors(p: Any, lo: int, hi: int) -> int:
    """Whether tensors are as a table says (0) or not (1); the addresses of their elements are then its pointers.

    Tensors must be different from one another and from the table's constants, and their memory must be outside of the
    spans that a program writes. Slots: the table, where the tensors' addresses are, how many, the address of None.
    """
    by_hand()
    table, tensors, count, none = load_arg(p, 0), load_arg(p, 1), load_arg(p, 2), load_arg(p, 3)
    if load_i64(table, READY) == 0 or load_i64(table, TENSORS) != count:
        return 1
    constants, spans = load_i64(table, CONSTANTS), load_i64(table, SPANS)
    many, written = load_i64(constants, 0), load_i64(spans, 0)
    row = table + 8 * ROWS
    for k in range(count):
        tensor = load_i64(tensors, k)
        for other in range(k):
            if load_i64(tensors, other) == tensor:
                return 1
        data = _fits(row, tensor, none)
        if data == 0:
            return 1
        at = _first_above(constants + 8, many, tensor)
        if at > 0 and load_i64(constants, at) == tensor:
            return 1
        if load_i64(row, PLACES) != 0:
            # The first written span that ends behind the start of the memory: spans are (all ends, all starts).
            span = _first_above(spans + 8, written, data)
            if span < written and load_i64(spans, 1 + written + span) < data + load_i64(row, NBYTES):
                return 1
        row += 8 * load_i64(row, LENGTH)
    pointers = load_i64(table, POINTERS)
    row = table + 8 * ROWS
    for k in range(count):
        array = load_i64(load_i64(tensors, k) + load_i64(row, MEMORY), 0)
        places = row + 8 * (ROW_WORDS + 2 * load_i64(row, PAIRS) + load_i64(row, DIMENSIONS))
        for j in range(load_i64(row, PLACES)):
            store_i64(pointers, load_i64(places, j), load_i64(array, ARRAY_DATA))
        row += 8 * load_i64(row, LENGTH)
    return 0
