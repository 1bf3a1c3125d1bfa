"""Cheap values that several kernels want are computed in each of them, where that needs no more memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tracejit as tj
import tracejit.nn.functional as F
from tests.schedule.test_sink import groups
from tracejit.trace.compiled import region_of


def operands() -> tuple[tj.Tensor, tj.Tensor]:
    tj.manual_seed(0)
    return tj.randn(8, 8), tj.randn(8, 8)


def test_what_several_kernels_read_is_computed_in_each() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        t = x.tanh()
        d = 1 - t * t
        first = (t @ w) * d
        return first, (first @ w) * d

    assert groups(f, *operands()) == [("tanh",), ("matmul",), ("mul", "sub", "mul"), ("matmul",), ("mul", "sub", "mul")]


def test_what_is_more_work_than_a_store_stays() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        t = x.tanh()
        d = ((1 - t * t) * t + t) * t
        first = (t @ w) * d
        second = (first @ w) * d
        return first, second, (second @ w) * d

    assert ("tanh", "mul", "sub", "mul", "add", "mul") in groups(f, *operands())


def test_what_would_need_another_load_stays() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        d = x + w
        first = (x @ d) * d
        return first, (first @ w).exp() * d

    assert ("add",) in groups(f, *operands())


def test_a_mean_for_each_row_is_no_load() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        d = x - x.mean(1, keepdim=True)
        first = (w @ d.exp()) * d
        return first, (first @ w) * d

    tj.manual_seed(0)
    assert sum("sub" in ops for ops in groups(f, tj.randn(80, 80), tj.randn(80, 80))) == 3
    # Rows that are this short would make of a loop over all elements one over rows.
    assert sum("sub" in ops for ops in groups(f, tj.randn(40, 40), tj.randn(40, 40))) == 1


def test_what_is_made_of_something_that_changes_stays() -> None:
    def f(p: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        d = p * 2
        first = (w @ w).exp() * d * d.sum(0)
        p.sub_(first)
        return ((first @ p).exp() * d,)

    step = tj.compile(f)
    x, w = operands()
    p, q = x + 1, x + 1
    for _ in range(5):
        assert [t.numpy().tobytes() for t in step(p, w)] == [t.numpy().tobytes() for t in f(q, w)]
        assert p.numpy().tobytes() == q.numpy().tobytes()
    infos = region_of(step).executables()[0][1].compiled.groups
    assert [info.ops for info in infos].count(("copy",)) == 0


def norm(name: str) -> Callable[[tj.Tensor, tj.Tensor, tj.Tensor], tj.Tensor]:
    return {
        "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        "group": lambda x, w, b: F.group_norm(x, 3, w, b),
        "instance": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        "layer": lambda x, w, b: F.layer_norm(x * w[:, None, None] + b[:, None, None], x.shape[1:]),
    }[name]


@pytest.mark.parametrize("name", ["batch", "group", "instance", "layer"])
@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.bfloat16])
@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (3, 9, 13, 11), (2, 3, 65, 64), (300, 3, 1, 5)])
def test_norms_have_the_bits_of_their_operations(name: str, kind: tj.dtype, shape: tuple[int, ...]) -> None:
    tj.manual_seed(0)
    x = tj.randn(*shape).to(kind).requires_grad_()
    w = tj.randn(shape[1]).to(kind).requires_grad_()
    b = tj.randn(shape[1]).to(kind).requires_grad_()
    g = tj.randn(*shape).to(kind)
    leaves = (x, w, b)

    def f() -> tuple[tj.Tensor, ...]:
        for leaf in leaves:
            leaf.grad = None
        y = norm(name)(x, w, b).relu()
        y.backward(g)
        return y, x.grad, w.grad, b.grad

    step = tj.compile(f)
    expected = [t.detach().to(tj.float64).numpy().tobytes() for t in f()]
    for _ in range(4):
        assert [t.detach().to(tj.float64).numpy().tobytes() for t in step()] == expected
    assert "sum" in str(tj.explain(step))
