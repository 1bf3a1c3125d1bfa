"""Modules: modes, freezing, swapping, hooks, sharing, loading, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import tracejit as tj
from harness import Case, Topic, arr
from tracejit import nn, optim
from tracejit.nn import functional as F

topic = Topic()


def mlp() -> Any:
    """A small model with everything that has a mode."""
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, 2))


def trainer(model: Any, opt: Any) -> Any:
    """A training step."""

    def step(x):
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return step


@topic.program("branch")
def train_and_eval():
    m = mlp()

    def args(i):
        m.train(i % 3 != 2)
        return arr(i, 5, 4)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("one program")
def mode_switched_inside():
    m = mlp()

    def f(x):
        m.eval()
        with tj.no_grad():
            before = m(x).mean()
        m.train()
        return m(x).mean(), before

    return Case(f, lambda i: arr(i, 5, 4), lambda: m)


@topic.program("branch")
def one_submodule_in_eval():
    m = mlp()

    def args(i):
        m.train()
        if i % 2:
            m[1].eval()
        return arr(i, 5, 4)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("branch")
def freeze_and_unfreeze():
    m = mlp()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def args(i):
        for p in m[0].parameters():
            p.requires_grad_(i % 4 < 2)
        return arr(i, 5, 4)

    return Case(trainer(m, opt), args, lambda: (m, opt))


@topic.program("branch")
def freeze_inside():
    m = nn.Linear(3, 2)

    def f(x, k):
        m.weight.requires_grad_(k)
        y = m(x).sum()
        m.zero_grad()
        y.backward()
        return y, m.weight.grad is None

    return Case(f, lambda i: (arr(i, 4, 3), i % 3 == 0), lambda: m)


@topic.program("branch")
def swapped_submodule():
    m = mlp()

    def args(i):
        if i == 4:
            m[2] = nn.Tanh()
        if i == 7:
            m[4] = nn.Linear(6, 3)
        return arr(i, 5, 4)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("branch")
def compiled_module_with_swapped_submodule():
    m = mlp()

    def args(i):
        if i == 5:
            m[2] = nn.Sigmoid()
        m.train(i % 4 != 3)
        return arr(i, 5, 4)

    return Case(m, args, lambda: m)


@topic.program("branch")
def swapped_parameter():
    m = nn.Linear(3, 2)

    def args(i):
        if i % 3 == 2:
            m.weight = nn.Parameter(arr(i, 2, 3))
        if i == 7:
            m.bias = None
        return arr(i, 4, 3)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("branch")
def layers_appended():
    m = nn.ModuleList([nn.Linear(3, 3)])

    def f(x):
        for layer in m:
            x = layer(x).tanh()
        return x

    def args(i):
        if i in (4, 6):
            m.append(nn.Linear(3, 3))
        return arr(i, 2, 3)

    return Case(f, args, lambda: m)


@topic.program("branch")
def forward_hook_added_and_removed_later():
    m = nn.Linear(3, 2)
    seen: list[Any] = []
    handles: list[Any] = []

    def args(i):
        if i == 4:
            handles.append(m.register_forward_hook(lambda mod, inp, out: seen.append(out.sum())))
            handles.append(m.register_forward_hook(lambda mod, inp, out: out * 2))
        if i == 7:
            handles[0].remove()
        return arr(i, 4, 3)

    return Case(lambda x: m(x) + 1, args, lambda: (m, seen))


@topic.program("one program")
def forward_pre_hook_changes_the_argument():
    m = nn.Linear(3, 2)
    m.register_forward_pre_hook(lambda mod, inp: (inp[0] * mod.scale,))
    m.scale = 1.0

    def args(i):
        m.scale = 1.0 + i // 3
        return arr(i, 4, 3)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("branch")
def gradient_hook_on_a_parameter_added_later():
    m = nn.Linear(3, 2)
    opt = optim.SGD(m.parameters(), lr=0.1)
    norms: list[float] = []
    handles: list[Any] = []

    def hook(g):
        norms.append(g.abs().sum().item())
        return g * 0.5

    def args(i):
        if i == 4:
            handles.append(m.weight.register_hook(hook))
        if i == 8:
            handles[0].remove()
        return arr(i, 5, 3)

    return Case(trainer(m, opt), args, lambda: (m, norms))


@topic.program("cut")
def gradient_hook_inside():
    m = nn.Linear(3, 2)

    def f(x):
        m.zero_grad()
        h = m(x)
        h.register_hook(lambda g: g * 2)
        h.retain_grad()
        h.sum().backward()
        return h.grad

    return Case(f, lambda i: arr(i, 4, 3), lambda: m)


@topic.program("cut")
def post_accumulate_hook_steps_in_backward():
    m = nn.Linear(3, 2)
    opts = {p: optim.SGD([p], lr=0.1) for p in m.parameters()}

    def hook(p):
        opts[p].step()
        opts[p].zero_grad()

    for p in m.parameters():
        p.register_post_accumulate_grad_hook(hook)

    def f(x):
        loss = m(x).pow(2).mean()
        loss.backward()
        return loss

    return Case(f, lambda i: arr(i, 5, 3), lambda: m)


@topic.program("one program")
def shared_and_tied_weights():
    enc = nn.Embedding(6, 3)
    dec = nn.Linear(3, 6, bias=False)
    dec.weight = enc.weight
    opt = optim.Adam(enc.parameters(), lr=0.05)

    def f(k):
        opt.zero_grad()
        loss = F.cross_entropy(dec(enc(k)), k)
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: tj.tensor([i % 6, 2, (i * 3) % 6]), lambda: (enc, dec, opt))


@topic.program("branch")
def weights_untied_later():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight

    def args(i):
        if i == 5:
            b.weight = nn.Parameter(a.weight.detach().clone())
        return arr(i, 4, 3)

    def f(x):
        a.zero_grad()
        b.zero_grad()
        loss = b(a(x)).sum()
        loss.backward()
        return loss

    return Case(f, args, lambda: (a, b))


@topic.program("one program")
def load_state_dict_between_calls():
    m = mlp()
    saved = copy.deepcopy(m.state_dict())
    opt = optim.Adam(m.parameters(), lr=0.05)

    def args(i):
        if i % 4 == 3:
            m.load_state_dict(saved)
        return arr(i, 5, 4)

    return Case(trainer(m, opt), args, lambda: (m, opt))


@topic.program("branch")
def load_state_dict_inside():
    m, other = nn.Linear(3, 2), nn.Linear(3, 2)

    def f(x, k):
        if k:
            other.load_state_dict(m.state_dict())
        m.weight.data.mul_(0.9)
        return m(x) - other(x)

    return Case(f, lambda i: (arr(i, 4, 3), i % 3 == 0), lambda: (m, other))


@topic.program("one program")
def target_network_soft_update():
    online, target = nn.Linear(3, 2), nn.Linear(3, 2)
    opt = optim.SGD(online.parameters(), lr=0.1)

    def f(x):
        with tj.no_grad():
            goal = target(x).max(1, keepdim=True).values
        loss = F.smooth_l1_loss(online(x)[:, :1], goal)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with tj.no_grad():
            for p, q in zip(target.parameters(), online.parameters(), strict=True):
                p.mul_(0.95).add_(q, alpha=0.05)
        return loss

    return Case(f, lambda i: arr(i, 5, 3), lambda: (online, target))


@topic.program("cut")
def deepcopy_between_and_inside():
    m = nn.Linear(3, 2)
    copies: list[Any] = []

    def args(i):
        if i % 4 == 3:
            copies.append(copy.deepcopy(m))
        return arr(i, 4, 3)

    def f(x):
        y = m(x).sum()
        m.zero_grad()
        y.backward()
        snapshot = copy.deepcopy(m)
        with tj.no_grad():
            m.weight.sub_(0.1 * m.weight.grad)
        return y, snapshot.weight

    return Case(f, args, lambda: (m, copies))


@topic.program("one program")
def pickle_between_calls():
    world = {"m": mlp()}

    def args(i):
        if i % 4 == 3:
            world["m"] = pickle.loads(pickle.dumps(world["m"]))
        return arr(i, 5, 4)

    return Case(lambda x: world["m"](x), args, lambda: world)


@topic.program("one program")
def buffer_replaced_and_registered():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", tj.zeros(3))
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return x - self.mean

    m = Running()
    return Case(lambda x: m(x), lambda i: arr(i, 4, 3), lambda: (m, m.steps))


@topic.program("branch")
def module_that_counts_and_branches():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.n = nn.Linear(3, 3), 0

        def forward(self, x, skip=False):
            self.n += 1
            if skip or self.n % 4 == 0:
                return x
            return self.lin(x) + x

    m = Skip()
    return Case(m, lambda i: ((arr(i, 2, 3),), {"skip": i % 5 == 4}), lambda: (m, m.n))


@topic.program("branch")
def stochastic_depth():
    layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

    def f(x):
        for layer in layers:
            if tj.rand(()).item() < 0.5:
                x = x + layer(x).tanh()
        return x

    return Case(f, lambda i: arr(i, 2, 3), lambda: layers)


@topic.program("branch")
def mixture_of_experts_by_argmax():
    gate, experts = nn.Linear(3, 2), nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def f(x):
        k = gate(x).argmax(-1)
        out = tj.zeros_like(x)
        for e, expert in enumerate(experts):
            rows = (k == e).nonzero().flatten()
            if rows.numel():
                out = out.index_add(0, rows, expert(x[rows]))
        return out

    return Case(f, lambda i: arr(i, 4, 3), lambda: (gate, experts))


@topic.program("sizes")
def recurrent_cell_over_changing_lengths():
    cell = nn.LSTMCell(3, 4)
    opt = optim.SGD(cell.parameters(), lr=0.1)

    def f(xs):
        h = c = tj.zeros(2, 4)
        for x in xs:
            h, c = cell(x, (h, c))
        loss = h.pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss, h.detach()

    return Case(f, lambda i: arr(i, 2 + i % 2, 2, 3), lambda: cell)


@topic.program("one program")
def truncated_backpropagation_carries_detached_state():
    cell = nn.GRUCell(3, 4)
    opt = optim.SGD(cell.parameters(), lr=0.1)
    world = {"h": tj.zeros(2, 4)}

    def f(x):
        h = cell(x, world["h"])
        loss = h.sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        world["h"] = h.detach()
        return loss

    return Case(f, lambda i: arr(i, 2, 3), lambda: (cell, world))


@topic.program("cut")
def ensemble_of_models_built_in_the_loop():
    def f(x, k):
        tj.manual_seed(k)
        m = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        return m(x), sum(p.numel() for p in m.parameters())

    return Case(f, lambda i: (arr(i, 2, 3), i % 3))


@topic.program("cut")
def parameters_given_to_vector_and_back():
    m = nn.Linear(3, 2)

    def f(x):
        v = nn.utils.parameters_to_vector(m.parameters())
        with tj.no_grad():
            nn.utils.vector_to_parameters(v * 0.9, m.parameters())
        return m(x).sum(), v.norm()

    return Case(f, lambda i: arr(i, 4, 3), lambda: m)


@topic.program("branch")
def casting_a_module():
    m = nn.Linear(3, 2)

    def args(i):
        kind = tj.float64 if i % 4 >= 2 else tj.float32
        m.to(kind)
        return arr(i, 4, 3).to(kind)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("one program")
def weight_normalised_by_hand():
    m = nn.Linear(3, 2)

    def f(x):
        w = m.weight / m.weight.norm(dim=1, keepdim=True)
        loss = F.linear(x, w, m.bias).sum()
        m.zero_grad()
        loss.backward()
        return loss

    return Case(f, lambda i: arr(i, 4, 3), lambda: m)


@topic.program("one program")
def dropout_probability_changes():
    m = nn.Dropout(0.1)

    def args(i):
        m.p = [0.1, 0.5, 0.0, 1.0, 0.3][i % 5]
        return arr(i, 4, 3)

    return Case(lambda x: m(x) + F.dropout(x, m.p, training=m.training), args)


test_program = topic.test()
