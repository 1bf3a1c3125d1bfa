"""The reference interpreter against NumPy, and against eager execution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.cases import ALL_CASES, WITHOUT, Case
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.eager import run_op
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import interpret
from tracejit.ir.node import apply, input, item, scalar
from tracejit.ops.record import ops

F32 = dtypes.float32


def graph_of(case: Case, operands: list[Any]) -> tuple[Graph, list[Any]]:
    """A case as a graph whose inputs are the operands that are arrays."""
    inputs, arrays, args = [], [], []
    for x in operands:
        if isinstance(x, np.ndarray):
            inputs.append(input(len(inputs), Aval(x.shape, dtypes.from_numpy(x.dtype))))
            arrays.append(x)
            args.append(inputs[-1])
        else:
            args.append(x)
    node = apply(case.op, *args, **case.attrs)
    several = len(case.op.results) > 1
    outputs = tuple(item(node, i) for i in range(len(case.op.results))) if several else (node,)
    return Graph(tuple(inputs), (), outputs), arrays


CASES = [c for c in ALL_CASES if "f" in c.types and "f" in c.op.kinds and c.op not in WITHOUT]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_record_runs_as_in_eager(case: Case) -> None:
    operands = case.build(F32)
    graph, arrays = graph_of(case, operands)
    expected = run_op(case.op, tuple(operands), case.attr_values)
    found = interpret(graph, arrays, run=run_op)
    for f, e in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert (f.dtype, f.shape) == (e.dtype, e.shape)
        assert f.tobytes() == e.tobytes()


def test_numbers_take_the_type_of_the_tensors() -> None:
    x = input(0, Aval((2,), dtypes.float16))
    s = scalar(0, "f")
    graph = Graph((x,), ("f",), (apply(ops.mul, apply(ops.add, x, 1), s),))
    (out,) = interpret(graph, [np.float16([1, 2])], [0.1])
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, np.float16([2, 3]) * np.float16(0.1))


def test_floating_point_warnings_are_silenced() -> None:
    x = input(0, Aval((1,), F32))
    (out,) = interpret(Graph((x,), (), (apply(ops.log, x),)), [np.float32([-1])])
    assert np.isnan(out[0])


def test_outputs_share_no_memory_with_inputs() -> None:
    x = input(0, Aval((2, 2), F32))
    given = np.zeros((2, 2), np.float32)
    outputs = interpret(Graph((x,), (), (x, apply(ops.reshape, x, shape=(4,)))), [given])
    assert not any(np.shares_memory(o, given) for o in outputs)


def test_wrong_inputs_are_named() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), (), (x,))
    with pytest.raises(TypeError, match=r"input 0 of graph graph is f64\[2\], expected f32\[2\]"):
        interpret(graph, [np.zeros(2)])
    with pytest.raises(TypeError, match="takes 1 inputs and 0 scalars, got 0 and 1"):
        interpret(graph, [], [1.0])


def test_a_runner_that_gives_the_wrong_type_is_found() -> None:
    x = input(0, Aval((2,), F32))
    graph = Graph((x,), (), (apply(ops.exp, x),))
    with pytest.raises(TypeError, match=r"the result of exp is f64\[2\], expected f32\[2\]"):
        interpret(graph, [np.zeros(2, np.float32)], run=lambda op, args, attrs: np.zeros(2))
