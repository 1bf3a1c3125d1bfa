"""Tensors that a replayed call finds: other ones in each call, ones that are like the former and ones that are not."""

from __future__ import annotations

import numpy as np
import pytest

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import arr
from tracejit import nn
from tracejit.trace.compiled import region_of


def test_tensors_that_are_the_same_or_share_memory():
    w = arr(3, 4)

    @tj.compile
    def f(x, y):
        w.mul_(0.5)
        return x + 2 * y + w

    a, b = arr(0, 4), arr(1, 4)
    for i in range(24):
        pair = [(a, b), (a, a), (w, b), (a, w[:]), (b, a)][i % 5]
        before = w.clone()
        expected_w = before * 0.5
        x, y = (expected_w if t is w or t.data_ptr() == w.data_ptr() else t for t in pair)
        expected = x + 2 * y + expected_w
        found = f(*pair)
        assert found.tolist() == expected.tolist(), i
        assert w.tolist() == expected_w.tolist()


def test_shapes_types_strides_and_gradients_of_arguments_are_checked():
    f = tj.compile(lambda x: (x * 2).sum(0))
    for i in range(6):
        f(arr(i, 3, 2))
    assert region_of(f).calls.replayed > 0
    leaf = tj.ones(3, 2, requires_grad=True)
    for x in (arr(0, 4, 2), arr(0, 2, 3).T, arr(0, 3, 2).double(), arr(0, 3, 2).int(), leaf, leaf * 2, arr(0, 6)):
        expected = (x * 2).sum(0)
        found = f(x)
        assert found.tolist() == expected.tolist()
        assert (found.dtype, found.requires_grad) == (expected.dtype, expected.requires_grad)


def training_on(batches):
    """A step of SGD on one batch after the other."""
    model = net(4, 3, 2)
    opt = tj.optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        opt.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    made = [batch(model) for batch in batches]
    return step, lambda i: (made[i % len(made)],), lambda: list(model.state_dict().values())


def test_another_batch_in_each_call_is_replayed():
    def random(model):
        return tj.randn(5, 4)

    both(lambda: training_on([random] * 4), calls=16, least=10)


def hooked(t):
    """A tensor with a hook."""
    t.register_hook(lambda grad: None)
    return t


def readonly(shape):
    """An array that must not be written."""
    array = np.ones(shape, np.float32)
    array.setflags(write=False)
    return array


@pytest.mark.filterwarnings("ignore:.*not writ.*")
@pytest.mark.parametrize(
    "odd",
    [
        lambda model: tj.randn(4, 5).T,
        lambda model: tj.randn(10, 4)[::2],
        lambda model: tj.randn(6, 4)[1:],
        lambda model: tj.randn(5, 4).requires_grad_(),
        lambda model: tj.randn(3, 4),
        lambda model: tj.randn(5, 4, dtype=tj.float64).float(),
        lambda model: nn.Parameter(tj.randn(5, 4), requires_grad=False),
        lambda model: hooked(tj.randn(5, 4).requires_grad_()),
        lambda model: tj.from_numpy(readonly((5, 4))),
        lambda model: tj.randn(1, 5, 4)[0],
        lambda model: tj.randn(20).reshape(5, 4),
    ],
    ids=[
        *("transposed", "strided", "a view", "a leaf", "another size", "converted", "a parameter", "hooked"),
        *("readonly", "indexed", "reshaped"),
    ],
)
def test_a_batch_that_is_not_like_the_others(odd):
    def plain(model):
        return tj.randn(5, 4)

    both(lambda: training_on([plain, plain, odd]), calls=18)


@pytest.mark.parametrize(
    "shared",
    [
        lambda model: model[0].weight.detach()[:2],
        lambda model: tj.from_numpy(model[0].weight.detach().numpy()[1:]),
        lambda model: tj.from_numpy(model[0].weight.detach().numpy()[:2]),
    ],
    ids=["a view", "the end", "the beginning"],
)
def test_a_batch_in_the_memory_of_a_parameter(shared):
    # The step changes what it reads.
    def plain(model):
        return tj.randn(2, 4)

    both(lambda: training_on([plain, plain, plain, shared]), calls=20)


def test_two_tensors_of_a_call_are_one_or_belong_to_the_model():
    w = arr(3, 4)

    @tj.compile
    def f(x, y):
        return x * 2 + y, w * x

    one, two = arr(0, 4), arr(1, 4)
    for i in range(24):
        x, y = [(one, two), (two, one), (one, one), (w, two), (one, w)][i % 5 if i >= 8 else i % 2]
        first, second = f(x, y)
        assert first.tolist() == (x * 2 + y).tolist()
        assert second.tolist() == (w * x).tolist()
        assert len({id(t) for t in (first, second, x, y)}) == 4 - (x is y)
    assert region_of(f).calls.replayed >= 8


def test_the_number_of_threads_changes_between_replays():
    def make(threads):
        step, args, state = training_on([lambda model: tj.randn(5, 4)] * 3)

        def args_on(i):
            tj.set_num_threads(threads(i))
            return args(i)

        return step, args_on, state

    before = tj.get_num_threads()
    try:
        both(lambda: make(lambda i: 1 + i % 3 if i > 6 else 1), calls=18, least=10)
    finally:
        tj.set_num_threads(before)
