"""Rules on parts that begin where a number of the run says: they are picked and put by a vector of places."""

from __future__ import annotations

from tracejit import dtypes
from tracejit.ir.node import Node, apply
from tracejit.ir.pattern import EXACT, Rule
from tracejit.ops.record import ops


def _places(at: Node, length: int) -> Node:
    """The places of a part."""
    if length == 1:
        return apply(ops.full, at, shape=(1,), dtype=dtypes.int64)
    return apply(ops.add, apply(ops.iota, size=length), at)


def _picked(x: Node, at: Node, dim: int, length: int) -> Node:
    return apply(ops.take, x, _places(at, length), dim=dim)


def _put(x: Node, src: Node, at: Node, dim: int) -> Node:
    return apply(ops.index_copy, x, _places(at, src.shape[dim]), src, dim=dim)


RULES: tuple[Rule, ...] = (
    Rule(
        "dynamic_slice as a pick",
        EXACT,
        "dynamic_slice(x, at, dim=dim, length=length)",
        _picked,
        examples=({"x": (4, 5), "at": 2, "dim": 1, "length": 3}, {"x": (4, 5), "at": 2, "dim": 0, "length": 1}),
    ),
    Rule(
        "dynamic_place as changes of a few",
        EXACT,
        "dynamic_place(x, src, at, dim=dim)",
        _put,
        examples=({"x": (4, 5), "src": (4, 2), "at": 2, "dim": 1}, {"x": (4, 5), "src": (1, 5), "at": 3, "dim": 0}),
    ),
)
