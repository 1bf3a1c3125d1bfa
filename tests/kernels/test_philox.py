"""Philox4x32-10: published known answers, a NumPy reference, and the derived fractions."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numba.core import types

from tracejit.kernels import memory, philox


def reference(seed: int, offset: int, index: np.ndarray) -> np.ndarray:
    """Words [4, n] of the blocks, from the paper's definition."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    index = index.astype(np.uint64)
    c = [index & mask, index >> half]
    c += [np.full_like(index, offset & 0xFFFFFFFF), np.full_like(index, offset >> 32 & 0xFFFFFFFF)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> half) ^ c[1] ^ np.uint64(k0), b & mask, (a >> half) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.array(c)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def draw(kind: Any, store: Any, dtype: str, seed: int, offset: int, start: int, n: int) -> np.ndarray:
    @numba.njit(types.void(types.int64, types.int64, types.int64, types.int64, types.int64))
    def fill(out, seed, offset, start, n):  # type: ignore[no-untyped-def]
        for i in range(n):
            store(out, i, kind(seed, offset, start + i))

    out = np.zeros(n, dtype)
    fill(out.ctypes.data, seed, offset, start, n)
    return out


# Counter words, key words, result words: the known answers published with Random123.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    seed = key[0] | key[1] << 32
    index, offset = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    assert tuple(reference(seed, offset, np.array([index], np.uint64))[:, 0]) == words
    arguments = signed(seed), signed(offset), signed(index), 1
    word = draw(philox.philox_u32, memory.store_i64, "int64", *arguments)
    assert word[0] == words[0]
    both = draw(philox.philox_u64, memory.store_i64, "int64", *arguments).view(np.uint64)
    assert both[0] == words[0] | words[1] << 32


@pytest.mark.parametrize(
    ("seed", "offset", "start"), [(0, 0, 0), (1 << 40 | 5, 1 << 33 | 9, (1 << 32) - 500), (-1, 7, 3)]
)
def test_runs_equal_the_reference(seed: int, offset: int, start: int) -> None:
    n = 1003
    words = reference(seed, offset, start + np.arange(n))
    arguments = seed, offset, start, n
    assert (draw(philox.philox_u32, memory.store_u32, "uint32", *arguments) == words[0]).all()
    both = words[0] | words[1] << np.uint64(32)
    assert (draw(philox.philox_u64, memory.store_i64, "int64", *arguments).view(np.uint64) == both).all()
    single = draw(philox.uniform_f32, memory.store_f32, "float32", *arguments)
    assert (single == (words[0] >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)).all()
    double = draw(philox.uniform_f64, memory.store_f64, "float64", *arguments)
    assert (double == (both >> np.uint64(11)).astype(np.float64) * 2.0**-53).all()
    for fractions in (single, double):
        assert (fractions >= 0).all()
        assert (fractions < 1).all()
        assert abs(fractions.mean() - 0.5) < 0.05


def test_a_loop_over_it_is_vectorised() -> None:
    @numba.njit(types.void(types.int64, types.int64, types.int64, types.int64))
    def fill(out, seed, offset, n):  # type: ignore[no-untyped-def]
        for i in range(n):
            memory.store_f32(out, i, philox.uniform_f32(seed, offset, i))

    text = next(iter(fill.inspect_llvm().values()))
    assert " x i32>" in text
