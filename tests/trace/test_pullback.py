"""Backward passes outside of regions over what regions left: bit for bit what eager gives, by one program each."""

from __future__ import annotations

import numpy as np
import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.trace import deferred, lean, pullback


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass is worth a program, and every byte a lean tape."""
    monkeypatch.setattr(pullback, "WORK", 0)
    monkeypatch.setattr(lean, "WORTH", 0)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each tape of a run that a pass met was walked back by a program."""
    found: list[bool] = []
    push = deferred.push

    def noted(*args):
        spent = push(*args)
        found.append(spent is not None)
        return spent

    monkeypatch.setattr(deferred, "push", noted)
    return found


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.all, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.all(self.norm(x)).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (x + self.out(found.transpose(1, 2).reshape(2, 5, 8))).mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = None
        for t in range(3):
            state = self.cell(x[:, t], state)
        return self.head(state[0])


def conv():
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


class Inplace(nn.Module):
    """Changes in place of what norms and products made, and activations of several kinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)

    def forward(self, x):
        h = F.relu(self.norm(self.a(x)), inplace=True)
        h = F.silu(self.norm(self.b(h))).mul_(0.5) + h
        return F.hardtanh(h * self.norm.weight.view(4, 1, 1)).add_(h).flatten(2).mean(2)[:, :3]


def tied():
    one = nn.Linear(4, 4)
    return nn.Sequential(one, nn.Tanh(), one, nn.Softplus(), nn.Linear(4, 3))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)), (5, 4)),
    "conv": (conv, (2, 1, 8, 8)),
    "attention": (Attention, (2, 5, 8)),
    "recurrent": (Recurrent, (2, 3, 4)),
    "tied": (tied, (5, 4)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3)), None),
    "inplace": (Inplace, (3, 4, 4, 4)),
    "doubles": (lambda: conv().double(), (2, 1, 8, 8)),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)), (5, 4)),
}


def train(kind, make, shape, steps=7):
    tj.manual_seed(3)
    model = make()
    optimizer = tj.optim.Adam(model.parameters(), lr=0.01)
    called, log = kind(model), []
    for i in range(steps):
        x = tj.tensor(np.arange(10).reshape(5, 2) % 7) if shape is None else arr(i, *shape)
        if any(p.dtype is tj.float64 for p in model.parameters()):
            x = x.double()
        out = called(x)
        loss = F.cross_entropy(out, tj.tensor(np.arange(out.shape[0]) % 3))
        optimizer.zero_grad()
        loss.backward()
        log.append([bits(p.grad) for p in model.parameters()])
        optimizer.step()
        log.append(bits(loss))
    return log


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_in_a_loop_that_is_not(name, pushes):
    make, shape = MODELS[name]
    assert train(tj.compile, make, shape) == train(lambda f: f, make, shape)
    # In the first pass the region hears that its tape had better be lean.
    assert sum(pushes) > 2
    assert all(pushes[pushes.index(True) :])


def both(run):
    """What a program logs, the same eagerly and compiled."""
    found = run(lambda f: f)
    assert run(tj.compile) == found
    return found


def test_one_region_called_several_times_in_a_pass(pushes):
    def run(kind):
        w, b = arr(0, 4, 4).requires_grad_(), arr(1, 4).requires_grad_()
        cell = kind(lambda h, x: (h @ w + x * b).tanh() * b)
        log = []
        for i in range(5):
            h = arr(2, 3, 4)
            for t in range(4):
                h = cell(h, arr(i + t, 3, 4))
            (h * b).sum().backward()
            log += [bits(w.grad), bits(b.grad)]
            if i % 2:
                w.grad = b.grad = None
        return log

    both(run)
    assert sum(pushes) > 8


def test_several_results_of_which_some_are_used(pushes):
    def run(kind):
        w = arr(0, 4).requires_grad_()

        @kind
        def f(x):
            h = (x * w).sigmoid()
            return h, (h * w).sum(), h[0], [h + w, x * 2]

        log = []
        for i in range(8):
            h, s, row, (more, _) = f(arr(i, 3, 4))
            loss = (h.sum() + s, s * 2, row.exp().sum() + more.sum(), (h * h).mean())[i % 4]
            loss.backward()
            log.append(bits(w.grad))
        return log

    both(run)
    assert sum(pushes) >= 4


def test_a_second_pass_needs_the_graph_retained(pushes):
    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []
        f = kind(lambda x: (x * w).exp().sum())
        for i in range(6):
            out = f(arr(i, 4))
            out.backward(retain_graph=True)
            out.backward()
            log.append(bits(w.grad))
            with pytest.raises(RuntimeError, match="a second time") as e:
                out.backward()
            log.append(str(e.value))
        return log

    both(run)
    assert sum(pushes) >= 6


def test_what_changed_in_place_since_is_refused():
    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []
        f = kind(lambda x: (x * w).exp() * w)
        for i in range(6):
            x = arr(i, 4)
            out = f(x)
            if i % 2:
                x.add_(1)
                with pytest.raises(RuntimeError, match="modified by an inplace operation") as e:
                    out.sum().backward()
                log.append(str(e.value))
            else:
                out.sum().backward()
            log.append(None if w.grad is None else bits(w.grad))
        return log

    both(run)


def test_hooks_and_gradients_of_inner_tensors():
    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []

        @kind
        def f(x):
            h = x * w
            return h, (h.exp() + w).sum()

        w.register_hook(lambda g: log.append(bits(g)) or g * 2)
        for i in range(8):
            h, out = f(arr(i, 4))
            if i % 3 == 1:
                h.retain_grad()
            if i % 3 == 2:
                h.register_hook(lambda g, log=log: log.append(bits(g)))
            out.backward()
            log += [bits(w.grad), None if h.grad is None or i % 3 != 1 else bits(h.grad)]
        return log

    both(run)


def test_chosen_inputs_and_gradients_of_gradients_take_the_steps():
    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []
        f = kind(lambda x: ((x * w).tanh() * w).sum())
        for i in range(6):
            (g,) = tj.autograd.grad(f(arr(i, 4)), [w], create_graph=True)
            g.sum().backward()
            log += [bits(g), bits(w.grad)]
        return log

    both(run)


def test_a_chain_of_regions_with_eager_steps_between(pushes):
    def run(kind):
        a, b = arr(0, 4).requires_grad_(), arr(1, 4).requires_grad_()
        first, second = kind(lambda x: (x * a).relu() + b), kind(lambda x: (x * b).sigmoid() * a)
        log = []
        for i in range(6):
            h = first(arr(i, 3, 4))
            out = second(h * 2) + h
            (out * a).sum().backward()
            log += [bits(a.grad), bits(b.grad)]
        return log

    both(run)
    assert sum(pushes) >= 6


def test_other_sizes_have_programs_of_their_own(pushes):
    def run(kind):
        model = nn.Linear(4, 2)
        with tj.no_grad():
            for p in model.parameters():
                p.copy_(arr(1, *p.shape))
        f, log = kind(lambda x: model(x).tanh()), []
        for i in range(12):
            f(arr(i, 1 + i % 3, 4)).sum().backward()
            log.append([bits(p.grad) for p in model.parameters()])
        return log

    both(run)
    assert any(pushes)


def test_what_was_saved_goes_with_the_pass(pushes):
    w = arr(0, 64).requires_grad_()
    f = tj.compile(lambda x: (x * w).exp())
    for i in range(6):
        out = f(arr(i, 64))
        batch = getattr(out.grad_fn, "batch", None)
        out.sum().backward()
    assert all(pushes)
    assert batch.results == [None]
    assert {id(t) for t in batch.tensors if t is not None} == {id(w)}
    with pytest.raises(RuntimeError, match="a second time"):
        out.sum().backward()


def test_a_random_mask_is_that_of_the_result(pushes):
    def run(kind):
        tj.manual_seed(5)
        w, log = arr(0, 32).requires_grad_(), []
        f = kind(lambda x: F.dropout(x * w, 0.5) * 2)
        for i in range(6):
            f(arr(i, 32)).sum().backward()
            log.append(bits(w.grad))
        return log

    both(run)
    assert any(pushes)


def test_a_pass_is_worth_a_program_after_some_work(monkeypatch, pushes):
    monkeypatch.setattr(pullback, "WORK", 1 << 14)
    w = arr(0, 4).requires_grad_()
    f = tj.compile(lambda x: (x * w).exp())
    for i in range(12):
        f(arr(i, 4)).sum().backward()
    assert not pushes[0]
    assert pushes[-1]


def test_numbers_that_differ_from_call_to_call(pushes):
    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []
        f = kind(lambda x, a, n: ((x * w) * a + w * n).tanh() * (a + 1.0))
        for i in range(8):
            f(arr(i, 4), 0.3 + i, i + 1).sum().backward()
            log.append(bits(w.grad))
        return log

    both(run)
    assert sum(pushes) >= 5


def test_views_of_weights_and_changes_of_them(pushes):
    def run(kind):
        w, log = arr(0, 3, 4).requires_grad_(), []

        @kind
        def f(x):
            turned = w.T
            part = turned[1:]
            return (x @ turned).relu() @ part.T, part * 2

        for i in range(8):
            out, part = f(arr(i, 2, 4)[:, :4])
            (out.sum() + (part * part).sum()).backward()
            log.append(bits(w.grad))
            with tj.no_grad():
                w.sub_(w.grad * 0.1)
        return log

    both(run)
    assert sum(pushes) >= 5
