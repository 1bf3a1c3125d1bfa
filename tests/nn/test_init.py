"""Starting values: their bounds, moments and shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tracejit.nn import init


@pytest.fixture(autouse=True)
def _seed() -> None:
    tj.manual_seed(0)


def test_uniform_and_normal() -> None:
    w = tj.empty(200, 100)
    assert init.uniform_(w, -2.0, 3.0) is w
    values = w.numpy()
    assert values.min() >= -2
    assert values.max() < 3
    assert abs(values.mean() - 0.5) < 0.05
    values = init.normal_(w, 1.0, 2.0).numpy()
    assert abs(values.mean() - 1) < 0.05
    assert abs(values.std() - 2) < 0.05


def test_constants() -> None:
    w = tj.nn.Parameter(tj.empty(2, 3))
    assert init.constant_(w, 4.0).tolist() == [[4.0] * 3] * 2
    assert init.ones_(w).tolist() == [[1.0] * 3] * 2
    assert init.zeros_(w).tolist() == [[0.0] * 3] * 2
    assert init.eye_(w).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert w.requires_grad
    assert w.is_leaf


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 2, 3, 3), (2, 4, 1, 3, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac(shape: tuple[int, ...], groups: int) -> None:
    theirs = torch.nn.init.dirac_(torch.empty(*shape), groups)
    assert init.dirac_(tj.empty(*shape), groups).tolist() == theirs.tolist()


SCALED = [
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": math.sqrt(5)}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
]


@pytest.mark.parametrize(("name", "kwargs"), SCALED)
@pytest.mark.parametrize("shape", [(120, 80), (40, 30, 3, 3)])
def test_scaled(name: str, kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    mine = getattr(init, name)(tj.empty(*shape), **kwargs).numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(*shape), **kwargs).numpy()
    assert abs(mine.std() / theirs.std() - 1) < 0.05
    if "uniform" in name:
        assert abs(np.abs(mine).max() / np.abs(theirs).max() - 1) < 0.01


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0.0, 1.0, -2.0, 2.0), (0.0, 0.02, -2.0, 2.0), (0.0, 1.0, 2.0, 3.0), (5.0, 1.0, -1.0, 2.0)],
)
def test_truncated_normal(mean: float, std: float, a: float, b: float) -> None:
    mine = init.trunc_normal_(tj.empty(100, 100), mean, std, a, b).numpy()
    torch.manual_seed(0)
    theirs = torch.nn.init.trunc_normal_(torch.empty(100, 100, dtype=torch.float64), mean, std, a, b).numpy()
    assert mine.min() >= a
    assert mine.max() <= b
    assert abs(mine.mean() - theirs.mean()) < 0.05 * theirs.std()
    assert abs(mine.std() / theirs.std() - 1) < 0.05
    with pytest.raises(ValueError):
        init.trunc_normal_(tj.empty(2), a=1.0, b=1.0)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (3, 2, 4)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    flat = init.orthogonal_(tj.empty(*shape), gain=2.0).numpy().reshape(shape[0], -1)
    small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_sparse() -> None:
    values = init.sparse_(tj.empty(10, 6), sparsity=0.25).numpy()
    assert ((values == 0).sum(0) == 3).all()


def test_generator_repeats() -> None:
    draws = []
    for _ in range(2):
        generator = tj.Generator().manual_seed(7)
        draws.append([init.normal_(tj.empty(3), generator=generator).tolist(), tj.rand(2).tolist()])
    assert draws[0][0] == draws[1][0]
    assert draws[0][1] != draws[1][1]


@pytest.mark.parametrize(
    ("name", "param"),
    [
        ("linear", None),
        ("conv2d", None),
        ("sigmoid", None),
        ("tanh", None),
        ("relu", None),
        ("selu", None),
        ("leaky_relu", None),
        ("leaky_relu", 0.3),
    ],
)
def test_gain(name: str, param: float | None) -> None:
    assert init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


def test_wrong_arguments() -> None:
    for call in (
        lambda: init.xavier_uniform_(tj.empty(3)),
        lambda: init.kaiming_normal_(tj.empty(3, 3), mode="fan"),
        lambda: init.kaiming_normal_(tj.empty(3, 3), nonlinearity="cube"),
        lambda: init.orthogonal_(tj.empty(3)),
        lambda: init.eye_(tj.empty(3)),
        lambda: init.dirac_(tj.empty(3, 3)),
        lambda: init.sparse_(tj.empty(3), 0.1),
        lambda: init.calculate_gain("leaky_relu", True),
    ):
        with pytest.raises(ValueError):
            call()
