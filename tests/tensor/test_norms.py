"""Batch norm: bits of compiled and eager, gradients of gradients, accuracy, how many kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.programs import same_bits
from tracejit.nn import functional as F
from tracejit.trace.compiled import region_of

SHAPES = [
    (8, 16, 16, 16), (3, 9, 5, 7), (2, 1, 4, 9), (1, 9, 4, 4), (4, 16, 1, 1), (5, 33, 2, 2), (2, 8, 70, 70),
    (300, 4, 6, 6), (6, 10, 33), (7, 12), (130, 65), (300, 5),
]  # fmt: skip


def step_of(shape: tuple[int, ...], kind: tj.dtype) -> Callable[..., list[Any]]:
    rng = np.random.default_rng(1)
    norm = {2: tj.nn.BatchNorm1d, 3: tj.nn.BatchNorm1d, 4: tj.nn.BatchNorm2d}[len(shape)](shape[1]).to(kind)
    norm.weight.data.copy_(tj.tensor(rng.normal(size=shape[1])))

    def step(x: tj.Tensor, r: tj.Tensor, g: tj.Tensor) -> list[Any]:
        norm.zero_grad()
        y = tj.relu(norm(x) + r)
        y.backward(g)
        return [y, x.grad, r.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]

    return step


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.bfloat16])
@pytest.mark.parametrize("special", [False, True])
def test_compiled_has_the_bits_of_eager(shape: tuple[int, ...], kind: tj.dtype, special: bool) -> None:
    rng = np.random.default_rng(2)
    eager, step = step_of(shape, kind), step_of(shape, kind)
    compiled = tj.compile(step)
    for _ in range(4):
        arrays = [rng.normal(size=shape) for _ in range(3)]
        if special:
            arrays[0].flat[3], arrays[0].flat[-1], arrays[2].flat[5] = np.nan, -np.inf, np.inf
        found = []
        for run in (eager, compiled):
            x, r, g = (tj.tensor(a, dtype=kind) for a in arrays)
            x.requires_grad_()
            r.requires_grad_()
            found.append([t.detach().to(tj.float64).numpy().copy() for t in run(x, r, g)])
        assert all(map(same_bits, *found))


def test_a_batch_norm_and_its_gradient_are_few_launches() -> None:
    for shape, most in (((8, 16, 16, 16), 7), ((32, 100), 2)):
        step = tj.compile(step_of(shape, tj.float32))
        arrays = [tj.randn(*shape) for _ in range(3)]
        for _ in range(4):
            x, r, g = (t.clone() for t in arrays)
            step(x.requires_grad_(), r.requires_grad_(), g)
        ((_, executable),) = region_of(step).executables()
        assert executable.compiled.launches <= most


@pytest.mark.parametrize("shape", [(4, 3, 6, 7), (5, 3, 2, 2), (6, 3), (1, 3, 5, 5)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_gradients_are_those_of_pytorch(shape: tuple[int, ...], affine: bool) -> None:
    rng = np.random.default_rng(3)
    x, g, h, w, b = (rng.normal(size=s) for s in (shape, shape, shape, shape[1], shape[1]))

    def run(t: Any, kind: Any) -> list[np.ndarray]:
        leaves = [t.tensor(a, dtype=kind, requires_grad=True) for a in (x, w, b, g)]
        given = leaves[1:3] if affine else [None, None]
        out = t.nn.functional.batch_norm(leaves[0], None, None, *given, training=True)
        inputs = leaves[:3] if affine else leaves[:1]
        first = t.autograd.grad(out, inputs, leaves[3], create_graph=True)
        sum((part * part).sum() for part in first).backward(retain_graph=True)
        (first[0] * t.tensor(h, dtype=kind)).sum().backward()
        # All of these are straight lines in the bias.
        return [part.detach().numpy() for part in (*first, *[leaf.grad for leaf in (*inputs[:2], leaves[3])])]

    for ours, theirs in zip(run(tj, tj.float64), run(torch, torch.float64), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(16, 4, 20, 20), (64, 4, 3, 3), (200, 4)], ids=str)
def test_a_mean_far_from_zero_does_no_harm(shape: tuple[int, ...]) -> None:
    # Images of one batch may differ much, too: their own means are put together.
    rng = np.random.default_rng(4)
    x = rng.normal(size=shape) + 1000.0 + 10.0 * rng.normal(size=(shape[0], *(1,) * (len(shape) - 1)))
    x = x.astype(np.float32)
    found = tj.nn.functional.batch_norm(tj.tensor(x), None, None, training=True).numpy()
    wide = x.astype(np.float64)
    dims = tuple(d for d in range(len(shape)) if d != 1)
    mean, variance = wide.mean(dims, keepdims=True), wide.var(dims, keepdims=True)
    np.testing.assert_allclose(found, (wide - mean) / np.sqrt(variance + 1e-5), atol=2e-4)


def test_short_rows_are_added_up_last() -> None:
    rng = np.random.default_rng(5)
    for places in (3, 5, 6):
        x = tj.tensor(rng.normal(size=(40, 3, places, places)).astype(np.float32))
        flat = x.reshape(40, 3, -1)
        by_rows, by_columns = flat.sum(2).sum(0), flat.sum(0).sum(1)
        expected = by_columns if places * places < 32 else by_rows
        assert same_bits(x.sum((0, 2, 3)).numpy(), expected.numpy())
        assert not same_bits(by_rows.numpy(), by_columns.numpy())


def test_a_norm_of_one_number_everywhere() -> None:
    """Of rows of one element that all hold the same, the mean is known: it is a tensor all the same."""

    def norm(x: tj.Tensor) -> Any:
        return F.layer_norm(tj.full((5, 1), 1.5), (1,)) + x

    compiled = tj.compile(norm)
    for _ in range(4):
        assert compiled(tj.ones(5, 1)).tolist() == norm(tj.ones(5, 1)).tolist()
