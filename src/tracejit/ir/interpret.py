"""The reference interpreter: what a graph computes, one record at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.node import CONST, INPUT, ITEM, SCALAR, Node, const_value
from tracejit.ops.record import Op

Runner = Callable[[Op, tuple[Any, ...], tuple[Any, ...]], Any]


def oracle(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """The record's NumPy function."""
    return op.on_arrays(args, attrs)


def interpret(
    graph: Graph, inputs: Sequence[Any], scalars: Sequence[bool | int | float] = (), run: Runner = oracle
) -> list[Any]:
    """The outputs of a graph, as new arrays; inputs that are homes of outputs are left as they are.

    `run(op, args, attrs)` computes one record on arrays and Python numbers, which take the type of the arrays.
    With the eager runner the outputs have the bits that eager computes.

    Raises: TypeError if an input, or what `run` gave, is not of the type that the graph says; what `run` raises.

    >>> from tracejit.ir.node import apply, input
    >>> from tracejit.ops import ops
    >>> x = input(0, Aval((2,), dtypes.float32))
    >>> interpret(Graph((x,), (), (apply(ops.mul, x, 0.5),)), [np.float32([1, 3])])
    [array([0.5, 1.5], dtype=float32)]
    """
    if len(inputs) != len(graph.inputs) or len(scalars) != len(graph.scalars):
        raise TypeError(
            f"graph {graph.name} takes {len(graph.inputs)} inputs and {len(graph.scalars)} scalars, "
            f"got {len(inputs)} and {len(scalars)}"
        )
    for k, (node, x) in enumerate(zip(graph.inputs, inputs, strict=True)):
        _expect(node.aval, x, f"input {k} of graph {graph.name}")
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes():
            values[node] = _value(node, values, inputs, scalars, run)
    return [np.array(values[node], order="C") for node in graph.outputs]


def _value(node: Node, values: dict[Node, Any], inputs: Sequence[Any], scalars: Sequence[Any], run: Runner) -> Any:
    if isinstance(node.op, Op):
        result = run(node.op, tuple(values[a] for a in node.args), node.attrs)
        if len(node.op.results) == 1:
            result = np.asarray(result)
            _expect(node.aval, result, f"the result of {node.name}")
            return result
        for aval, part in zip(node.aval or (), result, strict=True):
            _expect(aval, part, f"a result of {node.name}")
        return result
    if node.op == INPUT:
        return np.asarray(inputs[node.attrs[0]])
    if node.op == SCALAR:
        return scalars[node.attrs[0]]
    if node.op == CONST:
        return const_value(node)
    if node.op == ITEM:
        return values[node.args[0]][node.attrs[0]]
    raise TypeError(f"unknown kind of node '{node.op}'")


def _expect(aval: Any, x: Any, what: str) -> None:
    found = Aval(np.shape(x), dtypes.from_numpy(np.asarray(x).dtype))
    if found != aval:
        raise TypeError(f"{what} is {found}, expected {aval}")
