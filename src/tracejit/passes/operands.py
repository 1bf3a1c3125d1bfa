"""Rewrites of operands: numbers instead of tensors of one number, no needless expansion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ir.node import CONST, SCALAR, Node, apply, const, const_value, make
from tracejit.ops.record import Op, ops
from tracejit.shapes import broadcast_all


def as_value(value: Any, dtype: dtypes.dtype) -> Any:
    """A number as a value of a type, as the Python number that stands for it."""
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(dtype.np).item()


def computing_type(node: Node) -> dtypes.dtype | None:
    """The type that the numbers among an elementwise operation's operands take."""
    skip = 1 if node.op is ops.where else 0
    return next((a.dtype for a in node.args[skip:] if not a.is_number), None)


def _number(node: Node, kind: dtypes.dtype) -> Node | None:
    """The number that a `full` of type `kind` is made of, if as an operand it means the same."""
    if node.op is not ops.full or node.dtype is not kind:
        return None
    value = node.args[0]
    if value.op == CONST:
        return const(as_value(const_value(value), kind))
    # Beside bfloat16 some operations take a number in float32, which a full tensor has rounded.
    fits = (kind.is_floating_point and kind is not dtypes.bfloat16) or (kind is dtypes.int64 and value.attrs[1] == "i")
    return value if value.op == SCALAR and fits else None


_STANDARDIZED = (0, 1, 2)
"""The operands of `standardize` that are tensors, whatever they hold."""


def numbers_for_fulls(node: Node) -> Node | None:
    """Operands of an elementwise operation that hold one number everywhere become that number."""
    if node.family != "elementwise" or len(node.args) < 2:
        return None
    kind = computing_type(node)
    first = 1 if node.op is ops.where else 0
    args = list(node.args)
    for i in range(first, len(args)):
        if kind is None or (node.op is ops.standardize and i in _STANDARDIZED):
            continue
        number = _number(args[i], kind)
        if number is not None:
            tried = [*args[:i], number, *args[i + 1 :]]
            if any(not a.is_number for a in tried[first:]) and _shape(tried) == node.shape:
                args = tried
    return _changed(node, args)


def _shape(args: list[Node]) -> tuple[int, ...]:
    return broadcast_all([a.shape for a in args if not a.is_number])


def _changed(node: Node, args: list[Node]) -> Node | None:
    return make(node.op, tuple(args), node.attrs) if tuple(args) != node.args and isinstance(node.op, Op) else None


def numbers_of_the_type(node: Node) -> Node | None:
    """Numbers are written in the type that they are used in: 2 beside floats is 2.0."""
    if node.op is ops.full:
        value = node.args[0]
        return _changed(node, [const(as_value(const_value(value), node.dtype))]) if value.op == CONST else None
    kind = computing_type(node) if node.family == "elementwise" else None
    if kind is None:
        return None
    first = 1 if node.op is ops.where else 0
    args = [_turned(a, kind) if a.op == CONST and i >= first else a for i, a in enumerate(node.args)]
    return _changed(node, args)


def _turned(number: Node, kind: dtypes.dtype) -> Node:
    """An integer or bool as a number of `kind`'s category, where that keeps its value."""
    value = const_value(number)
    if kind.category == dtypes.FLOAT and not isinstance(value, float) and abs(value) <= 2**53:
        return const(float(value))
    return const(int(value)) if kind.category == dtypes.INT and isinstance(value, bool) else number


def past_expands(node: Node) -> Node | None:
    """An operand that is expanded to what broadcasting makes of it anyway is taken as it is."""
    if node.family != "elementwise" or len(node.args) < 2:
        return None
    args = list(node.args)
    for i, a in enumerate(args):
        if a.op is ops.expand:
            tried = [*args[:i], a.args[0], *args[i + 1 :]]
            if _shape(tried) == node.shape:
                args = tried
    return _changed(node, args)


def fold(node: Node) -> Node | None:
    """An exact elementwise operation on numbers alone is computed here."""
    if node.family != "elementwise" or not isinstance(node.op, Op) or not node.op.exact:
        return None
    values = []
    for a in node.args:
        if a.op == CONST:
            values.append(const_value(a))
        elif a.op is ops.full and a.args[0].op == CONST:
            values.append(a.dtype.np.type(as_value(const_value(a.args[0]), a.dtype)))
        else:
            return None
    with np.errstate(all="ignore"):
        operands = tuple(np.asarray(v) if isinstance(v, np.generic) else v for v in values)
        result = node.op.on_arrays(operands, node.attrs)
    return apply(ops.full, np.asarray(result).item(), shape=node.shape, dtype=node.dtype)


def fitting(around: tuple[Op | str, ...]) -> list[Callable[[Node], Node | None]]:
    """Which of these rewrites may change a node of the first of these operations whose operands are of the others."""
    of = around[1:]
    found: list[Callable[[Node], Node | None]] = []
    if ops.expand in of:
        found.append(past_expands)
    if ops.full in of:
        found.append(numbers_for_fulls)
    if CONST in of:
        found.append(numbers_of_the_type)
    if of and _NUMBERS.issuperset(of):
        found.append(fold)
    return found


_NUMBERS = frozenset((CONST, ops.full))
