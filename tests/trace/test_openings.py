"""Branches for all sizes: calls at sizes that never come again have the bits and the errors of eager."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tracejit as tj
from programs import Machine, programs
from tests.interrupts import alarms
from tests.trace import test_sizes_of_operations as operations
from tests.trace.test_random_programs import bits, run_both
from tests.trace.test_sizes import Both, arr, ints, plain_step
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.optim import Adam
from tracejit.trace import opening, pace
from tracejit.trace.compiled import region_of
from tracejit.trace.region import Region

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300"))
CALLS = 14


@pytest.fixture(autouse=True, scope="module")
def _soon() -> Any:
    """The third new size has an opening."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "FIRST", 2)
        patch.setattr(opening, "BRANCHES", 2)
        yield


def openings(region: Region) -> list[opening.Opening]:
    """All openings of a region's tree."""
    found: list[opening.Opening] = []
    todo = [region.root.root]
    for place in todo:
        if place.openings is not None:
            found += place.openings.made
            todo += [one.root for one in place.openings.made]
        todo += [event.next for event in place.events]
        todo += [stop.next.root for stop in (place.cut, place.end) if stop is not None and stop.next is not None]
    return found


def runs(function: Any) -> int:
    """How many runs went through openings to their end."""
    return sum(one.runs for one in openings(region_of(function)))


def pairs(count: int, low: int = 2) -> list[tuple[int, int]]:
    """Different sizes, in no order."""
    rng = np.random.default_rng(0)
    every = [(n, m) for n in range(low, 40) for m in range(low, 40)]
    return [(int(n), int(m)) for n, m in rng.permutation(every)[:count]]


NAMES = ("rows", "columns", "views", "joins", "products", "places", "picks", "normed", "gradients", "in_place",
         "convolved", "mixed", "resized")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_operations(name):
    function = getattr(operations, name)
    compiled = tj.compile(function, mode="follow")
    for i, (n, m) in enumerate([*pairs(40), *operations.SIZES]):
        given = operations.given(i, n, m)
        assert operations.outcome(compiled, given) == operations.outcome(function, operations.given(i, n, m)), (n, m)
    if name != "views":
        # A view in the other direction has no opening.
        assert runs(compiled)


class Resized(Machine):
    """Arguments have other sizes in each call, and leaves fit all of them."""

    def __init__(self, program: Any) -> None:
        super().__init__(program)
        self.leaves = [leaf.detach()[:1].clone() for leaf in self.leaves]
        if self.seed % 3:
            for leaf in self.leaves:
                leaf.requires_grad_()

    def arguments(self, call: int) -> list[tj.Tensor]:
        """The tensors of a call: other sizes and values."""
        n, m = np.random.default_rng([self.seed, call]).integers(0 if call % 7 == 6 else 2, 30, 2)
        given = self.inputs
        sizes = {4: int(n), 2: int(m)}
        self.inputs = [(tuple([sizes.get(s, s) for s in shape]), *rest) for shape, *rest in given]
        try:
            return super().arguments(call)
        finally:
            self.inputs = given

    def run(self, *args: tj.Tensor) -> Any:
        """One call; of half of the programs what they return has no history, which would depend on sizes."""
        out = super().run(*args)
        return [t.detach() for t in out] if self.seed % 2 else out


served: list[int] = []


@settings(max_examples=COUNT // 2, suppress_health_check=list(HealthCheck))
@given(programs)
def random_programs(program: Any) -> None:
    served.append(runs(run_both(Resized(program), Resized(program), CALLS)))


def test_random_programs_at_other_sizes_in_each_call() -> None:
    served.clear()
    random_programs()
    assert sum(served) > COUNT // 4


def net():
    """A net with dropout and running statistics."""
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 5))


def test_training_with_dropout_and_running_statistics():
    both = Both(net, plain_step, optimizer=Adam)
    for n, _ in pairs(30):
        both(arr(n, n, 6), ints(n, 5, n))
    both.check()
    assert runs(both.sides[1][2]) > 10


