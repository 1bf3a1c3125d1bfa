"""Resampling along an axis and its adjoint against chains of products and additions in NumPy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.launching import launch, operand, same, sample
from tracejit.kernels.resample import plan_resample, plan_resample_grad
from tracejit.kernels.resample_vectors import _WINDOW
from tracejit.ops import ops

SIZES: list[tuple[tuple[int, ...], int, int]] = [
    ((3, 5), 1, 10),
    ((37, 20), 1, 40),
    ((2, 9, 21), 1, 17),
    ((2, 3, 4, 70), 2, 9),
    ((2, 3, 150), 1, 5),
    ((5, 40), 1, 200),
    ((20, 300), 1, 70),
    ((18, 7), 1, 7),
    ((3, 1), 1, 6),
    ((3, 6), 1, 1),
    ((1, 2), 1, 2 * _WINDOW),
    ((17, 2 * _WINDOW + 5), 1, 3),
    ((0, 4), 1, 8),
]
WAYS = [(1, "left", 0.0), (1, "within", 0.0), (2, "middle", 0.0), (2, "corners", 0.0), (4, "middle", 0.0),
        (4, "corners", 0.0), (2, "middle", 0.45)]  # fmt: skip


def run(plan: Any, x: np.ndarray, shape: tuple[int, ...], attrs: dict[str, Any]) -> np.ndarray:
    """The result of a plan, the same in one piece and in several."""
    results = []
    for pieces in (1, 3):
        out = np.full(shape, 77, x.dtype)
        assert launch(plan(operand(x), operand(out), **attrs), [x, out], pieces) == 0
        results.append(out)
    same(*results)
    return results[0]


def resized(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("taps", "places", "ratio"), WAYS)
@pytest.mark.parametrize(("shape", "dim", "size"), SIZES)
def test_resampling(
    shape: tuple[int, ...], dim: int, size: int, taps: int, places: str, ratio: float, dtype: str
) -> None:
    attrs = {"dim": dim, "ratio": ratio, "taps": taps, "places": places}
    x = sample(np.random.default_rng(1), dtype, *shape)
    y = run(plan_resample, x, resized(shape, dim, size), attrs)
    same(y, ops.resample.numpy(x, dim, size, ratio, taps, places))
    dx = run(plan_resample_grad, y, shape, attrs)
    same(dx, ops.resample_grad.numpy(y, dim, shape[dim], ratio, taps, places))


@pytest.mark.parametrize("dim", [1, 2])
def test_special_values_stay_where_they_are(dim: int) -> None:
    x = np.zeros((2, 20, 20), np.float32)
    x[0, 3, 4], x[1, 7, 7], x[1, 12, 12] = np.nan, np.inf, -0.0
    nearest = {"dim": dim, "ratio": 0.0, "taps": 1, "places": "left"}
    y = run(plan_resample, x, resized(x.shape, dim, 60), nearest)
    same(y, np.repeat(x, 3, dim))
    assert np.signbit(y[1]).sum() == 3
    linear = {"dim": dim, "ratio": 0.0, "taps": 2, "places": "middle"}
    y = run(plan_resample, x, resized(x.shape, dim, 40), linear)
    assert np.isnan(y[0]).sum() == np.isinf(y[1]).sum() == 4


def test_what_nothing_was_taken_from_gets_0() -> None:
    y = np.full((2, 3), -0.0, np.float32)
    dx = run(plan_resample_grad, y, (2, 9), {"dim": 1, "ratio": 0.0, "taps": 1, "places": "left"})
    assert np.signbit(dx).tolist() == [[True, False, False] * 3] * 2


def test_other_types_have_no_kernel() -> None:
    x = np.ones((2, 3), np.float16)
    with pytest.raises(NotImplementedError, match="float16"):
        plan_resample(operand(x), operand(x), dim=1, ratio=0.0, taps=1, places="left")
