"""Every gradient rule, and the gradient of every gradient, against finite differences in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from tests.ops.cases import ALL_CASES, Case
from tests.ops.tape import Variable, taping
from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.ops.view import sum_to


class Standardized:
    """A case of what `standardize` is for: its mean and scale move with its operand."""

    attrs: ClassVar[dict[str, Any]] = {}

    def __init__(self, shape: tuple[int, ...], dims: tuple[int, ...], weighted: bool) -> None:
        self._shape, self._weighted = shape, weighted
        self._each = tuple(1 if d in dims else n for d, n in enumerate(shape))

    def build(self, dtype: dtypes.dtype) -> list[Any]:
        rng = np.random.default_rng(3)
        return [rng.standard_normal(shape) for shape in (self._shape, self._each)[: 1 + self._weighted]]

    def op(self, x: Any, weight: Any = 1.0) -> Any:
        n = x.value.size / np.prod(self._each)
        mean = ops.div(sum_to(x, self._shape, self._each), n)
        low = ops.sub(x, mean)
        variance = ops.div(sum_to(ops.mul(low, low), self._shape, self._each), n)
        return ops.standardize(x, mean, ops.div(1.0, ops.sqrt(ops.add(variance, 0.1))), weight, 0.1)

    def __str__(self) -> str:
        return f"standardize({self._shape} to {self._each})"


# Rounded operands have no slope, and those of `standardize` are not independent; see below and above.
_APART = (ops.bfloat16_matmul, ops.standardize)
CASES = [
    *(c for c in ALL_CASES if c.op.differentiable and c.op not in _APART),
    Standardized((3, 2, 4), (0, 2), True),
    Standardized((3, 5), (1,), False),
]
STEP = 1e-6


def operands(case: Case | Standardized) -> list[Any]:
    """The operands: arrays of float64 are variables of the differentiation."""
    return case.build(dtypes.float64)


def is_variable(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64


def moved(args: list[Any], direction: list[Any], step: float) -> list[Any]:
    return [np.asarray(a + step * d) if is_variable(a) else a for a, d in zip(args, direction, strict=True)]


def directions(args: list[Any], rng: np.random.Generator) -> list[Any]:
    return [rng.standard_normal(a.shape) if is_variable(a) else None for a in args]


def first_result(case: Case | Standardized, args: list[Any]) -> Any:
    out = case.op(*args, **case.attrs)
    return out[0] if isinstance(out, tuple) else out


def value(case: Case | Standardized, args: list[Any], ct: Any) -> float:
    with taping():
        out = first_result(case, [Variable(a) if isinstance(a, np.ndarray) else a for a in args])
    return float(np.sum(out.value * ct))


def gradients(case: Case | Standardized, args: list[Any], ct: Any) -> list[Any]:
    with taping() as tape:
        variables = [Variable(a) if isinstance(a, np.ndarray) else a for a in args]
        out = first_result(case, variables)
        wanted = [v for v in variables if isinstance(v, Variable) and is_variable(v.value)]
        return [g.value for g in tape.gradients(out, Variable(ct), wanted)]


def cotangent(case: Case | Standardized, args: list[Any], rng: np.random.Generator) -> Any:
    with taping():
        out = first_result(case, [Variable(a) if isinstance(a, np.ndarray) else a for a in args])
    return rng.standard_normal(out.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_the_slope(case: Case | Standardized) -> None:
    rng = np.random.default_rng(1)
    args = operands(case)
    along = directions(args, rng)
    ct = cotangent(case, args, rng)
    slope = (value(case, moved(args, along, STEP), ct) - value(case, moved(args, along, -STEP), ct)) / (2 * STEP)
    found = gradients(case, args, ct)
    predicted = sum(float(np.sum(g * d)) for g, d in zip(found, [d for d in along if d is not None], strict=True))
    assert predicted == pytest.approx(slope, rel=1e-5, abs=1e-6)


def second_value(case: Case | Standardized, args: list[Any], ct: Any, weights: list[Any]) -> float:
    return sum(float(np.sum(w * g)) for w, g in zip(weights, gradients(case, args, ct), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_of_the_gradient_is_its_slope(case: Case | Standardized) -> None:
    rng = np.random.default_rng(2)
    args = operands(case)
    ct = cotangent(case, args, rng)
    along, ct_along = directions(args, rng), rng.standard_normal(ct.shape)
    weights = [rng.standard_normal(a.shape) for a in args if is_variable(a)]
    above = second_value(case, moved(args, along, STEP), ct + STEP * ct_along, weights)
    below = second_value(case, moved(args, along, -STEP), ct - STEP * ct_along, weights)
    slope = (above - below) / (2 * STEP)
    with taping() as tape:
        variables = [Variable(a) if isinstance(a, np.ndarray) else a for a in args]
        wanted = [v for v in variables if isinstance(v, Variable) and is_variable(v.value)]
        out, ct_variable = first_result(case, variables), Variable(ct)
        first = tape.gradients(out, ct_variable, wanted, create_graph=True)
        total = weighted_sum(first, weights)
        second = tape.gradients(total, Variable(1.0), [*wanted, ct_variable])
    moves = [*[d for d in along if d is not None], ct_along]
    predicted = sum(float(np.sum(g.value * d)) for g, d in zip(second, moves, strict=True))
    assert predicted == pytest.approx(slope, rel=1e-5, abs=1e-6)


def weighted_sum(values: list[Variable], weights: list[Any]) -> Variable:
    """The sum of <value, weight>, computed by records."""
    total = Variable(0.0)
    for v, w in zip(values, weights, strict=True):
        flat = ops.reshape(ops.mul(v, Variable(w)), shape=(w.size,))
        total = ops.add(total, ops.sum(flat, dim=0))
    return total


@pytest.mark.parametrize("single", [True, False])
def test_gradients_of_a_product_of_bfloat16_are_those_of_the_product(single: bool) -> None:
    rng = np.random.default_rng(4)
    # Small whole numbers are bfloat16, and so are sums of so few products of them.
    a, b, ct = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((2, 3, 4), (2, 4, 5), (2, 3, 5)))
    found = []
    for op, attrs in ((ops.matmul, {}), (ops.bfloat16_matmul, {"single": single})):
        with taping() as tape:
            variables = [Variable(x) for x in (a, b)]
            out = op(*variables, **attrs)
            found.append([g.value for g in tape.gradients(out, Variable(ct.astype(out.value.dtype)), variables)])
    for wanted, got in zip(*found, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted)
