"""Runs planned launches on NumPy arrays, whole or split, in one thread."""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import struct
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types

from tracejit.dtypes import BY_NAME
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.memory import call_kernel
from tracejit.runtime.build import build

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


@functools.cache
def caller() -> Callable[..., int]:
    """Calls a kernel: its address, that of its argument block, where its range begins and ends."""
    def call(function, block, low, high):  # type: ignore[no-untyped-def]
        return call_kernel(function, block, low, high)

    compiled: Callable[..., int] = numba.njit([(types.int64,) * 4])(call)
    return compiled


def operand(array: np.ndarray) -> Operand:
    """How a NumPy array lies in memory."""
    return Operand(array.dtype.name, array.shape, tuple(s // array.itemsize for s in array.strides))


def launch(plan: tuple[Launch, ...], arrays: list[np.ndarray], pieces: int = 1) -> int:
    """Runs the launches in order, each in `pieces` parts (the last part first); gives the first error code.

    Checks that nothing is written round the scratch memory, which holds NaNs at first.
    """
    needed = max((item.scratch for item in plan), default=0)
    shared = np.full(needed // 4 + 64, np.nan, np.float32)
    at = -(-(shared.ctypes.data + 64) // 64) * 64 - shared.ctypes.data
    scratch = shared.ctypes.data + at
    code = _launch(plan, arrays, pieces, scratch)
    assert np.isnan(shared[: at // 4]).all()
    assert np.isnan(shared[-(-(at + needed) // 4) :]).all()
    return code


def launch_part(plan: tuple[Launch, ...], arrays: list[np.ndarray], part: int, parts: int) -> int:
    """Runs one of equal parts of each launch; gives the first error code."""
    needed = max((item.scratch for item in plan), default=0)
    shared = np.full(needed // 4 + 64, np.nan, np.float32)
    codes = []
    for item in plan:
        assert item.units % parts == 0
        block = _block(item, arrays, shared.ctypes.data)
        low, high = item.units // parts * part, item.units // parts * (part + 1)
        codes.append(caller()(build(item.function).address, block.ctypes.data, low, high))
    return max(codes)


def _block(item: Launch, arrays: list[np.ndarray], scratch: int) -> np.ndarray:
    """The argument block of a launch."""
    block = np.zeros(len(item.slots), np.int64)
    for k, slot in enumerate(item.slots):
        if isinstance(slot, Ptr):
            block[k] = arrays[slot.index].ctypes.data
        elif isinstance(slot, Scratch):
            block[k] = scratch
        elif isinstance(slot, float):
            block[k] = struct.unpack("<q", struct.pack("<d", slot))[0]
        else:
            block[k] = slot
    return block


def _launch(plan: tuple[Launch, ...], arrays: list[np.ndarray], pieces: int, scratch: int) -> int:
    for item in plan:
        block = _block(item, arrays, scratch)
        cuts = [item.units * piece // pieces for piece in range(pieces + 1)]
        codes = [
            caller()(build(item.function).address, block.ctypes.data, low, high)
            for low, high in reversed(list(itertools.pairwise(cuts)))
            if low < high
        ]
        assert item.fails or not any(codes)
        if any(codes):
            return max(codes)
    return 0


def run(
    planner: Callable[..., tuple[Launch, ...]], inputs: list[np.ndarray], out: np.ndarray, **attrs: Any
) -> np.ndarray:
    """What a planner's launches leave in `out`; checks that cuts into 2, 3 and 7 parts leave the same bits.

    Raises: IndexError if the launches report error code 1; then nothing may have been written.
    """
    plan = planner(*map(operand, inputs), operand(out), **attrs)
    results = []
    for pieces in (1, 2, 3, 7):
        result = np.full(out.shape, 77, out.dtype)
        kept = [array.copy() for array in inputs]
        code = launch(plan, [*inputs, result], pieces)
        for array, before in zip(inputs, kept, strict=True):
            assert array.tobytes() == before.tobytes()
        if code:
            assert result.tobytes() == np.full(out.shape, 77, out.dtype).tobytes()
            raise IndexError(code)
        results.append(result)
    for result in results[1:]:
        assert result.tobytes() == results[0].tobytes()
    return results[0]


def fenced(array: np.ndarray, *, end: bool) -> np.ndarray:
    """A copy of an array right before (or right behind) memory that kills a process which touches it."""
    page = mmap.PAGESIZE
    inner = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for fence in (address, address + page + inner):
        assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    start = page + (inner - array.nbytes if end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def sample(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Random values of any dtype, small enough that sums stay finite."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "float" in dtype:
        return rng.standard_normal(shape).astype(BY_NAME[dtype].np)
    low = 0 if dtype == "uint8" else -100
    return rng.integers(low, 100, shape).astype(dtype)


def same(result: np.ndarray, expected: np.ndarray) -> None:
    """Asserts equal dtype, shape and bits."""
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert np.ascontiguousarray(result).tobytes() == np.ascontiguousarray(expected).tobytes()
