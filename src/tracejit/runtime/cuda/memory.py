"""Memory of a device that is kept for later once it is free.

In: sizes. Out: `Block`s, whose memory is free again when nobody has them any more.
Must not know: what is in them.

All work of a context is done in the order in which it was asked for, so memory may be given out again at once: what
still uses it comes before what will.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from tracejit.errors import CudaOutOfMemoryError
from tracejit.runtime.cuda.driver import Context

SMALLEST = 512
"""Sizes are multiples of this, and so are addresses."""
_PARTS = 8
"""Sizes between two powers of two: at most this part of a block is not used."""


def room_for(nbytes: int) -> int:
    """The size of the block that holds so many bytes.

    >>> room_for(1), room_for(513), room_for(5000), room_for(1 << 20)
    (512, 1024, 5120, 1048576)
    """
    step = max(SMALLEST, (1 << max(nbytes - 1, 1).bit_length() - 1) // _PARTS)
    return max(-(-nbytes // step), 1) * step


class Block:
    """Memory of the device: `nbytes` from `address` on. The pool has it back when the object is gone."""

    __slots__ = ("_pool", "address", "nbytes")

    def __init__(self, pool: Pool, address: int, nbytes: int) -> None:
        self._pool, self.address, self.nbytes = pool, address, nbytes

    def __del__(self) -> None:
        self._pool.take_back(self.address, self.nbytes)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory as NumPy sees it: bytes. An array on it keeps the block."""
        return {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False)}


class Pool:
    """The memory that a process has of a device: what blocks hold, and what is kept for the next ones.

    `allocated` and `reserved` are the bytes that blocks hold and that the process has, `most_allocated` and
    `most_reserved` the most there were since `forget_peaks`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._free: dict[int, list[int]] = {}
        # Blocks may be gone in the middle of anything that makes Python objects, also of this pool's own work.
        self._returned: deque[tuple[int, int]] = deque()
        self._lock = threading.Lock()
        self.allocated = self.reserved = self.most_allocated = self.most_reserved = 0

    def allocate(self, nbytes: int) -> Block:
        """A block of at least so many bytes.

        Raises: CudaOutOfMemoryError saying what is there, when what is kept was given back in vain.
        """
        size = room_for(nbytes)
        with self._lock:
            self._sort_returned()
            kept = self._free.get(size)
            address = kept.pop() if kept else self._obtain(size)
            self.allocated += size
            self.most_allocated = max(self.most_allocated, self.allocated)
        return Block(self, address, size)

    def _obtain(self, size: int) -> int:
        try:
            address = self._context.allocate(size)
        except CudaOutOfMemoryError:
            self._give_back()
            try:
                address = self._context.allocate(size)
            except CudaOutOfMemoryError:
                free, total = self._context.free_memory()
                raise CudaOutOfMemoryError(
                    f"the GPU has no {size:,} bytes: {free:,} of {total:,} are free, tensors of this process hold "
                    f"{self.allocated:,}; use smaller batches, or drop what is no longer needed"
                ) from None
        self.reserved += size
        self.most_reserved = max(self.most_reserved, self.reserved)
        return address

    def take_back(self, address: int, nbytes: int) -> None:
        """Notes that memory is free: it is sorted in by the next allocation."""
        self._returned.append((address, nbytes))

    def _sort_returned(self) -> None:
        while self._returned:
            address, nbytes = self._returned.popleft()
            self._free.setdefault(nbytes, []).append(address)
            self.allocated -= nbytes

    def _give_back(self) -> None:
        for size, addresses in self._free.items():
            for address in addresses:
                self._context.free(address)
                self.reserved -= size
        self._free.clear()

    def empty(self) -> None:
        """Gives what no block holds back to the device."""
        with self._lock:
            self._sort_returned()
            self._give_back()

    def current(self) -> tuple[int, int]:
        """The bytes that blocks hold now, and those that the process has."""
        with self._lock:
            self._sort_returned()
            return self.allocated, self.reserved

    def forget_peaks(self) -> None:
        """Counts the most anew from here."""
        with self._lock:
            self._sort_returned()
            self.most_allocated, self.most_reserved = self.allocated, self.reserved
