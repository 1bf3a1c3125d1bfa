"""Rows that lie across lines of memory: turned first, in tiles, with the bits of rows that lie as they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.trace.compiled import region_of

F = tj.nn.functional


def turned(*shape: int, kind: Any = tj.float32) -> tj.Tensor:
    tj.manual_seed(1)
    return tj.randn(*shape).to(kind).transpose(-2, -1)


CASES: dict[str, Callable[[tj.Tensor], Any]] = {
    "sum of rows": lambda x: x.sum(-1),
    "sum of columns": lambda x: x.sum(-2),
    "extremes": lambda x: (x.amax(-1), x.amin(-2)),
    "softmax": lambda x: x.softmax(-1),
    "softmax of arithmetic": lambda x: (x * 0.5 + 1).softmax(-1),
    "with a gradient": lambda x: F.log_softmax(x, -1).exp() * x,
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "beside what lies along": lambda x: (x.contiguous() * x).sum(-1),
    "scan": lambda x: x.cumsum(-1),
    "column scan": lambda x: (x * 2).cumsum(-2),
    "all": lambda x: x.sum(),
}


@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.bfloat16])
@pytest.mark.parametrize("shape", [(64, 48), (7, 3), (3, 40, 33), (9, 300), (300, 9), (2, 5000)])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_a_copy(case: str, shape: tuple[int, ...], kind: Any) -> None:
    f = CASES[case]
    x = turned(*shape, kind=kind)
    compiled = tj.compile(f)
    for _ in range(3):
        found, expected = compiled(x), f(x.contiguous())
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for a, b in pairs:
        np.testing.assert_array_equal(a.float().numpy(), b.float().numpy())


def kinds(f: Callable[..., Any], *args: tj.Tensor) -> list[str]:
    """The kinds of a function's groups."""
    compiled = tj.compile(f)
    for _ in range(3):
        compiled(*args)
    return [info.kind for info in region_of(compiled).executables()[0][1].compiled.groups]


def test_what_lies_across_is_turned_before() -> None:
    x = turned(64, 48)
    assert kinds(lambda x: x.softmax(-1), x) == ["loop", "row"]
    assert kinds(lambda x: (x * 0.5 + 1).softmax(-1), x) == ["loop", "row"]
    compiled = tj.compile(lambda x: (x * 0.5 + 1).softmax(-1))
    for _ in range(3):
        compiled(x)
    assert "add -> amax: what it reads lies across its rows, and is turned before" in str(tj.explain(compiled))
    assert kinds(lambda x, y: y.softmax(-1) * x, x, x.contiguous()) == ["row", "loop"]


def test_few_elements_and_vectors_for_each_row_are_read_as_they_lie() -> None:
    assert kinds(lambda x: x.softmax(-1), turned(16, 16)) == ["row"]
    assert kinds(lambda x, y: (x * y.T).softmax(-1), tj.randn(64, 48), tj.randn(48, 1)) == ["row"]
    assert kinds(lambda x: x[:, ::2].softmax(-1), tj.randn(64, 96)) == ["row"]
