"""Reductions and what is fused with them as GPU kernels, run as PTX."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.cuda.running import Execution
from tests.programs import graph_of, make, random_array
from tests.test_compiler import keep, layer_norm, softmax
from tracejit.ir.node import Node

REDUCED = [((7,), 0), ((3, 40), 1), ((300, 5), 0), ((4, 300, 3), 1), ((2, 9000), 1), ((9000,), 0), ((2, 1), 1)]
REDUCTIONS = [
    ("sum", np.sum), ("prod", np.prod), ("amax", np.max), ("amin", np.min),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["float32", "float16", "float64", "int64", "uint8"])
@pytest.mark.parametrize(("name", "reference"), REDUCTIONS, ids=[name for name, _ in REDUCTIONS])
def test_each_reduction(name: str, reference: Callable[..., Any], kind: str) -> None:
    rng = random.Random(5)
    for shape, dim in REDUCED:
        x = random_array(rng, shape, kind, "contiguous")
        if name == "prod":
            x = np.where(x > 0, x.dtype.type(1), x.dtype.type(2) if kind == "uint8" else x.dtype.type(-1))
        (result,) = Execution(graph_of(lambda x, dim=dim: make(name, x, dim=dim), x), [x], (), True).run()
        wide = x.astype(np.float64) if kind.startswith("float") else x
        expected = reference(wide, axis=dim, **({} if name[0] == "a" else {"dtype": wide.dtype}))
        if name == "sum" and kind.startswith("float"):
            tolerance = {"float16": 1e-2, "float32": 2e-5, "float64": 1e-13}[kind]
            np.testing.assert_allclose(result, expected.astype(kind), rtol=tolerance, atol=tolerance)
        else:
            # Nothing is rounded.
            np.testing.assert_array_equal(result, expected.astype(kind))


def check(function: Callable[..., Any], *arrays: np.ndarray) -> Execution:
    """Compares with the same function in float64."""
    graph = graph_of(function, *arrays)
    execution = Execution(graph, list(arrays), (), True)
    results = execution.run()
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    reference = Execution(graph_of(function, *wide), wide, (), False).run()
    for result, expected in zip(results, reference, strict=True):
        np.testing.assert_allclose(result, expected, rtol=3e-5, atol=3e-6)
    return execution


@pytest.mark.parametrize("columns", [1, 33, 256, 257, 1000])
def test_softmax(columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((3, columns)).astype(np.float32)
    check(softmax, x)
