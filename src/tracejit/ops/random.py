"""Random numbers: Philox4x32-10 keyed by the generator's seed, counted by the operation and the element.

Element `i` of a call depends on (seed, offset, i) alone, so any split over threads and any fusion draws the same.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.dtypes import dtype
from tracejit.ops.record import record

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(seed: int, offset: int, count: int) -> tuple[Any, Any]:
    """Words 0 and 1 of the Philox4x32-10 blocks 0..count-1, as uint64 arrays.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    index = np.arange(count, dtype=np.uint64)
    c0, c1 = index & _LOW, index >> _HALF
    c2 = np.full(count, offset & 0xFFFFFFFF, np.uint64)
    c3 = np.full(count, (offset >> 32) & 0xFFFFFFFF, np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1


def _uniform(seed: int, offset: int, shape: tuple[int, ...], dtype: dtype) -> Any:
    w0, w1 = philox(seed, offset, int(np.prod(shape, dtype=np.int64)))
    if dtype.name == "float64":
        out = ((w0 | (w1 << _HALF)) >> np.uint64(11)) * 2.0**-53
    elif dtype.name == "float32":
        out = (w0 >> np.uint64(8)) * 2.0**-24
    elif dtype.name == "float16":
        out = (w0 >> np.uint64(21)) * 2.0**-11
    else:
        out = (w0 >> np.uint64(24)) * 2.0**-8
    return out.astype(dtype.np).reshape(shape)


@record(
    family="random",
    infer=lambda seed, offset, shape, dtype: Aval(shape, dtype),
    numpy=_uniform,
    exact=False,
    kinds="f",
    smooth=False,
    nograd="no operand is a tensor",
)
def uniform(seed, offset, *, shape, dtype):
    """Numbers uniform in [0, 1): 8 bits for bfloat16, 11 for float16, 24 for float32, 53 for float64.

    Shape: `shape`.
    Edge: equal seeds and offsets draw equal numbers, whatever else the program does.
    Source: Philox4x32-10; element i is made of words 0 and 1 of block i.
    """


def _check_weights(x: Any, least: int) -> Any:
    if not np.isfinite(x).all() or (x < 0).any():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    above = np.count_nonzero(x, -1)
    if not above.all():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if (above < least).any():
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    return x.copy()


@record(
    family="library",
    infer=lambda x, least: x,
    numpy=_check_weights,
    exact=True,
    looks_at="x",
    kinds="f",
    smooth=False,
    nograd="places are drawn in proportion to them, which has no derivative",
)
def check_weights(x, *, least):
    """Rows of weights, if places can be drawn in proportion to them.

    Shape: that of `x`.
    Raises: RuntimeError for weights that are negative or not finite, and for rows with no weight above 0, or fewer than
    `least`.
    """
