"""Operations of the user's own, beside PyTorch: values, gradients, second gradients, exceptions; inside regions too."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.tensor.parity import compare, draw

X, Y = draw((3, 4)), draw((4,), seed=1)


def function(m: Any, forward: Any, backward: Any, setup: Any = None) -> Any:
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    if setup is not None:
        members["setup_context"] = staticmethod(setup)
    return type("Own", (m.autograd.Function,), members).apply


def saving_operands(m: Any, x: Any, y: Any) -> Any:
    def forward(ctx: Any, x: Any, y: Any, scale: float) -> Any:
        ctx.save_for_backward(x, y)
        ctx.scale = scale
        assert ctx.needs_input_grad == (True, True, False)
        return x * y.sin() * scale

    def backward(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved_tensors
        return g * y.sin() * ctx.scale, (g * x * y.cos() * ctx.scale).sum(0), None

    return function(m, forward, backward)(x * 1, y, 2.5)


def saving_results(m: Any, x: Any, y: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    return function(m, forward, lambda ctx, g: g * ctx.saved_tensors[0])(x) * y


def set_up_apart(m: Any, x: Any, y: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)

    def backward(ctx: Any, g: Any) -> Any:
        x, out = ctx.saved_tensors
        return 3 * g * out / x

    return function(m, lambda x: x * x * x, backward, setup)(x) + y


def reversed_gradient(m: Any, x: Any, y: Any) -> Any:
    return function(m, lambda ctx, x: x.view_as(x), lambda ctx, g: -g)(x) * y


def handed_through(m: Any, x: Any, y: Any) -> Any:
    return function(m, lambda ctx, x: x, lambda ctx, g: g * 2)(x) * y


def several_results(m: Any, x: Any, y: Any) -> Any:
    def backward(ctx: Any, a: Any, b: Any, c: Any) -> Any:
        assert a is not None
        assert b is not None
        return a + 2 * b, None

    first, second, third = function(m, lambda ctx, x, y: (x * 1, x * 2, y.argmax()), backward)(x, y)
    assert second.requires_grad
    assert not third.requires_grad
    return first * y


def without_zeros(m: Any, x: Any, y: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        return x * 1, x * 2

    def backward(ctx: Any, a: Any, b: Any) -> Any:
        assert b is None
        return a

    return function(m, forward, backward)(x)[0]


def not_differentiable(m: Any, x: Any, y: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        kept = x.sign()
        ctx.mark_non_differentiable(kept)
        return x * 2, kept

    out, kept = function(m, forward, lambda ctx, g, _: g * 2)(x)
    assert not kept.requires_grad
    return out * kept


def broadcast_gradient(m: Any, x: Any, y: Any) -> Any:
    return function(m, lambda ctx, x, y: x + y, lambda ctx, g: (g, g))(x, y)


def second_gradients(m: Any, x: Any, y: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        out = x * x.exp()
        ctx.save_for_backward(x, out)
        return out

    def backward(ctx: Any, g: Any) -> Any:
        x, out = ctx.saved_tensors
        return g * (out + x.exp())

    (first,) = m.autograd.grad(function(m, forward, backward)(x).sum(), x, create_graph=True)
    return first * y


def among_others(m: Any, x: Any, y: Any) -> Any:
    own = function(m, lambda ctx, x: x.clamp(-1, 1), lambda ctx, g: g)
    return (own(x.sin() * 2) * own(y)).cumsum(1)


WRONG = {
    "too few": (lambda ctx, x, y: x * y, lambda ctx, g: g),
    "too many": (lambda ctx, x, y: x * y, lambda ctx, g: (g, None, g)),
    "more nothing": (lambda ctx, x, y: x * y, lambda ctx, g: (g, g.sum(0), None, None)),
    "of another shape": (lambda ctx, x, y: x * y, lambda ctx, g: (g[:2], None)),
    "no tensor": (lambda ctx, x, y: x * y, lambda ctx, g: (1.0, None)),
    "saves no tensor": (lambda ctx, x, y: ctx.save_for_backward(x, 3), lambda ctx, g: (g, None)),
    "an exception": (lambda ctx, x, y: x * y, lambda ctx, g: 1 / 0),
}
CASES = [
    saving_operands, saving_results, set_up_apart, reversed_gradient, handed_through, several_results, without_zeros,
    not_differentiable, broadcast_gradient, second_gradients, among_others,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operations_of_ones_own(case: Any) -> None:
    compare(case, X, Y)


@pytest.mark.parametrize("case", [c for c in CASES if c is not second_gradients])
def test_inside_regions(case: Any) -> None:
    def run(wrap: Any) -> list[Any]:
        step = wrap(lambda x, y: (case(tj, x, y) ** 2).sum())
        seen = []
        for k in range(8):
            x, y = (tj.tensor(a * np.float32(1 + k)).requires_grad_() for a in (X, Y))
            loss = step(x, y)
            loss.backward()
            seen.append([v.numpy().tobytes() for v in (loss.detach(), x.grad, y.grad) if v is not None])
        return seen

    assert run(tj.compile) == run(lambda f: f)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_functions_are_refused(name: str) -> None:
    forward, backward = WRONG[name]

    def case(m: Any, x: Any, y: Any) -> Any:
        return function(m, forward, backward)(x, y)

    compare(case, X, Y)


def test_what_was_kept_is_released_and_guarded() -> None:
    for m in (tj, torch):
        x = m.ones(3, requires_grad=True)
        square = function(
            m, lambda ctx, x: (ctx.save_for_backward(x), x * x)[1], lambda ctx, g: 2 * g * ctx.saved_tensors[0]
        )
        y = square(x).sum()
        y.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.backward()
        z = x * 1
        y = square(z).sum()
        z.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
        with m.no_grad():
            assert not square(x).requires_grad


def test_once_differentiable() -> None:
    for m in (tj, torch):
        once = m.autograd.once_differentiable if m is tj else torch.autograd.function.once_differentiable
        x = m.ones(3, requires_grad=True)
        double = function(m, lambda ctx, x: x * 2, once(lambda ctx, g: g * 2))
        double(x).sum().backward()
        assert x.grad.tolist() == [2.0] * 3
        (g,) = m.autograd.grad((double(x) * x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            g.sum().backward()


def test_results_do_not_keep_themselves() -> None:
    kept = function(tj, lambda ctx, x: (out := x.exp(), ctx.save_for_backward(out))[0], lambda ctx, g: g)
    out = kept(tj.ones(3, requires_grad=True))
    gone = weakref.ref(out)
    gc.disable()
    try:
        del out
        assert gone() is None
    finally:
        gc.enable()


def test_operands_that_change_are_not_supported() -> None:
    with pytest.raises(NotImplementedError, match="mark_dirty"):
        function(tj, lambda ctx, x: ctx.mark_dirty(x), lambda ctx, g: g)(tj.ones(2))


def test_backward_of_several_tensors() -> None:
    for m in (tj, torch):
        x = m.ones(2, requires_grad=True)
        m.autograd.backward([x.sum(), x * 2], [None, m.tensor([1.0, 3.0])])
        assert x.grad.tolist() == [3.0, 7.0]
