"""Gradients: of the first and second order, graphs that live on, modes, unused inputs."""

from __future__ import annotations

from typing import Any

import tracejit as tj
from harness import Case, Topic, arr
from tracejit import nn, optim

topic = Topic()


@topic.program("one program")
def gradient_penalty():
    d = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    opt = optim.Adam(d.parameters(), lr=0.01)

    def f(real, fake):
        a = tj.rand(len(real), 1)
        mixed = (a * real + (1 - a) * fake).requires_grad_()
        (g,) = tj.autograd.grad(d(mixed).sum(), mixed, create_graph=True)
        loss = d(fake).mean() - d(real).mean() + 10 * ((g.norm(dim=1) - 1) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: (arr(i, 4, 3), arr(i + 50, 4, 3)), lambda: (d, opt))


@topic.program("one program")
def physics_informed_network():
    u = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
    opt = optim.SGD(u.parameters(), lr=0.01)

    def f(x):
        x = x.detach().requires_grad_()
        y = u(x)
        (dy,) = tj.autograd.grad(y.sum(), x, create_graph=True)
        (ddy,) = tj.autograd.grad(dy.sum(), x, create_graph=True)
        loss = (ddy + y).pow(2).mean() + u(tj.zeros(1, 1)).pow(2).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return Case(f, lambda i: arr(i, 6, 1), lambda: u)


@topic.program("one program")
def hessian_vector_product():
    w = arr(0, 4).requires_grad_()

    def f(v):
        loss = (w**3).sum() + (w * w.roll(1)).sum()
        (g,) = tj.autograd.grad(loss, w, create_graph=True)
        (hv,) = tj.autograd.grad((g * v).sum(), w)
        return hv, g.detach()

    return Case(f, lambda i: arr(i, 4))


@topic.program("one program")
def inner_loop_of_meta_learning():
    w = arr(0, 3, 1).requires_grad_()

    def f(x, y, lr):
        fast = w
        for _ in range(2):
            loss = ((x @ fast - y) ** 2).mean()
            (g,) = tj.autograd.grad(loss, fast, create_graph=True)
            fast = fast - lr * g
        outer = ((x @ fast - y) ** 2).mean()
        w.grad = None
        outer.backward()
        return outer

    return Case(f, lambda i: (arr(i, 5, 3), arr(i + 9, 5, 1), 0.1 if i < 6 else 0.05), lambda: w)


@topic.program("branch")
def unused_inputs():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def f(x, k):
        y = (a * x).sum() if k else (a * x + b).sum()
        return tj.autograd.grad(y, [a, b], allow_unused=True)

    return Case(f, lambda i: (arr(i, 3), i % 2))


@topic.program("branch")
def unused_inputs_raise():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def f(x, k):
        y = (a * x).sum() if k else (a * x + b).sum()
        return tj.autograd.grad(y, [a, b])

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2))


@topic.program("one program")
def graph_retained_and_walked_twice():
    w = arr(0, 3).requires_grad_()

    def f(x):
        w.grad = None
        y = (w * x).tanh().sum()
        y.backward(retain_graph=True)
        first = w.grad.clone()
        y.backward()
        return first, w.grad

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def graph_given_to_the_caller():
    w = arr(0, 3).requires_grad_()
    got: list[Any] = []

    def args(i):
        if got:
            w.grad = None
            got.pop().backward()
        return arr(i, 3)

    def f(x):
        got.append((w * x).exp().sum())
        return got[-1]

    return Case(f, args, lambda: w)


@topic.program("one program")
def graph_made_outside_continued_inside():
    w = arr(0, 3).requires_grad_()

    def args(i):
        w.grad = None
        return (w * arr(i, 3)).tanh()

    def f(h):
        loss = (h * 2).sum()
        loss.backward()
        return loss

    return Case(f, args, lambda: w)


@topic.program("branch")
def graph_of_a_former_call_is_continued():
    w = arr(0, 3).requires_grad_()
    world: dict[str, Any] = {"h": None}

    def f(x, k):
        h = x if world["h"] is None else world["h"] * 0.5 + x
        world["h"] = h * w
        if k:
            w.grad = None
            world["h"].sum().backward()
            world["h"] = world["h"].detach()
        return world["h"]

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: (w, world))


@topic.program("one program")
def modes_inside():
    w = arr(0, 3).requires_grad_()

    def f(x):
        with tj.no_grad():
            a = w * x
            with tj.enable_grad():
                b = w * x
        with tj.set_grad_enabled(False):
            c = w + 1
        tj.set_grad_enabled(False)
        d = w + 2
        tj.set_grad_enabled(True)
        return a, b, c, d, (w * x).detach(), tj.is_grad_enabled()

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def modes_outside():
    w = arr(0, 3).requires_grad_()

    def args(i):
        tj.set_grad_enabled(i % 3 != 2)
        return arr(i, 3)

    return Case(lambda x: ((w * x).sum(), tj.is_grad_enabled()), args)


@topic.program("one program")
def mode_left_changed_by_an_exception():
    w = arr(0, 3).requires_grad_()

    def args(i):
        tj.set_grad_enabled(True)
        return arr(i, 3), i % 3 == 2

    def f(x, k):
        tj.set_grad_enabled(False)
        y = w * x
        if k:
            raise ValueError("left")
        tj.set_grad_enabled(True)
        return y, w * y

    return Case(f, args)


