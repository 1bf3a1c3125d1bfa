"""Many sizes that come again and again: each has a replay, which is found by the sizes of the arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.trace.compiled import region_of
from tracejit.trace.replay import prover


def training() -> Callable[[tj.Tensor], Any]:
    tj.manual_seed(0)
    model = tj.nn.Sequential(tj.nn.Linear(3, 4), tj.nn.Tanh(), tj.nn.Linear(4, 1))
    opt = tj.optim.Adam(model.parameters())

    def step(x: tj.Tensor) -> Any:
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach(), model[0].weight.grad

    return step


def growing() -> Callable[[tj.Tensor], Any]:
    """A cache whose sizes are not those of an argument."""
    cache = SimpleNamespace(kept=tj.zeros(1, 3))

    def step(x: tj.Tensor) -> Any:
        if len(x) == 1:
            cache.kept = tj.zeros(1, 3)
        cache.kept = tj.cat([cache.kept, x[:1]])
        return cache.kept.sum(0) @ x.T

    return step


def inference() -> Callable[[tj.Tensor], Any]:
    w = arr(9, 3, 3)
    return lambda x: ((x @ w).relu().sum(), [x.tanh()])


def counting() -> Callable[[tj.Tensor], Any]:
    """A number that is another in each call says nothing of the sizes."""
    calls = itertools.count()
    step = tj.compile(lambda x, k, rest: (x * k).sum(0) + len(rest))

    def run(x: tj.Tensor) -> Any:
        return step(x, next(calls), list(range(100)))

    run.region = step  # type: ignore[attr-defined]
    return run


def test_sizes_beside_a_number_that_counts() -> None:
    run = counting()
    for turn in range(14):
        before = region_of(run.region).calls.replayed if turn else 0
        for n in range(1, 17):
            run(arr(turn, n, 3))
    region = region_of(run.region)
    assert len(region.prover.replays) == 16
    assert region.calls.replayed == before + 16


@pytest.mark.parametrize("make", [training, growing, inference])
@pytest.mark.parametrize("most", [256, 11], ids=["all are kept", "some are dropped"])
def test_many_sizes_in_turn(make: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover, "REPLAYS", most)
    plain, compiled = make(), tj.compile(make())
    region = None
    for turn in range(14):
        before = 0 if region is None else region.calls.replayed
        for n in range(1, 17):
            x = arr(turn, n, 3)
            assert bits(compiled(x)) == bits(plain(x)), (turn, n)
        region = region_of(compiled)
    assert len(region.prover.replays) == min(most, 16)
    if most > 16:
        assert region.calls.replayed == before + 16


def test_sizes_that_come_once_have_no_proof() -> None:
    compiled = tj.compile(inference())
    for turn in range(8):
        for n in range(2, 12):
            compiled(arr(turn, n, 3))
    region = region_of(compiled)
    assert len(region.prover.replays) >= prover.NEAR
    tries = region.prover.tries + len(region.prover.replays)
    for n in range(20, 24):
        compiled(arr(n, n, 3))
    assert region.prover.tries + len(region.prover.replays) == tries
