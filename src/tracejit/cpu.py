"""What the CPU has that a process must ask for before it may use it.

In: the settings. Out: whether there are tiles. Must not know: what they are for.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import llvmlite.binding as llvm

from tracejit.config import SETTINGS

_NEEDED = frozenset(("amx-tile", "amx-bf16", "avx512bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq"))
"""Tiles that multiply bfloat16, and the vectors of 64 bytes that fill them."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux, x86-64: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""


def _permitted() -> bool:
    """Asks the system for the use of tiles, for all threads of this process and those that it forks.

    A thread that uses a tile without that is ended by a signal. A system that does not know of them, a container that
    forbids it, or a thread whose signal stack has no room for 8 KiB more refuses.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return bool(call(*map(ctypes.c_long, (_ARCH_PRCTL, _REQUEST, _TILE_DATA))) == 0)


@functools.cache
def has_tiles() -> bool:
    """Whether this process multiplies bfloat16 on tiles (AMX): the CPU has them, the system and the settings allow it.

    Cost: a system call when it is first asked.

    >>> has_tiles() == has_tiles()
    True
    """
    if not SETTINGS.amx or SETTINGS.vector_bits == 256 or sys.platform != "linux":
        return False
    present = {name for name, there in llvm.get_host_cpu_features().items() if there}
    return present >= _NEEDED and _permitted()
