"""Replays: calls without Python equal eager ones, are only made where proven, and say what stands in the way."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import namedtuple

import numpy as np
import pytest

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import arr, bits
from tracejit import nn, optim
from tracejit.nn import functional as F
from tracejit.runtime import program
from tracejit.trace.compiled import region_of
from tracejit.trace.matcher import MISS

Pair = namedtuple("Pair", "first second")


def refused(make, calls=8):
    """A program that must never be replayed; the reasons."""
    region = both(make, calls, 0)
    assert region.calls.replayed == 0
    assert region.prover.obstacles
    return [reason for _, reason, _ in region.prover.obstacles]


# --- training steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: optim.SGD(p, lr=0.1),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda p: optim.Adam(p, lr=0.01),
        lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
        lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
        lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1),
        lambda p: optim.Adamax(p, lr=0.01, weight_decay=0.1),
        lambda p: optim.NAdam(p, lr=0.01),
        lambda p: optim.RAdam(p, lr=0.01),
        lambda p: optim.Adadelta(p),
        lambda p: optim.Rprop(p),
        lambda p: optim.ASGD(p, t0=3),
    ],
)
def test_steps_of_all_optimizers_are_replayed(optimizer):
    def make():
        model = net(4, 8, 3)
        opt = optimizer(model.parameters())

        def step(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        args = lambda i: (arr(i, 6, 4), tj.tensor([0, 1, 2, 0, 1, 2]))  # noqa: E731
        return step, args, lambda: [[p, p.grad] for p in model.parameters()] + [opt.state_dict()["param_groups"]]

    # The structure of two of them changes once after some steps.
    both(make, calls=20, least=7)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
        lambda o: optim.lr_scheduler.StepLR(o, 3),
        lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: optim.lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: optim.lr_scheduler.LambdaLR(o, lambda e: 1 / (e + 1)),
        lambda o: optim.lr_scheduler.PolynomialLR(o, 20, power=2.0),
        lambda o: optim.lr_scheduler.MultiplicativeLR(o, lambda e: 0.95),
        lambda o: optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, 20),
    ],
)
def test_schedulers_inside_are_replayed(scheduler):
    def make():
        model = net(4, 8, 3)
        opt = optim.Adam(model.parameters(), lr=0.01)
        schedule = scheduler(opt)

        def step(x):
            opt.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            opt.step()
            schedule.step()
            return loss, schedule.get_last_lr()

        return step, lambda i: (arr(i, 6, 4),), lambda: [list(model.parameters()), [g["lr"] for g in opt.param_groups]]

    both(make, calls=16, least=4)


def test_schedulers_outside_change_run_time_numbers():
    def make():
        model = net(4, 8, 3)
        opt = optim.Adam(model.parameters(), lr=0.01)
        schedule = optim.lr_scheduler.ExponentialLR(opt, 0.9)

        def step(x):
            opt.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            opt.step()
            return loss

        def args(i):
            if i:
                schedule.step()
            return (arr(i, 6, 4),)

        return step, args, lambda: list(model.parameters())

    region = both(make, calls=20, least=12)
    assert region.compiles <= 2


def test_two_optimizers_and_adversaries():
    def make():
        g, d = net(3, 6, 4), net(4, 6, 1)
        og, od = optim.Adam(g.parameters(), lr=0.01), optim.Adam(d.parameters(), lr=0.02)

        def step(real):
            fake = g(tj.randn(5, 3))
            od.zero_grad()
            d_loss = F.softplus(-d(real)).mean() + F.softplus(d(fake.detach())).mean()
            d_loss.backward()
            od.step()
            og.zero_grad()
            g_loss = F.softplus(-d(fake)).mean()
            g_loss.backward()
            og.step()
            return {"d": d_loss, "g": g_loss}

        return step, lambda i: (arr(i, 5, 4),), lambda: [list(g.parameters()), list(d.parameters())]

    both(make, least=7)


def test_hidden_state_carried_on_self_and_counters():
    def make():
        class Cell:
            def __init__(self):
                self.weight = arr(0, 3, 3)
                self.h = tj.zeros(2, 3)
                self.calls = 0
                self.total = 0.0
                self.log = []

            def __call__(self, x):
                self.h = (x + self.h @ self.weight).tanh()
                self.calls += 1
                mean = self.h.mean().item()
                self.total += mean * 0.5
                self.log.append(mean)
                return self.h, self.calls

        cell = Cell()
        return cell, lambda i: (arr(i, 2, 3),), lambda: [cell.h, cell.calls, cell.total, cell.log]

    both(make, least=5)


def test_time_loops_of_library_and_own_cells():
    def make():
        tj.manual_seed(0)
        lstm = nn.LSTM(3, 5, batch_first=True)
        cell = nn.GRUCell(5, 4)
        opt = optim.SGD([*lstm.parameters(), *cell.parameters()], lr=0.1)

        def step(x):
            out, _ = lstm(x)
            h = tj.zeros(x.shape[0], 4)
            for t in range(x.shape[1]):
                h = cell(out[:, t], h)
            loss = h.square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        return step, lambda i: (arr(i, 2, 4, 3),), lambda: [list(lstm.parameters()), list(cell.parameters())]

    both(make, least=7)


@pytest.fixture(params=["short", "long"])
def duration(request, monkeypatch):
    """Other threads run while a long program does."""
    if request.param == "long":
        monkeypatch.setattr(program, "_RELEASE_NS", 0.0)


def product_step(*shape):
    """A weight, and a compiled step that gives it its factor for a gradient."""
    w = tj.ones(*shape, requires_grad=True)

    @tj.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()

    return w, step


@pytest.mark.usefixtures("duration")
def test_gradients_are_written_where_they_were():
    w, step = product_step(3)
    found = []
    for i in range(12):
        step(arr(i, 3))
        found.append(w.grad._array.ctypes.data)
        assert w.grad.tolist() == arr(i, 3).tolist()
    assert region_of(step).calls.replayed >= 5
    assert len(set(found[-5:])) == 1


@pytest.mark.usefixtures("duration")
@pytest.mark.parametrize("touched", [False, True])
def test_gradients_that_the_program_changes_are_written_where_they_were(touched):
    def make():
        w = tj.ones(3, requires_grad=True)

        def step(x):
            w.grad = None
            (w * x).sum().backward()
            nn.utils.clip_grad_norm_([w], 0.5)

        return step, w

    (eager, v), (step, w) = make(), make()
    compiled = tj.compile(step)
    found = []
    for i in range(14):
        eager(arr(i, 3))
        compiled(arr(i, 3))
        assert bits(w.grad) == bits(v.grad)
        assert w.grad._version == v.grad._version
        found.append(w.grad._array.ctypes.data)
        if touched:
            w.grad.add_(1.0)
    assert region_of(compiled).calls.replayed >= 5
    assert len(set(found[-5:])) == 1


@pytest.mark.usefixtures("duration")
def test_a_replay_without_gradients_before_does_not_take_its_own_for_none():
    def make():
        w = tj.ones(3, requires_grad=True)

        def step(x):
            (w * x).sum().backward()

        return step, w

    (eager, v), (step, w) = make(), make()
    compiled = tj.compile(step)
    # Each call finds none, but for the last.
    for i in range(11):
        if i < 10:
            v.grad = w.grad = None
        eager(arr(i, 3))
        compiled(arr(i, 3))
    assert region_of(compiled).calls.replayed >= 5
    assert bits(w.grad) == bits(v.grad)


def test_a_gradient_that_another_thread_gets_in_time_is_not_written(monkeypatch):
    monkeypatch.setattr(program, "_RELEASE_NS", 0.0)
    w, step = product_step(3)
    for i in range(10):
        step(arr(i, 3))
    grads = region_of(step).prover.replays[0].grads
    take, got = grads.take, []

    def late():
        got.append((w.grad, w.grad.tolist()))
        return take()

    monkeypatch.setattr(grads, "take", late)
    for i in range(10, 16):
        step(arr(i, 3))
        assert w.grad.tolist() == arr(i, 3).tolist()
        assert all(t.tolist() == then for t, then in got)
    assert len(got) == 6


@pytest.mark.usefixtures("duration")
def test_gradients_that_somebody_keeps_are_not_written_again():
    model = net(3, 4, 2)
    opt = optim.SGD(model.parameters(), lr=0.1)

    @tj.compile
    def step(x):
        opt.zero_grad()
        loss = model(x).sum()
        loss.backward()
        opt.step()
        return loss

    weight = model[0].weight
    kept = []
    for i in range(16):
        step(arr(i, 5, 3))
        if i % 3 == 0:
            kept.append((weight.grad, weight.grad.tolist()))
        elif i % 3 == 1:
            kept.append((weight.grad.view(-1)[1:], weight.grad.reshape(-1).tolist()[1:]))
        else:
            array = weight.grad.numpy()
            kept.append((tj.from_numpy(array), array.tolist()))
    assert region_of(step).calls.replayed >= 10
    for t, then in kept:
        assert t.tolist() == then


@pytest.mark.usefixtures("duration")
def test_gradients_are_there_where_a_program_refuses():
    """A label out of range is only found by the program: what the parameters hold is then that of the call before."""
    model = net(4, 8, 3)
    opt = optim.Adam(model.parameters(), lr=0.01)

    @tj.compile
    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    state = lambda: bits([[p, p.grad] for p in model.parameters()])  # noqa: E731
    for i in range(10):
        step(arr(i, 2, 4), tj.tensor([1, i % 3]))
    region = region_of(step)
    assert region.calls.replayed >= 5
    one = region.prover.replays[0]
    before = state()
    # What `step` does first; it then follows, and raises.
    assert one.run((arr(0, 2, 4), tj.tensor([1, 3])), {}) is MISS
    assert state() == before
    with pytest.raises(IndexError):
        step(arr(0, 2, 4), tj.tensor([1, 3]))
    assert len(one.handed) == 4
    inputs = len(one.executable.inputs)
    assert all(one.executable.compiled.program.written_last(inputs + at) for _, at, _ in one.handed)


@pytest.mark.usefixtures("duration")
@pytest.mark.parametrize(
    "change",
    [
        lambda g: setattr(g.numpy(), "shape", (6,)),
        lambda g: g.numpy().setflags(write=False),
        lambda g: setattr(g, "__class__", nn.Parameter),
        lambda g: g.requires_grad_(),
    ],
    ids=["shape", "flags", "class", "leaf"],
)
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_gradients_that_somebody_changed_are_not_written_again(change):
    w, step = product_step(2, 3)
    for i in range(12):
        x = arr(i, 2, 3)
        step(x)
        g = w.grad
        assert (g.shape, type(g), g.requires_grad, g.numpy().flags.writeable) == ((2, 3), tj.Tensor, False, True)
        assert g.tolist() == x.tolist()
        if i % 2:
            change(g)
    assert region_of(step).calls.replayed >= 5


@pytest.mark.usefixtures("duration")
def test_an_attribute_set_on_a_gradient_dies_with_it():
    w, step = product_step(3)
    for i in range(10):
        step(arr(i, 3))
        assert not hasattr(w.grad, "tag")
        w.grad.tag = i
    assert region_of(step).calls.replayed >= 5


# --- arguments --------------------------------------------------------------------------------------------------------


def test_containers_as_arguments_and_results():
    @dataclasses.dataclass
    class Batch:
        x: tj.Tensor
        scale: float

    def make():
        def f(pair, table, batch, numbers, *rest, flag=True):
            a = pair.first * table["w"] + batch.x * batch.scale
            b = sum(n * r for n, r in zip(numbers, rest, strict=True))
            return [a, {"b": b if flag else a}, Pair(a, (b, numbers[0]))]

        return (
            f,
            lambda i: (
                Pair(arr(i, 2), arr(i + 1, 2)),
                {"w": arr(i + 2, 2), "n": None},
                Batch(arr(i + 3, 2), 0.5 * i),
                [i, 2.5 * i],
                arr(i + 4, 2),
                arr(i + 5, 2),
            ),
            list,
        )

    both(make, least=5)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_effects_are_not_replayed(capsys):
    def printing():
        def f(x):
            print("here")
            return x * 2

        return f, lambda i: (arr(i, 3),), list

    assert any("print" in r for r in refused(printing))
    assert capsys.readouterr().out.count("here") == 16

    def clock():
        import random

        def f(x):
            return x * random.random()

        random.seed(3)
        return f, lambda i: (arr(i, 3),), list

    assert any("random" in r for r in refused(clock))


LOOKS = [len, lambda d: len(list(d)), lambda d: len(d.items()), lambda d: 2 if d else 3]


@pytest.mark.parametrize("look", LOOKS)
def test_a_dict_is_looked_at_after_the_call_stored_in_it(look):
    def make():
        new, old = {}, {"rows": 0}

        def f(x, grows):
            old["rows"] = x.shape[0]
            if grows:
                new["rows"] = x.shape[0]
            return x * look(new if grows else old)

        def args(i):
            new.clear()
            return arr(i, 3, 2), grows

        return f, args, lambda: [new, old]

    grows = False
    both(make)
    grows = True
    assert refused(make) == ["a dict is looked at after something was added to it"]


def test_values_that_decide_are_not_replayed_at_first():
    def make():
        def f(x):
            if x.sum() > 0:
                return x * 2
            return x - 1

        return f, lambda i: (arr(i, 3),), list

    assert any("value of a tensor" in r for r in refused(make))


def test_a_numpy_array_that_changes_is_not_replayed():
    def make():
        weights = np.ones(3, np.float32)

        def f(x):
            weights[0] += 1
            return x * tj.from_numpy(weights.copy())

        return f, lambda i: (arr(i, 3),), list

    refused(make)


def test_replay_demanded():
    @tj.compile(mode="replay")
    def good(x):
        return x * 2 + 1

    for i in range(8):
        assert good(arr(i, 3)).tolist() == (arr(i, 3) * 2 + 1).tolist()
    assert region_of(good).calls.replayed >= 3

    seen = []

    @tj.compile(mode="replay")
    def bad(x):
        seen.append(x)
        print("one")
        print("two")
        return x * 2

    def train():
        for i in range(8):
            bad(arr(i, 3))

    with pytest.raises(RuntimeError, match="cannot be replayed") as caught:
        train()
    assert str(caught.value).count("print writes to the screen") == 2
    assert str(caught.value).count("test_replay.py:") >= 2
    assert len(seen) < 8


def test_follow_never_replays():
    f = tj.compile(lambda x: x + 1, mode="follow")
    for i in range(10):
        f(arr(i, 2))
    assert region_of(f).calls.replayed == 0
    assert region_of(f).calls.followed == 8


# --- surroundings -----------------------------------------------------------------------------------------------------


def test_partials_bound_methods_and_modules():
    class Model:
        def __init__(self):
            self.w = arr(1, 3)

        def forward(self, x, k):
            return self.w * x + k

    model = Model()
    for function in (functools.partial(model.forward, k=2.0), model.forward, net(3, 3)):
        compiled = tj.compile(function)
        extra = (0.5,) if function == model.forward else ()
        plain = function.forward if isinstance(function, nn.Module) else function
        for i in range(8):
            x = arr(i, 3)
            assert compiled(x, *extra).tolist() == plain(x, *extra).tolist()
        assert region_of(compiled).calls.replayed >= 3


def test_other_threads_calling_meanwhile():
    w = arr(0, 8)
    f = tj.compile(lambda x: (x * w).tanh().sum())
    errors = []

    def work(k):
        for i in range(60):
            x = arr(100 * k + i, 8)
            if f(x).item() != (x * w).tanh().sum().item():
                errors.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_indices_out_of_range_raise_as_eager_does():
    table = tj.zeros(4, 2)
    log = []

    @tj.compile
    def f(index):
        log.append(1)
        return F.embedding(index, table)

    for i in range(10):
        if i in (6, 8):
            with pytest.raises(IndexError):
                f(tj.tensor([0, 4]))
        else:
            f(tj.tensor([0, i % 4]))
    assert len(log) == 10
    assert region_of(f).calls.replayed >= 3
