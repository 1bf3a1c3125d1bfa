"""Loads, stores, casts, stack buffers and atomics of kernels/memory.py against NumPy."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tracejit.errors import KernelBuildError
from tracejit.runtime.build import build
from tracejit.runtime.team import launch

DTYPES = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "b1": np.bool_,
}


def run(text: str, units: int, *slots: object) -> int:
    return launch(build(text, "kernel").address, units, 0.0, *slots)


def lines(*body: str) -> str:
    return "def kernel(p, lo, hi):\n" + "".join(f"    {line}\n" for line in body) + "    return 0\n"


def values(dtype: type) -> np.ndarray:
    if dtype is np.bool_:
        return np.array([True, False, False, True])
    if np.issubdtype(dtype, np.floating):
        info = np.finfo(dtype)
        return np.array([0.0, -0.0, 1.5, info.max, info.tiny, info.smallest_subnormal, np.inf, -np.inf, np.nan], dtype)
    bounds = np.iinfo(dtype)
    return np.array([0, 1, bounds.min, bounds.max, bounds.max - 1], dtype)


@pytest.mark.parametrize("scope", ["", "_s"])
@pytest.mark.parametrize("name", DTYPES)
def test_load_and_store_keep_every_value(name: str, scope: str) -> None:
    source = values(DTYPES[name])
    target = np.zeros_like(source)
    source_scope, target_scope = (", 0, 2", ", 1, 2") if scope else ("", "")
    load = f"load_{name}{scope}(load_arg(p, 0), i{source_scope})"
    text = lines("for i in range(lo, hi):", f"    store_{name}{scope}(load_arg(p, 1), i, {load}{target_scope})")
    assert run(text, source.size, source, target) == 0
    np.testing.assert_array_equal(target, source)
    if np.issubdtype(source.dtype, np.floating):
        np.testing.assert_array_equal(np.signbit(target), np.signbit(source))


def test_float16_arithmetic_is_in_float32_and_rounds_to_nearest_even() -> None:
    source = np.arange(0x7C01, dtype=np.uint16).view(np.float16)
    single = (source.astype(np.float32) * np.float32(1.0009765625)).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = single.astype(np.float16)
    target = np.zeros_like(source)
    body = "    store_f16(load_arg(p, 1), i, load_f16(load_arg(p, 0), i) * float32(arg_f64(p, 2)))"
    assert run(lines("for i in range(lo, hi):", body), source.size, source, target, 1.0009765625) == 0
    np.testing.assert_array_equal(target.view(np.uint16), expected.view(np.uint16))


def test_bit_casts() -> None:
    single, double = np.array([-1.5], np.float32), np.array([np.pi])
    integers = np.zeros(2, np.int64)
    text = lines(
        "store_i64(load_arg(p, 2), 0, f32_bits(load_f32(load_arg(p, 0), 0)))",
        "store_i64(load_arg(p, 2), 1, f64_bits(load_f64(load_arg(p, 1), 0)))",
        "store_f32(load_arg(p, 0), 0, bits_f32(f32_bits(load_f32(load_arg(p, 0), 0)) ^ (1 << 22)))",
        "store_f64(load_arg(p, 1), 0, bits_f64(f64_bits(load_f64(load_arg(p, 1), 0)) ^ (1 << 62)))",
    )
    expected = [int(single.view(np.int32)[0]), int(double.view(np.int64)[0])]
    changed = (single.view(np.int32) ^ (1 << 22)).view(np.float32), (double.view(np.int64) ^ (1 << 62)).view(np.float64)
    assert run(text, 1, single, double, integers) == 0
    assert integers.tolist() == expected
    assert (single[0], double[0]) == (changed[0][0], changed[1][0])


def test_a_stack_buffer_is_aligned_and_a_loop_does_not_grow_the_stack() -> None:
    out = np.zeros(2, np.int64)
    text = lines(
        "for i in range(lo, hi):",
        "    buffer = stack_f64(32768)",
        "    store_f64(buffer, i % 32768, 1.0)",
        "    store_i64(load_arg(p, 0), 0, buffer)",
        "    store_i64(load_arg(p, 0), 1, load_i64(load_arg(p, 0), 1) | buffer)",
    )
    assert run(text, 100_000, out) == 0
    assert out[0] % 64 == 0
    assert out[0] == out[1]


def test_atomics() -> None:
    words = np.array([5, 0, 0, 0], np.int64)
    text = lines(
        "a = load_arg(p, 0)",
        "store_i64(a, 1, fetch_add(a, 3))",
        "store_i64(a, 2, exchange(a, 40))",
        "pause()",
        "store_release(a + 24, load_acquire(a) + 2)",
    )
    assert run(text, 1, words) == 0
    assert words.tolist() == [40, 5, 8, 42]


def test_a_kernel_calls_another_through_its_address() -> None:
    inner = build("def inner(p, lo, hi):\n    return load_arg(p, 0) * 100 + lo * 10 + hi\n", "inner")
    text = "def outer(p, lo, hi):\n    return call_kernel(load_arg(p, 0), load_arg(p, 1), 2, 3)\n"
    assert launch(build(text, "outer").address, 1, 0.0, inner.address, np.array([7])) == 723


SUM = "def {name}(p, lo, hi):\n    x = load_arg(p, 0)\n    y = load_arg(p, 1)\n    for i in range(lo, hi):\n"


def test_scopes_spare_the_alias_check() -> None:
    checked = SUM.format(name="checked") + "        store_f32(y, i, load_f32(x, i) * 2)\n    return 0\n"
    spared = SUM.format(name="spared") + "        store_f32_s(y, i, load_f32_s(x, i, 0, 2) * 2, 1, 2)\n    return 0\n"
    label = re.compile("memcheck|diff.check")
    assert label.search(build(checked, "checked").llvm_text())
    assert not label.search(build(spared, "spared").llvm_text())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("load_f32_s(load_arg(p, 0), 0, 2, 2)", "scope 2 is not one of 2"),
        ("load_f32_s(load_arg(p, 0), 0, lo, 2)", "expected an integer literal"),
        ("load_f32(load_arg(p, 0), 1.5)", "must be integers"),
        ("stack_f32(lo)", "expected an integer literal"),
        ("stack_f32(0)", "must be positive"),
    ],
)
def test_misuse_is_refused(call: str, message: str) -> None:
    with pytest.raises(KernelBuildError, match=message):
        run(lines(call), 1)
