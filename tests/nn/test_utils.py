"""Clipping and parameters as vectors beside PyTorch's."""

from __future__ import annotations

import math

import pytest
import torch

import tracejit as tj
from tests.nn.parity import close, ours


def with_gradients() -> tuple[list[tj.nn.Parameter], list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    mine, theirs = [], []
    for shape in ((3, 4), (5,), ()):
        parameter = torch.nn.Parameter(torch.randn(shape))
        parameter.grad = torch.randn(shape) * 3
        theirs.append(parameter)
        twin = tj.nn.Parameter(ours(parameter.detach()))
        twin.grad = ours(parameter.grad)
        mine.append(twin)
    theirs.append(torch.nn.Parameter(torch.zeros(2)))
    mine.append(tj.nn.Parameter(tj.zeros(2)))
    return mine, theirs


@pytest.mark.parametrize("norm_type", [2.0, 1, 3.0, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm(norm_type: float, max_norm: float) -> None:
    mine, theirs = with_gradients()
    total = tj.nn.utils.clip_grad_norm_(mine, max_norm, norm_type)
    close(total, torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type))
    for a, b in zip(mine[:3], theirs, strict=False):
        close(a.grad, b.grad)
    assert mine[3].grad is None


def test_get_total_norm() -> None:
    mine, theirs = with_gradients()
    close(
        tj.nn.utils.get_total_norm([p.grad for p in mine[:3]]),
        torch.nn.utils.get_total_norm([p.grad for p in theirs[:3]]),
    )
    assert tj.nn.utils.get_total_norm([]).item() == 0.0


def test_clip_grad_value() -> None:
    mine, theirs = with_gradients()
    tj.nn.utils.clip_grad_value_(mine, 0.7)
    torch.nn.utils.clip_grad_value_(theirs, 0.7)
    for a, b in zip(mine[:3], theirs, strict=False):
        close(a.grad, b.grad)


def test_norms_that_are_not_finite() -> None:
    parameter = tj.nn.Parameter(tj.ones(2))
    parameter.grad = tj.tensor([math.nan, 1.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        tj.nn.utils.clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True)
    assert parameter.grad[1].item() == 1.0
    assert math.isnan(tj.nn.utils.clip_grad_norm_(parameter, 1.0).item())
    assert tj.nn.utils.clip_grad_norm_([tj.nn.Parameter(tj.ones(1))], 1.0).item() == 0.0


def test_vectors() -> None:
    net = tj.nn.Linear(3, 2)
    vector = tj.nn.utils.parameters_to_vector(net.parameters())
    assert tuple(vector.shape) == (8,)
    weight = net.weight
    tj.nn.utils.vector_to_parameters(tj.arange(8.0), net.parameters())
    assert net.weight is weight
    assert net.weight.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert net.bias is not None
    assert net.bias.tolist() == [6.0, 7.0]
    with pytest.raises(TypeError):
        tj.nn.utils.vector_to_parameters([1.0], net.parameters())  # type: ignore[arg-type]
