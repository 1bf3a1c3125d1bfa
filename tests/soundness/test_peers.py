"""What other compilers are known to get wrong or to refuse: tinygrad's list of footguns, JAX's sharp bits and FAQ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()


@topic.program("one program")
def tinygrad_output_buffer_reuse():
    kept: list[Any] = []

    def f(x):
        kept.append(x.sum())
        return kept[-1]

    return Case(f, lambda i: tj.tensor([i, i]), lambda: kept)


@topic.program("one program")
def tinygrad_two_sessions_of_feeding_back():
    world = {"x": tj.tensor([20.0])}

    def args(i):
        if i == 6:
            world["x"] = tj.tensor([100.0])
        return world["x"]

    def f(x):
        y = x + 1
        world["x"] = y * 2
        return world["x"]

    return Case(f, args)


@topic.program("one program")
def tinygrad_outputs_of_one_value_fed_back():
    world = {"buffer": tj.tensor([[0.0], [1.0], [2.0]])}

    def f(buffer, frame):
        new = tj.cat([buffer[1:], frame])
        world["buffer"] = new
        return new.contiguous(), new[:1].contiguous()

    return Case(f, lambda i: (world["buffer"], tj.tensor([[10.0 + i]])), lambda: world)


@topic.program("one program")
def tinygrad_slice_assign_then_read():
    cache = tj.zeros(4, 4)

    def args(i):
        cache.zero_()
        return i % 4

    def f(at):
        cache[at : at + 1, :] = tj.ones(1, 4)
        return cache.sum()

    return Case(f, args, lambda: cache)


@topic.program("sizes")
def tinygrad_symbolic_pad():
    a = arr(0, 3, 10)
    return Case(lambda x: tj.nn.functional.pad(x + 1, (0, 10 - x.shape[1])), lambda i: a[:, : 1 + i % 4])


@topic.program("one program")
def tinygrad_results_that_are_no_tensors():
    return Case(lambda x, k: (x * 2, k * 10, "text", None), lambda i: (tj.tensor([i]), i))


@topic.program("one program")
def tinygrad_implicit_input():
    x = tj.tensor([0])

    def args(i):
        x.copy_(tj.tensor([i]))
        return ()

    return Case(lambda: x * 2, args)


@topic.program("one program")
def tinygrad_views_with_other_offsets():
    base = arr(0, 10, 10)
    return Case(lambda a: a + 1, lambda i: base[:, i % 8 : i % 8 + 2])


@topic.program("one program")
def tinygrad_constant_tensor_argument():
    return Case(lambda a, b: a * b, lambda i: (tj.tensor([1, 2, 3]), tj.tensor(2 + i)))


@topic.program("eager")
def tinygrad_nothing_computed():
    return Case(lambda a, b: None, lambda i: (arr(i, 2), arr(i, 2)))


@topic.program("sizes")
def tinygrad_item_gives_a_shape():
    return Case(lambda x: tj.zeros(int(x.sum().item())), lambda i: tj.tensor([1, 1, i % 3]))


@topic.program("sizes")
def tinygrad_masked_select_and_tolist():
    def f(x, mask):
        return x.masked_select(mask), tj.tensor(x.tolist())

    return Case(f, lambda i: (arr(i, 4), arr(i + 5, 4) > 0))


@topic.program("one program")
def tinygrad_argument_mutated_each_call():
    a = tj.tensor([0])

    def f(x):
        x += 1
        return x

    return Case(f, lambda i: a, lambda: a)


@topic.program("one program")
def jax_iterator_as_an_input():
    source = iter(range(100))
    return Case(lambda x: sum((next(source) for _ in range(3)), x), lambda i: arr(i, 2))


@topic.program("one program")
def jax_out_of_bounds_index_raises():
    return Case(lambda x, k: (x * 2)[k], lambda i: (arr(i, 10), 11 if i % 4 == 3 else i))


@topic.program("sizes")
def jax_lists_where_arrays_are_meant():
    return Case(lambda xs: tj.tensor(xs).sum() + sum(xs), lambda i: ([1.0 * k for k in range(3 + i % 2)],))


@topic.program("branch")
def jax_loop_bound_and_while_on_values():
    def f(x, n):
        total = tj.zeros(())
        for k in range(n):
            total = total + x[k]
        while total > 1:
            total = total / 2
        return total

    return Case(f, lambda i: (arr(i, 4) + 1, tj.tensor(i % 4)))


@topic.program("sizes")
def jax_shape_that_depends_on_values():
    return Case(lambda x: (x[~tj.isnan(x)], tj.log(x)[x > 1].sum(), x[: int(x[0])]), lambda i: arr(i, 5).abs() * 2)


@topic.program("one program")
def jax_exact_numerics_of_log_of_exp():
    return Case(
        lambda x: (x.exp().log(), (x + 1) - 1, x * 3 / 3, x - x), lambda i: tj.tensor([100.0, 1.0 + i, math.inf])
    )


@topic.program("cut")
def jax_gradient_of_where_has_nan():
    def f(x):
        x.requires_grad_()
        y = tj.where(x > 0, x.sqrt() / x, tj.zeros(()))
        y.sum().backward()
        return x.grad

    return Case(f, lambda i: tj.tensor([0.0, 1.0 + i, -1.0]))


@topic.program("one program")
def jax_leaked_values():
    leaked: list[Any] = []

    def f(x):
        y = x + 1
        leaked.append(y)
        return y * 2

    def args(i):
        return arr(i, 2) + (leaked[-1] if leaked else 0)

    return Case(f, args, lambda: leaked)


@topic.program("one program")
def jax_method_with_a_counter(jit):
    class Counter:
        def __init__(self):
            self.n = 0

        @jit
        def count(self, x):
            self.n += 1
            return x * self.n

    c = Counter()
    return Case(
        lambda x: c.count(x),
        lambda i: arr(i, 2),
        lambda: c.n,
    )


@topic.program("one program")
def jax_method_of_an_object_equal_to_another(jit):
    class Scale:
        def __init__(self, s):
            self.s = s

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

        def __call__(self, x):
            return x * self.s

    a, b = Scale(2.0), Scale(3.0)
    return Case(lambda x, k: (a if k else b)(x), lambda i: (arr(i, 2), i % 2))


@topic.program("one program")
def jax_double_precision_is_kept():
    return Case(lambda x: (x + 1e-12, x.sum(), x.float() + 1e-12), lambda i: arr(i, 3, dtype=np.float64))


@topic.program("one program")
def jax_random_state_in_a_function():
    def f(x):
        return x + tj.rand(2), x + tj.rand(2)

    return Case(f, lambda i: tj.zeros(2))


@topic.program("branch")
def jax_argument_order_and_default_of_a_static_flag():
    def f(x, training=True, *, scale=1):
        return x * scale if training else x

    return Case(f, lambda i: [((arr(i, 2),), {}), ((arr(i, 2), False), {}), ((arr(i, 2),), {"scale": 2})][i % 3])


@topic.program("cut")
def torch_mutation_then_alias():
    def f(a, b):
        a.add_(1)
        return b * 2

    def args(i):
        a = arr(i, 3)
        return (a, a[:]) if i % 2 else (a, arr(i + 9, 3))

    return Case(f, args)


@topic.program("branch")
def torch_view_mutation_and_branch():
    def f(x, k):
        v = x[0]
        if k:
            v.add_(1)
        y = x * 2
        x[1] = 0
        return y, v

    return Case(f, lambda i: (arr(i, 2, 3), i % 2))


@topic.program("one program")
def torch_double_update_on_small_integers():
    x = tj.zeros(1, dtype=tj.int64)

    def f():
        x.add_(1)
        x.add_(x)
        return x * 2

    return Case(f, lambda i: (), lambda: x)


test_program = topic.test()
