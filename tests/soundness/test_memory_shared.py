"""Memory that is shared: aliases, in-place changes, overlapping arguments, old results."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()

KEPT = "a region keeps its tensors until the segment ends, so weak references and finalizers of temporaries act later"


@topic.program("branch")
def same_tensor_twice():
    def f(a, b):
        a.add_(1)
        return a * b, a is b

    def args(i):
        x = arr(i, 3)
        return (x, x) if i % 3 == 1 else (x, arr(i + 9, 3))

    return Case(f, args)


@topic.program("branch")
def same_leaf_twice_after_a_call_that_failed():
    x, z = arr(0, 3).requires_grad_(), arr(1, 3).requires_grad_()

    def f(a, b):
        h = a.exp()
        (h * b).sum().backward()
        return h

    def args(i):
        x.grad = z.grad = None
        return {7: (x, arr(2, 4)), 8: (x, x)}.get(i, (z, x))

    return Case(f, args, lambda: (x, z))


@topic.program("branch")
def overlapping_views_one_mutated():
    def f(a, b):
        a.mul_(2)
        return (a + b).sum(), b

    def args(i):
        base = arr(i, 10)
        return [(base[:6], base[4:]), (base[:5], base[5:]), (base, base[2:8][:6]), (base[::2], base[1::2])][i % 4]

    def wrapped(a, b):
        n = min(len(a), len(b))
        return f(a[:n], b[:n])

    return Case(wrapped, args)


@topic.program("one program")
def overlapping_arrays_unknown_to_the_tensors():
    def f(a, b):
        b.add_(a)
        return a.sum() + b.sum()

    def args(i):
        base = np.random.default_rng(i).standard_normal(12).astype(np.float32)
        at = [0, 2, 6][i % 3]
        return tj.from_numpy(base[:6]), tj.from_numpy(base[at : at + 6])

    return Case(f, args)


@topic.program("cut")
def argument_is_a_view_of_a_parameter():
    w = arr(0, 4, 3)

    def f(x):
        w.mul_(0.5)
        y = x + 1
        x.add_(1)
        return y + w.sum()

    return Case(f, lambda i: w[i % 4], lambda: w)


@topic.program("branch")
def in_place_on_arguments_of_all_kinds():
    def f(x):
        x += 1
        x[0] = 5
        x[1:].mul_(2)
        x.T.add_(1)
        x.clamp_(max=6)
        return x.sum()

    return Case(f, lambda i: arr(i, 3, 3) if i % 2 else arr(i, 3, 6)[:, ::2])


@topic.program("one program")
def swap_two_tensors_in_place():
    a, b = arr(0, 3), arr(1, 3)

    def f():
        t = a.clone()
        a.copy_(b)
        b.copy_(t)
        return a - b

    return Case(f, lambda i: (), lambda: (a, b))


@topic.program("one program")
def fibonacci_in_place():
    a, b = tj.ones(2), tj.ones(2)

    def f():
        a.add_(b)
        b.add_(a)
        a[0] = b[1]
        return a, b.clone()

    return Case(f, lambda i: (), lambda: (a, b))


@topic.program("one program")
def copy_from_an_overlapping_slice():
    def f(x):
        x[1:] = x[:-1].clone()
        x[:-1].copy_(x[1:])
        return x

    return Case(f, lambda i: arr(i, 5))


@topic.program("cut")
def view_made_before_and_used_after_change():
    def f(x):
        v, d, n = x[0], x.detach(), x.numpy()
        x.mul_(3)
        return v + d[1], float(n[0, 0]), v

    return Case(f, lambda i: arr(i, 2, 2))


@topic.program("one program")
def chain_of_views_changed_at_the_end():
    w = arr(0, 4, 6)

    def f(k):
        v = w.reshape(2, 2, 6)[1].T[k : k + 2]
        v += 1
        v[0] *= 2
        return v

    return Case(f, lambda i: i % 3, lambda: w)


@topic.program("cut")
def data_is_replaced():
    w = arr(0, 3)

    def f(x):
        w.data = w.data * 0.5 + x
        return w * 2

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def data_changed_in_place_on_a_parameter():
    w = arr(0, 3).requires_grad_()

    def f(x):
        y = (w * x).sum()
        w.grad = None
        y.backward()
        w.data.sub_(0.1 * w.grad)
        w.data[0] = 1.0
        return y

    return Case(f, lambda i: arr(i, 3), lambda: w)


@topic.program("one program")
def parameter_data_replaced_between_calls():
    w = arr(0, 3).requires_grad_()

    def args(i):
        if i % 3 == 2:
            w.data = arr(i, 3)
        return arr(i, 3)

    return Case(lambda x: (w * x).sum(), args, lambda: w)


@topic.program("one program")
def old_results_are_kept_and_never_overwritten():
    kept: list[Any] = []

    def f(x):
        y = x * 2
        kept.append(y)
        return y + 1, kept[0], kept[-2:]

    return Case(f, lambda i: arr(i, 3), lambda: kept)


@topic.program("one program")
def result_of_one_call_is_argument_of_the_next():
    world = {"x": arr(0, 3)}

    def f(x):
        world["x"] = x * 0.9 + 0.1
        return world["x"]

    return Case(f, lambda i: world["x"], lambda: world)


@topic.program("one program")
def result_changed_in_place_by_the_caller():
    got: list[Any] = []

    def args(i):
        if got:
            got[-1].fill_(float(i))
        return arr(i, 3)

    def f(x):
        got.append(x * 2)
        return got[-1]

    return Case(f, args, lambda: got)


@topic.program("one program")
def constant_tensor_made_inside_and_changed():
    def f(x):
        z = tj.zeros(3)
        z += x
        z[0] = 1
        return z, tj.ones(3).mul_(x)

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def constant_result_changed_by_the_caller():
    got: list[Any] = []

    def args(i):
        for z in got:
            z.add_(1)
        return ()

    def f():
        got.append(tj.zeros(3))
        return got[-1], tj.ones(2)

    return Case(f, args, lambda: got)


@topic.program("one program")
def two_results_that_are_the_same_computation():
    def f(x):
        a, b = x * 2, x * 2
        a.add_(1)
        return a, b, x + 0, x.clone(), x.clone()

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program", known=KEPT, collects=True)
def weak_references_die_as_in_eager():
    def f(x):
        y = x * 2
        ref = weakref.ref(y)
        z = y + 1
        alive = ref() is not None
        del y
        gc.collect()
        return z, alive, ref() is None

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program", collects=True)
def weak_references_die_after_the_call():
    refs: list[Any] = []

    def f(x):
        y = x * 2
        refs.append(weakref.ref(y))
        return y + 1

    def dead():
        gc.collect()
        return [r() is None for r in refs]

    return Case(f, lambda i: arr(i, 3), dead)


@topic.program("one program", known=KEPT, collects=True)
def finalizer_of_a_temporary():
    log: list[str] = []

    def f(x):
        y = x * 2
        weakref.finalize(y, log.append, "gone")
        z = y + 1
        del y
        gc.collect()
        log.append("after")
        return z

    return Case(f, lambda i: arr(i, 3), lambda: log)


@topic.program("one program")
def detached_memory_is_shared():
    def f(x):
        y = x * 2
        d = y.detach()
        d.add_(1)
        return y, d

    return Case(f, lambda i: arr(i, 3).requires_grad_())


@topic.program("one program")
def running_statistics_by_hand():
    mean, count = tj.zeros(3), tj.tensor(0)

    def f(x):
        count.add_(1)
        mean.add_((x.mean(0) - mean) / count)
        return (x - mean) * count

    return Case(f, lambda i: arr(i, 4, 3), lambda: (mean, count))


@topic.program("one program")
def double_buffering_by_swapping_names():
    world = {"a": arr(0, 3), "b": tj.zeros(3)}

    def f(x):
        world["b"].copy_(world["a"] * 0.5 + x)
        world["a"], world["b"] = world["b"], world["a"]
        return world["a"].sum()

    return Case(f, lambda i: arr(i, 3), lambda: world)


@topic.program("branch")
def in_place_error_leaves_everything_as_it_was():
    w = tj.arange(3)

    def f(x):
        w.add_(1)
        w.add_(x)
        return w

    return Case(f, lambda i: arr(i, 3) if i % 4 == 3 else tj.arange(3), lambda: w)


@topic.program("one program")
def half_of_a_tensor_updates_the_other_half():
    w = arr(0, 6)

    def f():
        w[:3].add_(w[3:])
        w[3:] -= w[:3] * 0.5
        return w.sum()

    return Case(f, lambda i: (), lambda: w)


@topic.program("cut")
def storage_pointer_and_identity():
    w = arr(0, 3)

    def f(x):
        before = w.data_ptr()
        w.add_(x)
        y = w.view(3)
        return w.data_ptr() == before, y.data_ptr() == before, y is w, (x * 2).data_ptr() == before

    return Case(f, lambda i: arr(i, 3), lambda: w)


test_program = topic.test()
