"""Reads of values, and Python that goes on with them."""

from __future__ import annotations

import math

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()


@topic.program("branch")
def branch_on_the_sign_of_a_sum():
    def f(x):
        if x.sum() > 0:
            return x * 2
        return x - 1

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def best_loss_so_far_decides():
    world = {"best": math.inf, "bad": 0}

    def f(x):
        loss = (x * x).mean()
        if loss < world["best"]:
            world["best"] = loss.item()
            world["bad"] = 0
        else:
            world["bad"] += 1
        return loss, world["bad"]

    return Case(f, lambda i: arr(i, 5), lambda: world)


@topic.program("branch")
def trip_count_from_a_value():
    def f(x):
        n = 0
        while (x * x).sum() > 1.0:
            x = x * 0.5
            n += 1
        return x, n

    return Case(f, lambda i: arr(i, 4) * (1 + i % 3))


@topic.program("cut")
def float_read_and_fed_back():
    def f(x):
        scale = float(x.abs().max())
        return x / scale, (x / scale).sum() * scale

    return Case(f, lambda i: arr(i, 6))


@topic.program("sizes")
def int_read_and_used_as_a_size():
    def f(x):
        n = int((x > 0).sum()) % 3 + 1
        return x[:n] * 2, tj.zeros(n)

    return Case(f, lambda i: arr(i, 8))


@topic.program("cut")
def every_way_of_reading():
    def f(x):
        y = x * 2
        s = y.sum()
        return (
            s.item(),
            float(s),
            int(s),
            bool(s > 0),
            y.tolist(),
            y.detach().numpy().copy(),
            repr(y),
            f"{s.item():.3f} {s}",
            len(y),
            [float(e) for e in y],
            y.argmax().item(),
            np.asarray(y).sum(),
        )

    return Case(f, lambda i: arr(i, 4))


@topic.program("one program")
def iteration_gives_views_of_a_pending_value():
    def f(x):
        y = x + 1
        return [row * k for k, row in enumerate(y)]

    return Case(f, lambda i: arr(i, 3, 2))


@topic.program("one program")
def unpacking_a_tensor():
    def f(x):
        a, b, c = x.exp()
        return a + b * c

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def membership_and_equality():
    def f(x):
        y = x.round()
        return 1.0 in y, tj.equal(y, y.clone()), tj.allclose(x, y, atol=0.5), x.is_nonzero() if x.numel() == 1 else None

    return Case(f, lambda i: arr(i, 5))


@topic.program("branch")
def match_statement_on_a_value():
    def f(x):
        match int(x.sum().item()) % 3:
            case 0:
                return x.exp()
            case 1:
                return x.sin()
            case _:
                return x

    return Case(f, lambda i: arr(i, 3) * 3)


@topic.program("branch")
def conditional_expression_and_any_all():
    def f(x):
        y = x.tanh()
        return y if (y > 0).any() and not (y > 0).all() else y.abs()

    return Case(f, lambda i: arr(i, 2))


@topic.program("branch")
def assertion_on_values():
    def f(x):
        y = x.sum()
        assert y < 1.0, f"too large: {y.item():.2f}"
        return y * 2

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def value_as_a_dictionary_key():
    seen: dict[int, int] = {}

    def f(x):
        k = int(x.argmax())
        seen[k] = seen.get(k, 0) + 1
        return x * seen[k]

    return Case(f, lambda i: arr(i, 3), lambda: seen)


@topic.program("branch")
def value_as_an_index_into_a_list_of_functions():
    table = [lambda x: x + 1, lambda x: x * 2, tj.exp]
    return Case(lambda x: table[int(x.argmax())](x), lambda i: arr(i, 3))


@topic.program("cut")
def line_search():
    def f(x):
        step, start = 1.0, (x * x).sum().item()
        while True:
            y = x - step * 2 * x
            if (y * y).sum().item() < start or step < 1e-3:
                return y, step
            step *= 0.5

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def newton_until_converged():
    def f(a):
        x = a.clone()
        for k in range(30):
            new = 0.5 * (x + a / x)
            if float((new - x).abs().max()) < 1e-6:
                return new, k
            x = new
        return x, 30

    return Case(f, lambda i: arr(i, 4).abs() + 0.5)


@topic.program("branch")
def nan_stops_the_step():
    w = tj.ones(3)

    def f(x):
        loss = (x.log() * w).sum()
        if tj.isnan(loss):
            return None
        w.mul_(0.5)
        return loss

    return Case(f, lambda i: arr(i, 3).abs() * (-1 if i % 4 == 3 else 1), lambda: w)


@topic.program("cut")
def numpy_in_the_middle():
    def f(x):
        a = (x * 2).numpy()
        return tj.from_numpy(np.sort(a)) + 1, tj.tensor(a.max())

    return Case(f, lambda i: arr(i, 5))


