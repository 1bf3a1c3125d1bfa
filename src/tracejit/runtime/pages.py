"""Memory of megabytes, in large pages where the system has them.

In: a number of bytes. Out: an array.
Must not know: what is in it.

Where intermediate values take tens of megabytes, addresses of 4 KiB pages do not fit into the tables that the CPU keeps
of them; in a virtual machine each miss is a walk through two trees. A page of 2 MiB stands for 512 of them.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

LARGE = 2 << 20
"""The size of a large page, on x86 and on ARM with usual pages."""


def pages(nbytes: int) -> np.ndarray:
    """Zeros, which begin where a large page may; the system is asked to take large pages.

    Edge: memory is taken as it is touched, a page at a time.

    >>> memory = pages(5 << 20)
    >>> memory.nbytes == 5 << 20, memory.ctypes.data % LARGE, int(memory.sum())
    (True, 0, 0)
    """
    area = mmap.mmap(-1, nbytes + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A system that has none of them refuses, and gives small ones.
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(area, np.uint8)
    start = -raw.ctypes.data % LARGE
    return raw[start : start + nbytes]
