"""Arrays that begin with a line of the cache.

In: a shape and an element type, or values. Out: an array of its own.
Must not know: what the values are for.

Memory of `malloc` begins at any multiple of 16. A vector of 64 bytes then lies in two lines, and reading it takes twice
as long where the first cache has it (a product of 32 rows whose weights begin so: 1.14 times as long as a whole).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracejit.kernels.vectors import LINE_BYTES
from tracejit.runtime.blocks import BLOCK_BYTES, BLOCKS
from tracejit.runtime.entry import ENTRY

SMALL_BYTES = 1024
"""Arrays that are smaller are taken as they come: the place is not worth the time of asking for it."""

_COPIED_BYTES = 16 << 20
"""Arrays that are larger stay where they are: a copy would take their memory once more, and most of what is read from
them comes from memory anyway."""

_MAPPED_BYTES = 32 << 20
"""Arrays of so much are mapped and unmapped one by one."""

_BYTE = np.dtype(np.uint8)
_address_of = ENTRY.address_of


def empty(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """An array whose elements are not set, in row-major order.

    Cost: about 0.1 us for a small array, 0.3 to 0.7 us for others.

    >>> empty((3, 4), np.dtype("f4")).shape, _address_of(empty((16, 17), np.dtype("f4"))) % LINE_BYTES
    ((3, 4), 0)
    """
    nbytes = math.prod(shape) * kind.itemsize
    if nbytes >= BLOCK_BYTES:
        return np.ndarray(shape, kind, BLOCKS.take(nbytes))
    array = np.empty(shape, kind)
    if nbytes < SMALL_BYTES or not _address_of(array) % LINE_BYTES:
        return array
    # Its memory may serve for the next one.
    del array
    memory = np.empty(nbytes + LINE_BYTES, _BYTE)
    return np.ndarray(shape, kind, memory, -_address_of(memory) % LINE_BYTES)


def in_blocks(sizes: Sequence[int]) -> list[bool]:
    """Which arrays of so many bytes, made together again and again, had better have blocks, which takes 2 us more.

    glibc's malloc gives what is free at the end of its memory back from twice the largest array on, and never keeps an
    array of _MAPPED_BYTES: twelve layers of 1024 then take 4,000 new pages a step, a quarter of the time.
    """
    together = sum(sizes) > 2 * max(sizes, default=0)
    return [size >= (BLOCK_BYTES if together else _MAPPED_BYTES) for size in sizes]


def table_of(shape: tuple[int, ...], kind: np.dtype) -> list[int]:
    """The same array in the words that native code makes it by, see `object_text.py`; `kind` must live as long."""
    nbytes = math.prod(shape) * kind.itemsize
    return [id(kind), id(_BYTE), nbytes + LINE_BYTES if nbytes >= SMALL_BYTES else 0, len(shape), *shape]


def placed(array: np.ndarray) -> np.ndarray:
    """An array in row-major order that nobody else has, or a copy that begins with a line if that costs little."""
    moves = SMALL_BYTES <= array.nbytes <= _COPIED_BYTES and _address_of(array) % LINE_BYTES
    return copied(array) if moves else array


def copied(values: Any, kind: np.dtype | None = None) -> np.ndarray:
    """A copy of an array or of numbers in the order of an array's memory, of another type if one is given.

    Raises: what `numpy.array` raises.

    >>> copied(np.float64([1, 2]), np.dtype("f4")), copied(np.zeros((400, 2)).T).strides
    (array([1., 2.], dtype=float32), (8, 16))
    """
    if type(values) is np.ndarray and values.flags.c_contiguous and values.nbytes >= SMALL_BYTES:
        array = empty(values.shape, values.dtype if kind is None else kind)
        np.copyto(array, values, casting="unsafe")
        return array
    return np.array(values, kind)
