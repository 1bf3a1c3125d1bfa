"""Philox4x32-10 in NumPy, written from its paper, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox_words(seed: int, offset: int, count: int) -> Any:
    """Word 0 of the blocks (seed, offset, 0 to count - 1), as uint32."""
    index = np.arange(count, dtype=np.uint64)
    c = [index & _LOW, index >> _SHIFT, np.full(count, offset & 0xFFFFFFFF, np.uint64)]
    c.append(np.full(count, offset >> 32, np.uint64))
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (second >> _SHIFT) ^ c[1] ^ np.uint64(key[0]),
            second & _LOW,
            (first >> _SHIFT) ^ c[3] ^ np.uint64(key[1]),
            first & _LOW,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[0].astype(np.uint32)
