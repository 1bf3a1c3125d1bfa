"""Random numbers: the same stream inside, outside and across calls."""

from __future__ import annotations

from typing import Any

import tracejit as tj
from harness import Case, Topic, arr
from tracejit.nn import functional as F

topic = Topic()


@topic.program("cut")
def all_random_functions():
    def f(x):
        return (
            tj.rand(3),
            tj.randn(2, 2),
            tj.randint(0, 10, (4,)),
            tj.randperm(5),
            tj.bernoulli(x.sigmoid()),
            tj.normal(0.0, 1.0, (3,)),
            tj.multinomial(x.softmax(0), 2),
            tj.rand_like(x),
            x.clone().uniform_(-1, 1),
            x.clone().normal_(),
        )

    return Case(f, lambda i: arr(i, 4))


@topic.program("cut")
def seeded_inside():
    def f(x, k):
        tj.manual_seed(k)
        return x + tj.rand(3), tj.randn(2)

    return Case(f, lambda i: (arr(i, 3), i // 2))


@topic.program("cut")
def seeded_in_the_middle():
    def f(x):
        a = tj.rand(3)
        tj.manual_seed(3)
        b = tj.rand(3)
        return x + a + b, tj.initial_seed()

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def seeded_between_calls():
    def args(i):
        if i % 3 == 2:
            tj.manual_seed(i)
        return arr(i, 3)

    return Case(lambda x: F.dropout(x, 0.5) + tj.rand(3), args)


@topic.program("cut")
def state_saved_and_restored_inside():
    def f(x):
        state = tj.get_rng_state()
        a = tj.rand(3)
        tj.set_rng_state(state)
        return a * x, tj.rand(3) * x

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def state_restored_between_calls():
    state = tj.get_rng_state()

    def args(i):
        if i % 3 == 2:
            tj.set_rng_state(state)
        return arr(i, 3)

    return Case(lambda x: x + tj.randn(3), args)


@topic.program("one program")
def generator_of_the_user():
    g = tj.Generator().manual_seed(4)

    def args(i):
        if i == 5:
            g.manual_seed(9)
        return arr(i, 3)

    return Case(lambda x: x + tj.rand(3, generator=g) + tj.rand(3), args, lambda: g)


@topic.program("one program")
def generator_that_is_replaced():
    world = {"g": tj.Generator().manual_seed(1)}

    def args(i):
        if i % 4 == 3:
            world["g"] = tj.Generator().manual_seed(i)
        return arr(i, 3)

    return Case(lambda x: x + tj.randn(3, generator=world["g"]), args, lambda: world)


@topic.program("one program")
def draws_that_nothing_uses():
    def f(x):
        tj.rand(5)
        F.dropout(x, 0.3)
        return x + tj.rand(3)

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def number_of_draws_changes():
    return Case(lambda x, n: sum((tj.rand(3) for _ in range(n)), x), lambda i: (arr(i, 3), i % 4))


@topic.program("one program")
def dropout_with_changing_probability():
    return Case(
        lambda x, p: F.dropout(x, p, training=True) * 2, lambda i: (arr(i, 8), [0.1, 0.5, 0.9, 0.0, 1.0][i % 5])
    )


@topic.program("one program")
def dropout_backward_uses_the_same_mask():
    w = arr(0, 4, 6).requires_grad_()

    def f(x):
        w.grad = None
        h = F.dropout((x @ w).relu(), 0.5)
        loss = h.pow(2).sum()
        loss.backward()
        return h, loss

    return Case(f, lambda i: arr(i, 3, 4), lambda: w)


@topic.program("one program")
def exception_after_a_draw():
    def f(x, k):
        y = x + tj.rand(3)
        if k:
            raise ValueError("after the draw")
        return y * tj.rand(3)

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2))


@topic.program("branch")
def branch_on_a_random_number():
    def f(x):
        if tj.rand(()) < 0.5:
            return x * tj.rand(3)
        return x + tj.randn(3)

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def rejection_sampling():
    def f(limit):
        n = 0
        while True:
            n += 1
            u = tj.rand(())
            if u.item() < limit:
                return u, n

    return Case(f, lambda i: 0.3)


@topic.program("one program")
def in_place_random_fills():
    w = tj.zeros(4)

    def f(x):
        w.uniform_(-1, 1)
        y = x + w
        w.normal_(0.0, 0.5)
        w[:2].fill_(0.5)
        return y, w * 2

    return Case(f, lambda i: arr(i, 4), lambda: w)


@topic.program("one program")
def reparameterised_sampling():
    mu, log_var = arr(0, 4).requires_grad_(), arr(1, 4).requires_grad_()

    def f(x):
        mu.grad = log_var.grad = None
        z = mu + (0.5 * log_var).exp() * tj.randn_like(mu)
        loss = (z - x).pow(2).sum() - 0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
        loss.backward()
        return loss, z.detach()

    return Case(f, lambda i: arr(i, 4), lambda: (mu, log_var))


@topic.program("cut")
def shuffled_batches():
    data = arr(0, 12, 3)

    def f():
        order = tj.randperm(12)
        return [data[order[k : k + 4]].mean() for k in range(0, 12, 4)]

    return Case(f)


@topic.program("cut")
def generator_state_is_an_argument():
    def f(x, state):
        g = tj.Generator().set_state(state)
        return x + tj.rand(3, generator=g), g.get_state()

    world: dict[str, Any] = {"s": tj.Generator().manual_seed(3).get_state()}
    return Case(f, lambda i: (arr(i, 3), world["s"] if i % 3 else tj.Generator().manual_seed(i).get_state()))


@topic.program("sizes")
def draw_that_differs_after_a_dropout():
    def f(x, n):
        y = F.dropout(x, 0.5)
        return y.sum() + tj.rand(n).sum(), tj.rand(2)

    return Case(f, lambda i: (arr(i, 4), 3 + (i > 4) + (i > 6)))


@topic.program("one program")
def exception_after_a_dropout():
    def f(x, y):
        return F.dropout(x, 0.5) @ y

    return Case(f, lambda i: (arr(i, 4), arr(i, 5 if i % 4 == 3 else 4)))


test_program = topic.test()
