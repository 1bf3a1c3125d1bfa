"""Remainders and whole quotients of floats are exact: any bits of operands, NumPy's bits of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tracejit.eager import run_op
from tracejit.ops import ops

N = 20_000
BITS = {np.float16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}


def any_bits(rng: Any, dtype: type) -> np.ndarray:
    bits = BITS[dtype]
    return rng.integers(0, np.iinfo(bits).max, N, dtype=bits, endpoint=True).view(dtype)


PAIRS: dict[str, Callable[[Any, type], tuple[Any, Any]]] = {
    "any bits": lambda rng, dtype: (any_bits(rng, dtype), any_bits(rng, dtype)),
    "alike": lambda rng, dtype: (x := any_bits(rng, dtype), (x * rng.standard_normal(N)).astype(dtype)),
    "multiples": lambda rng, dtype: ((y := any_bits(rng, dtype)) * rng.integers(-999, 999, N).astype(dtype), y),
    "usual": lambda rng, dtype: (rng.normal(0, 1e3, N).astype(dtype), rng.standard_normal(N).astype(dtype)),
    "far apart": lambda rng, dtype: (
        (rng.uniform(0.5, 1, N) * float(np.finfo(dtype).max)).astype(dtype),
        np.full(N, np.finfo(dtype).smallest_subnormal, dtype) * rng.integers(1, 99, N).astype(dtype),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", list(BITS))
@pytest.mark.parametrize("name", ["float_fmod", "float_remainder", "float_floor_divide"])
def test_bits_are_those_of_numpy(name: str, dtype: type, pair: str) -> None:
    op = getattr(ops, name)
    with np.errstate(all="ignore"):
        x, y = PAIRS[pair](np.random.default_rng(2), dtype)
        expected = op.numpy(x, y)
        if dtype is np.float16 and name == "float_floor_divide":
            # In float32, and rounded once.
            expected = op.numpy(x.astype(np.float32), y.astype(np.float32)).astype(dtype)
    found = run_op(op, (x, y), ())
    right = (found == expected) & (np.signbit(found) == np.signbit(expected)) | np.isnan(found) & np.isnan(expected)
    assert right.all(), [(x[i], y[i], found[i], expected[i]) for i in np.flatnonzero(~right)[:5]]
