"""Mixtures: several of the topics in one small program."""

from __future__ import annotations

import tracejit as tj
from harness import Case, Topic, arr
from tracejit import nn, optim
from tracejit.nn import functional as F

topic = Topic()


@topic.program("one program")
def inplace_view_of_pending_kept():
    kept = []

    def f(x):
        y = x * 2
        v = y[1:]
        kept.append(v)
        y.add_(1)
        z = v * 3
        v.mul_(2)
        return y, z

    return Case(f, lambda i: arr(i, 4), lambda: kept[-4:])


@topic.program("one program")
def detach_then_inplace_both():
    w = arr(0, 3).requires_grad_()

    def f(x):
        h = w * x
        d = h.detach()
        d.mul_(2)
        s = h.sum()
        return s, d

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def set_grad_none_mid():
    w = arr(0, 3).requires_grad_()

    def f(x):
        (w * x).sum().backward()
        g = w.grad
        w.grad = None
        (w * x * 2).sum().backward()
        return g, w.grad, g is w.grad

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def grad_inplace_alias():
    w = arr(0, 3).requires_grad_()
    keep = []

    def f(x):
        (w * x).sum().backward()
        keep.append(w.grad)
        w.grad.mul_(0.5)
        return w.grad

    return Case(f, lambda i: arr(i, 3), lambda: (w, keep[-3:]))


@topic.program("one program")
def backward_twice_two_losses_shared():
    w = arr(0, 3, 3).requires_grad_()
    v = arr(1, 3).requires_grad_()

    def f(x):
        w.grad = v.grad = None
        h = (x @ w).tanh()
        a = h.sum()
        b = (h * v).sum()
        a.backward(retain_graph=True)
        b.backward()
        return a, b

    return Case(f, lambda i: arr(i, 2, 3), lambda: (w, v))


