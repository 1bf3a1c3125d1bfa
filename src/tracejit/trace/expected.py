"""What a way through a function expects of the values that Python reads on it.

In: forms, which say what Python makes of values before it decides: ("read", kind, slot), ("number", value), ("given",
kind, index) for a number that each call finds anew, a sign or a test with the forms of its operands. Out: what they
come to, and graph nodes that compute the same.
Must not know: who decides, and what depends on it.

Python's floats are float64 and its comparisons exact, so a form is one of float64, of int64 or of truth values: "f",
"i" or "b". What mixes them in a way that a graph computes otherwise has no form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tracejit import dtypes
from tracejit.ir import node as ir
from tracejit.ops.record import Op, ops

Form = tuple[Any, ...]

_ARITHMETIC: dict[str, tuple[Callable[..., Any], Op]] = {
    "+": (operator.add, ops.add),
    "-": (operator.sub, ops.sub),
    "*": (operator.mul, ops.mul),
    "/": (operator.truediv, ops.div),
}
_COMPARISONS: dict[str, tuple[Callable[..., Any], Op]] = {
    "<": (operator.lt, ops.lt),
    "<=": (operator.le, ops.le),
    "==": (operator.eq, ops.eq),
    "!=": (operator.ne, ops.ne),
    ">": (operator.gt, ops.gt),
    ">=": (operator.ge, ops.ge),
}
_TESTS: dict[str, Callable[[Any], bool]] = {"isnan": math.isnan, "isinf": math.isinf, "isfinite": math.isfinite}
_KINDS = {"f": dtypes.float64, "i": dtypes.int64}
_EXACT = 2**53
"""Whole numbers below are floats, too."""


class Expected(NamedTuple):
    """A form and whether it is expected to be true."""

    form: Form
    outcome: bool


def kind_of(form: Form) -> str:
    """What a form comes to: "f", "i" or "b"."""
    head = form[0]
    if head in ("read", "given"):
        return form[1]  # type: ignore[no-any-return]
    if head == "number":
        return "f" if type(form[1]) is float else "i"
    return "f" if head in _ARITHMETIC else "b"


def combined(sign: str, left: Form | None, right: Form | None) -> Form | None:
    """The form of arithmetic or of a comparison, None if there is none."""
    if left is None or right is None:
        return None
    if kind_of(left) == "f" or kind_of(right) == "f":
        left, right = _as_float(left), _as_float(right)
        if left is None or right is None:
            return None
    elif sign not in _COMPARISONS or {kind_of(left), kind_of(right)} != {"i"}:
        # Python's whole numbers have no end.
        return None
    return (sign, left, right)


def _as_float(form: Form) -> Form | None:
    if form[0] == "number" and type(form[1]) is int and abs(form[1]) < _EXACT:
        return ("number", float(form[1]))
    return form if kind_of(form) == "f" else None


def tested(name: str, form: Form | None) -> Form | None:
    """The form of a test of a float, by the name that it has in `math`; None if there is none."""
    return (name, form) if name in _TESTS and form is not None and kind_of(form) == "f" else None


def number_form(value: Any) -> Form | None:
    """The form of a Python number, None for one that a graph does not hold."""
    if type(value) is float or (type(value) is int and -(2**63) <= value < 2**63):
        return ("number", value)
    return None


def given_form(value: Any, index: int) -> Form | None:
    """The form of a number that each call finds anew, None for one that a graph does not hold."""
    return None if number_form(value) is None else ("given", "f" if type(value) is float else "i", index)


def _leaves(form: Form) -> Iterator[Form]:
    """What a form is made of in the end."""
    if form[0] in ("read", "given", "number"):
        yield form
    else:
        for operand in form[1:]:
            yield from _leaves(operand)


def given_in(expected: Iterable[Expected]) -> list[tuple[int, str]]:
    """Index and kind of the numbers that each call finds anew, in the order in which they come."""
    leaves = [leaf for one in expected for leaf in _leaves(one.form)]
    return list(dict.fromkeys((leaf[2], leaf[1]) for leaf in leaves if leaf[0] == "given"))


def reads_in(form: Form) -> set[int]:
    """The slots whose values a form has."""
    return {leaf[2] for leaf in _leaves(form) if leaf[0] == "read"}


def takes_given(form: Form) -> bool:
    """Whether a form has a number that each call finds anew."""
    return any(leaf[0] == "given" for leaf in _leaves(form))


def likeness(form: Form) -> Form:
    """What forms have in common that differ in their numbers."""
    if form[0] in ("number", "given"):
        return ("number",)
    return form if form[0] == "read" else (form[0], *map(likeness, form[1:]))


def evaluate(form: Form, seen: Mapping[int, Any], given: Mapping[int, Any] = MappingProxyType({})) -> Any:
    """What a form comes to with the values that were read, by slot, and the numbers that the call finds, by index.

    Raises: KeyError for a slot that was not read.
    """
    head = form[0]
    if head == "read":
        return seen[form[2]]
    if head == "given":
        return given[form[2]]
    if head == "number":
        return form[1]
    if head in _TESTS:
        return _TESTS[head](evaluate(form[1], seen, given))
    function, _ = _ARITHMETIC.get(head) or _COMPARISONS[head]
    return function(evaluate(form[1], seen, given), evaluate(form[2], seen, given))


def check_of(expected: Expected, nodes: Mapping[int, ir.Node], given: Mapping[int, ir.Node]) -> ir.Node:
    """The node that refuses values with which the form has another outcome; `nodes` are those of slots, `given` those
    of numbers that each call finds anew.

    It looks at a place that is the first of one if the outcome is the expected one, and the second if not.
    """
    found = _node(expected.form, nodes, given)
    if kind_of(expected.form) != "b":
        found = ir.apply(ops.ne, found, 0)
    place = ir.apply(ops.cast, found, dtype=dtypes.int64)
    if expected.outcome:
        place = ir.apply(ops.sub, 1, place)
    return ir.apply(ops.check_index, place, size=1)


def _node(form: Form, nodes: Mapping[int, ir.Node], given: Mapping[int, ir.Node]) -> ir.Node:
    head = form[0]
    if head == "number":
        return ir.const(form[1])
    if head == "given":
        return given[form[2]]
    if head == "read":
        node = nodes[form[2]]
        if node.shape:
            node = ir.apply(ops.reshape, node, shape=())
        kind = _KINDS.get(form[1], node.dtype)
        return node if node.dtype is kind else ir.apply(ops.cast, node, dtype=kind)
    operands = [_node(f, nodes, given) for f in form[1:]]
    if head in _TESTS:
        (x,) = operands
        if head == "isnan":
            return ir.apply(ops.ne, x, x)
        if head == "isinf":
            return ir.apply(ops.eq, ir.apply(ops.abs, x), math.inf)
        # The difference of what is not finite to itself is nan.
        return ir.apply(ops.eq, ir.apply(ops.sub, x, x), 0.0)
    _, op = _ARITHMETIC.get(head) or _COMPARISONS[head]
    return ir.apply(op, *operands)
