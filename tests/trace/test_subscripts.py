"""Subscripts with tensors inside regions: places that are computed, given or found differ from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracejit as tj
from tests.trace.replaying import both
from tests.trace.values import arr
from tracejit.trace.compiled import region_of

tj.manual_seed(3)
TABLE = tj.randn(9, 8, 7)
ROWS = tj.randint(0, 7, (4, 5))


def places(k: int) -> tj.Tensor:
    tj.manual_seed(k)
    return tj.randint(0, 7, (3, 5))


def written(i: tj.Tensor) -> tj.Tensor:
    y = TABLE * 1
    y[:, i[0]] = i[0].float().sum()
    return y


CASES: dict[str, Callable[[tj.Tensor], Any]] = {
    "given": lambda i: TABLE[:, i],
    "a row of what is given": lambda i: TABLE[:, i[0]],
    "a row of what stays": lambda i: TABLE[:, ROWS[1]] * i[0, 0],
    "computed": lambda i: TABLE[..., (i * 2).clamp(max=6)],
    "two": lambda i: TABLE[i[0], :, i[1]],
    "with a new dimension": lambda i: TABLE[None, i[2], 1:],
    "written": written,
}


@pytest.mark.parametrize("case", CASES)
def test_subscripts_with_tensors_are_replayed(case: str) -> None:
    f = CASES[case]
    compiled = tj.compile(f)
    for k in range(9):
        assert tj.equal(compiled(places(k)), f(places(k)))
    assert region_of(compiled).calls.replayed >= 3


@pytest.mark.parametrize("view", [lambda y: y[0], lambda y: (y[1:], y.detach()[0]), lambda y: y.view(3, 1)[1]])
def test_a_view_of_what_was_changed_in_place_and_nobody_has(view):
    def make():
        def f(x):
            y = x * 2
            y.mul_(3)
            y += 1
            return view(y)

        return f, lambda i: (arr(i, 3),), list

    both(make, 12, 5)
