"""Branches for all sizes: calls at sizes that never come again have the bits and the errors of eager."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.trace import test_sizes_of_operations as operations
from tests.trace.test_sizes import Both, arr, ints, plain_step
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.optim import Adam
from tracejit.trace import opening, pace
from tracejit.trace.compiled import region_of


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second branch is followed by an opening, which then has all sizes that are new."""
    monkeypatch.setattr(pace, "FIRST", 3)
    monkeypatch.setattr(opening, "BRANCHES", 3)


def openings(region: Any) -> list[opening.Opening]:
    """All openings of a region's tree."""
    found, todo = [], [region.root.root]
    for place in todo:
        if place.openings is not None:
            found += place.openings.made
            todo += [one.root for one in place.openings.made]
        todo += [event.next for event in place.events]
        todo += [stop.next.root for stop in (place.cut, place.end) if stop is not None and stop.next is not None]
    return found


def runs(region: Any) -> int:
    """How many calls went through openings to their end."""
    return sum(one.runs for one in openings(region))


NAMES = ("rows", "columns", "views", "joins", "products", "places", "picks", "normed", "gradients", "in_place",
         "convolved", "mixed", "resized")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_operations(name):
    function = getattr(operations, name)
    compiled = tj.compile(function, mode="follow")
    rng = np.random.default_rng(len(name))
    sizes = [tuple(map(int, rng.integers(2, 40, 2))) for _ in range(40)]
    for i, (n, m) in enumerate([*sizes, *operations.SIZES]):
        given = operations.given(i, n, m)
        assert operations.outcome(compiled, given) == operations.outcome(function, operations.given(i, n, m)), (n, m)
