"""What the CPU is, and what it multiplies bfloat16 with: tiles, which a process must ask for, or vectors.

In: the settings. Out: LLVM's name of it, whether there are tiles, whether there are either.
Must not know: what they are for.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import llvmlite.binding as llvm

from tracejit.config import SETTINGS

_TILES = frozenset(("amx-tile", "amx-bf16"))
"""Tiles that multiply bfloat16."""

_VECTORS = frozenset(("avx512bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq"))
"""Vectors of 64 bytes that do, and that fill tiles."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux, x86-64: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""


@functools.cache
def name() -> str:
    """What LLVM calls the CPU.

    >>> name() == name() != ""
    True
    """
    return str(llvm.get_host_cpu_name())


def _permitted() -> bool:
    """Asks the system for the use of tiles, for all threads of this process and those that it forks.

    A thread that uses a tile without that is ended by a signal. A system that does not know of them, a container that
    forbids it, or a thread whose signal stack has no room for 8 KiB more refuses.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return bool(call(*map(ctypes.c_long, (_ARCH_PRCTL, _REQUEST, _TILE_DATA))) == 0)


def _present() -> frozenset[str]:
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


@functools.cache
def has_tiles() -> bool:
    """Whether this process multiplies bfloat16 on tiles (AMX): the CPU has them, the system and the settings allow it.

    Cost: a system call when it is first asked.

    >>> has_tiles() == has_tiles()
    True
    """
    if not SETTINGS.amx or SETTINGS.vector_bits == 256 or sys.platform != "linux":
        return False
    return _present() >= _TILES | _VECTORS and _permitted()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this process multiplies bfloat16 on tiles, or by vectors (AVX512-BF16) on a CPU that has no tiles.

    Edge: on a CPU with tiles that the system or the settings do not allow there is neither.
    Cost: as `has_tiles`.

    >>> multiplies_bfloat16() or not has_tiles()
    True
    """
    if has_tiles():
        return True
    if not SETTINGS.avx512_bf16 or SETTINGS.vector_bits == 256:
        return False
    present = _present()
    return present >= _VECTORS and not present & _TILES
