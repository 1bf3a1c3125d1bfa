"""Optimizers and everything around a step of training."""

from __future__ import annotations

import copy
from typing import Any

import tracejit as tj
from harness import Case, Topic, arr
from tracejit import nn, optim
from tracejit.nn import functional as F

topic = Topic()


def net(seed: int = 0) -> Any:
    """A small model."""
    tj.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def step_of(model: Any, opt: Any) -> Any:
    """A training step."""

    def step(x):
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return step


@topic.program("cut")
def gan_with_two_optimizers():
    g, d = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    og, od = optim.Adam(g.parameters(), lr=0.01), optim.Adam(d.parameters(), lr=0.02, betas=(0.5, 0.9))

    def f(real):
        fake = g(tj.randn(len(real), 2))
        od.zero_grad()
        ld = F.binary_cross_entropy_with_logits(d(real), tj.ones(len(real), 1)) + F.binary_cross_entropy_with_logits(
            d(fake.detach()), tj.zeros(len(real), 1)
        )
        ld.backward()
        od.step()
        og.zero_grad()
        lg = F.binary_cross_entropy_with_logits(d(fake), tj.ones(len(real), 1))
        lg.backward()
        og.step()
        return ld, lg.item()

    return Case(f, lambda i: arr(i, 4, 3), lambda: (g, d, og, od))


@topic.program("branch")
def gradient_accumulation_every_third():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1, momentum=0.9)

    def f(x, i):
        (m(x).pow(2).mean() / 3).backward()
        if i % 3 == 2:
            opt.step()
            opt.zero_grad()

    return Case(f, lambda i: (arr(i, 4, 4), i), lambda: (m, opt))


@topic.program("one program")
def zero_grad_to_zeros():
    m = net()
    opt = optim.Adam(m.parameters(), lr=0.1)

    def f(x):
        opt.zero_grad(set_to_none=False)
        loss = m(x).sum()
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, opt))


@topic.program("one program")
def clipping_by_norm_and_value():
    m = net()
    opt = optim.AdamW(m.parameters(), lr=0.1)

    def f(x, limit):
        opt.zero_grad()
        m(x).pow(2).sum().backward()
        norm = nn.utils.clip_grad_norm_(m.parameters(), limit)
        nn.utils.clip_grad_value_(m.parameters(), 0.5)
        opt.step()
        return norm

    return Case(f, lambda i: (arr(i, 4, 4), 1.0 if i < 6 else 0.1 * i), lambda: (m, opt))


@topic.program("one program")
def exponential_moving_average_of_weights():
    m = net()
    ema = copy.deepcopy(m).requires_grad_(False)
    opt = optim.SGD(m.parameters(), lr=0.1)
    world = {"n": 0}

    def f(x):
        loss = step_of(m, opt)(x)
        world["n"] += 1
        decay = min(0.99, (1 + world["n"]) / (10 + world["n"]))
        with tj.no_grad():
            for p, q in zip(ema.parameters(), m.parameters(), strict=True):
                p.lerp_(q, 1 - decay)
        return loss, ema(x).mean()

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, ema, world))


@topic.program("one program")
def scheduler_inside():
    m = net()
    opt = optim.AdamW(m.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=20)

    def f(x):
        loss = step_of(m, opt)(x)
        schedule.step()
        return loss, schedule.get_last_lr()

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, opt, schedule))


@topic.program("cut")
def plateau_scheduler_reads_the_loss():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5)

    def f(x):
        loss = step_of(m, opt)(x)
        schedule.step(loss)
        return loss

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, opt, opt.param_groups[0]["lr"]))


@topic.program("branch")
def learning_rate_changed_by_hand():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1, momentum=0.9)

    def args(i):
        opt.param_groups[0]["lr"] = 0.1 / (1 + i)
        opt.param_groups[0]["momentum"] = 0.9 if i < 7 else 0.0
        opt.param_groups[0]["nesterov"] = i == 5
        return arr(i, 4, 4)

    return Case(step_of(m, opt), args, lambda: (m, opt))


@topic.program("branch")
def betas_eps_and_weight_decay_changed():
    m = net()
    opt = optim.Adam(m.parameters(), lr=0.1)

    def args(i):
        group = opt.param_groups[0]
        group["betas"] = (0.9 - 0.01 * i, 0.999)
        group["eps"] = 1e-8 * (1 + i // 4)
        group["weight_decay"] = 0.0 if i % 3 else 0.1
        group["maximize"] = i == 8
        return arr(i, 4, 4)

    return Case(step_of(m, opt), args, lambda: (m, opt))


@topic.program("branch")
def parameter_group_added():
    m, extra = net(), nn.Linear(1, 1)
    opt = optim.Adam(m.parameters(), lr=0.1)

    def args(i):
        if i == 5:
            opt.add_param_group({"params": list(extra.parameters()), "lr": 0.01})
        return arr(i, 4, 4)

    def f(x):
        opt.zero_grad()
        loss = extra(m(x)).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return Case(f, args, lambda: (m, extra, opt))


@topic.program("one program")
def optimizer_state_loaded():
    m = net()
    opt = optim.Adam(m.parameters(), lr=0.1)
    saved: list[Any] = []

    def args(i):
        if i == 4:
            saved.append(copy.deepcopy(opt.state_dict()))
        if i == 7:
            opt.load_state_dict(saved[0])
        return arr(i, 4, 4)

    return Case(step_of(m, opt), args, lambda: (m, opt))


@topic.program("branch")
def optimizer_replaced():
    m = net()
    world: dict[str, Any] = {"opt": optim.SGD(m.parameters(), lr=0.1)}

    def args(i):
        if i == 5:
            world["opt"] = optim.Adam(m.parameters(), lr=0.01)
        return arr(i, 4, 4)

    return Case(lambda x: step_of(m, world["opt"])(x), args, lambda: (m, world))


@topic.program("one program")
def optimizer_made_inside():
    m = net()

    def f(x):
        return step_of(m, optim.Adagrad(m.parameters(), lr=0.1))(x)

    return Case(f, lambda i: arr(i, 4, 4), lambda: m)


@topic.program("one program")
def parameters_without_gradients_now_and_then():
    a, b = nn.Linear(4, 1), nn.Linear(4, 1)
    opt = optim.Adam([*a.parameters(), *b.parameters()], lr=0.1)

    def f(x, which):
        opt.zero_grad()
        loss = (a(x) if which else b(x)).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: (arr(i, 4, 4), i % 3 > 0), lambda: (a, b, opt))


