"""Corners: composites of the user, memory that NumPy shows, copies inside, identity, errors that come later."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr
from tracejit.nn import functional as F

topic = Topic()

NUMPY = "memory that is shared with NumPy is read and written at once, pending operations only when their program runs"


class Two(NamedTuple):
    """Two operands."""

    a: Any
    b: Any


class Options:
    """An object that can change."""

    def __init__(self) -> None:
        self.scale = 2.0


@tj.composite
def scaled_with_number(x, s):
    return x * s, s


@tj.composite
def product_of(x, pair):
    return x * pair.a + pair.b


@tj.composite
def with_options(x, options):
    return x * options.scale


@tj.composite
def power_if_large(x, s):
    return x**s if s > 1 else x * s


@tj.composite
def plus_ones(x):
    return x + tj.ones(3) * 0.1


@tj.composite
def noisy(x):
    return x + tj.rand(3)


@topic.program("sizes")
def composite_that_draws():
    def f(x, n):
        return noisy(x) * 2, tj.rand(n), noisy(x)

    return Case(f, lambda i: (arr(i, 3), 3 + (i > 4) + (i > 6)))


@topic.program("one program")
def composite_that_draws_before_an_exception():
    def f(x, y):
        return noisy(x) @ y

    return Case(f, lambda i: (arr(i, 3), arr(i, 4 if i % 4 == 3 else 3)))


@topic.program("sizes")
def composite_that_makes_tensors_of_the_default_type():
    def args(i):
        tj.set_default_dtype(tj.float64 if i % 4 == 3 else tj.float32)
        return tj.arange(3)

    return Case(plus_ones, args)


@topic.program("sizes")
def composite_that_returns_its_number():
    return Case(scaled_with_number, lambda i: (arr(i, 3), 0.5 * i))


@topic.program("one program")
def composite_of_a_named_tuple():
    return Case(lambda x, y: product_of(x, Two(y, x)), lambda i: (arr(i, 3), arr(i + 9, 3)))


@topic.program("one program")
def composite_of_an_object_that_changes():
    options = Options()

    def args(i):
        options.scale = 1.0 + i
        return arr(i, 3)

    return Case(lambda x: with_options(x, options), args)


@topic.program("branch")
def composite_that_branches_on_its_number():
    return Case(lambda x, s: power_if_large(x.abs(), s), lambda i: (arr(i, 3), [0.5, 2.0, 0.7, 3.0][i % 4]))


@topic.program("eager")
def composite_of_an_array():
    @tj.composite
    def weighed(x, a):
        return x * float(a[0]) + tj.from_numpy(a.copy())

    a = np.ones(3, np.float32)

    def args(i):
        a[0] = i // 2
        return arr(i, 3), a

    return Case(lambda x, b: weighed(x, b), args)


@topic.program("sizes")
def composites_and_the_default_type():
    def args(i):
        tj.set_default_dtype(tj.float64 if i % 4 == 3 else tj.float32)
        return tj.arange(1, 4)

    def f(k):
        return k.float().softmax(0), F.one_hot(k, 5) / 2, k / 2, (k > 1).float().mean(), tj.sigmoid(k), tj.std(k * 0.5)

    return Case(f, args)


@topic.program("one program")
def result_is_the_argument_itself():
    def f(x):
        a, b, c = F.dropout(x, 0.5, training=False), x.to(tj.float32), x.contiguous()
        return a is x, b is x, c is x, a, x.cpu() is x, x.detach() is x

    return Case(f, lambda i: arr(i, 3))


@topic.program("cut")
def copies_and_pickles_of_pending_values():
    def f(x):
        y = x * 2
        a, b, c = copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y))
        y.add_(1)
        return a, b, c, y + a

    return Case(f, lambda i: arr(i, 3))


@topic.program("eager")
def read_of_an_array_that_another_tensor_changed():
    def f(a, b):
        a.add_(1)
        return b.tolist(), b.sum().item()

    def args(i):
        base = np.random.default_rng(i).standard_normal(6).astype(np.float32)
        return tj.from_numpy(base), tj.from_numpy(base[2:])

    return Case(f, args)


@topic.program("one program", known=NUMPY)
def array_of_a_parameter_is_read_inside():
    w = tj.zeros(3)
    shown = w.numpy()

    def f(x):
        w.add_(x)
        return float(shown[0])

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program", known=NUMPY)
def array_of_an_argument_is_written_inside():
    def f(x):
        y = x * 2
        x.numpy()[0] = 100.0
        return y

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def argument_changed_before_the_caller_walks_back():
    w = arr(0, 3).requires_grad_()
    got: list[Any] = []

    def args(i):
        x = arr(i, 3)
        errors = []
        for y, old in got:
            if i % 2:
                old.add_(1)
            try:
                y.backward()
            except RuntimeError as e:
                errors.append(str(e))
        got.clear()
        return x, errors

    def f(x, errors):
        y = (w * x).sum()
        got.append((y, x))
        return len(errors), errors

    return Case(f, args, lambda: w)


@topic.program("one program")
def saved_value_changed_inside_and_walked_back_outside():
    w = arr(0, 3).requires_grad_()
    got: list[Any] = []

    def args(i):
        errors = []
        for y in got:
            try:
                y.backward()
            except RuntimeError as e:
                errors.append(str(e))
        got.clear()
        return arr(i, 3), errors

    def f(x, errors):
        y = (w * x).sum()
        x.add_(1)
        got.append(y)
        return errors

    return Case(f, args, lambda: w)


@topic.program("branch")
def argument_turns_from_tensor_to_none():
    def f(x, w, b):
        return F.linear(x, w, b)

    return Case(f, lambda i: (arr(i, 2, 3), arr(1, 4, 3), [arr(i, 4), None, arr(i + 3, 4)][i % 3]))


@topic.program("branch")
def graph_step_names_are_seen():
    w = arr(0, 3).requires_grad_()

    def f(x):
        y = (w * x).exp()
        return y.grad_fn.name(), len(y.grad_fn.next_functions), y.is_leaf, y.requires_grad, (y.detach()).grad_fn

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def gradient_assigned_and_deleted():
    w = arr(0, 3).requires_grad_()

    def f(x, k):
        if k == 1:
            w.grad = x * 2
        elif k == 2:
            del w.grad
        (w * x).sum().backward()
        return w.grad * 1

    return Case(f, lambda i: (arr(i, 3), i % 4), lambda: w)


@topic.program("branch")
def numbers_swap_places():
    return Case(lambda x, a, b: (x * a - b, x * b), lambda i: (arr(i, 3), *((1.0, 2) if i % 2 else (2, 1.0))))


@topic.program("branch")
def whole_numbers_in_fills():
    def f(x, k):
        y = x.clone()
        y[0] = k
        return y, x.masked_fill(x > 1, k), tj.where(x > 1, x, k), x.clamp(max=k), tj.full((2,), k, dtype=x.dtype), x < k

    return Case(f, lambda i: (tj.arange(4).to([tj.uint8, tj.int8, tj.int64][i % 3]), 60 * i - 100))


@topic.program("branch")
def many_branches_settle():
    def f(x, bits):
        for k in range(3):
            x = x * 2 if bits >> k & 1 else x + k
        return x

    return Case(f, lambda i: (arr(i, 3), i % 8), lambda: None)


@topic.program("branch")
def branch_that_ends_earlier():
    log: list[Any] = []

    def f(x, k):
        y = x * 2
        if k == 0:
            return y
        z = y + 1
        if k == 1:
            return z
        log.append(z * y)
        return None

    return Case(f, lambda i: (arr(i, 3), i % 3), lambda: log)


@topic.program("one program")
def same_operations_with_other_survivors():
    world: dict[str, Any] = {}

    def f(x, keep):
        a = x * 2
        b = a + 1
        c = b.exp()
        if "a" in keep:
            world["a"] = a
        if "b" in keep:
            world["b"] = b
        return c

    return Case(f, lambda i: (arr(i, 3), ["", "a", "b", "ab"][i % 4]), lambda: world)


test_program = topic.test()
