"""Uniform numbers: reproducible, inside [0, 1), and the published test vector."""

from __future__ import annotations

import numpy as np
import pytest

from tracejit import dtypes
from tracejit.ops.random import philox
from tracejit.ops.record import ops


def test_philox_gives_the_published_words() -> None:
    # Random123's known answers for key 0 and counter 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
    w0, w1 = philox(0, 0, 1)
    assert (int(w0[0]), int(w1[0])) == (0x6627E8D5, 0xE169C58D)


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.float32, dtypes.float64], ids=repr)
def test_numbers_lie_in_the_half_open_interval(dtype: dtypes.dtype) -> None:
    x = ops.uniform.numpy(3, 5, (100_000,), dtype)
    assert x.dtype == dtype.np
    assert x.min() >= 0
    assert x.max() < 1
    assert x.mean(dtype=np.float64) == pytest.approx(0.5, abs=0.005)


def test_a_shorter_draw_is_the_start_of_a_longer_one() -> None:
    long, short = (ops.uniform.numpy(3, 5, (n,), dtypes.float32) for n in (100, 40))
    np.testing.assert_array_equal(long[:40], short)


def test_seed_and_offset_both_count() -> None:
    draws = {ops.uniform.numpy(seed, at, (4,), dtypes.float64).tobytes() for seed in (0, 2**32) for at in (0, 1)}
    assert len(draws) == 4
