"""Leaves that a region makes: what requires gradients from some line on is no end of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.trace.compiled import region_of

Program = Callable[[Callable[..., Any]], tuple[Any, list[Any]]]


def layers() -> tj.nn.Module:
    net = tj.nn.Sequential(tj.nn.Linear(4, 8), tj.nn.Tanh(), tj.nn.Linear(8, 1))
    for k, p in enumerate(net.parameters()):
        p.data.copy_(arr(k, *p.shape))
    return net


def input_gradient(net: Any, x: tj.Tensor) -> Any:
    x = x.clone().requires_grad_()
    return tj.autograd.grad(net(x).sum(), x)[0]


def sign_of_gradient(net: Any, x: tj.Tensor) -> Any:
    x = x.clone().detach()
    x.requires_grad = True
    net(x).square().mean().backward()
    return (x + 0.1 * x.grad.sign()).clamp(-1, 1).detach()


def penalty(net: Any, x: tj.Tensor) -> Any:
    mixed = (0.3 * x + 0.7).requires_grad_(True)
    (g,) = tj.autograd.grad(net(mixed).sum(), mixed, create_graph=True)
    loss = ((g.norm(2, dim=1) - 1) ** 2).mean()
    loss.backward()
    return loss.detach()


def second_derivative(net: Any, x: tj.Tensor) -> Any:
    x = x.detach().requires_grad_()
    (g,) = tj.autograd.grad(net(x).sum(), x, create_graph=True)
    return tj.autograd.grad(g[:, 0].sum(), x)[0]


def leaf_lives(net: Any, x: tj.Tensor) -> Any:
    x = (x * 2).requires_grad_()
    net(x).sum().backward()
    return x


def history_leads_to_leaf(net: Any, x: tj.Tensor) -> Any:
    x = (x * 2).requires_grad_()
    return net(x).sum()


def changed_after(net: Any, x: tj.Tensor) -> Any:
    y = x * 2
    y.add_(1)
    y.requires_grad_()
    return tj.autograd.grad((y * y).sum(), y)[0]


def written_to(net: Any, x: tj.Tensor) -> Any:
    y = (x * 2).requires_grad_()
    y.mul_(2)
    return y


def of_integers(net: Any, x: tj.Tensor) -> Any:
    return (x > 0).requires_grad_()


def in_two_calls(net: Any, x: tj.Tensor) -> Any:
    x = x.clone().requires_grad_().requires_grad_()
    return x.requires_grad, x.is_leaf, tj.autograd.grad((net(x) * x).sum(), x)[0]


def taken_back(net: Any, x: tj.Tensor) -> Any:
    x = x.clone().requires_grad_()
    x.requires_grad_(False)
    return net(x).sum().detach(), x.requires_grad


def of_a_view(net: Any, x: tj.Tensor) -> Any:
    y = (x * 2)[1:].requires_grad_()
    return tj.autograd.grad(net(y).sum(), y)[0]


REPLAYED = [input_gradient, sign_of_gradient, penalty, second_derivative, changed_after, in_two_calls]
OTHERS = [leaf_lives, history_leads_to_leaf, written_to, of_integers, taken_back, of_a_view]


def told(out: Any) -> Any:
    """All that can be seen of a result."""
    if isinstance(out, tuple):
        return [told(o) for o in out]
    if not isinstance(out, tj.Tensor):
        return out
    grad = None if out.grad is None else bits(out.grad)
    return bits(out.detach()), out.requires_grad, out.is_leaf, grad


def calls(program: Callable[..., Any], wrap: Callable[..., Any], sizes: list[int]) -> tuple[Any, list[Any]]:
    net = layers()
    f = wrap(lambda x: program(net, x))
    seen: list[Any] = []
    for k, n in enumerate(sizes):
        net.zero_grad()
        try:
            out = f(arr(k, n, 4))
            seen.append(told(out))
            if isinstance(out, tj.Tensor) and out.requires_grad:
                # The history is there, too.
                out.sum().backward()
                seen.append(told(out))
        except RuntimeError as e:
            seen.append(str(e))
        seen.append([None if p.grad is None else bits(p.grad) for p in net.parameters()])
    return f, seen


@pytest.mark.parametrize("sizes", [[5] * 10, [5, 5, 5, 3, 6, 7, 3, 5, 5, 5]])
@pytest.mark.parametrize("program", [*REPLAYED, *OTHERS])
def test_a_leaf_made_inside(program: Callable[..., Any], sizes: list[int]) -> None:
    compiled, ours = calls(program, tj.compile, sizes)
    _, eager = calls(program, lambda f: f, sizes)
    assert ours == eager
    if program in REPLAYED:
        assert "-- cut" not in str(tj.explain(compiled))
        if len(set(sizes)) == 1:
            assert region_of(compiled).calls.replayed >= 3


@pytest.mark.parametrize("program", [input_gradient, sign_of_gradient, second_derivative])
def test_leaving_the_tree_behind_a_leaf_makes_it_again(program: Callable[..., Any]) -> None:
    def run(wrap: Callable[..., Any]) -> list[Any]:
        net = layers()

        def f(x: tj.Tensor, other: bool) -> Any:
            y = x.clone().requires_grad_()
            z = (net(y) * y).sum()
            if other:
                z = z * 2 + y.exp().sum()
            return program(net, x), tj.autograd.grad(z, y)[0]

        f = wrap(f)
        return [told(f(arr(k, 5, 4), k in (5, 8))) for k in range(12)]

    assert run(tj.compile) == run(lambda f: f)
