"""Training steps that look at a value between forward and backward."""

from __future__ import annotations

import math
from typing import Any

import tracejit as tj
from harness import CALLS, Case, Topic, arr, labels, perceptron
from tracejit import nn, optim
from tracejit.nn import functional as F
from tracejit.tools.demo.models import MODELS

topic = Topic()


def classifier(step: Any) -> Case:
    """A case that trains a small classifier with `step(model, optimizer, x, y)`."""
    m = perceptron(5, 8, 3)
    opt = optim.Adam(m.parameters(), lr=0.05)
    return Case(lambda x, y: step(m, opt, x, y), lambda i: (arr(i, 6, 5), labels(i, 6, 3)), lambda: (m, opt))


# --- the loss is looked at --------------------------------------------------------------------------------------------


@topic.program("cut")
def loss_read_before_backward():
    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        v = loss.item()
        loss.backward()
        opt.step()
        return v

    return classifier(step)


@topic.program("cut")
def loss_printed_before_backward():
    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        print(f"{loss.item():.4f}", loss)
        loss.backward()
        opt.step()
        return loss

    return classifier(step)


@topic.program("cut")
def loss_and_accuracy_read_before_backward():
    def step(m, opt, x, y):
        out = m(x)
        loss = F.cross_entropy(out, y)
        right = (out.argmax(1) == y).float().mean().item()
        opt.zero_grad()
        loss.backward()
        accuracy = (out.argmax(1) == y).sum()
        opt.step()
        return loss.item(), right, accuracy

    return classifier(step)


@topic.program("branch", calls=14)
def best_loss_chooses_the_arm_before_backward():
    best = [math.inf]

    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        if loss.item() < best[0]:
            best[0] = loss.item()
            loss.backward()
        else:
            (loss * 0.5 + sum(p.pow(2).sum() for p in m.parameters()) * 0.01).backward()
        opt.step()
        return loss

    return classifier(step)


@topic.program("cut")
def finite_loss_is_asserted_before_backward():
    def step(m, opt, x, y):
        loss = F.cross_entropy(m(x), y)
        assert tj.isfinite(loss), "diverged"
        opt.zero_grad()
        loss.backward()
        opt.step()

    return classifier(step)


@topic.program("cut")
def clipping_by_a_norm_that_was_read():
    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        v = loss.item()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(m.parameters(), 0.5)
        opt.step()
        return v, norm.item()

    return classifier(step)


@topic.program("cut")
def scaling_by_a_float_that_was_read():
    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        scale = 2.0 / (1.0 + loss.item())
        (loss * scale).backward()
        for p in m.parameters():
            p.grad.mul_(1.0 / scale)
        opt.step()
        return scale

    return classifier(step)


