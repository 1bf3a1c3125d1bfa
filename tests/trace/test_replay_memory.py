"""Memory of steps that are compiled: no gradients beside those of the step, in whatever way the call is made.

Blocks and tensors are counted, with the collector off: what is in a circle stays until it runs.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tracejit as tj
from tracejit import nn, optim
from tracejit.runtime.blocks import BLOCKS
from tracejit.trace.compiled import region_of
from tracejit.trace.replay.machine import Machine
from tracejit.trace.replay.world import World

SIDE, LAYERS = 300, 5
"""Weights of so many rows and columns, each larger than the smallest block."""


class Counter:
    """How many blocks are in use, and the most that ever were."""

    def __init__(self, monkeypatch):
        self.used = self.most = 0
        take, put = BLOCKS.take, BLOCKS.put

        def taken(nbytes):
            self.used += 1
            self.most = max(self.most, self.used)
            return take(nbytes)

        def back(memory):
            self.used -= 1
            put(memory)

        monkeypatch.setattr(BLOCKS, "take", taken)
        monkeypatch.setattr(BLOCKS, "put", back)

    def start(self):
        """Forget what was."""
        self.most = self.used


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def training(clip=False, embedding=False):
    """A step whose gradients are all that takes blocks, but for one parameter that is picked from."""
    tj.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    table = nn.Embedding(SIDE, SIDE)
    parameters = [*layers.parameters(), *(table.parameters() if embedding else ())]
    opt = optim.SGD(parameters, lr=0.01)
    x = tj.ones(2, SIDE)

    def step(x, twice=False):
        opt.zero_grad()
        # These places are computed in the program, which looks at them before it writes a gradient.
        y = layers(table(tj.arange(2)) if embedding else x).sum()
        (y + y if twice else y).backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        opt.step()

    return step, parameters, x


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("embedding", [False, True])
def test_there_is_one_set_of_gradients(monkeypatch, clip, embedding):
    step, parameters, x = training(clip, embedding)
    compiled = tj.compile(step)
    counter = Counter(monkeypatch)
    for _ in range(3):
        compiled(x)
    before = counter.used - len(parameters)
    for _ in range(12):
        counter.start()
        compiled(x)
        assert counter.most <= before + len(parameters)
    assert region_of(compiled).calls.replayed >= 5


@pytest.mark.usefixtures("no_collections")
def test_replays_and_followed_calls_that_take_turns_have_one_set_of_gradients(monkeypatch):
    step, parameters, x = training()
    compiled = tj.compile(step)
    counter = Counter(monkeypatch)
    for twice in (False, True):
        for _ in range(8):
            compiled(x, twice)
    region = region_of(compiled)
    assert len(region.prover.replays) == 2
    for k in range(20):
        if k % 5 == 4:
            # Followed, as calls are that are verified; the programs are there and compare nothing.
            monkeypatch.setattr(region, "verify", 1)
        counter.start()
        compiled(x, k % 3 == 0)
        assert counter.most <= len(parameters)
        monkeypatch.setattr(region, "verify", None)
    assert region.calls.followed >= 10


@pytest.mark.usefixtures("no_collections")
def test_what_is_recorded_holds_no_gradients_beside_their_copies(monkeypatch):
    step, parameters, x = training()
    compiled = tj.compile(step)
    compiled(x)
    counter = Counter(monkeypatch)
    before = counter.used - len(parameters)
    compiled(x)
    assert region_of(compiled).calls.recorded == 1
    # The gradients, one that is copied, and what an update makes of one.
    assert counter.most <= before + len(parameters) + 3


@pytest.mark.usefixtures("no_collections")
def test_nothing_is_left_of_what_a_proof_saw():
    step, _, x = training()
    compiled = tj.compile(step)
    for _ in range(12):
        compiled(x)
    assert region_of(compiled).calls.replayed >= 5
    assert not any(type(left) in (World, Machine) for left in gc.get_objects())


@pytest.mark.usefixtures("no_collections")
def test_gradients_of_the_call_before_are_gone():
    step, parameters, x = training()
    compiled = tj.compile(step)
    compiled(x)
    for _ in range(12):
        former = [weakref.ref(p.grad) for p in parameters]
        compiled(x)
        assert all(look() is None or look() is p.grad for look, p in zip(former, parameters, strict=True))
    assert region_of(compiled).calls.replayed >= 5


def keep_slice(w):
    return w.grad.numpy()[1:]


def keep_tensor(w):
    return w.grad


def keep_view(w):
    return w.grad[1:]


def keep_detached(w):
    return w.grad.detach()


@pytest.mark.parametrize("keep", [keep_slice, keep_tensor, keep_view, keep_detached])
@pytest.mark.parametrize("n", [3, 301, 4000, 70_001])
@pytest.mark.parametrize("every", [1, 3])
def test_gradients_that_somebody_keeps_are_not_taken_over(keep, n, every):
    w = tj.ones(n, requires_grad=True)

    @tj.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()

    kept = []
    for i in range(14):
        step(tj.full((n,), float(i)))
        if i % every == 0:
            kept.append((keep(w), float(i)))
    assert region_of(step).calls.replayed >= 5
    for grad, value in kept:
        assert np.all(np.asarray(grad) == value)


def test_a_gradient_of_the_users_own_is_not_taken_over():
    w = tj.ones(4000, requires_grad=True)

    @tj.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()

    memory = bytearray(16_000)
    for i in range(14):
        step(tj.full((4000,), float(i)))
        if i >= 8:
            w.grad = tj.from_numpy(np.frombuffer(memory, np.float32))
    assert region_of(step).calls.replayed >= 5
    assert not any(memory)