@topic.program("cut")
def numpy_function_on_a_pending_tensor():
    return Case(lambda x: np.tanh(np.asarray(x * 2)).sum(), lambda i: arr(i, 5))


@topic.program("one program")
def numpy_array_shares_memory_with_a_parameter():
    w = tj.zeros(3)
    shown = w.numpy()

    def f(x):
        w.add_(x)
        return w.sum()

    return Case(f, lambda i: arr(i, 3), lambda: (w, shown.copy()))


@topic.program("one program")
def written_through_numpy_between_calls():
    a = np.zeros(3, np.float32)
    w = tj.from_numpy(a)

    def args(i):
        a[:] = i
        return arr(i, 3)

    return Case(lambda x: (x + w).sum(), args, lambda: w)


@topic.program("sizes")
def nonzero_masks_unique_sort_topk():
    def f(x):
        y = x.round()
        values, places = y.topk(2)
        return tj.nonzero(y > 0), y[y > 0] * 2, tj.unique(y), y.sort(), y.argsort(), values + 1, places, y.median()

    return Case(f, lambda i: arr(i, 7))


@topic.program("one program")
def losses_weighted_by_the_bucket_they_are_in():
    bounds, weights = tj.tensor([-0.5, 0.0, 0.5]), tj.tensor([0.0, 1.0, 2.0, 4.0])
    w = tj.full((7,), 0.5, requires_grad=True)

    def f(x):
        w.grad = None
        errors = x - w
        at = tj.bucketize(errors.detach(), bounds)
        (errors.square() * weights[at]).sum().backward()
        return at, tj.searchsorted(errors.detach().sort()[0], x, right=True), w.grad.clone()

    return Case(f, lambda i: arr(i, 7))


@topic.program("one program")
def losses_in_order():
    w = arr(0, 5, 3).requires_grad_()

    def f(x):
        w.grad = None
        losses = (x @ w).square().sum(1)
        hardest, rows = losses.topk(4)
        (hardest.sum() + losses.median() + (losses.sort().values * tj.arange(8.0)).mean()).backward()
        return rows, losses.argsort(descending=True), w.grad.clone()

    return Case(f, lambda i: arr(i, 8, 5))


@topic.program("sizes")
def where_with_one_argument_and_masked_select():
    def f(x):
        m = x > 0
        return x.masked_select(m).sum(), tj.argwhere(m).shape, x[m].mean()

    return Case(f, lambda i: arr(i, 3, 4) + 0.1)


@topic.program("branch")
def policy_gradient_step():
    w = arr(0, 4, 3).requires_grad_()
    generator = tj.Generator().manual_seed(5)

    def f(obs):
        w.grad = None
        logp = tj.log_softmax(obs @ w, dim=-1)
        action = tj.multinomial(logp.detach().exp(), 1, generator=generator)
        reward = 1.0 if action.item() == 1 else -0.5
        loss = -(logp[0, action.item()] * reward)
        loss.backward()
        with tj.no_grad():
            w.sub_(w.grad, alpha=0.1)
        return reward, loss.item()

    return Case(
        f,
        lambda i: arr(i, 1, 4),
        lambda: (w, generator),
    )


@topic.program("cut")
def read_inside_a_called_function():
    def norm(x):
        return math.sqrt((x * x).sum().item())

    return Case(lambda x: x / norm(x) + norm(x * 2), lambda i: arr(i, 4))


@topic.program("one program")
def read_of_an_argument_alone():
    def f(x, n):
        return x * n.item() + int(n)

    return Case(f, lambda i: (arr(i, 3), tj.tensor(i % 4)))


@topic.program("cut")
def a_read_that_nothing_uses():
    def f(x):
        y = x * 2
        y.sum().item()
        return y + 1

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def tensor_as_python_index_and_range():
    items = [10.0, 20.0, 30.0]

    def f(k, x):
        total = x
        for _ in range(k + 1):
            total = total + 1
        return total, items[k % 3]

    return Case(f, lambda i: (tj.tensor(i % 3), arr(i, 2)))


@topic.program("branch")
def comparison_chain_and_boolean_operators():
    def f(x):
        s = x.sum()
        if -1 < s < 1:
            return "middle", x
        return ("high" if s >= 1 or x.max() > 3 else "low"), x * 0

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def minimum_and_maximum_of_python():
    return Case(lambda x, y: max(x.sum(), y.sum()) * 2 + min(x[0], y[0]), lambda i: (arr(i, 3), arr(i + 30, 3)))


@topic.program("cut")
def sorted_list_of_tensors():
    return Case(
        lambda xs: sorted([x.sum() for x in xs], key=float), lambda i: ([arr(i + 10 * k, 3) for k in range(3)],)
    )


test_program = topic.test()
