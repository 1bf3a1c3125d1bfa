"""Calls that read values in their middle are replayed as wholes, where what Python decides on is what it was."""

from __future__ import annotations

import gc
import math
from collections import deque

import pytest

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import arr, bits
from tracejit import nn, optim
from tracejit.nn import functional as F
from tracejit.runtime import program
from tracejit.trace.compiled import region_of
from tracejit.trace.replay import prover

LABELS = tj.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Calls are recorded as wholes as soon as they have settled."""
    monkeypatch.setattr(prover, "JOINED_FROM", 1)


def classifier(step, rate=0.05, batch=None):
    """A training step of a small model, as `both` takes it."""
    model = net(4, 8, 3)
    opt = optim.Adam(model.parameters(), lr=rate)
    log: list = []
    args = batch or (lambda i: (arr(i, 6, 4), LABELS))
    state = lambda: [log, [[p, p.grad] for p in model.parameters()]]  # noqa: E731
    return (lambda *given: step(model, opt, log, *given)), args, state


def test_reads_before_backward():
    def step(model, opt, log, x, y):
        opt.zero_grad()
        out = model(x)
        accuracy = (out.argmax(1) == y).float().mean().item()
        loss = F.cross_entropy(out, y)
        log.append(loss.item())
        loss.backward()
        opt.step()
        return loss, accuracy, accuracy * 2

    both(lambda: classifier(step), 20, 12)


def test_a_value_that_is_changed_behind_the_read():
    def make():
        total = tj.zeros(())

        def f(x):
            y = x.sum()
            before = y.item()
            y.add_(1)
            total.add_(y)
            y.mul_(2)
            return before, y.item() - before, y

        return f, lambda i: (arr(i, 3),), lambda: [total]

    both(make, 16, 8)


def test_arithmetic_of_values_that_are_read():
    def make():
        def f(x, n):
            a, b = x.sum().item(), x.max().item()
            return (a + b) / 2.0, a * n, a - 1, (x * 2).sum(), a > b, x.argmax().item() + 1

        return f, lambda i: (arr(i, 5), 2), list

    both(make, 14, 7)


@pytest.mark.parametrize(
    "stops",
    [
        lambda loss: tj.isnan(loss),
        lambda loss: not tj.isfinite(loss),
        lambda loss: math.isnan(loss.item()),
        lambda loss: not math.isfinite(loss.item()),
        lambda loss: loss.item() != loss.item(),
        lambda loss: math.isnan(loss.item() * 2.0 - 1),
        lambda loss: tj.isnan(loss).any().item() is True,
    ],
)
def test_a_step_that_stops_where_the_loss_is_nan(stops):
    def step(model, opt, log, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if stops(loss):
            log.append("nan")
            return None
        loss.backward()
        opt.step()
        return loss

    def batch(i):
        return arr(i, 6, 4) * (math.nan if i in (9, 10, 17, 21) else 1.0), LABELS

    both(lambda: classifier(step, batch=batch), 26, 0)


def test_a_step_that_stops_where_the_loss_is_nan_is_replayed():
    def step(model, opt, log, x, y):
        loss = F.cross_entropy(model(x), y)
        if tj.isnan(loss):
            raise ValueError("the loss is nan")
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    region = both(lambda: classifier(step), 20, 12)
    assert not region.prover.obstacles


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_both_arms_are_replayed(every):
    """The program of one arm refuses what the other one is for, and has changed nothing."""

    def step(model, opt, log, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if x.sum().item() > 0:
            log.append(loss.item())
            (loss * 2).backward()
        else:
            loss.backward()
            log.append("below")
        opt.step()
        return loss.detach() + 1

    def batch(i):
        return arr(i, 6, 4).abs() * (1 if i // every % 2 else -1), LABELS

    region = both(lambda: classifier(step, batch=batch), 60, 30)
    assert len({id(replay.uncut) for replay in region.prover.replays}) == 2


def test_changes_in_place_wait_for_the_decision():
    def make():
        counts, stats = tj.zeros(3), nn.BatchNorm1d(3)

        def f(x):
            counts.add_(1)
            y = stats(x)
            if y.max() > 1.2:
                counts.mul_(0.5)
                return y
            return y * counts

        return f, lambda i: (arr(i, 6, 3),), lambda: [counts, stats.running_mean, stats.running_var]

    both(make, 50, 15)


def test_random_numbers_stand_where_eager_has_them():
    def step(model, opt, log, x, y):
        opt.zero_grad()
        h = F.dropout(x, 0.5)
        loss = F.cross_entropy(model(h), y)
        if loss.item() > 1.0:
            loss = loss + tj.rand(())
        loss.backward()
        opt.step()
        return loss, tj.rand(2)

    both(lambda: classifier(step), 40, 10)


def test_a_loop_until_a_value_is_small():
    def make():
        def f(x):
            n = 0
            while x.abs().sum() > 1.0:
                x = x * 0.5
                n += 1
            return x, n

        return f, lambda i: (arr(i // 12, 4) * (1 + i // 12),), list

    both(make, 60, 20)


def test_meters_before_backward():
    class Meter:
        def __init__(self):
            self.value = self.average = self.total = self.count = 0

        def update(self, value, n):
            self.value = value
            self.total += value * n
            self.count += n
            self.average = self.total / self.count

    def make():
        losses, best = Meter(), Meter()

        def accuracy(out, y, k):
            with tj.no_grad():
                _, found = out.topk(k, 1, True, True)
                right = found.t().eq(y.view(1, -1).expand_as(found.t()))
                return right.reshape(-1).float().sum(0, keepdim=True).mul_(100.0 / y.size(0))

        def step(model, opt, log, x, y):
            out = model(x)
            loss = F.cross_entropy(out, y)
            losses.update(loss.item(), x.size(0))
            best.update(accuracy(out, y, 2)[0], x.size(0))
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        run, args, state = classifier(step)
        return run, args, lambda: [state(), vars(losses), vars(best)]

    both(make, 24, 8)


def test_the_scaler_of_amp():
    def make():
        scaler = tj.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5)

        def step(model, opt, log, x, y):
            opt.zero_grad()
            with tj.autocast("cpu", dtype=tj.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            return loss

        run, args, state = classifier(step, batch=lambda i: (arr(i, 6, 4) * (math.inf if i == 22 else 1.0), LABELS))
        return run, args, lambda: [state(), scaler.state_dict()]

    both(make, 40, 12)


def test_a_scaler_that_skips_steps():
    class Scaler:
        def __init__(self):
            self.scale, self.good = 8.0, 0

        def step(self, opt, parameters):
            grads = [p.grad for p in parameters]
            for g in grads:
                g.div_(self.scale)
            if all(tj.isfinite(g).all() for g in grads):
                opt.step()
                self.good += 1
            else:
                self.good = 0
                self.scale *= 0.5

    def make():
        scaler = Scaler()

        def step(model, opt, log, x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            (loss * scaler.scale).backward()
            scaler.step(opt, list(model.parameters()))
            return loss

        run, args, state = classifier(step, batch=lambda i: (arr(i, 6, 4) * (math.inf if i == 15 else 1.0), LABELS))
        return run, args, lambda: [state(), scaler.scale, scaler.good]

    both(make, 30, 12)


def test_gradients_of_the_call_before_stay_where_a_program_refuses():
    """Gradients are written where those of the call before were, unless the program may still refuse."""

    def step(model, opt, log, x, y):
        for p in model.parameters():
            p.grad = None
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if loss.item() > 50.0:
            raise OverflowError("too large")
        return loss

    run, args, state = classifier(step)
    other, _, expected = classifier(step)
    compiled = tj.compile(run)
    for i in range(20):
        kept = [p for _, p in state()[1]] if i else []
        before = bits(kept)
        x, y = args(i)
        x = x * (1e4 if i in (14, 17) else 1.0)
        for f in (compiled, other):
            if i in (14, 17):
                with pytest.raises(OverflowError):
                    f(x, y)
            else:
                f(x, y)
        assert bits(state()) == bits(expected()), i
        assert bits(kept) == before, "a gradient that somebody holds was written"
    assert region_of(compiled).calls.replayed >= 5


@pytest.mark.parametrize("most", [None, 5, 2, 1, 0])
def test_a_deque_of_the_last_values(most):
    window: deque = deque(maxlen=most)

    def step(model, opt, log, x, y):
        loss = F.cross_entropy(model(x), y)
        window.append(loss.item())
        opt.zero_grad()
        loss.backward()
        opt.step()
        window.append(float(loss) * 2)
        return int((x > 0).sum()) > 3

    def make():
        window.clear()
        run, args, state = classifier(step)
        return run, args, lambda: [state(), list(window)]

    both(make, 20, 10)


def test_views_are_read():
    def make():
        table = tj.arange(6.0).reshape(3, 2)

        def f(x):
            y = x * 2
            first, other = y[0, 1].item() + 1, y.T[0, 1].item()
            top = y.max(0, keepdim=True).values[0][0].item()
            if y[1][0] > 0:
                return first, other, top, y
            z = y + table[1:2]
            return first, z, y[2].detach()[0].item()

        return f, lambda i: (arr(i, 3, 2).abs() * (-1 if i % 10 == 9 else 1),), list

    both(make, 40, 15)


def test_a_view_of_what_is_changed_behind_the_read():
    def make():
        total = tj.zeros(3)

        def f(x):
            y = x * 2
            v, _w = y[0], total[1:]
            a = v.item()
            y.add_(1)
            total.add_(y)
            return a, y

        return f, lambda i: (arr(i, 3),), lambda: [total]

    both(make, 20, 8)


def test_a_view_of_what_was_changed_is_followed():
    def make():
        def f(x):
            y = x * 2
            v = y[0]
            y.add_(1)
            a = v.item()
            return a, y * a

        return f, lambda i: (arr(i, 3),), list

    both(make, 14, 0)


@pytest.mark.parametrize("kind", [tj.int32, tj.uint8, tj.int64, tj.bool, tj.float64, tj.float16, tj.bfloat16])
def test_values_of_every_type_decide(kind):
    def make():
        def f(x):
            y = (x * 2).abs().to(kind)
            s = y.max()
            if s:
                return x + 1, s.item()
            return x - 1, 0

        return f, lambda i: (arr(i, 3) * (0 if i % 9 == 8 else 40),), list

    both(make, 40, 10)


def test_whole_numbers_are_compared_as_such():
    def make():
        def f(x):
            n = (x > 0).sum()
            if n.item() >= 2 and n.item() != 5 and n > 1:
                return x * 2
            return x - n

        return f, lambda i: (arr(i // 10, 4),), list

    both(make, 60, 20)


def test_another_way_than_the_one_that_is_proven():
    """The call that is to show what the proof says takes the other arm."""

    def make():
        def f(x):
            y = x.exp()
            s = y.sum().item()
            if s > 4.0:
                y = y * 2
                return y.sum(), s
            return y.mean() + 1, s

        pattern = [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
        return f, lambda i: (arr(i, 3).abs() * (1 if pattern[i % 20] else -1),), list

    both(make, 60, 15)


def test_long_programs_that_are_refused_often_are_given_up(monkeypatch):
    monkeypatch.setattr(prover, "REFUSALS", 2)
    monkeypatch.setattr(program, "_RELEASE_NS", 0)

    def make():
        def f(x):
            y = (x @ x).tanh()
            if x.max().item() > 0.0:
                return y.sum()
            return y.mean()

        return f, lambda i: (arr(7, 4, 4).abs() * (1.0 if i % 2 else -1.0),), list

    region = both(make, 60, 0)
    assert not region.prover.joins
    assert not region.prover.replays


def test_what_the_tracer_cuts_is_no_whole():
    def make():
        def f(v):
            n = (v * 2).sum().item()
            v.add_(1)
            return v * 3, n

        return f, lambda i: (arr(i, 3, 2)[0],), list

    region = both(make, 20, 0)
    assert region.calls.replayed == 0
    assert region.prover.uncut == []


def test_nothing_of_a_call_is_kept():
    def step(model, opt, log, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        log[:] = [loss.item()]
        loss.backward()
        opt.step()

    run, args, _ = classifier(step)
    compiled = tj.compile(run)
    for i in range(24):
        compiled(*args(i))
    gc.collect()
    before = sum(type(o) is tj.Tensor for o in gc.get_objects())
    for i in range(24):
        compiled(*args(i))
    gc.collect()
    assert sum(type(o) is tj.Tensor for o in gc.get_objects()) <= before


def test_the_mode_replay_waits_for_the_whole():
    def step(model, opt, log, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        log.append(loss.item())
        loss.backward()
        opt.step()

    run, args, _ = classifier(step)
    compiled = tj.compile(run, mode="replay")
    for i in range(12):
        compiled(*args(i))
    assert region_of(compiled).calls.replayed >= 5
