"""Programs of one operation, for operands of one layout; those that change an operand in place.

In: a record, arrays and numbers. Out: a program, or the first operand changed.
Must not know: when a program is worth it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.compiler import compile_graph
from tracejit.dtypes import FROM_NUMPY
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.ops import Op

MAX_PROGRAMS = 4096


def number_kind(value: Any) -> str:
    """Whether a number is a run-time float ("f") or whole number ("i") of a program."""
    return "f" if isinstance(value, (float, np.floating)) else "i"


Lying = tuple[Aval, tuple[Any, ...] | None]
"""How an operand lies in memory: its shape and type, and its strides in elements if it is not contiguous."""


def lying(value: Any) -> Lying | str:
    """How an array lies, or a number's kind."""
    if not isinstance(value, np.ndarray):
        return number_kind(value)
    strides = None if value.flags.c_contiguous else tuple(s // value.itemsize for s in value.strides)
    return Aval(value.shape, FROM_NUMPY[value.dtype]), strides


def word(number: Any) -> int:
    """The 64 bits of a number as an int64: seeds may be from 2**63 on."""
    if number_kind(number) == "f":
        return int(np.float64(number).view(np.int64))
    return (int(number) + (1 << 63)) % (1 << 64) - (1 << 63)


def graph_of(
    op: Op, given: Iterable[Lying | str], attrs: tuple[Any, ...], homes: dict[int, int]
) -> tuple[Graph, list[tuple[tuple[int, ...], Any]]]:
    """The graph of one operation on operands as they lie, and shape and type of each of its results."""
    inputs: list[Node] = []
    scalars: list[str] = []
    operands: list[Node] = []
    for one in given:
        if isinstance(one, str):
            scalars.append(one)
            operands.append(nodes.scalar(len(scalars) - 1, one))
        else:
            inputs.append(nodes.input(len(inputs), *one))
            operands.append(inputs[-1])
    out = nodes.make(op, tuple(operands), attrs)
    outs = (out,) if isinstance(out.aval, Aval) else tuple(nodes.item(out, k) for k in range(len(out.aval or ())))
    graph = Graph(tuple(inputs), tuple(scalars), outs, homes, name=op.name)
    return graph, [(o.shape, o.dtype.np) for o in outs]


class Single:
    """The program of one operation on operands of one layout, and what its results are."""

    __slots__ = ("results", "run_on")

    def __init__(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], homes: dict[int, int]) -> None:
        graph, self.results = graph_of(op, map(lying, args), attrs, homes)
        self.run_on = compile_graph(graph).program.run_on


programs: dict[Any, Single] = {}
NO_SCALARS = np.zeros(1, np.int64)


class _Here(threading.local):
    """What is changed in place on a thread."""

    over: Any = None


_here = _Here()


@contextmanager
def writing_over(array: np.ndarray) -> Iterator[None]:
    """An operation inside that gives this array with a few elements changed changes these, and gives the array.

    Nothing is changed where it raises an error.
    """
    _here.over = array
    try:
        yield
    finally:
        _here.over = None


def is_written_over(array: Any) -> bool:
    """Whether an operation on this array may change it."""
    return _here.over is array


def change(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> int | None:
    """Change the elements of the first operand: 0, or another code if nothing was changed as an index is wrong; None
    if it cannot be done there.
    """
    target, *others = args
    if not target.flags.c_contiguous or any(np.may_share_memory(target, a) for a in others):
        return None
    key = (op, attrs, *[part for a in args for part in (a.shape, a.dtype.num, a.strides)], "over")
    found = programs.get(key)
    if found is None:
        if len(programs) >= MAX_PROGRAMS:
            programs.clear()
        found = programs[key] = Single(op, args, attrs, {0: 0})
    return int(found.run_on(NO_SCALARS, *args, target))