@topic.program("one program")
def no_grad_as_a_decorator():
    w = arr(0, 3).requires_grad_()

    @tj.no_grad()
    def evaluate(x):
        return w * x

    return Case(lambda x: (evaluate(x), w * x), lambda i: arr(i, 3))


@topic.program("branch")
def argument_starts_to_require_gradients():
    def f(x):
        return (x * 2).sum(), x.requires_grad

    return Case(f, lambda i: arr(i, 3).requires_grad_(i % 3 == 2))


@topic.program("cut")
def requires_grad_inside():
    def f(x):
        x.requires_grad_()
        y = (x * x).sum()
        y.backward()
        return x.grad, y

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def gradient_of_an_argument_that_is_a_leaf():
    def f(x):
        (x * x).sum().backward()
        return x.grad * 2

    return Case(f, lambda i: arr(i, 3).requires_grad_())


@topic.program("one program")
def gradients_with_given_cotangents():
    w = arr(0, 3).requires_grad_()

    def f(x, g):
        w.grad = None
        (w * x).backward(g)
        return tj.autograd.grad([w * x, w + x], [w], [g, g * 2])

    return Case(f, lambda i: (arr(i, 3), arr(i + 9, 3)), lambda: w)


@topic.program("one program")
def backward_into_chosen_inputs():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def f(x):
        a.grad = b.grad = None
        (a * b * x).sum().backward(inputs=[a])
        return a.grad, b.grad

    return Case(f, lambda i: arr(i, 3), lambda: (a, b))


@topic.program("one program")
def in_place_with_gradients():
    w = arr(0, 4).requires_grad_()

    def f(x):
        w.grad = None
        h = w * 2
        h[1:3] = x
        h.mul_(3)
        h[0].add_(1)
        loss = (h * h).sum()
        loss.backward()
        return loss

    return Case(f, lambda i: arr(i, 2), lambda: w)


@topic.program("one program")
def gradient_through_views_and_copies():
    w = arr(0, 3, 4).requires_grad_()

    def f(x):
        w.grad = None
        v = w.T[1:3].reshape(-1)
        out = tj.zeros(6)
        out.copy_(v)
        (out * x).sum().backward()
        return out

    return Case(f, lambda i: arr(i, 6), lambda: w)


@topic.program("one program")
def gradient_tensor_is_shared():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def f(x):
        a.grad = b.grad = None
        (a * x).sum().backward()
        b.grad = a.grad
        (b * x).sum().backward()
        return a.grad is b.grad

    return Case(f, lambda i: arr(i, 3), lambda: (a, b))


@topic.program("cut")
def retained_gradient_of_a_middle_value():
    w = arr(0, 3).requires_grad_()

    def f(x):
        w.grad = None
        h = w * x
        h.retain_grad()
        (h * h).sum().backward()
        return h.grad, w.grad

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("cut")
def hook_on_a_middle_value():
    w = arr(0, 3).requires_grad_()
    seen: list[Any] = []

    def f(x):
        w.grad = None
        h = w * x
        handle = h.register_hook(lambda g: seen.append(g.sum().item()))
        (h * h).sum().backward()
        handle.remove()
        return w.grad

    return Case(f, lambda i: arr(i, 3), lambda: (w, seen))


@topic.program("one program")
def straight_through_estimator():
    w = arr(0, 3).requires_grad_()

    def f(x):
        w.grad = None
        h = w * x
        q = h + (h.round() - h).detach()
        (q * q).sum().backward()
        return q

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def checkpointing_by_hand():
    w = arr(0, 3, 3).requires_grad_()

    def f(x):
        w.grad = None
        with tj.no_grad():
            h = (x @ w).tanh()
        hr = h.detach().requires_grad_()
        loss = (hr @ w).pow(2).sum()
        loss.backward()
        again = (x @ w).tanh()
        again.backward(hr.grad)
        return loss

    return Case(f, lambda i: arr(i, 2, 3), lambda: w)


@topic.program("one program")
def jacobian_row_by_row():
    def f(x):
        x = x.detach().requires_grad_()
        y = (x * x.roll(1)).sin()
        rows = [tj.autograd.grad(y[k], x, retain_graph=True)[0] for k in range(len(y))]
        return tj.stack(rows)

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def gradient_norm_decides():
    w = arr(0, 3).requires_grad_()

    def f(x):
        w.grad = None
        loss = (w * x).pow(2).sum()
        loss.backward()
        if w.grad.norm() > 1:
            w.grad.div_(w.grad.norm())
        with tj.no_grad():
            w.sub_(0.1 * w.grad)
        return loss

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def adversarial_examples():
    m = nn.Linear(3, 2)

    def f(x, y):
        x = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(m(x), y)
        (g,) = tj.autograd.grad(loss, x)
        moved = (x + 0.1 * g.sign()).detach().clamp(-1, 1)
        m.zero_grad()
        nn.functional.cross_entropy(m(moved), y).backward()
        return moved

    return Case(f, lambda i: (arr(i, 4, 3), tj.tensor([0, 1, i % 2, 1])), lambda: m)


test_program = topic.test()
