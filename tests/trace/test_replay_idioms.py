"""What programs do beside tensor operations, and is no obstacle: numbers of NumPy's, missing attributes, zeroing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.trace.replaying import both
from tests.trace.values import arr, bits
from tracejit import nn
from tracejit.trace.compiled import region_of

LAYERS = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
SCALE = np.float32(3.0)


class Backwards:
    """Has what `reversed` needs, and no more."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, k: int) -> float:
        return (k + 1) * 0.5


def backwards(x: tj.Tensor) -> tj.Tensor:
    for layer in reversed(LAYERS):
        x = layer(x)
    for factor in reversed(Backwards()):
        x = x * factor - 1
    return x.detach()


BODIES: dict[str, Any] = {
    "root of a dimension": lambda x: x / np.sqrt(x.shape[-1]),
    "logarithm": lambda x: x * np.log(1e4) - 0.5 * np.log(2 * np.pi),
    "sign": lambda x: x * -np.log(3.0) + np.exp(2) * 2 - 3 * np.cos(1),
    "product of a shape": lambda x: x.reshape(int(np.prod(x.shape))),
    "as a size": lambda x: x.reshape(np.prod(x.shape)),
    "made here": lambda x: x * np.float32(0.1) + np.int64(3),
    "from outside": lambda x: x * SCALE,
    "backwards": backwards,
    "a missing attribute": lambda x: x * (2 if hasattr(LAYERS, "missing") else 3),
    "a default": lambda x: x * getattr(LAYERS[0], "scale", 2.0),
    "reduced": lambda x: functools.reduce(lambda a, b: a + b, [x, x * 2, x * 3]),
    "reduced from": lambda x: functools.reduce(lambda a, b: a * b, [x, x], x.sum()),
    "whether there is a GPU": lambda x: x.to("cuda" if tj.cuda.is_available() else "cpu") * 2,
}


@pytest.mark.parametrize("body", BODIES)
def test_is_replayed(body: str) -> None:
    both(lambda: (BODIES[body], lambda k: (arr(k, 4, 8),), lambda: ()), 20, 14)


def test_an_attribute_that_comes_into_being_is_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2))

    def f(x: tj.Tensor) -> tj.Tensor:
        return x * getattr(model, "scale", 2.0) + hasattr(model, "extra")

    compiled = tj.compile(f)
    for k in range(40):
        if k == 20:
            model.scale = 5.0
        if k == 30:
            model.register_buffer("extra", tj.ones(1))
        assert bits(compiled(arr(k, 3))) == bits(f(arr(k, 3))), k
    assert region_of(compiled).calls.replayed > 20


def test_a_number_of_numpy_that_changes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tj.compile(BODIES["from outside"])
    for k in range(40):
        monkeypatch.setitem(globals(), "SCALE", (np.float32(3), np.float64(3), np.float32(4))[k // 10 % 3])
        assert bits(compiled(arr(k, 3))) == bits(BODIES["from outside"](arr(k, 3))), k


def test_what_numpy_warns_of_is_not_replayed() -> None:
    def f(x: tj.Tensor) -> tj.Tensor:
        with np.errstate(all="ignore"):
            return x * np.log(0.0)

    compiled = tj.compile(f)
    for k in range(20):
        assert bits(compiled(arr(k, 3))) == bits(f(arr(k, 3)))


@pytest.mark.parametrize("way", ["optimizer", "by hand", "alone"])
def test_gradients_set_to_zero(way: str) -> None:
    def make() -> Any:
        w = arr(1, 3, 3).requires_grad_()
        opt = tj.optim.SGD([w], lr=0.1, momentum=0.5)

        def step(x: tj.Tensor) -> tj.Tensor:
            if way == "optimizer":
                opt.zero_grad(set_to_none=False)
            elif w.grad is not None:
                if way == "by hand":
                    w.grad.detach_()
                w.grad.zero_()
            loss = (x @ w).square().mean()
            loss.backward()
            opt.step()
            return loss.detach()

        return step, lambda k: (arr(k, 5, 3),), lambda: (w, w.grad)

    both(make, 25, 15)


def test_a_gradient_with_a_history_loses_it() -> None:
    w = arr(1, 3).requires_grad_()

    def step() -> Any:
        w.grad = None
        w.pow(3).sum().backward(create_graph=True)
        had = w.grad.requires_grad
        w.grad.detach_()
        return had, w.grad.requires_grad, w.grad

    compiled = tj.compile(step)
    for _ in range(12):
        had, has, grad = compiled()
        assert (had, has) == (True, False)
        assert bits(grad) == bits(step()[2])
