"""Python numbers: those that change, their types, their limits, and promotion."""

from __future__ import annotations

import math

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()


@topic.program("one program")
def float_that_changes_at_each_call():
    return Case(lambda x, s: x * s + s, lambda i: (arr(i, 4), 0.1 + i))


@topic.program("one program")
def int_that_changes_at_each_call():
    return Case(lambda x, n: x + n * 2, lambda i: (arr(i, 4), i))


@topic.program("branch")
def int_becomes_float_becomes_bool():
    return Case(lambda x, s: x * s, lambda i: (tj.arange(4), [1, 1.0, True, 2, 2.5][i % 5]))


@topic.program("one program")
def zero_and_minus_zero():
    return Case(
        lambda x, s: (x * s, tj.full((2,), s), tj.atan2(x * 0 + s, x)), lambda i: (arr(1, 4), -0.0 if i % 2 else 0.0)
    )


@topic.program("one program")
def nan_and_infinity_as_numbers():
    return Case(
        lambda x, s: (x + s, tj.full_like(x, s)), lambda i: (arr(i, 3), [math.nan, math.inf, -math.inf, 1.0][i % 4])
    )


@topic.program("branch")
def numpy_scalars_as_numbers():
    kinds = [np.float32, np.float64, np.int64, np.int8, np.bool_, float]
    return Case(lambda x, s: (x * s, s * x, x + s), lambda i: (arr(i, 3), kinds[i % 6](1 + i % 2)))


@topic.program("one program")
def python_number_too_large_for_the_type():
    return Case(lambda x, s: x + s, lambda i: (tj.arange(3).to(tj.uint8), 100 + 40 * i))


@topic.program("one program")
def negative_number_in_an_unsigned_type():
    return Case(lambda x, s: x * 2 + s, lambda i: (tj.arange(3).to(tj.uint8), 4 - i))


@topic.program("one program")
def integer_beyond_64_bits():
    return Case(lambda x, s: x + s, lambda i: (tj.arange(3), 2 ** (58 + i)))


@topic.program("one program")
def integer_that_float_rounds():
    return Case(lambda x, s: (x + s, x.double() + s), lambda i: (arr(i, 3), 2**53 + 2**30 + 1 + i))


@topic.program("one program")
def float_that_half_overflows():
    return Case(lambda x, s: x * s, lambda i: (tj.ones(3).half(), 10.0**i))


