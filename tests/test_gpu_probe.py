"""The GPU probe's trial kernels without a GPU: their PTX, and the arithmetic that can be checked on a CPU."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numba
import numpy as np
import pytest

from benchmarks.gpu import driver, library
from benchmarks.gpu.kernels import quick_divisions
from benchmarks.gpu.numerics import FORMULAS
from benchmarks.gpu.probe import CAPABILITIES
from benchmarks.gpu.sections import reference
from tracejit.kernels import memory, philox, vmath

NAMES = (*library.KERNELS, library.TEXT_KERNEL)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_trial_kernel_has_ptx(capability: int) -> None:
    for name in NAMES:
        if name in library.FROM_90 and capability < 90:
            continue
        text = library.ptx(name, capability)
        assert f".target sm_{capability}" in text, name
        assert f".visible .entry {name}(" in text
        assert re.search(r"\.maxntid \d+", text), name
        # A call that LLVM could not resolve would be an external function.
        assert ".extern" not in text, name


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("exact", "point", "softmax_4096", "text"))])
def test_arithmetic_is_rounded_and_not_fused(name: str) -> None:
    text = library.ptx(name, 90)
    assert not re.search(r"\.approx|\.ftz|div\.full", text)
    arithmetic = re.findall(r"^\s*(?:add|sub|mul|fma|div|sqrt|rcp)\.(\w+)\.f(?:32|64)", text, re.MULTILINE)
    assert arithmetic
    assert set(arithmetic) == {"rn"}


@pytest.mark.parametrize("label", ["f32", "f64"])
def test_a_product_and_a_sum_stay_two_operations(label: str) -> None:
    text = library.ptx(f"point_{list(FORMULAS).index('multiply then add')}_{label}", 90)
    assert "mul.rn" in text
    assert "add.rn" in text
    assert "fma" not in text


@pytest.mark.parametrize("name", ["exact_f32_vector_1_256", "exact_bf16_vector_1_256", "copy_f32_vector_1_256"])
def test_vectors_are_loaded_and_stored_whole(name: str) -> None:
    accesses = re.findall(r"(?:ld|st)\.global\S*", library.ptx(name, 90))
    assert accesses
    assert all(".v4.b32" in access for access in accesses)


def test_quick_divisions_leave_no_other_division_by_a_variable() -> None:
    text = library.KERNELS["quick_f32_vector_1_256"]().text()
    assert "fdiv" in text
    # What is left divides by a constant.
    left = re.findall(r"fdiv .*", quick_divisions(text))
    assert all("%" not in line.rpartition(",")[2] for line in left)
    assert "div.rn" not in library.ptx("quick_f32_vector_1_256", 90)


def test_a_corrected_quotient_is_the_rounded_one() -> None:
    """Where the reciprocal is rounded correctly, which the probe shows on the device."""
    one = np.float32(1.0)

    @numba.njit
    def corrected(x, y, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            inverse = one / y[i]
            quotient = x[i] * inverse
            rest = vmath.fma_f32(-y[i], quotient, x[i])
            out[i] = vmath.fma_f32(rest, inverse, quotient)

    x = np.arange(0, 157 << 23, 331, dtype=np.uint32).view(np.float32)
    y = x + one
    out = np.empty_like(x)
    corrected(x, y, out)
    assert np.array_equal(out.view(np.uint32), (x / y).view(np.uint32))
    # Without the correction some differ, so the comparison can fail.
    assert not np.array_equal(x * (one / y), x / y)


def test_the_reference_of_philox_is_the_generator() -> None:
    seed, offset, count = 0x0123_4567_89AB_CDEF, 5, 1000

    @numba.njit
    def fill(address, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            memory.store_i64(address, i, philox.philox_u32(seed, offset, i))

    out: Any = np.zeros(count, np.int64)
    fill(out.ctypes.data, count)
    assert np.array_equal(out, reference.philox_words(seed, offset, count))


def test_structures_have_the_sizes_of_the_header() -> None:
    # sizeof in cuda.h on a 64-bit machine.
    assert ctypes.sizeof(driver.KernelNode) == 72
    assert ctypes.sizeof(driver._Configuration) == 56
    assert ctypes.sizeof(driver._Attribute) == 72
