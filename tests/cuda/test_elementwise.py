"""Elementwise GPU kernels of every operation, run as PTX: the bits of eager, on all layouts and sizes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.cuda.running import Execution, assert_same
from tests.programs import graph_of, make, random_array, run_eagerly
from tracejit.ir.graph import Graph
from tracejit.ops import ops

LAYOUTS = [("contiguous", (37,)), ("transposed", (5, 7))]
WRITTEN = [op for op in ops.family("elementwise") if op.expr not in (None, "cast")]
KINDS = {"b": ["bool"], "i": ["int32", "uint8"], "f": ["float32", "float64", "float16"]}


def check(
    graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = (), vectors: bool = True
) -> Execution:
    """Asserts that a graph's GPU kernels give the bits of the operations one by one."""
    execution = Execution(graph, arrays, scalars, vectors)
    expected = run_eagerly(graph, [a.copy(order="K") for a in arrays], scalars)
    for result, wanted in zip(execution.run(), expected, strict=True):
        assert_same(result, wanted, execution.kernels)
    return execution


def _operands(op: Any, kind: str, letter: str, shape: tuple[int, ...], layout: str) -> list[np.ndarray]:
    rng = random.Random(3)
    arrays = [random_array(rng, shape, kind, layout) for _ in op.params]
    if op.name == "where":
        arrays[0] = np.asarray(arrays[0] > 0)
    if letter == "f" and op.sample[0] > 0:
        arrays = [np.asarray(np.clip(np.abs(a), *op.sample)).astype(a.dtype) for a in arrays]
    return arrays


@pytest.mark.parametrize("op", WRITTEN, ids=lambda op: op.name)
def test_each_elementwise_operation(op: Any) -> None:
    for letter in op.kinds:
        if isinstance(op.expr, dict) and letter not in op.expr:
            continue
        for k, kind in enumerate(KINDS[letter]):
            # How elements are reached does not depend on their type: one type goes through all layouts.
            for layout, shape in LAYOUTS[: 1 if k else None]:
                arrays = _operands(op, kind, letter, shape, layout)
                check(graph_of(lambda *nodes: make(op.name, *nodes), *arrays), arrays)
