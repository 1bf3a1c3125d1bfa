"""Modules and whole training steps, eager beside compiled, bit for bit."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tracejit as tj
from tracejit import nn, optim
from tracejit.nn import functional as F
from tracejit.tools.demo.models import MODELS
from tracejit.trace.compiled import region_of


def batches(count, size=64, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = tj.from_numpy(rng.standard_normal((size, 64)).astype(np.float32))
        yield x, tj.from_numpy(rng.integers(0, 10, (size,)))


def train(name, compiled, steps, make_optimizer=lambda p: optim.Adam(p, lr=1e-3)):
    tj.manual_seed(0)
    model = MODELS[name]()
    optimizer = make_optimizer(model.parameters())

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = tj.compile(step) if compiled else step
    tj.manual_seed(7)
    losses = [run(x, y).item() for x, y in batches(steps)]
    state = [p.detach().numpy().tobytes() for p in model.parameters()]
    state += [p.grad.numpy().tobytes() for p in model.parameters()]
    for entry in optimizer.state_dict()["state"].values():
        state += [v.numpy().tobytes() if isinstance(v, tj.Tensor) else v for v in entry.values()]
    return losses, state, run


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_bit_equal_over_200_steps(name, threads):
    before = tj.get_num_threads()
    try:
        tj.set_num_threads(threads)
        losses, state, run = train(name, True, 200)
        tj.set_num_threads(3 - threads)
        eager = train(name, False, 200)
    finally:
        tj.set_num_threads(before)
    assert losses == eager[0]
    assert state == eager[1]
    region = region_of(run)
    assert region.calls.side_exits == 0
    assert region.eager_segments == 0
    assert region.runs + region.calls.replayed == 198
    told = tj.explain(run)
    assert len(told.programs) == 1
    assert not told.eager
    assert "backward" in told.programs[0]["units"]
    assert "adam_update" in told.programs[0]["units"]
    assert all("def " in k["text"] for k in told.kernels)


def test_module_keeps_its_class_keys_copies_and_pickles():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    keys = list(model.state_dict())
    same = tj.compile(model)
    assert same is model
    x = tj.ones(5, 3)
    first = model(x)
    for _ in range(4):
        assert model(x).tolist() == first.tolist()
    assert region_of(model).runs == 3
    assert type(model) is nn.Sequential
    assert list(model.state_dict()) == keys
    twin = copy.deepcopy(model)
    assert twin(x).tolist() == first.tolist()
    assert pickle.loads(pickle.dumps(model))(x).tolist() == first.tolist()
    assert "_region" not in twin.__dict__


def test_module_forward_compiled_trains_with_eager_backward():
    losses = []
    for compiled in (False, True):
        tj.manual_seed(0)
        model = MODELS["mlp"]()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if compiled:
            tj.compile(model)
        tj.manual_seed(3)
        seen = []
        for x, y in batches(12):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses.append((seen, [p.detach().numpy().tobytes() for p in model.parameters()]))
    assert losses[0] == losses[1]
    region = region_of(model)
    assert region.runs + region.calls.replayed == 10


def test_train_and_eval_are_two_branches():
    def run(compiled):
        tj.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 10))
        f = tj.compile(lambda x: model(x)) if compiled else model
        out = []
        for i, (x, _) in enumerate(batches(12)):
            model.train(i % 3 != 2)
            out.append(f(x).detach().numpy().tobytes())
        return out, [v.numpy().tobytes() for v in model.state_dict().values()], f

    eager, compiled = run(False), run(True)
    assert eager[:2] == compiled[:2]
    assert region_of(compiled[2]).calls.side_exits == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
        lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.05),
        lambda p: optim.RMSprop(p, lr=1e-3),
        lambda p: optim.Adagrad(p, lr=1e-2),
        lambda p: optim.Adamax(p, weight_decay=0.1),
        lambda p: optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: optim.RAdam(p, betas=(0.9, 0.95)),
        lambda p: optim.Adadelta(p, weight_decay=0.1),
        lambda p: optim.Rprop(p),
        lambda p: optim.ASGD(p, t0=4, weight_decay=0.1),
    ],
)
def test_optimizers(make):
    assert train("mlp", True, 10, make)[:2] == train("mlp", False, 10, make)[:2]


def test_scheduler_clipping_and_ragged_batches():
    def run(compiled):
        tj.manual_seed(0)
        model = MODELS["mlp"]()
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=40)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            return loss, norm

        f = tj.compile(step) if compiled else step
        tj.manual_seed(7)
        out = []
        for i in range(30):
            x, y = next(batches(1, 64 if i % 5 else 17, seed=i))
            loss, norm = f(x, y)
            out.append((loss.item(), norm.item()))
        return out, [p.detach().numpy().tobytes() for p in model.parameters()], f

    eager, compiled = run(False), run(True)
    assert eager[:2] == compiled[:2]
    assert region_of(compiled[2]).compiles <= 3
