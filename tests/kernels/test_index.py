"""Kernels with an index operand against NumPy and PyTorch, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.launching import DTYPES, operand, run, same, sample
from tracejit.kernels.index import (
    plan_gather,
    plan_index_add,
    plan_index_copy,
    plan_scatter,
    plan_scatter_add,
    plan_take,
    plan_wrap_index,
)

INDEXES = ("int64", "int32")


def lines(x: np.ndarray, index: np.ndarray, src: np.ndarray, dim: int, add: bool) -> np.ndarray:
    """Scatter or scatter_add as a plain loop in row-major order, rounding after each step."""
    out = x.copy()
    for at in np.ndindex(*index.shape):
        to = list(at)
        to[dim] = index[at]
        if add and x.dtype == bool:
            out[tuple(to)] |= src[at]
        elif add and x.dtype == np.float16:
            out[tuple(to)] = np.float16(np.float32(out[tuple(to)]) + np.float32(src[at]))
        else:
            with np.errstate(over="ignore"):
                out[tuple(to)] = out[tuple(to)] + src[at] if add else src[at]
    return out


def rows(x: np.ndarray, index: np.ndarray, src: np.ndarray, dim: int, add: bool) -> np.ndarray:
    """index_add or index_copy through the loop above."""
    shape = [1] * x.ndim
    shape[dim] = index.size
    return lines(x, np.broadcast_to(index.reshape(shape), src.shape), src, dim, add)


@pytest.mark.parametrize("index_dtype", INDEXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_take(dtype: str, index_dtype: str) -> None:
    rng = np.random.default_rng(1)
    for shape, dim, n in [
        ((9,), 0, 20),
        ((5, 7), 0, 3),
        ((5, 7), 1, 11),
        ((3, 4, 5), 1, 6),
        ((3, 4, 65), -2, 1),
        ((4, 3), 0, 0),
    ]:
        x = sample(rng, dtype, *shape)
        index = rng.integers(0, shape[dim], n).astype(index_dtype)
        expected = np.take(x, index, axis=dim)
        same(run(plan_take, [x, index], np.empty_like(expected), dim=dim), expected)


@pytest.mark.parametrize("index_dtype", INDEXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather(dtype: str, index_dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for shape, small, dim in [
        ((9,), (20,), 0), ((5, 7), (5, 1), 1), ((5, 7), (3, 7), 0), ((5, 7), (4, 9), 1), ((3, 4, 5), (3, 8, 5), 1),
        ((3, 4, 5), (2, 8, 3), 1), ((3, 4, 5), (2, 3, 9), 2), ((2, 3, 4, 5), (2, 2, 4, 4), 1), ((3, 4), (0, 2), 0),
        ((2, 3, 4, 5), (9, 3, 2, 5), 0), ((), (), 0),
    ]:  # fmt: skip
        x = np.asarray(sample(rng, dtype, *shape))
        index = rng.integers(0, shape[dim] if shape else 1, small).astype(index_dtype)
        # torch has no bfloat16 from NumPy, but a gather moves any two bytes.
        moved = torch.from_numpy(x.view(np.int16) if dtype == "bfloat16" else x)
        expected = moved.gather(dim, torch.from_numpy(np.asarray(index)).long()).numpy().view(x.dtype)
        same(run(plan_gather, [np.asarray(x), np.asarray(index)], np.empty_like(expected), dim=dim), expected)


def test_gather_from_any_strides() -> None:
    rng = np.random.default_rng(3)
    x = sample(rng, "float32", 6, 5, 8).transpose(2, 0, 1)[::2, ::-1]
    index = rng.integers(0, 6, (4, 3, 5))
    expected = np.take_along_axis(x, index, 1)
    same(run(plan_gather, [x, index], np.empty(index.shape, "float32"), dim=1), expected)


LINES = [
    ((9,), (20,), (20,), 0), ((6, 7), (6, 1), (6, 1), 1), ((6, 7), (3, 7), (4, 9), 0), ((6, 7), (4, 9), (5, 9), 1),
    ((3, 4, 5), (3, 8, 5), (3, 8, 5), 1), ((3, 4, 5), (2, 8, 3), (3, 9, 4), 1), ((3, 4, 5), (2, 3, 9), (2, 3, 9), 2),
    ((2, 3, 4, 5), (2, 2, 4, 4), (2, 2, 5, 4), 1), ((3, 4), (0, 2), (0, 2), 0),
    ((2, 3, 4, 5), (9, 3, 2, 5), (9, 3, 3, 5), 0), ((3, 0), (3, 0), (3, 0), 1), ((3, 1100), (2, 1030), (2, 1040), 0),
]  # fmt: skip


@pytest.mark.parametrize("index_dtype", INDEXES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("add", [False, True])
def test_scatter(dtype: str, index_dtype: str, add: bool) -> None:
    rng = np.random.default_rng(4)
    planner = plan_scatter_add if add else plan_scatter
    for shape, small, large, dim in LINES:
        x, src = sample(rng, dtype, *shape), sample(rng, dtype, *large)
        index = rng.integers(0, max(1, shape[dim]), small).astype(index_dtype)
        expected = lines(x, index, src[tuple(map(slice, small))], dim, add)
        same(run(planner, [x, index, src], np.empty_like(x), dim=dim), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_scatter_add_equals_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for shape, small, large, dim in LINES[:8]:
        x, src = sample(rng, dtype, *shape), sample(rng, dtype, *large)
        index = rng.integers(0, shape[dim], small)
        expected = torch.from_numpy(x).scatter_add(dim, torch.from_numpy(index), torch.from_numpy(src)).numpy()
        np.testing.assert_allclose(
            run(plan_scatter_add, [x, index, src], np.empty_like(x), dim=dim), expected, 1e-5, 1e-6
        )


def test_scatter_from_a_broadcast_source_and_a_scalar() -> None:
    rng = np.random.default_rng(6)
    x, index = sample(rng, "float32", 4, 6), rng.integers(0, 6, (4, 3))
    src = np.broadcast_to(sample(rng, "float32", 4, 1), (4, 3))
    same(run(plan_scatter, [x, index, src], np.empty_like(x), dim=1), lines(x, index, src, 1, False))
    one, at, value = np.array(2.0), np.array(0), np.array(5.0)
    assert run(plan_scatter_add, [one, at, value], np.empty_like(one), dim=0) == 7.0


@pytest.mark.parametrize("index_dtype", INDEXES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("add", [False, True])
def test_index_add_and_copy(dtype: str, index_dtype: str, add: bool) -> None:
    rng = np.random.default_rng(7)
    planner = plan_index_add if add else plan_index_copy
    for shape, dim, n in [
        ((9,), 0, 20),
        ((5, 7), 0, 12),
        ((5, 7), 1, 11),
        ((3, 4, 5), 1, 6),
        ((2, 4, 65), -2, 9),
        ((2, 2, 1030), 1, 3),
        ((4, 3), 0, 0),
    ]:
        x = sample(rng, dtype, *shape)
        large = list(shape)
        large[dim] = n
        index, src = rng.integers(0, shape[dim], n).astype(index_dtype), sample(rng, dtype, *large)
        same(run(planner, [x, index, src], np.empty_like(x), dim=dim), rows(x, index, src, dim % len(shape), add))


@pytest.mark.parametrize("index_dtype", INDEXES)
def test_wrap_index(index_dtype: str) -> None:
    index = np.array([[0, -1, 4], [-5, 3, -2]], index_dtype)
    same(run(plan_wrap_index, [index], np.zeros((2, 3), np.int64), size=5), np.array([[0, 4, 4], [0, 3, 3]]))
    for wrong in (-6, 5, np.iinfo(index_dtype).min, np.iinfo(index_dtype).max):
        with pytest.raises(IndexError, match="1"):
            run(plan_wrap_index, [np.array([0, wrong, 1], index_dtype)], np.zeros(3, np.int64), size=5)
    assert run(plan_wrap_index, [np.empty(0, index_dtype)], np.zeros(0, np.int64), size=0).size == 0


@pytest.mark.parametrize("wrong", [-1, 4, 1 << 31, -(1 << 62), (1 << 63) - 1])
@pytest.mark.parametrize(
    "planner", [plan_take, plan_gather, plan_scatter, plan_scatter_add, plan_index_add, plan_index_copy]
)
def test_index_out_of_range_writes_nothing(planner: Callable[..., Any], wrong: int) -> None:
    rng = np.random.default_rng(8)
    x = sample(rng, "float64", 4, 3)
    flat = planner in (plan_take, plan_index_add, plan_index_copy)
    for place in range(4):
        index = np.zeros(4 if flat else (4, 3), np.int64)
        index[place] = wrong
        inputs = [x, index] if planner in (plan_take, plan_gather) else [x, index, x.copy()]
        with pytest.raises(IndexError, match="1"):
            run(planner, inputs, np.empty((4, 3)), dim=0)


def test_every_index_into_an_empty_dimension_is_out_of_range() -> None:
    x = np.empty((0, 3))
    with pytest.raises(IndexError):
        run(plan_take, [x, np.zeros(1, np.int64)], np.empty((1, 3)), dim=0)
    assert run(plan_take, [x, np.zeros(0, np.int64)], np.empty((0, 3)), dim=0).shape == (0, 3)


def test_errors() -> None:
    x, index = operand(np.zeros((3, 4))), operand(np.zeros((3, 4), np.int64))
    flat = operand(np.zeros(2, np.int64))
    with pytest.raises(TypeError, match="int64 or int32"):
        plan_gather(x, x, x, 0)
    with pytest.raises(TypeError, match="one dtype"):
        plan_take(x, flat, operand(np.zeros((2, 4), "float32")), 0)
    with pytest.raises(ValueError, match="does not give"):
        plan_take(x, flat, operand(np.zeros((3, 4))), 0)
    with pytest.raises(ValueError, match="out of range"):
        plan_gather(x, index, x, 2)
    with pytest.raises(ValueError, match="number of dimensions"):
        plan_gather(x, flat, operand(np.zeros(2)), 0)
    with pytest.raises(ValueError, match="no larger than x"):
        plan_gather(operand(np.zeros((2, 4))), index, x, 1)
    with pytest.raises(ValueError, match="no larger than src"):
        plan_scatter(x, index, operand(np.zeros((2, 4))), x, 0)
    with pytest.raises(ValueError, match="do not fit"):
        plan_index_add(x, flat, x, x, 0)
    with pytest.raises(ValueError, match="contiguous"):
        plan_index_add(x, flat, operand(np.zeros((4, 2)).T), x, 0)
    with pytest.raises(ValueError, match="expected int64"):
        plan_wrap_index(flat, operand(np.zeros(2, np.int32)), 3)