@topic.program("one program")
def closure_of_the_optimizer():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)
    calls: list[Any] = []

    def f(x):
        def closure():
            opt.zero_grad()
            loss = m(x).pow(2).mean()
            loss.backward()
            calls.append(loss)
            return loss

        return opt.step(closure)

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, calls))


@topic.program("branch")
def skipped_step_when_gradients_are_not_finite():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)
    scale = {"s": 4.0, "skipped": 0}

    def f(x):
        opt.zero_grad()
        (m(x).pow(2).mean() * scale["s"]).backward()
        if all(p.grad.isfinite().all() for p in m.parameters()):
            for p in m.parameters():
                p.grad.div_(scale["s"])
            opt.step()
            scale["s"] *= 1.5
        else:
            scale["s"] /= 2
            scale["skipped"] += 1

    return Case(f, lambda i: arr(i, 4, 4) * (float("inf") if i % 4 == 3 else 1.0), lambda: (m, scale))


@topic.program("one program")
def gradients_changed_by_hand():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def f(x):
        opt.zero_grad()
        m(x).sum().backward()
        for p in m.parameters():
            p.grad.add_(tj.randn(p.shape) * 0.01)
        m[0].weight.grad = m[0].weight.grad.sign()
        m[2].bias.grad = None
        opt.step()
        return [p.grad for p in m.parameters()]

    return Case(f, lambda i: arr(i, 4, 4), lambda: m)


@topic.program("one program")
def gradient_kept_by_the_user_is_not_zeroed():
    m = net()
    kept: list[Any] = []

    def f(x):
        m.zero_grad()
        m(x).sum().backward()
        kept.append(m[0].weight.grad)
        return m[0].bias.grad

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, kept[-3:]))


@topic.program("one program")
def optimizer_written_by_hand():
    m = net()
    momentum = {p: tj.zeros_like(p) for p in m.parameters()}

    def f(x, lr):
        for p in m.parameters():
            p.grad = None
        loss = m(x).pow(2).mean()
        loss.backward()
        with tj.no_grad():
            for p, v in momentum.items():
                v.mul_(0.9).add_(p.grad)
                p -= lr * v
        return loss

    return Case(f, lambda i: (arr(i, 4, 4), 0.1 / (i + 1)), lambda: (m, list(momentum.values())))


@topic.program("one program")
def two_steps_in_one_call():
    m = net()
    opt = optim.RMSprop(m.parameters(), lr=0.01)
    step = step_of(m, opt)
    return Case(lambda x: (step(x), step(x + 1)), lambda i: arr(i, 4, 4), lambda: (m, opt))


@topic.program("one program")
def several_losses_into_one_gradient():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def f(x):
        opt.zero_grad()
        h = m(x)
        h.mean().backward(retain_graph=True)
        h.pow(2).mean().backward()
        opt.step()
        return h

    return Case(f, lambda i: arr(i, 4, 4), lambda: m)


@topic.program("one program")
def sharpness_aware_minimisation():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def f(x):
        m(x).pow(2).mean().backward()
        moves = []
        with tj.no_grad():
            norm = tj.stack([p.grad.norm() for p in m.parameters()]).norm()
            for p in m.parameters():
                e = p.grad * (0.05 / (norm + 1e-12))
                p.add_(e)
                moves.append(e)
        opt.zero_grad()
        loss = m(x).pow(2).mean()
        loss.backward()
        with tj.no_grad():
            for p, e in zip(m.parameters(), moves, strict=True):
                p.sub_(e)
        opt.step()
        opt.zero_grad()
        return loss

    return Case(f, lambda i: arr(i, 4, 4), lambda: m)


@topic.program("branch")
def early_stopping_restores_the_best():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.5)
    world: dict[str, Any] = {"best": float("inf"), "state": None}

    def f(x):
        loss = step_of(m, opt)(x)
        if loss < world["best"]:
            world["best"] = loss.item()
            world["state"] = copy.deepcopy(m.state_dict())
        elif world["state"] is not None:
            m.load_state_dict(world["state"])
        return loss

    return Case(f, lambda i: arr(i, 4, 4), lambda: (m, world))


@topic.program("branch")
def alternating_parameters_and_no_parameters():
    m = net()
    opts = [optim.SGD(m[0].parameters(), lr=0.1), optim.Adam(m[2].parameters(), lr=0.1)]

    def f(x, k):
        opt = opts[k]
        m.zero_grad()
        loss = m(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: (arr(i, 4, 4), i % 2), lambda: (m, opts))


test_program = topic.test()
