"""Places in order against NumPy's stable sort, and places of values among elements in order against its search."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.launching import DTYPES, operand, run, same, sample
from tracejit.kernels.order import plan_argsort, plan_topk
from tracejit.kernels.search import plan_searchsorted
from tracejit.ops import ops

SHAPES = [(1,), (7,), (48,), (49,), (3, 300), (2, 5, 17), (4, 1), (1, 5000), (2, 0), (0, 4)]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_order_of_rows(dtype: str, descending: bool) -> None:
    rng = np.random.default_rng(7)
    for shape in SHAPES:
        x = sample(rng, dtype, *shape)
        expected = ops.argsort.numpy(x, descending)
        same(run(plan_argsort, [x], np.zeros(shape, np.int64), descending=descending), expected)
        for k in {0, min(1, shape[-1]), shape[-1] // 3, shape[-1] if shape[-1] < 400 else 20}:
            found = run(plan_topk, [x], np.zeros((*shape[:-1], k), np.int64), k=k, largest=descending)
            same(found, expected[..., :k])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_special_values(dtype: str) -> None:
    rng = np.random.default_rng(8)
    values = np.array([-np.inf, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, np.inf, np.nan, -np.nan], dtype)
    for size in (20, 600):
        x = rng.choice(values, (30, size))
        for descending in (False, True):
            expected = ops.argsort.numpy(x, descending)
            same(run(plan_argsort, [x], np.zeros(x.shape, np.int64), descending=descending), expected)
            found = run(plan_topk, [x], np.zeros((30, 9), np.int64), k=9, largest=descending)
            same(found, expected[:, :9])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_extremes_and_digits_of_integers(dtype: str) -> None:
    rng = np.random.default_rng(9)
    info = np.iinfo(dtype)
    edges = [info.min, info.min + 1, info.max, info.max - 1, info.max // 2, 0, 1]
    for x in (
        rng.choice(np.array(edges, dtype), (3, 200)),
        rng.integers(info.min, info.max, (3, 300), dtype, endpoint=True),
        (np.arange(600).reshape(2, 300) % 7).astype(dtype),
    ):
        for descending in (False, True):
            expected = ops.argsort.numpy(x, descending)
            same(run(plan_argsort, [x], np.zeros(x.shape, np.int64), descending=descending), expected)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bool"])
def test_places_among_elements_in_order(dtype: str, right: bool) -> None:
    rng = np.random.default_rng(10)
    for size in (0, 1, 2, 3, 7, 8, 9, 100):
        for lead, each in (((), 600), ((3,), 5), ((2, 2), 1), ((4,), 300), ((), 0)):
            rows = np.sort(sample(rng, dtype, *lead, size).astype("float32"), -1).astype(dtype)
            # Values that are elements, too.
            x = np.concatenate([sample(rng, dtype, *lead, each), rows[..., : min(size, each)]], -1)
            expected = ops.searchsorted.numpy(rows, x, right)
            same(run(plan_searchsorted, [rows, x], np.zeros(x.shape, np.int64), right=right), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_is_no_number_is_beyond_all_elements(dtype: str) -> None:
    rows = np.array([-np.inf, -0.0, 0.0, 1.0, np.inf, np.nan, np.nan]).astype(dtype)
    x = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 2.0, -np.nan]).astype(dtype)
    for right, places in ((False, [7, 1, 1, 4, 0, 4, 7]), (True, [7, 3, 3, 5, 1, 4, 7])):
        expected = np.array(places)
        same(run(plan_searchsorted, [rows, x], np.zeros(7, np.int64), right=right), expected)
        same(ops.searchsorted.numpy(rows, x, right), expected)


def test_errors() -> None:
    x = operand(np.zeros((3, 4), "float32"))
    with pytest.raises(ValueError, match="int64 of out"):
        plan_argsort(x, operand(np.zeros((3, 4), np.int32)), False)
    with pytest.raises(ValueError, match="of shape"):
        plan_argsort(x, operand(np.zeros((4, 3), np.int64)), False)
    with pytest.raises(ValueError, match="rows for values"):
        plan_searchsorted(x, operand(np.zeros((2, 4), "float32")), operand(np.zeros((2, 4), np.int64)), True)
    with pytest.raises(TypeError, match="one dtype"):
        plan_searchsorted(x, operand(np.zeros((3, 4))), operand(np.zeros((3, 4), np.int64)), True)
    with pytest.raises(ValueError, match="5 of 4"):
        plan_topk(x, operand(np.zeros((3, 5), np.int64)), 5, True)
