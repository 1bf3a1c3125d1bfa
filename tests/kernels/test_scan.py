"""Running sums and products against NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.launching import DTYPES, operand, run, same, sample
from tests.runtime.lowering_ways import directly
from tracejit.kernels.scan import plan_cumprod, plan_cumsum, plan_linear_recurrence

SHAPES = [
    *[((7,), 0), ((1,), 0), ((5, 33), 1), ((37, 21), 1), ((16, 1), 1), ((33, 5), 0)],
    *[((3, 17, 19), 1), ((2, 3, 64), -1), ((4, 1, 3), 1)],
    *[((5, 6, columns), 1) for columns in range(2, 10)],
]
NUMERIC = [dtype for dtype in DTYPES if dtype != "bool"]


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_equals_numpy(dtype: str, name: str) -> None:
    rng = np.random.default_rng(1)
    planner = plan_cumsum if name == "cumsum" else plan_cumprod
    for shape, dim in SHAPES:
        x = sample(rng, dtype, *shape)
        with np.errstate(over="ignore"):
            if dtype in ("float16", "bfloat16"):
                expected = getattr(np, name)(x.astype(np.float32), axis=dim).astype(x.dtype)
            else:
                expected = getattr(np, name)(x, axis=dim, dtype=dtype)
        with directly():
            same(run(planner, [x], np.empty_like(x), dim=dim), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_recurrence_goes_step_by_step(dtype: str) -> None:
    rng = np.random.default_rng(2)
    for shape, dim in SHAPES:
        x, decay = sample(rng, dtype, *shape), sample(rng, dtype, *shape)
        kind = np.dtype(np.float64 if dtype == "float64" else np.float32)
        expected = np.empty(shape, kind)
        terms, factors, results = (np.moveaxis(a, dim, 0) for a in (x.astype(kind), decay.astype(kind), expected))
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(len(terms)):
                results[k] = terms[k] + results[k - 1] * factors[k - 1] if k else terms[k]
            rounded = expected.astype(x.dtype)
        same(run(plan_linear_recurrence, [x, decay], np.empty_like(x), dim=dim), rounded)


def test_signs_of_zero_and_special_values() -> None:
    for dtype in ("float32", "float64"):
        x = np.array([[-0.0, -0.0, 1.0, np.inf, 2.0], [np.nan, 1.0, -np.inf, 0.0, -0.0]], dtype)
        result = run(plan_cumsum, [x], np.empty_like(x), dim=1)
        same(np.signbit(result[0, :2]), np.array([True, True]))
        np.testing.assert_array_equal(result, np.cumsum(x, 1))


@pytest.mark.parametrize(("shape", "dim"), [((0,), 0), ((0, 3), 0), ((3, 0), 0), ((2, 0, 3), 1), ((2, 3, 0), 1)])
def test_empty(shape: tuple[int, ...], dim: int) -> None:
    x = np.empty(shape, "float32")
    assert run(plan_cumsum, [x], np.empty_like(x), dim=dim).shape == shape


def test_scalar() -> None:
    x = np.array(3.5, "float32")
    assert run(plan_cumsum, [x], np.empty_like(x), dim=0) == 3.5


def test_errors() -> None:
    x = operand(np.zeros((3, 4), "float32"))
    with pytest.raises(ValueError, match="out of range"):
        plan_cumsum(x, x, 2)
    with pytest.raises(ValueError, match="out of shape"):
        plan_cumsum(x, operand(np.zeros((3, 5), "float32")), 0)
    with pytest.raises(ValueError, match="contiguous"):
        plan_cumsum(operand(np.zeros((4, 3), "float32").T), x, 0)
    with pytest.raises(ValueError, match="one shape"):
        plan_linear_recurrence(x, operand(np.zeros((3, 5), "float32")), x, 0)
    with pytest.raises(TypeError, match="bool"):
        plan_cumsum(operand(np.zeros(3, bool)), operand(np.zeros(3, bool)), 0)
    with pytest.raises(TypeError, match="one dtype"):
        plan_cumprod(x, operand(np.zeros((3, 4))), 0)
