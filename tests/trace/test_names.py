"""What a recorded call keeps: what the program may still get, not what its units made for themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.trace.values import bits
from tracejit.nn import functional as F
from tracejit.tensor.state import state
from tracejit.trace.recorder import Recorder


def memory(session: Any) -> set[int]:
    """The memory that a recorder keeps alive."""
    found = set()
    for it in session.kept:
        array = it if isinstance(it, np.ndarray) else getattr(it, "_array", None)
        while array is not None and isinstance(array.base, np.ndarray):
            array = array.base
        if array is not None:
            found.add(id(array))
    return found


@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_unit_made_for_itself_goes(gradients: bool) -> None:
    w = tj.randn(8, 8, requires_grad=gradients)
    b = tj.randn(8, requires_grad=gradients)
    held: list[int] = []

    def f(x: tj.Tensor) -> tj.Tensor:
        y = F.linear(x, w, b)
        if isinstance(state.session, Recorder):
            # The operands, and the result if it has a history; the product without the bias is gone.
            held.append(len(memory(state.session)))
        return y

    compiled = tj.compile(f)
    for _ in range(4):
        x = tj.randn(4, 8)
        assert bits(compiled(x)) == bits(f(x))
    assert held == [3 + gradients]


def test_backward_passes_keep_no_views_of_their_own() -> None:
    w = tj.randn(8, 8, requires_grad=True)
    held: list[tuple[int, int]] = []

    @tj.compile
    def f(x: tj.Tensor) -> None:
        w.grad = None
        y = (x @ w.T).reshape(2, 2, 8).transpose(0, 1).exp().sum()
        before = len(memory(state.session)) if isinstance(state.session, Recorder) else 0
        y.backward()
        if before:
            held.append((before, len(memory(state.session))))

    for _ in range(4):
        f(tj.randn(4, 8))
    (before, behind), = held
    # The leaf of the gradient at most: cotangents are gone, and so are those that views of them showed.
    assert behind <= before + 1
