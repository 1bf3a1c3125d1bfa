"""Masks in subscripts: how many of their elements hold is read, and a program for as many looks whether it is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracejit as tj
from tests.trace.replaying import both
from tests.trace.values import arr, bits
from tracejit.trace.compiled import region_of

ROWS = 9
MASK = arr(7, ROWS) > 0
BLOCK = arr(8, ROWS, 3) > 0.3

Step = Callable[[tj.Tensor], Any]


def put_own(x: tj.Tensor) -> Any:
    x[MASK] = x[MASK] * 2
    return x.sum(0)


def put_rows(x: tj.Tensor) -> Any:
    y = x * 1
    y[MASK] = x[0]
    y[MASK] += x[1]
    return y


def put_column_of_rows(x: tj.Tensor) -> Any:
    """Cut, each segment would refuse: what it writes lies in memory that a view of the one before shows."""
    y = x * 1
    y[MASK] = x[0]
    y[MASK, 1] += 1
    return y


def put_elements(x: tj.Tensor) -> Any:
    y = x * 1
    y[BLOCK] -= 0.5
    return y, y[~BLOCK].mean()


STEPS: dict[str, Step] = {
    "rows": lambda x: x[MASK] * 2,
    "elements": lambda x: x[BLOCK].sum(),
    "columns": lambda x: x[:, BLOCK[0]] + 1,
    "masked_select": lambda x: tj.masked_select(x, BLOCK) * 2,
    "masked_scatter": lambda x: x.masked_scatter(BLOCK, x.flatten().flip(0)),
    "none holds": lambda x: x[MASK & ~MASK].sum(0),
    "made inside": lambda x: x[tj.arange(ROWS) % 3 == 0].mean(0),
    "bytes": lambda x: x[MASK.to(tj.uint8)] * 3,
    "coordinates": lambda x: [at * 2 for at in x.clamp(min=0).nonzero(as_tuple=True)],
    "coordinates of three": lambda x: (x.reshape(3, 3, 3) > 0).nonzero(as_tuple=True),
    "where": lambda x: x[tj.where(BLOCK)[0]] * 2,
    "beside a number": lambda x: x.unsqueeze(-1)[BLOCK, 0] * 2,
    "put own": put_own,
    "put rows": put_rows,
    "put column of rows": put_column_of_rows,
    "put elements": put_elements,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.filterwarnings("ignore:indexing with dtype")
def test_a_mask_that_stays_is_no_cut(step: str) -> None:
    def make():
        x = arr(1, ROWS, 3)
        return lambda: STEPS[step](x), lambda k: (), lambda: x

    region = both(make, 40, 20)
    assert region.calls.side_exits == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: x[MASK].square().sum(),
        lambda x: tj.nn.functional.cross_entropy(x[MASK], (MASK * 2).long()[MASK]),
        lambda x: (x.masked_fill(BLOCK, 0.5)[BLOCK] * x[BLOCK].exp()).mean(),
    ],
)
def test_gradients_of_what_a_mask_picks(loss: Callable[[tj.Tensor], tj.Tensor]) -> None:
    def make():
        x = arr(1, ROWS, 3).requires_grad_()

        def f():
            x.grad = None
            found = loss(x)
            found.backward()
            with tj.no_grad():
                x.sub_(x.grad, alpha=0.1)
            return found

        return f, lambda k: (), lambda: (x, x.grad)

    both(make, 40, 20)


@pytest.mark.parametrize("ways", [1, 2, 3, 30])
@pytest.mark.parametrize(
    "step",
    [
        lambda x: x[x > 0] * 2,
        lambda x: (x[x[:, 0] > 0].sum(0), x[x[:, 0] <= 0]),
        lambda x: tj.where(x.sum() > 0, x, -x)[x > 0.5].mean(),
    ],
)
def test_as_many_hold_or_not(step: Step, ways: int) -> None:
    """Some values come again and again, others not."""
    compiled = tj.compile(step)
    for k in range(60):
        x = arr(k % ways, ROWS, 3)
        assert bits(compiled(x)) == bits(step(x)), k
    if ways == 1:
        assert region_of(compiled).calls.replayed >= 30


def test_another_number_holds_all_at_once() -> None:
    def make():
        x, kept = arr(1, ROWS, 3), []

        def f(k, mask):
            picked = x[mask]
            x.mul_(0.99)
            kept.append(k)
            return picked * 2

        masks = [MASK, MASK, ~MASK, MASK | True]
        return f, lambda k: (k, masks[0] if k < 30 else masks[k % 4] * 1 > 0), lambda: (x, kept)

    both(make, 70, 10)


def test_a_mask_changed_in_place() -> None:
    def make():
        x, mask = arr(1, ROWS, 3), MASK * 1 > 0

        def f(k):
            before = x[mask].sum(0)
            mask[k % ROWS] = k % 2 == 0
            return before, x[mask]

        return f, lambda k: (k,), lambda: (x, mask)

    both(make, 50, 0)


def test_a_mask_that_does_not_fit() -> None:
    x = arr(1, ROWS, 3)
    compiled = tj.compile(lambda m: x[m] * 2)
    for k in range(30):
        mask = MASK if k % 7 < 5 else MASK[:-1] if k % 7 == 5 else BLOCK[:, :2]
        found = []
        for f in (lambda m: x[m] * 2, compiled):
            try:
                found.append(bits(f(mask)))
            except IndexError as e:
                found.append(str(e))
        assert found[0] == found[1]


def test_an_element_by_a_computed_number() -> None:
    def make():
        x = arr(1, ROWS, 3)
        return lambda k: x[(x[:, 0] * 1).argmax()] + k, lambda k: (float(k),), lambda: x

    both(make, 40, 10)
