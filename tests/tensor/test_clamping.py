"""clamp: one program for limits that are numbers, the same bits, gradients and types as its operations one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.tensor.fusing import bits, both

LIMITS = [
    *((-1, 1), (-0.5, None), (None, 0.25), (0.0, 0.0), (1.0, -1.0), (float("nan"), 1.0)),
    (np.float32(-1), np.int64(2)),
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("kind", [tj.float32, tj.float64, tj.float16], ids=str)
def test_numbers(limits: tuple[Any, Any], kind: tj.dtype) -> None:
    values = np.random.default_rng(0).standard_normal((37, 50))
    values[0, :4] = np.nan, -0.0, np.inf, -np.inf
    values[1, :2] = [n if n is not None else 0.0 for n in limits]

    def run() -> Any:
        x = tj.tensor(values, dtype=kind, requires_grad=True)
        out = x.clamp(*limits)
        (out * 2.0).sum().backward()
        return bits(out), bits(x.grad)

    one, other = both(run)
    compiled = tj.compile(run)
    plain = [None if n is None else float(n) for n in limits]
    x = torch.tensor(values, dtype=getattr(torch, kind.name), requires_grad=True)
    out = x.clamp(*plain)
    (out * 2.0).sum().backward()
    for found in (one, other, *(compiled() for _ in range(4))):
        np.testing.assert_array_equal(found[0], out.detach().numpy())
        np.testing.assert_array_equal(found[1], x.grad.numpy())


def test_tensors_and_whole_numbers() -> None:
    x, low = tj.arange(6), tj.tensor([3, 0, 1, 2, 2, 2])
    assert x.clamp(low, 4).tolist() == [3, 1, 2, 3, 4, 4]
    assert x.clamp(1, 4).dtype is tj.int64
    assert x.clamp(0.5, 4).tolist() == [0.5, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert tj.clamp_max(x, 2).tolist() == [0, 1, 2, 2, 2, 2]
    assert x.clone().clamp_(min=3).tolist() == [3, 3, 3, 3, 4, 5]
    with pytest.raises(RuntimeError, match="At least one of 'min' or 'max'"):
        x.clamp()


def test_inside_of_a_composite_of_the_user() -> None:
    @tj.composite
    def doubled(x: tj.Tensor, *, limit: float) -> tj.Tensor:
        return x.clamp(max=limit) * 2.0

    x = tj.tensor([-1.0, 0.5, 3.0])
    compiled = tj.compile(lambda x: doubled(x, limit=1.0))
    for run in (lambda x: doubled(x, limit=1.0), *[compiled] * 4):
        assert run(x).tolist() == [-2.0, 1.0, 2.0]
    assert doubled.whole
