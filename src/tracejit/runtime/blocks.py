"""Blocks of memory for large arrays: what one no longer needs serves the next.

In: a number of bytes. Out: memory, which comes back when nothing refers to it any more.
Must not know: what is in it.

The system gives memory page by page, each one zeroed when it is first touched, and takes it back when an array goes:
that takes as long as several passes over the array. A step that runs operation by operation makes arrays of the same
sizes again and again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import types
from typing import Any

import numpy as np

from tracejit.config import SETTINGS
from tracejit.runtime.pages import LARGE, pages

BLOCK_BYTES = 256 << 10
"""Arrays of so much or more get a block: the pages of smaller ones take less time than a block."""


class Blocks:
    """Free blocks by size. Blocks come back in any thread, at any moment: all that counts is one call into a list."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._keeps = True
        self._free: dict[int, list[Any]] = {}

    def take(self, nbytes: int) -> Any:
        """A buffer of at least so many bytes, which are not set."""
        size = _size_of(nbytes)
        self._keeps = True
        try:
            memory = self._free[size].pop()
        except (KeyError, IndexError):
            memory = self._larger(size)
            if memory is None:
                memory = self._new(size)
            size = memory.nbytes
        lease = _lease_of(size).from_buffer(memory)
        lease.blocks, lease.memory = self, memory
        return lease

    def _larger(self, size: int) -> Any:
        """The smallest free block of more bytes, but not twice as many: what it has too many is there already."""
        for other in sorted(self._free):
            if size < other < 2 * size:
                # Another thread may have taken it.
                with contextlib.suppress(KeyError, IndexError):
                    return self._free[other].pop()
        return None

    def _new(self, size: int) -> Any:
        try:
            if size >= LARGE:
                return pages(size)
            return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
        except OSError:
            self.release()
            # Where there is none, this says so as it does for other arrays.
            return np.empty(size, np.uint8)

    def put(self, memory: Any) -> None:
        """Keep a block for the next array, unless that is too much; then those go first that were not used longest."""
        size = memory.nbytes
        if not self._keeps or size > self.limit:
            return
        # The sizes used last are the last ones.
        kept = self._free.pop(size, [])
        kept.append(memory)
        self._free[size] = kept
        excess = self.nbytes - self.limit
        for other in list(self._free) if excess > 0 else ():
            blocks = self._free.get(other, [])
            dropped = -(-excess // other)
            excess -= other * len(blocks[:dropped])
            del blocks[:dropped]
            if excess <= 0:
                return

    @property
    def nbytes(self) -> int:
        """The bytes of all free blocks."""
        # A list of pairs makes objects, so that blocks may come back while it is being made.
        return sum([size * len(self._free.get(size, ())) for size in list(self._free)])

    def release(self) -> None:
        """Give all free blocks back to the system, and those that come back until the next one is taken."""
        self._keeps = False
        self._free.clear()


BLOCKS = Blocks(SETTINGS.kept_memory_mb << 20)


def _size_of(nbytes: int) -> int:
    """The size of the block for so many bytes: at most an eighth is left over, and there are eight sizes between a
    power of two and the next.
    """
    step = 1 << (nbytes - 1).bit_length() - 4
    return -(-nbytes // step) * step


class Lease(ctypes.Array):
    """A block while an array is in it: arrays keep it as their base."""

    _type_, _length_ = ctypes.c_char, 0
    blocks: Blocks
    memory: Any

    def __del__(self) -> None:
        self.blocks.put(self.memory)


@functools.cache
def _lease_of(size: int) -> Any:
    return types.new_class("Lease", (Lease,), {}, lambda body: body.update(_type_=ctypes.c_char, _length_=size))