@topic.program("branch", calls=14)
def scaler_that_grows_and_backs_off():
    world = {"scale": 4.0, "good": 0}

    def step(m, opt, x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        scaled = loss * world["scale"]
        print(f"{scaled.item():.3f}")
        scaled.backward()
        finite = all(bool(tj.isfinite(p.grad).all()) for p in m.parameters())
        for p in m.parameters():
            p.grad.div_(world["scale"])
        if finite and world["good"] < 3:
            opt.step()
            world["good"] += 1
        else:
            world["scale"], world["good"] = world["scale"] * 0.5, 0
        return loss

    return classifier(step)


@topic.program("cut")
def gradient_scaled_by_a_number_of_the_forward_pass():
    """The tape saves Python numbers, among them one that was read and changes with each call."""

    def step(m, opt, x, y):
        opt.zero_grad()
        out = m(x)
        temperature = 1.0 + abs(out.mean().item())
        loss = F.cross_entropy(out / temperature * 3.0, y) ** 1.5
        loss.item()
        loss.backward()
        opt.step()
        return temperature

    return classifier(step)


@topic.program("cut")
def several_losses_read_one_after_the_other():
    def step(m, opt, x, y):
        opt.zero_grad()
        h = m[:2](x)
        a = F.cross_entropy(m[2](h), y)
        va = a.item()
        b = h.pow(2).mean()
        vb = b.item()
        c = (h.exp().sum() + a) * 0.01
        vc = c.item()
        (a + b * 0.1 + c).backward()
        opt.step()
        return va, vb, vc

    return classifier(step)


def _demo(name: str, calls: int) -> None:
    @topic.program("cut", calls=calls)
    def make():
        model = MODELS[name]()
        opt = optim.AdamW(model.parameters(), lr=1e-3)

        def f(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            v = loss.item()
            loss.backward()
            opt.step()
            return v

        return Case(f, lambda i: (arr(i, 4, 64), labels(i, 4, 10)), lambda: (model, opt))

    topic.programs[f"demo_{name}_with_a_read"] = program = topic.programs.pop("make")
    program.name = f"demo_{name}_with_a_read"


_demo("mlp", CALLS)
_demo("cnn", CALLS)
_demo("transformer", 4)


# --- what must stay as it is eagerly ----------------------------------------------------------------------------------


@topic.program("cut")
def graph_retained_across_a_read():
    w = arr(0, 4).requires_grad_()

    def f(x):
        w.grad = None
        y = (w * x).exp().sum()
        y.item()
        y.backward(retain_graph=True)
        first = w.grad.clone()
        first.sum().item()
        y.backward()
        return first, w.grad.clone()

    return Case(f, lambda i: arr(i, 4), lambda: w)


@topic.program("cut")
def second_backward_across_a_read_raises():
    w = arr(0, 4).requires_grad_()

    def f(x):
        y = (w * x).exp().sum()
        y.item()
        y.backward()
        y.backward()

    return Case(f, lambda i: arr(i, 4), lambda: w)


@topic.program("cut")
def second_backward_across_a_read_is_caught():
    w = arr(0, 4).requires_grad_()

    def f(x):
        w.grad = None
        y = (w * x).exp().sum()
        y.item()
        y.backward()
        try:
            y.backward()
        except RuntimeError as e:
            return str(e), w.grad * 2
        return None

    return Case(f, lambda i: arr(i, 4), lambda: w)


@topic.program("branch")
def saved_value_changed_behind_a_read():
    w = arr(0, 4).requires_grad_()

    def f(x, i):
        w.grad = None
        y = (w * x).exp()
        total = y.sum()
        total.item()
        if i % 2:
            with tj.no_grad():
                y.mul_(2)
        try:
            (total * 2).backward()
        except RuntimeError as e:
            return str(e)
        return w.grad.clone()

    return Case(f, lambda i: (arr(i, 4), i), lambda: w)


@topic.program("branch")
def hook_registered_behind_a_read_now_and_then():
    w = arr(0, 4).requires_grad_()
    seen: list[float] = []

    def f(x, i):
        w.grad = None
        y = (w * x).exp()
        total = (y * y).sum()
        total.item()
        if i in (3, 4, 7):
            y.register_hook(lambda g: seen.append(g.sum().item()))
        if i in (5, 7):
            y.retain_grad()
        total.backward()
        return w.grad.clone(), y.grad if i in (5, 7) else None

    return Case(f, lambda i: (arr(i, 4), i), lambda: (w, seen))


@topic.program("branch")
def hook_on_a_leaf_added_later_across_a_read():
    w, v = arr(0, 4).requires_grad_(), arr(1, 4).requires_grad_()
    handles: list[Any] = []

    def f(x):
        y = (w * x).exp().sum() + (v * v).sum()
        y.item()
        return tj.autograd.grad(y, [w, v])

    def args(i):
        if i == 4:
            handles.append(w.register_hook(lambda g: g * 3))
        if i == 7:
            handles.pop().remove()
        return arr(i, 4)

    return Case(f, args, lambda: (w, v))


@topic.program("branch")
def hook_on_a_leaf_added_later():
    w = arr(0, 4).requires_grad_()
    handles: list[Any] = []

    def args(i):
        if i == 4:
            handles.append(w.register_hook(lambda g: g * 3))
        if i == 7:
            handles.pop().remove()
        return arr(i, 4)

    return Case(lambda x: tj.autograd.grad((w * x).exp().sum(), w), args, lambda: w)


@topic.program("cut")
def another_result_of_the_same_shape_is_walked_back():
    """Two graphs of one structure and other tensors: the leaf is not the recorded one."""
    w, v = arr(0, 4).requires_grad_(), arr(1, 4).requires_grad_()

    def f(x, i):
        a, b = (w * x).exp().sum(), (v * x).exp().sum()
        a.item()
        w.grad = v.grad = None
        (a if i % 2 else b).backward()
        return w.grad is None, v.grad is None

    return Case(f, lambda i: (arr(i, 4), i), lambda: (w, v))


@topic.program("cut")
def backward_in_an_exception_handler():
    w = arr(0, 4).requires_grad_()

    def f(x, i):
        w.grad = None
        loss = (w * x).pow(2).sum()
        try:
            if loss.item() > 3.0:
                raise ValueError(f"too large: {loss.item():.3f}")
            loss.backward()
        except ValueError as e:
            (loss * 0.1).backward()
            return str(e)
        if i == 6:
            raise KeyError(i)
        return None

    return Case(f, lambda i: (arr(i, 4), i), lambda: w)


@topic.program("cut")
def views_saved_before_a_read():
    w = arr(0, 6, 4).requires_grad_()
    opt = optim.SGD([w], lr=0.1, momentum=0.5)

    def f(x):
        opt.zero_grad()
        h = x @ w.T[:, ::2] + w[1:4].T.reshape(4, 3)[0]
        h = h.reshape(2, -1, 3).permute(2, 0, 1)[..., 0].exp() * h.view(2, -1)[:, :2].T.sum()
        loss = (h * h.flip(0)).sum() * 0.01
        seen = loss.item()
        loss.backward()
        opt.step()
        return seen

    return Case(f, lambda i: arr(i, 4, 4), lambda: (w, opt))


@topic.program("cut")
def weights_shared_and_frozen_before_a_read():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    b.bias.requires_grad_(False)
    opt = optim.SGD([*a.parameters(), b.bias], lr=0.05)

    def f(x):
        opt.zero_grad()
        loss = b(F.relu(a(x))).pow(2).mean() + F.linear(x, a.weight.detach(), a.bias).mean()
        seen = loss.item()
        loss.backward()
        opt.step()
        return seen

    return Case(f, lambda i: arr(i, 3, 4), lambda: (a, b, opt))


@topic.program("cut")
def accumulated_over_micro_batches_with_reads():
    m = perceptron(4, 6, 1)
    opt = optim.Adam(m.parameters(), lr=0.01)

    def f(x):
        total = 0.0
        opt.zero_grad()
        for part in x.chunk(3):
            loss = m(part).pow(2).mean() / 3
            total += loss.item()
            loss.backward()
        opt.step()
        return total

    return Case(f, lambda i: arr(i, 6, 4), lambda: (m, opt))


@topic.program("cut")
def dropout_and_running_statistics_before_a_read():
    m = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))
    opt = optim.SGD(m.parameters(), lr=0.05)

    def f(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        seen = loss.item()
        loss.backward()
        opt.step()
        return seen

    return Case(f, lambda i: (arr(i, 5, 4), labels(i, 5, 2)), lambda: (m, opt))


@topic.program("cut")
def chosen_inputs_and_unused_ones_across_a_read():
    w, v, u = (arr(i, 4).requires_grad_() for i in range(3))

    def f(x):
        h = (w * x).tanh()
        y = (h * v).sum()
        y.item()
        a, b, c = tj.autograd.grad(y, [h, u, v], retain_graph=True, allow_unused=True)
        a.sum().item()
        w.grad = v.grad = None
        y.backward(inputs=[w])
        return a, b, c

    return Case(f, lambda i: arr(i, 4), lambda: (w, v, u))


@topic.program("one program")
def tensor_and_its_detached_twin_as_arguments():
    def f(x, y):
        return (x * 2).sum() + (y * 3).sum()

    def args(i):
        x = arr(i, 4)
        return x, x.detach()

    return Case(f, args)


test_program = topic.test()
