"""Gradients of slices are added up where the slices are: every bit is that of adding whole tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit as tj
from tests.programs import same_bits
from tracejit import eager
from tracejit.ops.record import ops
from tracejit.tensor import summing

SHAPE = (6, 5)
EDGES = [0.0, -0.0, 1.5, -1.5, float("inf"), float("-inf"), float("nan"), 1e-7, 6e4, -6e4]
TYPES = [tj.float32, tj.float64, tj.float16, tj.bfloat16]

cuts = st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(0, n), st.integers(1, 3)) for n in SHAPE))
parts = st.one_of(st.none(), cuts, st.sampled_from([((0, 6, 1), (k, k + 1, 1)) for k in range(5)]))


def numbers(rng: Any, shape: tuple[int, ...], kind: Any) -> tj.Tensor:
    """Numbers of which every other one is an edge, and most edges a zero."""
    edges = rng.choice(EDGES, shape, p=[0.15, 0.5, *[0.35 / 8] * 8])
    return tj.tensor(np.where(rng.random(shape) < 0.5, edges, rng.standard_normal(shape)), dtype=kind)


def taken(x: tj.Tensor, how: Any) -> tj.Tensor:
    """A slice of a tensor, or the tensor."""
    if how is None:
        return x
    return x[tuple(slice(*cut) for cut in how)]


def gradient(hows: list[Any], seed: int, kind: Any, leaf: bool, whole: bool) -> Any:
    """The gradient of what slices were taken of, with `whole` by adding tensors of the whole size."""
    rng = np.random.default_rng(seed)
    x = tj.zeros(SHAPE, dtype=kind, requires_grad=True)
    source = x if leaf else x.clone()
    outs = [taken(source, how) for how in hows]
    given = [numbers(rng, out.shape, kind) for out in outs]
    # Gradients that are differentiated again are tensors with a history, which are added as wholes.
    (found,) = tj.autograd.grad(outs, source, given, create_graph=whole)
    return found.detach().float().numpy() if kind is tj.bfloat16 else found.detach().numpy()


@settings(max_examples=400)
@given(st.lists(parts, min_size=1, max_size=6), st.integers(0, 2**16), st.sampled_from(TYPES), st.booleans())
def test_every_bit_is_that_of_whole_tensors(hows: list[Any], seed: int, kind: Any, leaf: bool) -> None:
    ways = [gradient(hows, seed, kind, leaf, whole) for whole in (False, True)]
    assert same_bits(*ways)


@pytest.mark.parametrize("shape", [(300, 300), (40000,)])
def test_large_ones(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    half = shape[0] // 2
    found = []
    for whole in (False, True):
        x = tj.zeros(shape, requires_grad=True)
        outs = [x[:half], x, x[half:], x[::2], x, x[1::2], x[..., 3:]]
        rng = np.random.default_rng(0)
        given = [numbers(rng, out.shape, tj.float32) for out in outs]
        found.append(tj.autograd.grad(outs, x, given, create_graph=whole)[0].detach().numpy())
    assert same_bits(*found)


def test_negative_zeros() -> None:
    # One contribution of -0.0 stays; beside another slice it meets that one's zeros; where all have it it stays again.
    def signs(*hows: slice) -> list[float]:
        x = tj.zeros(4, requires_grad=True)
        outs = [x[how] for how in hows]
        (found,) = tj.autograd.grad(outs, x, [tj.full((out.shape[0],), -0.0) for out in outs])
        return [float(s) for s in np.copysign(1, found.numpy())]

    assert signs(slice(0, 2)) == [-1, -1, 1, 1]
    assert signs(slice(0, 2), slice(2, 4)) == [1, 1, 1, 1]
    assert signs(slice(0, 3), slice(1, 4)) == [1, -1, -1, 1]
    assert signs(slice(0, 4), slice(0, 4)) == [-1, -1, -1, -1]
    assert signs(slice(0, 4), slice(1, 2)) == [1, -1, 1, 1]
    assert signs(slice(1, 2), slice(0, 4), slice(1, 2)) == [1, -1, 1, 1]
    assert signs(slice(0, 4, 2), slice(1, 4, 2)) == [1, 1, 1, 1]
    assert signs(slice(0, 2), slice(3, 3)) == [1, 1, 1, 1]


def test_one_element_and_none() -> None:
    x = tj.tensor(2.0, requires_grad=True)
    (x + x + x).backward()
    assert x.grad.item() == 3.0
    x.grad = None
    (x[...] + x.reshape(1)[0] + x.reshape(1)[:1].sum() + x.reshape(1)[1:].sum()).backward()
    assert x.grad.item() == 3.0
    empty = tj.zeros(0, 3, requires_grad=True)
    (empty[:, :2].sum() + empty[:, 1:].sum()).backward()
    assert empty.grad.shape == (0, 3)


def test_gradients_are_nobody_elses() -> None:
    x = tj.ones(4, requires_grad=True)
    seen: list[tj.Tensor] = []
    y = x * 1
    y.register_hook(seen.append)
    y.retain_grad()
    g = tj.ones(4)
    total = (y[:2] * 2).sum() + (y[2:] * 3).sum() + (y * g).sum()
    total.backward(retain_graph=True)
    first = x.grad
    total.backward()
    assert seen[0].tolist() == seen[1].tolist() == [3, 3, 4, 4] == y.grad.tolist()
    assert first is x.grad
    assert first.tolist() == [6, 6, 8, 8]
    assert g.tolist() == [1, 1, 1, 1]
    seen[0].add_(1)
    assert seen[1].tolist() == [3, 3, 4, 4]
    assert y.grad.tolist() == [3, 3, 4, 4]


def test_a_hook_that_changes_what_another_was_given() -> None:
    # Both operands of the sum get one tensor; the slice's gradient is what it was when the slice had it.
    found = []
    for whole in (False, True):
        x, w = tj.ones(3, requires_grad=True), tj.ones(2, requires_grad=True)
        doubled = w * 2
        part = x.clone()[:2]
        doubled.register_hook(lambda g: g.detach().mul_(5) if g.requires_grad else g.mul_(5))
        ((part + doubled) * tj.tensor([1.0, 2.0])).sum().backward(create_graph=whole)
        found.append((x.grad.tolist(), w.grad.tolist()))
    assert found[0] == found[1] == ([1, 2, 0], [10, 20])


def test_slices_of_slices_and_changes_in_place() -> None:
    found = []
    for whole in (False, True):
        x = tj.arange(12.0).reshape(3, 4).requires_grad_()
        y = x * 2
        y[1:] *= 3
        rows = [row.flip(0)[::2] for row in y.unbind(0)]
        (rows[0] * rows[1] + rows[2]).sum().backward(create_graph=whole)
        found.append(x.grad.tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(3, 4), (300, 200)])
def test_sums_of_transposed_gradients(shape: tuple[int, int]) -> None:
    found = []
    for whole in (False, True):
        rng = np.random.default_rng(1)
        x = tj.zeros(shape, requires_grad=True)
        outs = [x.T, x.T, x, x[1:], x.T[1:], x.T, x[:, ::2]]
        given = [numbers(rng, out.shape, tj.float32) for out in outs]
        sums = [tj.autograd.grad(outs[:k], x, given[:k], create_graph=whole)[0].detach() for k in range(1, 8)]
        assert all(total.is_contiguous() for total in sums[1:])
        found.append([total.numpy() for total in sums])
    assert all(map(same_bits, *found))


def test_a_gradient_of_another_type() -> None:
    x = tj.zeros(4, requires_grad=True)
    outs = [x[:2], x[2:], x]
    given = [tj.ones(2, dtype=tj.float64), tj.ones(2), tj.ones(4)]
    ways = [tj.autograd.grad(outs, x, given, create_graph=whole)[0] for whole in (False, True)]
    assert ways[0].dtype is ways[1].dtype
    assert ways[0].tolist() == ways[1].tolist() == [2, 2, 2, 2]


def test_a_region_records_what_it_recorded() -> None:
    def step(x: tj.Tensor) -> tj.Tensor:
        y = x.tanh()
        return tj.autograd.grad(sum((y[t] * y[t + 1]).sum() for t in range(4)), x)[0]

    x = tj.randn(5, 3, requires_grad=True)
    compiled = tj.compile(step)
    expected = step(x).numpy()
    for _ in range(5):
        assert same_bits(compiled(x).numpy(), expected)


def test_the_work_is_that_of_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    added = []
    add_into = summing.add_into
    monkeypatch.setattr(summing, "add_into", lambda out, x: (added.append(out.size), add_into(out, x))[1])
    x = tj.zeros(50, 8, requires_grad=True)
    sum(row.sum() for row in x.unbind(0)).backward()
    # Fifty parts, of which the first was put there, and the zeros that it meets.
    assert added == [8] * 50


def test_a_large_one_is_added_by_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "is_rare", lambda *key: False)
    rng = np.random.default_rng(0)
    size = (210, 211)
    x, y = (numbers(rng, size, tj.float32).numpy() for _ in range(2))
    expected = eager.run_op(ops.add, (x, y), ())
    launched: list[Any] = []
    monkeypatch.setattr(eager, "launch", lambda *given, real=eager.launch: launched.append(real(*given)))
    total = x.copy()
    eager.add_into(total, y)
    assert len(launched) == 1
    assert same_bits(total, expected)
    total = x.copy()
    for target, part in ((total[:, :200], y[:, :200]), (total[:, 200:], y[:, 200:])):
        eager.add_into(target, part)
    assert len(launched) == 1, "what does not lie in one piece is NumPy's"
    assert same_bits(total, expected)
