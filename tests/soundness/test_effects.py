"""Effects: printing, logging, counting, files, the world outside; exceptions raised anywhere."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import tracejit as tj
from harness import Case, Topic, arr
from tracejit import nn, optim

topic = Topic()


@topic.program("one program")
def print_of_python_values():
    n = [0]

    def f(x):
        n[0] += 1
        print("call", n[0], x.shape)
        return x * 2

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def print_of_tensors_in_the_middle():
    def f(x):
        y = x * 2
        print("y is", y)
        z = y + 1
        print(f"{z.sum():.4f}", z[0])
        return z

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def logging_with_lazy_formatting():
    stream = io.StringIO()
    logger = logging.Logger("hostile")
    logger.addHandler(logging.StreamHandler(stream))

    def args(i):
        logger.setLevel(logging.INFO if i % 3 else logging.ERROR)
        return arr(i, 3)

    def f(x):
        y = x.exp()
        logger.info("sum %s", y.sum())
        return y

    return Case(f, args, stream.getvalue)


@topic.program("cut")
def written_to_a_file():
    file = io.StringIO()

    def f(x):
        y = x * 2
        file.write(f"{y.sum().item():.6f}\n")
        return y + 1

    return Case(f, lambda i: arr(i, 3), file.getvalue)


@topic.program("one program")
def read_from_a_file():
    file = io.StringIO("\n".join(str(k) for k in range(20)))
    return Case(lambda x: x * float(file.readline()), lambda i: arr(i, 3), file.tell)


@topic.program("branch")
def counter_and_early_return():
    world = {"n": 0}

    def f(x):
        world["n"] += 1
        if world["n"] % 4 == 0:
            return None
        return x * world["n"]

    return Case(f, lambda i: arr(i, 3), lambda: world)


@topic.program("cut")
def order_of_effects_and_reads():
    log: list[Any] = []

    def f(x):
        log.append("start")
        y = x * 2
        log.append(y.sum().item())
        y += 1
        log.append(y[0].item())
        log.append(y)
        return y

    return Case(f, lambda i: arr(i, 3), lambda: log[-8:])


@topic.program("one program")
def warnings_are_given_each_time():
    got: list[str] = []

    def f(x):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn("careful", UserWarning, stacklevel=1)
            y = x * 2
        got.extend(str(w.message) for w in caught)
        return y

    return Case(f, lambda i: arr(i, 3), lambda: got)


@topic.program("sizes")
def metrics_object_of_the_user():
    class Meter:
        def __init__(self):
            self.total, self.count = 0.0, 0

        def update(self, value, n):
            self.total += float(value) * n
            self.count += n

        @property
        def mean(self):
            return self.total / self.count

    meter = Meter()

    def f(x):
        y = (x * x).mean()
        meter.update(y, len(x))
        return y * meter.mean

    return Case(f, lambda i: arr(i, 2 + i % 2), lambda: (meter.total, meter.count))


@topic.program("one program")
def exception_before_anything():
    def f(x, k):
        if k:
            raise KeyError("nothing")
        return x * 2

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2))


@topic.program("one program")
def exception_after_in_place():
    w = arr(0, 3)
    log: list[Any] = []

    def f(x, k):
        w.add_(x)
        log.append(w * 2)
        if k:
            raise ValueError(f"at {len(log)}")
        w.mul_(0.5)

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: (w, log))


@topic.program("one program")
def exception_after_backward_and_after_step():
    m = nn.Linear(3, 1)
    opt = optim.Adam(m.parameters(), lr=0.1)

    def f(x, k):
        opt.zero_grad()
        loss = m(x).pow(2).mean()
        if k == 3:
            raise RuntimeError("after forward")
        loss.backward()
        if k == 4:
            raise RuntimeError("after backward")
        opt.step()
        if k == 5:
            raise RuntimeError("after step")
        return loss

    return Case(
        f,
        lambda i: (arr(i, 4, 3), i % 7),
        lambda: (m, opt),
    )


@topic.program("one program")
def exception_inside_a_module():
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.n = nn.Linear(3, 3), nn.BatchNorm1d(3), 0

        def forward(self, x):
            self.n += 1
            h = self.b(self.a(x))
            if self.n % 4 == 0:
                raise ArithmeticError("fragile")
            return h

    m = Fragile()
    return Case(m, lambda i: arr(i, 4, 3), lambda: (m, m.n))


@topic.program("one program")
def exception_of_a_shape_in_the_middle():
    w = arr(0, 3)

    def f(x):
        w.add_(1)
        y = x @ tj.ones(3, 2)
        w.mul_(2)
        return y

    return Case(f, lambda i: arr(i, 2, 4 if i % 4 == 3 else 3), lambda: w)


@topic.program("branch")
def exception_caught_inside():
    log: list[str] = []

    def f(x, k):
        y = x * 2
        try:
            y = y + 1
            z = y.reshape(k, 2)
        except RuntimeError as e:
            log.append(type(e).__name__)
            z = y
        else:
            log.append("fine")
        finally:
            log.append("finally")
        return z * 3

    return Case(f, lambda i: (arr(i, 4), 2 + i % 2), lambda: log)


@topic.program("one program")
def finally_changes_tensors():
    w = arr(0, 3)

    def f(x, k):
        try:
            y = x * w
            if k:
                raise ValueError("stop")
            return y
        finally:
            w.mul_(0.9)

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: w)


@topic.program("one program")
def keyboard_interrupt_and_system_exit():
    w = arr(0, 3)

    def f(x, k):
        w.add_(x)
        if k == 3:
            raise KeyboardInterrupt
        if k == 4:
            raise SystemExit(2)
        w.mul_(0.5)
        return w.sum()

    return Case(f, lambda i: (arr(i, 3), i % 6), lambda: w)


@topic.program("branch")
def exception_of_the_gradient_engine():
    w = arr(0, 3).requires_grad_()

    def f(x, k):
        w.grad = None
        y = (w * x).exp()
        loss = y.sum()
        loss.backward()
        if k:
            loss.backward()
        return loss

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: w)


@topic.program("cut")
def exception_in_a_gradient_hook():
    w = arr(0, 3).requires_grad_()
    world = {"raise": False}

    def hook(g):
        if world["raise"]:
            raise ValueError("hook")
        return g * 2

    w.register_hook(hook)

    def f(x):
        w.grad = None
        loss = (w * x).sum()
        loss.backward()
        return loss

    def args(i):
        world["raise"] = i % 3 == 2
        return arr(i, 3)

    return Case(f, args, lambda: w)


@topic.program("one program")
def exception_in_the_called_callback():
    def f(x, g):
        y = x * 2
        z = g(y)
        return z + 1

    def bad(y):
        raise LookupError(f"{y.shape}")

    return Case(f, lambda i: (arr(i, 3), bad if i % 3 == 2 else tj.exp))


@topic.program("branch")
def exception_chain_and_notes():
    def f(x, k):
        y = x * 2
        try:
            if k:
                int("x")
        except ValueError as e:
            raise RuntimeError(f"first of {y.sum().item():.3f}") from e
        return y

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2))


@topic.program("branch")
def assignment_to_a_leaf_is_refused():
    w = arr(0, 3).requires_grad_()

    def f(x, k):
        y = w * x
        if k:
            w.add_(1)
        return y.sum()

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: w)


@topic.program("branch")
def value_saved_for_backward_is_changed():
    w = arr(0, 3).requires_grad_()

    def f(x, k):
        w.grad = None
        h = w * x
        y = (h * h).sum()
        if k:
            h.add_(1)
        y.backward()
        return y

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2), lambda: w)


@topic.program("one program")
def stop_iteration_of_a_data_iterator():
    world = {"it": iter([arr(k, 3) for k in range(3)])}

    def f(x):
        y = x * 2
        try:
            b = next(world["it"])
        except StopIteration:
            world["it"] = iter([arr(k, 3) for k in range(3)])
            b = next(world["it"])
        return y + b

    return Case(f, lambda i: arr(i, 3))


@topic.program("sizes")
def item_of_many_elements_raises():
    return Case(lambda x: (x * 2).item(), lambda i: arr(i, 1 + (i % 3 == 2)))


@topic.program("branch")
def recursion_without_end():
    def f(x, k):
        def deeper(y, n):
            return deeper(y, n + 1) if n < 10_000 else y

        y = x + 1
        try:
            return deeper(y, 0 if k else 9_990)
        except RecursionError:
            return y * 2

    return Case(f, lambda i: (arr(i, 3), i % 3 == 2))


@topic.program("one program")
def computed_index_out_of_range_before_a_backward():
    w, v = arr(0, 5, 2).requires_grad_(), arr(1, 2).requires_grad_()

    def f(x):
        w.grad = v.grad = None
        (v * v).sum().backward()
        rows = w[(x * 2).long()]
        (rows * v).sum().backward()
        with tj.no_grad():
            v.sub_(v.grad, alpha=0.1)
        return rows

    return Case(f, lambda i: tj.tensor([0.0, 1.5, 9.0 if i % 4 == 3 else 1.0]), lambda: (w, v))


test_program = topic.test()
