"""What is computed lies in memory in row-major order, whatever its operands do; strides along sizes of 1 as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj

FUNCTIONS: dict[str, Callable[[tj.Tensor], Any]] = {
    "clone": lambda x: x.clone(),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "diag": lambda x: (x @ x.T).diag(),
    "neg": lambda x: -x,
    "exp": lambda x: x.exp(),
    "add": lambda x: x + x,
    "where": lambda x: tj.where(x > 0, x, 1.0),
    "cat": lambda x: tj.cat([x, x]),
    "sum": lambda x: x.sum(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(0),
    "sort": lambda x: x.sort(0).values,
    "softmax": lambda x: x.softmax(0, dtype=tj.float32),
    "matmul": lambda x: x @ x.T @ x,
    "take": lambda x: x[tj.tensor([1, 0])],
}


@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.int64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_row_major(name: str, kind: tj.dtype) -> None:
    function = FUNCTIONS[name]
    compiled = tj.compile(function)
    x = tj.from_numpy(np.arange(3.0)[None]).to(kind).T
    for run in (function, *[compiled] * 4):
        found = run(x)
        assert found.stride() == found.clone().stride() == np.empty(found.shape, np.int8).strides


EMPTY: dict[str, Callable[[tj.Tensor], Any]] = {
    "matmul": lambda x: tj.ones(2, 4, 3) @ x.t(),
    "add": lambda x: x + 1,
    "zeros": lambda x: tj.zeros(0, 3),
    "reshape": lambda x: x.reshape(3, 0, 2),
    "cat": lambda x: tj.cat([x, x]),
    "sum": lambda x: x.sum(1),
}


@pytest.mark.parametrize("name", EMPTY)
def test_tensors_without_elements_have_the_strides_of_pytorch(name: str) -> None:
    """NumPy's depend on how an array was made."""
    function = EMPTY[name]
    compiled = tj.compile(function)
    x = tj.zeros(0, 3)
    for run in (function, *[compiled] * 4):
        found = run(x)
        steps = np.cumprod([max(n, 1) for n in (*found.shape[1:], 1)][::-1])[::-1].tolist()
        assert list(found.stride()) == steps
