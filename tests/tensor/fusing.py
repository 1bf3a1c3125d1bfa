"""What tests of composites as programs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.nn import functional as F
from tracejit.tensor import fused, fused_open

EDGES = [0.0, -0.0, 1.5, -1.5, inf, -inf, float("nan"), 1e-7, 6e4, -6e4]
TYPES = [tj.float32, tj.float64, tj.float16, tj.bfloat16]
ROWS, SIZE = 6, 24

COMPOSITES: dict[str, Callable[..., Any]] = {
    "softmax": lambda x, w, b, t: F.softmax(x, -1),
    "softmax_columns": lambda x, w, b, t: F.softmax(x, 0),
    "log_softmax": lambda x, w, b, t: F.log_softmax(x, 1),
    "softmin": lambda x, w, b, t: F.softmin(x, 1),
    "layer_norm": lambda x, w, b, t: F.layer_norm(x, (SIZE,), w, b),
    "layer_norm_plain": lambda x, w, b, t: F.layer_norm(x, (SIZE,)),
    "rms_norm": lambda x, w, b, t: F.rms_norm(x, (SIZE,), w),
    "group_norm": lambda x, w, b, t: F.group_norm(x, 4, w, b),
    "batch_norm": lambda x, w, b, t: F.batch_norm(x, b.detach(), b.detach().abs() + 0.5, w, b),
    "gelu": lambda x, w, b, t: F.gelu(x),
    "gelu_tanh": lambda x, w, b, t: F.gelu(x, approximate="tanh"),
    "silu": lambda x, w, b, t: F.silu(x),
    "mish": lambda x, w, b, t: F.mish(x),
    "elu": lambda x, w, b, t: F.elu(x, 0.5),
    "softplus": lambda x, w, b, t: F.softplus(x),
    "leaky_relu": lambda x, w, b, t: F.leaky_relu(x),
    "glu": lambda x, w, b, t: F.glu(x),
    "prelu": lambda x, w, b, t: F.prelu(x, w),
    "cross_entropy": lambda x, w, b, t: F.cross_entropy(x, t),
    "cross_entropy_ignored": lambda x, w, b, t: F.cross_entropy(x, t, ignore_index=1, reduction="sum"),
    "mse_loss": lambda x, w, b, t: F.mse_loss(x, b.expand(ROWS, SIZE)),
    "mean": lambda x, w, b, t: x.mean(1),
    "variance": lambda x, w, b, t: x.var(1),
    "deviation": lambda x, w, b, t: x.std((0, 1), correction=2, keepdim=True),
    "logsumexp": lambda x, w, b, t: x.logsumexp(1),
    "logsumexp_columns": lambda x, w, b, t: x.logsumexp((0, 1), keepdim=True),
    "triplet": lambda x, w, b, t: F.triplet_margin_loss(x, b.expand(ROWS, SIZE), w.expand(ROWS, SIZE), swap=True),
    "square": lambda x, w, b, t: F.linear(x, tj.outer(w, b), b),
    "linear": lambda x, w, b, t: F.linear(x, tj.stack([w, b, w]), b[:3]),
    "linear_plain": lambda x, w, b, t: F.linear(x[1:], tj.stack([w, b])),
    "conv2d": lambda x, w, b, t: F.conv2d(x.view(2, 3, 4, 6), w.view(2, 3, 2, 2), b[:2], padding=1),
    "conv2d_plain": lambda x, w, b, t: F.conv2d(x.view(3, 2, 4, 6), w.view(2, 1, 4, 3), stride=2, groups=2),
    "normalize": lambda x, w, b, t: F.normalize(x, 2.0, 1),
}


@contextmanager
def built(work: float) -> Iterator[None]:
    """Programs are built from so much work on."""
    before, fused.WORK = fused.WORK, work
    fused.clear()
    try:
        yield
    finally:
        fused.WORK = before
        fused.clear()


def both(run: Callable[[], Any]) -> list[Any]:
    """What a function gives where composites run operation by operation, and where each is one program."""
    found = []
    for work in (inf, -1):
        with built(work):
            found.append(run())
    return found


@contextmanager
def opened() -> Iterator[None]:
    """From the second layout on, calls that differ in sizes alone have programs for all sizes."""
    with pytest.MonkeyPatch.context() as patch, built(inf):
        patch.setattr(fused_open, "_LAYOUTS", 2)
        patch.setattr(fused_open, "_WORK", -1)
        yield


def bits(found: Any) -> np.ndarray:
    found = found.detach()
    return found.float().numpy() if found.dtype is tj.bfloat16 else found.numpy()


def operands(kind: Any, seed: int, edges: bool = False) -> list[tj.Tensor]:
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> tj.Tensor:
        array = rng.standard_normal(shape)
        if edges:
            array = np.where(rng.random(shape) < 0.1, rng.choice(EDGES, shape), array)
        return tj.tensor(array, dtype=kind, requires_grad=True)

    return [numbers(ROWS, SIZE), numbers(SIZE), numbers(SIZE), tj.tensor(rng.integers(0, SIZE, ROWS))]


def outcome(function: Callable[..., Any], given: list[tj.Tensor], seed: int) -> list[np.ndarray]:
    """A result and the gradients of the operands, of which the first is read before and behind the composite."""
    x, w, b, t = given
    read = x * 1.0
    before = read * 2.0
    out = function(read, w, b, t)
    behind = read * 0.5
    ct = tj.tensor(np.random.default_rng(seed + 1).standard_normal(out.shape), dtype=x.dtype)
    ((out * ct).sum() + before.sum() + behind.sum()).backward()
    return [bits(out), *[bits(leaf.grad) for leaf in (x, w, b) if leaf.grad is not None]]


def step(out: tj.Tensor) -> type:
    return type(out._node)
