"""Products of vectors: sums of products, in the order of sums, eagerly and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import draw
from tracejit import dtypes, eager

SIZES = (0, 1, 33, 4096, 4097, 40_000)
KINDS = (tj.float32, tj.float64, tj.float16, tj.bfloat16, tj.int64, tj.uint8)
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "dot": tj.dot,
    "matmul": lambda a, b: a @ b,
    "inner": tj.inner,
    "einsum": lambda a, b: tj.einsum("i,i->", a, b),
    "tensordot": lambda a, b: tj.tensordot(a, b, 1),
}


def vectors(size: int, kind: Any) -> tuple[Any, Any]:
    left, right = draw((size,), seed=size), draw((size,), seed=size + 1)
    return tuple(tj.tensor(x * 9).to(kind) for x in (left, right))  # type: ignore[return-value]


def bits(x: Any) -> bytes:
    assert x.shape == ()
    return x.detach().view(tj.int16).numpy().tobytes() if x.dtype is tj.bfloat16 else x.detach().numpy().tobytes()


def by_steps(a: Any, b: Any) -> Any:
    wide = dtypes.widened(a.dtype)
    return (a.to(wide) * b.to(wide)).sum(dtype=wide).to(a.dtype)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_product_of_vectors_is_the_sum_of_the_products(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in SIZES:
        a, b = vectors(size, kind)
        expected = bits(by_steps(a, b))
        for work in (0, 1 << 24):
            monkeypatch.setattr(eager, "_NUMPY_WORK", work)
            monkeypatch.setattr(eager, "programs", {})
            monkeypatch.setattr(eager, "_uses", {})
            found = tj.dot(a, b)
            assert found.dtype is kind
            assert bits(found) == expected, size


@pytest.mark.parametrize("kind", [tj.float32, tj.bfloat16, tj.int64], ids=repr)
def test_each_way_to_write_a_product_of_vectors_gives_the_same(kind: Any) -> None:
    for size in (0, 33, 5000):
        a, b = vectors(size, kind)
        assert {bits(call(a, b)) for call in CALLS.values()} == {bits(by_steps(a, b))}


@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.bfloat16], ids=repr)
def test_compiled_products_of_vectors_have_the_bits_of_eager_ones_at_every_size(kind: Any) -> None:
    def work(a: Any, b: Any) -> tuple[Any, Any]:
        a = a.detach().requires_grad_()
        out = tj.dot(a * 2, b)
        out.backward()
        return out, a.grad.sum()

    region = tj.compile(work)
    for size in (5, 5, 5, 900, 31, 4096, 9000, 70_000, 900, 1, 5):
        given = vectors(size, kind)
        assert [bits(x) for x in region(*given)] == [bits(x) for x in work(*given)], size


def test_views_of_vectors_have_the_bits_of_copies() -> None:
    x = tj.tensor(draw((3, 5000)))
    for a, b in ((x[0, ::2], x[1, ::2]), (x[0].flip(0), x[2]), (x.T[:, 1], x[1]), (x[0, :1].expand(5000), x[1])):
        assert bits(tj.dot(a, b)) == bits(tj.dot(a.clone(), b.clone()))


def test_stacks_of_inner_products_have_the_bits_of_each() -> None:
    a, b = (tj.tensor(draw((4, 3, 70), seed=seed)) for seed in range(2))
    found = tj.einsum("abi,abi->ba", a, b)
    assert found.shape == (3, 4)
    for i in range(4):
        for j in range(3):
            assert bits(found[j, i]) == bits(tj.dot(a[i, j], b[i, j]))


@pytest.mark.parametrize("size", [3, 40, 1000, 100_000])
def test_errors_do_not_add_up(size: int) -> None:
    # Terms of one sign: one chain of 100,000 is off by some hundred units in the last place.
    a, b = np.abs(draw((size,), seed=1)), np.abs(draw((size,), seed=2))
    exact = float(np.dot(a.astype(np.float64), b.astype(np.float64)))
    assert abs(tj.dot(tj.tensor(a), tj.tensor(b)).item() - exact) <= 4 * exact * 2.0**-24


def test_gradients_and_their_gradients() -> None:
    a, b = (tj.tensor(draw((6,), seed=seed), requires_grad=True) for seed in range(2))
    da, db = tj.autograd.grad(tj.dot(a, b), (a, b), create_graph=True)
    np.testing.assert_array_equal(da.detach().numpy(), b.detach().numpy())
    np.testing.assert_array_equal(db.detach().numpy(), a.detach().numpy())
    (again,) = tj.autograd.grad((da * da).sum(), b)
    np.testing.assert_array_equal(again.numpy(), 2 * b.detach().numpy())


def test_vectors_of_two_types_are_refused() -> None:
    a, b = tj.ones(3), tj.ones(3, dtype=tj.float64)
    for call in CALLS.values():
        with pytest.raises(RuntimeError, match="same dtype"):
            call(a, b)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_vectors_of_bools_are_refused(call: Any) -> None:
    with pytest.raises(NotImplementedError, match="not implemented for 'Bool'"):
        call(tj.ones(3, dtype=tj.bool), tj.ones(3, dtype=tj.bool))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_long_product_with_one_element_is_a_product_of_vectors(kind: Any) -> None:
    a, b = vectors(5000, kind)
    expected = bits(tj.dot(a, b))
    found = a[None] @ b[:, None]
    assert found.shape == (1, 1)
    assert bits(found.reshape(())) == expected
    stack = tj.bmm(a.reshape(1, 1, -1).expand(3, 1, 5000), b.reshape(1, -1, 1).expand(3, 5000, 1))
    assert stack.shape == (3, 1, 1)
    assert {bits(x.reshape(())) for x in stack} == {expected}


def test_a_short_product_with_one_element_is_a_row_of_a_larger_one() -> None:
    a, b = tj.tensor(draw((3, 4096))), tj.tensor(draw((4096, 1)))
    whole = a @ b
    for k in range(3):
        assert bits((a[k : k + 1] @ b).reshape(())) == bits(whole[k, 0])


def test_gradients_of_one_weight_are_products_of_vectors() -> None:
    x, y = (tj.tensor(draw((5000, 1), seed=seed)) for seed in range(2))
    w = tj.tensor([[0.5]], requires_grad=True)
    ((x @ w) * y).sum().backward()
    assert bits(w.grad.reshape(())) == bits(tj.dot(x[:, 0], y[:, 0]))
    u = tj.tensor(draw((1, 5000)), requires_grad=True)
    ((u @ x) * 2).sum().backward()
    np.testing.assert_array_equal(u.grad.numpy(), 2 * x.numpy().T)


def test_compiled_steps_on_many_rows_have_the_bits_of_eager_ones() -> None:
    def step(x: Any, y: Any, w: Any) -> Any:
        w.grad = None
        ((x @ w - y) ** 2).mean().backward()
        return w.grad * 1

    region = tj.compile(step)
    for size in (60, 60, 60, 4096, 5000, 70, 9000):
        x, y = (tj.tensor(draw((size, 1), seed=size + seed)) for seed in range(2))
        w = tj.tensor([[0.5]], requires_grad=True)
        assert bits(region(x, y, w).reshape(())) == bits(step(x, y, w).reshape(())), size
