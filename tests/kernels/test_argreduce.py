"""Index of the extreme against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.launching import DTYPES, operand, run, same, sample
from tracejit.kernels.argreduce import plan_argmax, plan_argmin

SHAPES = [
    ((7,), 0), ((1,), 0), ((5, 33), 1), ((33, 5), 0), ((3, 17, 300), 1), ((2, 3, 700), -1), ((4, 1, 3), 1), ((2, 0), 0),
]  # fmt: skip
PLANNERS = {"argmax": plan_argmax, "argmin": plan_argmin}


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_numpy(dtype: str, name: str) -> None:
    rng = np.random.default_rng(2)
    for shape, dim in SHAPES:
        x = sample(rng, dtype, *shape)
        expected = getattr(np, name)(x, axis=dim)
        same(run(PLANNERS[name], [x], np.zeros(np.shape(expected), np.int64), dim=dim), np.asarray(expected))


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_special_values_equal_torch(dtype: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    values = np.array([-np.inf, -1.0, -0.0, 0.0, 1e-7, 1.0, np.inf, np.nan, -np.nan], dtype)
    for known in (values, values[:7], values[2:4], values[[0]], values[[6, 7]]):
        x = rng.choice(known, (40, 600, 3))
        for dim in (0, 1, 2):
            expected = getattr(torch, name)(torch.from_numpy(x), dim).numpy()
            same(run(PLANNERS[name], [x], np.zeros(expected.shape, np.int64), dim=dim), expected)


def test_extremes_of_integers() -> None:
    for dtype in ("int8", "int64", "uint8"):
        info = np.iinfo(dtype)
        for edge, other in ((info.min, info.max), (info.max, info.min)):
            x = np.array([[edge, edge, edge], [edge, other, edge]], dtype)
            for name, planner in PLANNERS.items():
                for dim in (0, 1):
                    expected = getattr(np, name)(x, axis=dim)
                    same(run(planner, [x], np.zeros(expected.shape, np.int64), dim=dim), expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match="non-zero size"):
        plan_argmax(operand(np.zeros((3, 0))), operand(np.zeros(3, np.int64)), 1)
    with pytest.raises(ValueError, match="int64 of out"):
        plan_argmax(operand(np.zeros((3, 4))), operand(np.zeros(3, np.int32)), 1)
