"""Whole calls that decide on a value beside a number that changes: the best so far, a mean that moves, a limit."""

from __future__ import annotations

import math

import pytest

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import arr
from tracejit import optim
from tracejit.nn import functional as F
from tracejit.trace.replay import prover

LABELS = tj.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Calls are recorded as wholes as soon as they have settled."""
    monkeypatch.setattr(prover, "JOINED_FROM", 1)


def tracker(track, noise=0.0, **start):
    """A training step that tracks its loss in a dict: `track(now, loss)`."""
    model = net(4, 8, 3)
    opt = optim.Adam(model.parameters(), lr=0.05)
    now = dict(start)

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss, track(now, loss)

    batch = lambda i: (arr(i % 3 if noise else 0, 6, 4) * (1 + noise * (i % 5)), LABELS)  # noqa: E731
    return step, batch, lambda: [now, list(model.parameters())]


def best(now, loss):
    v = loss.item()
    if v < now["best"]:
        now["best"] = v
    return v


def patience(now, loss):
    v = loss.item()
    if v < now["best"] - 0.001:
        now["best"] = v
        now["bad"] = 0
    else:
        now["bad"] += 1
    return now["bad"] >= 3


def spike(now, loss):
    v = loss.item()
    now["mean"] = 0.9 * now["mean"] + 0.1 * v
    if v > 1.5 * now["mean"]:
        now["spikes"] += 1
    return v


def extremes(now, loss):
    n = (loss * 10).long().item()
    if n > now["most"]:
        now["most"] = n
    if n < now["least"]:
        now["least"] = n
    return n


TRACKERS = [
    (best, 0.0, {"best": math.inf}, 25),
    (best, 0.0, {"best": 1e9}, 25),
    (best, 0.0, {"best": math.nan}, 25),
    (best, 0.0, {"best": -math.inf}, 25),
    (best, 0.0, {"best": 10**9}, 0),
    (best, 0.3, {"best": math.inf}, 10),
    (patience, 0.0, {"best": 1e9, "bad": 0}, 20),
    (patience, 0.3, {"best": 1e9, "bad": 0}, 8),
    (spike, 0.0, {"mean": 1.0, "spikes": 0}, 20),
    (spike, 0.5, {"mean": 1.0, "spikes": 0}, 5),
    (extremes, 0.0, {"most": 0, "least": 100}, 15),
    (extremes, 0.3, {"most": 0, "least": 100}, 5),
]


@pytest.mark.parametrize(("track", "noise", "start", "least"), TRACKERS)
def test_thresholds_that_change(track, noise, start, least):
    both(lambda: tracker(track, noise, **start), 60, least)


def test_a_threshold_that_changes_chooses_operations():
    """The arms are other graphs, and the number that decides is set by one of them."""

    def make():
        now = {"best": 0.0}

        def f(x):
            s = x.exp().sum()
            v = s.item()
            if v > now["best"]:
                now["best"] = v
                return (x * 2).sum(), v
            now["best"] = now["best"] * 0.99
            return x.mean() + s, now["best"]

        return f, lambda i: (arr(i % 7, 3),), lambda: [now]

    both(make, 120, 20)


def test_a_threshold_that_is_set_from_outside():
    def make():
        now = {"limit": 2.0}

        def f(x):
            y = x.exp()
            if y.sum().item() > now["limit"]:
                y = y / 2
            return y * 3

        def args(i):
            now["limit"] = 2.0 + i % 4
            return (arr(i % 5, 3),)

        return f, args, lambda: [now]

    both(make, 120, 20)


def test_few_programs_are_made_for_a_threshold_that_changes():
    region = both(lambda: tracker(best, best=math.inf), 60, 25)
    assert region.compiles <= 4


def test_whole_numbers_beyond_64_bits_are_followed():
    def make():
        now = {"most": 0}

        def f(x):
            n = (x > 0).sum().item()
            if n > now["most"]:
                return x * 2, n
            return x + 1, n

        def args(i):
            now["most"] = [1, 2, 3, 4, 2, 1, 2**64 + 1, 2**63, -(2**63), -(2**64)][i % 10 if i > 60 else i % 6]
            return (arr(i % 5, 7),)

        return f, args, lambda: [now]

    both(make, 120, 20)