class Encoder(nn.Module):
    """Attention over words of sentences of any length."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.parts = nn.Linear(16, 48)
        self.out = nn.Linear(16, 50)

    def forward(self, ids):
        n, t = ids.shape
        h = self.words(ids)
        q, k, v = self.parts(self.norm(h)).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4)
        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, 16)
        return self.out(h)


def predict(model, opt):
    def step(ids):
        opt.zero_grad()
        out = model(ids)
        loss = F.cross_entropy(out[:, :-1].reshape(-1, 50), ids[:, 1:].reshape(-1))
        loss.backward()
        opt.step()
        return loss

    return step


def test_sentences_of_any_length():
    both = Both(Encoder, predict, optimizer=Adam)
    for n, t in pairs(30):
        both(ints(n, 50, n, t))
    both.check()
    assert runs(both.sides[1][2]) > 10


def test_an_index_out_of_range_changes_nothing():
    both = Both(Encoder, predict)
    for n, t in pairs(12):
        both(ints(n, 50, n, t))
    before = runs(both.sides[1][2])
    wrong = ints(0, 50, 7, 38)
    wrong[3, 2] = 50
    for _, _, step, _ in both.sides:
        with pytest.raises(IndexError, match="out of bounds"):
            step(wrong)
    both.check()
    for n, t in pairs(20)[12:]:
        both(ints(n, 50, n, t))
    both.check()
    assert runs(both.sides[1][2]) > before


def test_an_exception_leaves_what_was_done():
    def f(x, out, wrong):
        out.add_(x.sum(0))
        y = x * 2
        if wrong:
            raise KeyError(x.shape[0])
        return y.cumsum(0)

    compiled = tj.compile(f)
    for k, (n, _) in enumerate(pairs(24)):
        outs = [tj.ones(5), tj.ones(5)]
        found: list[Any] = []
        for function, out in zip((f, compiled), outs, strict=True):
            try:
                found.append(bits(function(arr(n, n, 5), out, k % 5 == 4)))
            except KeyError as e:
                found.append(e.args)
        assert found[0] == found[1]
        assert bits(outs[0]) == bits(outs[1])
    assert runs(compiled) > 8


def test_what_follows_another_way():
    def f(x, y, way):
        h = (x @ y).softmax(-1)
        if way == 1:
            h = h + x.mean()
        if way == 2:
            return [*h.split(1, 1), h.sum()]
        return [h * 2]

    compiled = tj.compile(f)
    for k, (n, _) in enumerate(pairs(40)):
        x, y = arr(n, n, 4), arr(k, 4, 3)
        way = 0 if k < 8 else k % 3
        assert bits(compiled(x, y, way)) == bits(f(x, y, way))
    (first, *_) = openings(region_of(compiled))
    assert first.runs
    assert first.misfits


def test_sizes_that_meet_and_vanish():
    def f(x, y):
        return (x[:, None] * y).sum(1) / y.shape[0], tj.cat([x, y]).mean()

    compiled = tj.compile(f)
    sizes = [*pairs(20), (7, 7), (1, 7), (7, 1), (1, 1), (0, 7), (9, 9), (33, 33), (0, 0), (33, 9)]
    for n, m in sizes:
        assert bits(compiled(arr(n, n), arr(m, m))) == bits(f(arr(n, n), arr(m, m)))
    assert runs(compiled) > 10


def test_memory_in_another_order():
    def f(x, y):
        return (x.T @ y).relu(), x.stride(), (x * 2).T.stride(), x[1:].T

    compiled = tj.compile(f)
    for k, (n, m) in enumerate(pairs(40)):
        x, y = arr(n, n, 3 * m), arr(m, n, 4)
        x = x[:, ::3] if k % 2 else arr(n, 5, n).T
        assert bits(compiled(x, y)) == bits(f(x, y))
    assert runs(compiled) > 10


def test_values_that_are_read_in_the_middle():
    def f(x, y):
        h = (x @ y).tanh()
        scale = h.abs().max().item()
        return (h / scale).sum(1), scale

    compiled = tj.compile(f)
    for n, m in pairs(40):
        assert bits(compiled(arr(n, n, m), arr(m, m, 3))) == bits(f(arr(n, n, m), arr(m, m, 3)))
    lengths = [len(one.events) for one in openings(region_of(compiled)) if one.runs]
    assert len(lengths) == 2


def test_arguments_that_share_memory_or_are_one():
    def f(x, y):
        x.mul_(2.0)
        return y + 1

    compiled = tj.compile(f)
    for k, (n, _) in enumerate(pairs(40)):
        found = []
        for function in (f, compiled):
            base = arr(n, 2 * n)
            x = base[:n]
            y = (arr(k, n), x, base[n:], base[n // 2 : n // 2 + n])[0 if k < 10 else k % 4]
            found.append((bits(function(x, y)), bits(base)))
        assert found[0] == found[1], k
    assert runs(compiled) > 8


def test_a_history_that_depends_on_sizes_has_no_opening():
    weight = arr(0, 6, 3).requires_grad_()

    def f(x):
        return (x @ weight).softmax(-1).mean()

    compiled = tj.compile(f)
    for n, _ in pairs(20):
        found = []
        for function in (f, compiled):
            weight.grad = None
            function(arr(n, n, 6)).backward()
            found.append(bits(weight.grad))
        assert found[0] == found[1]
    assert not runs(compiled)


def test_calls_leave_nothing_behind():
    both = Both(Encoder, predict)
    # Attention goes another way from 32 words on: there are two openings.
    sizes = pairs(60, 17)
    for n, t in sizes[:30]:
        both(ints(n, 50, n, t))
    region = both.region
    before = region.recorded_events, len(region.stops), region.calls.resized
    for n, t in sizes[30:]:
        both(ints(n, 50, n, t))
    assert (region.recorded_events, len(region.stops), region.calls.resized) == before
    assert region.calls.opened > 40


def test_numbers_that_change_are_of_the_run():
    def f(x, rate):
        return F.dropout(x, 0.5) * rate + x.shape[0]

    compiled = tj.compile(f)
    for k, (n, _) in enumerate(pairs(30)):
        found = []
        for function in (f, compiled):
            tj.manual_seed(k)
            found.append(bits(function(arr(n, n, 3), 0.5 * k)))
        assert found[0] == found[1]
    assert runs(compiled) > 10


def test_sizes_that_come_again_have_branches():
    compiled = tj.compile(lambda x: (x * 2).cumsum(0))
    sizes = pairs(20)
    for _ in range(3):
        for n, m in sizes:
            compiled(arr(n, n, m))
    region = region_of(compiled)
    # Each once: when they came for the second time.
    assert region.calls.resized > 15
    assert runs(compiled) < 25


def test_it_is_explained():
    compiled = tj.compile(lambda x: (x * 2).softmax(0).sum())
    for n, m in pairs(20, 17):
        compiled(arr(n, n, m))
    found = tj.explain(compiled)
    assert found.calls["at open sizes"] == runs(compiled) > 10
    assert sum("f32[s0,s1]" in program["graph"] for program in found.programs) == 1
    assert "at open sizes" in str(found)
    # To print is to decide nothing.
    before = runs(compiled)
    compiled(arr(0, 18, 41))
    assert runs(compiled) == before + 1


# An interrupt that meets the callback of a weak reference is reported and lost, whoever's callback it is.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_a_working_function():
    tj.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5))
    step = tj.compile(plain_step(model, Adam(model.parameters(), lr=1e-3)))
    sizes = [n for n, _ in pairs(1400)]
    rng = np.random.default_rng(0)
    hit = 0

    def twenty(k: int) -> None:
        for n in sizes[20 * k : 20 * (k + 1)]:
            step(arr(n, n + k, 6), ints(n, 5, n + k))

    with alarms() as hits:
        for k in range(60):
            hit += hits(0.0 if k < 20 else float(rng.uniform(1e-5, 2e-3)), functools.partial(twenty, k))
    assert hit > 20
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.parameters())
    assert runs(step)
    x, y = arr(0, 77, 6), ints(0, 5, 77)
    expected = F.cross_entropy(model(x), y)
    assert bits(step(x, y).detach()) == bits(expected.detach())