@topic.program("one program")
def float_in_an_integer_tensor():
    return Case(lambda x, s: (x * s, x // s, x % s, x / s), lambda i: (tj.arange(5), 1.5 + i))


@topic.program("one program")
def integer_division_by_zero():
    return Case(lambda x, s: (x // s, x % s), lambda i: (tj.arange(1, 4), 3 - i))


@topic.program("branch")
def powers_with_changing_exponents():
    return Case(lambda x, p: (x**p, 2.0**x, x.abs() ** (p * 0.5)), lambda i: (arr(i, 4), i % 5))


@topic.program("branch")
def integer_powers():
    return Case(lambda x, p: x**p, lambda i: (tj.arange(4), i % 4))


@topic.program("one program")
def bias_correction_by_hand():
    m = tj.zeros(3)
    world = {"t": 0}

    def f(g):
        world["t"] += 1
        m.mul_(0.9).add_(g, alpha=0.1)
        return m / (1 - 0.9 ** world["t"])

    return Case(f, lambda i: arr(i, 3), lambda: (m, world))


@topic.program("branch")
def number_is_used_twice_and_in_python():
    def f(x, s):
        y = x * s
        return y + s if s > 3 else y - s

    return Case(f, lambda i: (arr(i, 3), float(i)))


@topic.program("one program")
def two_numbers_that_are_equal_at_first():
    return Case(lambda x, a, b: x * a + b, lambda i: (arr(i, 3), 2.0, 2.0 if i < 5 else 3.0))


@topic.program("one program")
def number_that_changes_late():
    return Case(lambda x, a: (x * a).sum(), lambda i: (arr(i, 3), 2.0 if i < 6 else 2.0 + i))


@topic.program("branch")
def clamp_with_changing_bounds():
    return Case(
        lambda x, lo, hi: x.clamp(lo, hi) + x.clamp(min=lo),
        lambda i: (arr(i, 5), None if i % 4 == 3 else -0.1 * i, 0.2),
    )


@topic.program("sizes")
def arange_linspace_full_with_changing_numbers():
    return Case(
        lambda a, n: (tj.arange(0, n), tj.arange(0.0, a, 0.5), tj.linspace(0, a, 4), tj.full((2, n % 3), a)),
        lambda i: (1.0 + i, i % 4 + 1),
    )


@topic.program("sizes")
def sizes_computed_in_python():
    return Case(lambda x, k: x.reshape(k, -1).sum(0), lambda i: (arr(i, 12), [1, 2, 3, 4][i % 4]))


@topic.program("one program")
def scalar_tensor_against_python_number():
    return Case(lambda x, s: (x * tj.tensor(s), tj.tensor([s, 2.0]) + x), lambda i: (arr(i, 2), 0.5 * i))


@topic.program("one program")
def tensor_of_python_list():
    return Case(lambda a, b: tj.tensor([[a, b], [b, a]]) @ tj.ones(2), lambda i: (1.0 * i, 2.0))


@topic.program("branch")
def zero_dim_tensors_and_promotion():
    def f(x, y):
        return x + y, y * 2.5, x.int() + y, (x > 0) + y

    kinds = [tj.float32, tj.float64, tj.int64, tj.bool, tj.float16]
    return Case(f, lambda i: (arr(i, 3), tj.tensor(1).to(kinds[i % 5])))


@topic.program("sizes")
def default_dtype_changes_between_calls():
    def args(i):
        tj.set_default_dtype(tj.float64 if i % 4 == 3 else tj.float32)
        return tj.arange(3)

    return Case(lambda x: (x * 1.5, tj.zeros(2), tj.tensor(0.5), tj.rand(2), x / 2, tj.arange(0.0, 2.0)), args)


@topic.program("one program")
def default_dtype_changes_inside():
    def f(x):
        tj.set_default_dtype(tj.float64)
        try:
            return x * 2.5, tj.ones(2)
        finally:
            tj.set_default_dtype(tj.float32)

    return Case(f, lambda i: tj.arange(3))


@topic.program("one program")
def random_python_number():
    import random

    return Case(lambda x: x * random.random() + random.randint(0, 3), lambda i: arr(i, 3))


@topic.program("one program")
def numpy_random_number():
    return Case(lambda x: x * float(np.random.rand()), lambda i: arr(i, 3))


@topic.program("one program")
def time_of_day_is_not_frozen():
    import itertools

    clock = itertools.count()
    return Case(lambda x: x + next(clock) * 0.5, lambda i: arr(i, 3))


@topic.program("one program")
def subclass_of_float():
    class Metres(float):
        pass

    return Case(lambda x, s: (x * s, x + s), lambda i: (arr(i, 3), Metres(i % 3)))


@topic.program("one program")
def float_arguments_of_composites():
    def f(x, eps, slope):
        return tj.nn.functional.layer_norm(x, (4,), eps=eps), tj.nn.functional.leaky_relu(x, slope)

    return Case(f, lambda i: (arr(i, 3, 4), 1e-5 * (1 + i), 0.1 * (i % 3)))


@topic.program("one program")
def numpy_floats_in_composites():
    def f(x, slope):
        return tj.nn.functional.leaky_relu(x, slope), tj.nn.functional.elu(x, alpha=slope)

    return Case(f, lambda i: (arr(1, 4), np.float64([0.0, -0.0, 0.5][i % 3])))


@topic.program("sizes")
def bool_and_int_flags_of_composites():
    def f(x, k):
        return tj.nn.functional.softmax(x, dim=k), x.var(dim=0, correction=int(k)), x.sum(0, keepdim=bool(k))

    return Case(f, lambda i: (arr(i, 3, 4), [0, 1, False, True, -1][i % 5]))


@topic.program("branch")
def alpha_of_add_changes():
    return Case(lambda x, y, a: tj.add(x, y, alpha=a), lambda i: (arr(i, 3), arr(i + 9, 3), [1, 2, 0.5][i % 3]))


@topic.program("one program")
def fractions_and_other_numbers():
    from decimal import Decimal
    from fractions import Fraction

    given = [2, Fraction(1, 2), Decimal("1.5"), 1j]
    return Case(lambda x, s: x * s, lambda i: (arr(i, 2), given[i % 4]))


@topic.program("branch")
def exponents_that_are_special_and_others():
    return Case(lambda x, p: x**p, lambda i: (arr(i, 4).abs() + 0.5, [2, 3.5, 0.5, -1, 2.0, -2, 1.7, 1][i % 8]))


@topic.program("one program")
def numbers_of_random_operations():
    def f(x, low, p):
        y = x * 0
        return y.uniform_(low, 2.0), tj.nn.functional.dropout(x, p), y.clone().bernoulli_(p), y.clone().normal_(0.0, p)

    return Case(f, lambda i: (arr(i, 6), 0.1 * i, [0.5, 0.25][i % 2]))


@topic.program("branch")
def numbers_of_random_operations_out_of_range():
    def f(x, p):
        return (x * 0).bernoulli_(p)

    return Case(f, lambda i: (arr(i, 6), [0.5, 1.5, -0.5, 1.0][i % 4]))


@topic.program("one program")
def rates_of_waiting_times():
    return Case(lambda x, rate: (x * 0).exponential_(rate), lambda i: (arr(i, 6), 1.0 + i % 3))


@topic.program("one program")
def numbers_added_to_numbers():
    return Case(lambda x, y, a: x * tj.add(y, 2, alpha=a), lambda i: (arr(i, 3), 1 + i % 2, 3 + i % 3))


test_program = topic.test()
