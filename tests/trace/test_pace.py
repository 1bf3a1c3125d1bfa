"""Calls at sizes that never come again go on eagerly where that takes less time, with the same bits."""

from __future__ import annotations

from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.trace import opening, pace, region
from tracejit.trace.compiled import region_of
from tracejit.trace.pace import Contest, Pace


def step_of(seed: int) -> Any:
    tj.manual_seed(seed)
    model = tj.nn.Sequential(tj.nn.Linear(3, 8), tj.nn.ReLU(), tj.nn.Linear(8, 1))
    opt = tj.optim.Adam(model.parameters(), lr=1e-2)

    def step(x: tj.Tensor) -> Any:
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach(), model[0].weight.grad.clone(), model[0].weight.detach().clone()

    return step


def compare(compiled: Any, plain: Any, sizes: Any) -> None:
    for n in sizes:
        x = arr(n, n, 3)
        assert bits(compiled(x)) == bits(plain(x)), n


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways are tried from the fourth new size on, where no branch is for all sizes."""
    monkeypatch.setattr(opening, "BRANCHES", 1 << 30)
    monkeypatch.setattr(pace, "FIRST", 3)
    monkeypatch.setattr(pace, "_WINDOW", 2)
    monkeypatch.setattr(pace, "_TRIED", 4)


@pytest.mark.parametrize("slow", [True, False], ids=["growing is slower", "eager is slower"])
@pytest.mark.usefixtures("soon")
def test_sizes_that_never_come_again(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    end = Pace.end

    def told(self: Pace, seconds: float) -> None:
        """Which way is slower does not depend on the machine."""
        end(self, 1.0 + (slow is not self.eager))

    monkeypatch.setattr(Pace, "end", told)
    plain, compiled = step_of(0), tj.compile(step_of(0), mode="follow")
    compare(compiled, plain, range(2, 40))
    found = region_of(compiled)
    eager = [note for note in found.notes if note.kind == "eager" and "not met before" in note.reason]
    assert [note.count for note in eager] == ([4 + (38 - 3 - 8 - 2)] if slow else [4])
    assert found.calls.side_exits == 0
    before = found.runs
    # A size of a branch that is there is followed.
    compare(compiled, plain, [3, 4, 3, 4])
    assert found.runs == before + 4


@pytest.mark.usefixtures("soon")
def test_sizes_that_come_again_grow() -> None:
    """Of eleven new sizes three grow, four are tried with branches and four eagerly: these grow the second time."""
    plain, compiled = step_of(1), tj.compile(step_of(1), mode="follow")
    compare(compiled, plain, [2, *range(2, 14)])
    found = region_of(compiled)
    (note,) = [note for note in found.notes if note.kind == "eager"]
    compare(compiled, plain, range(2, 14))
    assert note.count == 4
    before = found.runs
    compare(compiled, plain, range(2, 14))
    assert (note.count, found.runs) == (4, before + 12)


@pytest.mark.parametrize("slow", [True, False], ids=["following is slower", "eager is slower"])
def test_calls_that_are_never_replayed(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "FOLLOWED", 20)
    monkeypatch.setattr(pace, "_TRIED", 4)
    end = Contest.end
    monkeypatch.setattr(Contest, "end", lambda self, _: end(self, 1.0 + (slow is not self._eager)))

    def f(x: tj.Tensor) -> tj.Tensor:
        # A string that is made of a value stands in the way of a proof.
        return x * len(f"{x.sum():.3f}")

    compiled = tj.compile(f)
    for k in range(60):
        assert bits(compiled(arr(k, 3))) == bits(f(arr(k, 3)))
    found = region_of(compiled)
    assert found.calls.eager == (4 + (60 - 2 - 20 - 8) if slow else 4)
    (note,) = [note for note in found.notes if note.kind == "eager"]
    assert (note.count, note.line.split(":")[0]) == (found.calls.eager, __file__)


def test_ways_that_never_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is no longer recorded runs as without a region: what it calls may be a program of its own."""
    monkeypatch.setattr(region, "IN_A_ROW", 5)
    inner = tj.compile(lambda x: x.exp() * 2)

    def f(x: tj.Tensor, k: int) -> tj.Tensor:
        for _ in range(k):
            x = x + 1
        return inner(x).sum() if k < 30 else inner(x)

    compiled = tj.compile(f)
    for k in range(40):
        assert bits(compiled(arr(k, 4), k)) == bits(f(arr(k, 4), k))
    found = region_of(compiled)
    (note,) = [note for note in found.notes if note.kind == "eager"]
    assert "5 in a row" in note.reason
    assert found.branches == 5
    assert region_of(inner).calls.followed > 0


def test_a_comparison_waits_while_proofs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size has a replay of its own, which takes calls that follow: eager ones would prove nothing."""
    monkeypatch.setattr(region, "FOLLOWED", 12)
    monkeypatch.setattr(pace, "_TRIED", 4)
    end = Contest.end
    monkeypatch.setattr(Contest, "end", lambda self, _: end(self, 1.0 + (not self._eager)))
    compiled, plain = tj.compile(step_of(1)), step_of(1)
    for _ in range(12):
        compare(compiled, plain, range(2, 10))
    found = region_of(compiled)
    assert found.calls.eager == 0
    before = found.calls.replayed
    compare(compiled, plain, range(2, 10))
    assert found.calls.replayed == before + 8


def test_proofs_that_failed_bring_the_comparison_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_TRIED", 4)
    end = Contest.end
    monkeypatch.setattr(Contest, "end", lambda self, _: end(self, 1.0 + (not self._eager)))

    def f(x: tj.Tensor) -> tj.Tensor:
        return x * len(f"{x.sum():.3f}")

    compiled = tj.compile(f)
    for k in range(60):
        assert bits(compiled(arr(k, 3))) == bits(f(arr(k, 3)))
    # One call is cold, one recorded, 32 follow, of the next eight four do.
    assert region_of(compiled).calls.eager == 60 - 2 - 32 - 4