@topic.program("one program")
def int_tensor_number():
    return Case(
        lambda x, n: (x + n, x * n, x // (n + 1), x % (n + 1), x < n, x & n),
        lambda i: (tj.arange(5).to(tj.int32), i * 1000000000),
    )


@topic.program("one program")
def float16_ops():
    return Case(lambda x, s: ((x * s).sum(), x.float() * s, x / s, x + s), lambda i: (arr(i, 5).half(), 1.0 + i * 1e-4))


@topic.program("one program")
def bfloat16_ops():
    return Case(
        lambda x, s: ((x * s).sum(), x.float() * s, x / s, x + s, x.half() + x),
        lambda i: (arr(i, 5).bfloat16(), 1.0 + i * 1e-4),
    )


@topic.program("one program")
def autocast_inside():
    w = tj.ones(3, 3, requires_grad=True)

    def f(x):
        with tj.autocast("cpu"):
            h = x @ w
            with tj.autocast("cpu", enabled=False):
                back = h.float() @ w
        loss = (h.float() * back).sum()
        loss.backward()
        return h, back, w.grad.clone()

    return Case(f, lambda i: arr(i, 2, 3), lambda: w)


@topic.program("one program")
def bool_ops():
    return Case(
        lambda x, b: (x & b, x | b, ~x, x.sum(), x ^ True, x * 2, x + b), lambda i: (arr(i, 5) > 0, arr(i + 1, 5) > 0)
    )


@topic.program("one program")
def clone_then_mutate_arg_then_use():
    def f(x, y):
        a = x + y
        x.copy_(y)
        b = x + y
        y.zero_()
        return a, b, x - y

    return Case(f, lambda i: (arr(i, 3), arr(i + 1, 3)))


@topic.program("one program")
def param_swapped_data_between():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    opt = optim.Adam([*a.parameters(), *b.parameters()], lr=0.1)

    def args(i):
        if i % 3 == 2:
            a.weight.data, b.weight.data = b.weight.data, a.weight.data
        return arr(i, 2, 3)

    def f(x):
        opt.zero_grad()
        loss = (b(a(x)) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    return Case(f, args, lambda: (a, b, opt))


@topic.program("one program")
def data_shared_between_params():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def args(i):
        if i == 4:
            b.data = a.data
        return arr(i, 3)

    def f(x):
        a.grad = b.grad = None
        (a * x + b * x).sum().backward()
        with tj.no_grad():
            a.sub_(a.grad, alpha=0.1)
            b.sub_(b.grad, alpha=0.1)
        return a.sum()

    return Case(f, args, lambda: (a, b))


@topic.program("cut")
def view_param_update():
    flat = arr(0, 6)
    w, b = flat[:4].reshape(2, 2), flat[4:]

    def f(x):
        y = x @ w + b
        flat.mul_(0.9)
        return y, x @ w + b

    return Case(f, lambda i: arr(i, 3, 2), lambda: (flat, w, b))


@topic.program("cut")
def sort_inplace_index():
    def f(x):
        s, k = x.sort()
        x[k] = s
        x[k[0]] = 9.0
        return x, s[k]

    return Case(f, lambda i: arr(i, 4))


@topic.program("one program")
def setitem_tensor_index_number():
    def f(x, k):
        x[k] = 1
        x[k, 0] = 2.0
        x[:, -1] += k.float().sum()
        return x

    return Case(f, lambda i: (arr(i, 4, 3), tj.tensor([i % 4, 2])))


@topic.program("one program")
def long_chain_many_numbers():
    def f(x, a, b):
        for k in range(12):
            x = (x * a + b * k).tanh() - k * 0.1
        return x

    return Case(f, lambda i: (arr(i, 4), 0.5 if i < 5 else 0.5 + i, 1.0))


@topic.program("one program")
def scatter_into_global():
    t = tj.zeros(5, 2)

    def f(k, x):
        t.copy_(t.index_add(0, k, x))
        t[k] = t[k] * 0.5
        return t[k]

    return Case(f, lambda i: (tj.tensor([i % 5, (i * 2) % 5]), arr(i, 2, 2)), lambda: t)


@topic.program("one program")
def optimizer_duplicate_grad_tensor():
    a, b = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()
    opt = optim.SGD([a, b], lr=0.1, momentum=0.9)

    def f(x):
        opt.zero_grad()
        (a * x).sum().backward()
        b.grad = a.grad
        opt.step()
        return a - b

    return Case(f, lambda i: arr(i, 3), lambda: (a, b, opt))


@topic.program("one program")
def lr_tensor_math():
    w = arr(0, 3)

    def f(x, lr):
        with tj.no_grad():
            w.add_(x, alpha=-lr)
        w.mul_(1 - lr * 0.1)
        w.addcmul_(x, x, value=lr)
        w.lerp_(x, lr)
        return w.sum()

    return Case(f, lambda i: (arr(i, 3), 0.1 / (i + 1)), lambda: w)


@topic.program("branch")
def batchnorm_momentum_changes():
    m = nn.BatchNorm1d(3)

    def args(i):
        m.momentum = [0.1, 0.2, None, 0.5][i % 4]
        m.eps = 1e-5 * (1 + i % 2)
        return arr(i, 4, 3)

    return Case(lambda x: m(x), args, lambda: m)


@topic.program("one program")
def embedding_padding_and_max():
    e = nn.Embedding(6, 3, padding_idx=0)

    def f(k):
        e.zero_grad()
        y = e(k)
        y.sum().backward()
        return y

    return Case(f, lambda i: tj.tensor([0, i % 6, 2]), lambda: e)


@topic.program("branch")
def loss_reductions_change():
    return Case(
        lambda x, y, r: F.mse_loss(x, y, reduction=r),
        lambda i: (arr(i, 3), arr(i + 1, 3), ["mean", "sum", "none"][i % 3]),
    )


@topic.program("branch")
def cross_entropy_smoothing():
    def f(x, y, s):
        return F.cross_entropy(x, y, label_smoothing=s), F.cross_entropy(x, y, weight=tj.tensor([1.0, 2.0, s]))

    return Case(f, lambda i: (arr(i, 4, 3), tj.tensor([0, 1, 2, i % 3]), 0.1 * (i % 3)))


@topic.program("branch")
def clip_zero_and_inf():
    w = arr(0, 3).requires_grad_()

    def f(x, mx):
        w.grad = None
        (w * x).sum().backward()
        n = nn.utils.clip_grad_norm_([w], mx, norm_type=[2.0, float("inf"), 1.0][int(mx * 10) % 3])
        return n, w.grad

    return Case(f, lambda i: (arr(i, 3), 0.1 * (i % 5)), lambda: w)


@topic.program("branch")
def grad_mode_toggle_between_forward_and_inplace():
    w = arr(0, 3).requires_grad_()

    def f(x, k):
        y = w * x
        with tj.set_grad_enabled(k):
            z = y * 2
        y.mul_(3)
        (y.sum() + z.sum()).backward()
        g = w.grad
        w.grad = None
        return g, z.requires_grad

    return Case(f, lambda i: (arr(i, 3), i % 2 == 0), lambda: w)


@topic.program("one program")
def expand_and_reduce_views_grad():
    w = arr(0, 3, 1).requires_grad_()

    def f(x):
        w.grad = None
        e = w.expand(3, 4)
        y = (e * x)[:, ::2].flip(0).T
        y.sum(1).prod().backward()
        return y, e

    return Case(f, lambda i: arr(i, 3, 4), lambda: w)


@topic.program("branch")
def zero_size_everything():
    w = arr(0, 3, 2).requires_grad_()

    def f(x):
        w.grad = None
        y = x @ w
        (y.sum() + w.sum() * 0).backward()
        return y, y.sum(0), tj.cat([y, tj.ones(1, 2)]), x.T

    return Case(f, lambda i: arr(i, [0, 2, 0, 1][i % 4], 3), lambda: w)


test_program = topic.test()
