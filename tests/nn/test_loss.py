"""Losses beside PyTorch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.nn.parity import check, ours


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def both(name: str, **kwargs: Any) -> tuple[Any, Any]:
    mine = getattr(tj.nn, name)(**{key: ours(value) for key, value in kwargs.items()})
    theirs = getattr(torch.nn, name)(**kwargs)
    assert repr(mine) == repr(theirs)
    return mine, theirs


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def share(*shape: int) -> torch.Tensor:
    return torch.rand(*shape).requires_grad_()


def signs(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2, shape) * 2 - 1


def classes(*shape: int) -> torch.Tensor:
    return torch.randint(0, 3, shape)


def log_share(*shape: int) -> torch.Tensor:
    return torch.log_softmax(torch.randn(*shape), -1).requires_grad_()


CASES: list[tuple[str, dict[str, Any], Callable[[], tuple[Any, ...]]]] = [
    ("MSELoss", {}, lambda: (normal(4, 3), normal(4, 3))),
    ("L1Loss", {}, lambda: (normal(4, 3), normal(4, 3))),
    ("SmoothL1Loss", {}, lambda: (normal(4, 3), normal(4, 3))),
    ("SmoothL1Loss", {"beta": 0.3}, lambda: (normal(4, 3), normal(4, 3))),
    ("SmoothL1Loss", {"beta": 0.0}, lambda: (normal(4, 3), normal(4, 3))),
    ("HuberLoss", {"delta": 0.5}, lambda: (normal(4, 3), normal(4, 3))),
    ("BCELoss", {}, lambda: (share(4, 3), torch.rand(4, 3))),
    ("BCELoss", {"weight": torch.rand(3)}, lambda: (share(4, 3), torch.rand(4, 3))),
    ("BCEWithLogitsLoss", {}, lambda: (normal(4, 3), torch.rand(4, 3))),
    (
        "BCEWithLogitsLoss",
        {"weight": torch.rand(3), "pos_weight": torch.rand(3)},
        lambda: (normal(4, 3), torch.rand(4, 3)),
    ),
    ("KLDivLoss", {}, lambda: (log_share(4, 3), torch.softmax(torch.randn(4, 3), -1))),
    ("KLDivLoss", {"log_target": True}, lambda: (log_share(4, 3), log_share(4, 3))),
    ("NLLLoss", {}, lambda: (log_share(4, 3), classes(4))),
    ("NLLLoss", {"weight": torch.rand(3), "ignore_index": 1}, lambda: (log_share(6, 3), classes(6))),
    ("CrossEntropyLoss", {}, lambda: (normal(5, 3), classes(5))),
    ("CrossEntropyLoss", {}, lambda: (normal(3), classes())),
    ("CrossEntropyLoss", {}, lambda: (normal(5, 3, 2), classes(5, 2))),
    ("CrossEntropyLoss", {"weight": torch.rand(3), "ignore_index": 0}, lambda: (normal(6, 3), classes(6))),
    ("CrossEntropyLoss", {"label_smoothing": 0.2}, lambda: (normal(5, 3), classes(5))),
    ("CrossEntropyLoss", {"label_smoothing": 0.2, "weight": torch.rand(3)}, lambda: (normal(5, 3), classes(5))),
    ("CrossEntropyLoss", {}, lambda: (normal(5, 3), torch.softmax(torch.randn(5, 3), 1))),
    ("MarginRankingLoss", {"margin": 0.4}, lambda: (normal(4, 3), normal(4, 3), signs(4, 3))),
    ("HingeEmbeddingLoss", {}, lambda: (normal(4, 3), signs(4, 3))),
    ("CosineEmbeddingLoss", {"margin": 0.1}, lambda: (normal(4, 3), normal(4, 3), signs(4))),
    ("TripletMarginLoss", {}, lambda: (normal(4, 3), normal(4, 3), normal(4, 3))),
    ("TripletMarginLoss", {"margin": 0.5, "swap": True}, lambda: (normal(4, 3), normal(4, 3), normal(4, 3))),
    ("SoftMarginLoss", {}, lambda: (normal(4, 3), signs(4, 3))),
    ("MultiLabelSoftMarginLoss", {"weight": torch.rand(3)}, lambda: (normal(4, 3), torch.rand(4, 3).round())),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": torch.rand(3)}, lambda: (normal(4, 3), classes(4))),
    ("PoissonNLLLoss", {"full": True}, lambda: (normal(4, 3), 3 * torch.rand(4, 3))),
    ("GaussianNLLLoss", {"full": True}, lambda: (normal(4, 3), normal(4, 3), share(4, 3))),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "kwargs", "inputs"), CASES)
def test_loss(name: str, kwargs: dict[str, Any], inputs: Callable[[], tuple[Any, ...]], reduction: str) -> None:
    mine, theirs = both(name, **kwargs, reduction=reduction)
    with warnings.catch_warnings():
        if name == "KLDivLoss" and reduction == "mean":
            warnings.simplefilter("ignore")
        check(mine, theirs, *inputs(), atol=2e-6)


def test_kl_div_by_batch_and_of_zero() -> None:
    mine, theirs = both("KLDivLoss", reduction="batchmean")
    check(mine, theirs, log_share(4, 3), torch.tensor([[0.0, 1.0, 0.0]]).repeat(4, 1))
    with pytest.warns(UserWarning, match="batchmean"):
        tj.nn.KLDivLoss()(tj.zeros(2, 2), tj.ones(2, 2))


def test_binary_cross_entropy_at_the_ends() -> None:
    x = torch.tensor([0.0, 1.0, 0.0, 1.0])
    t = torch.tensor([0.0, 1.0, 1.0, 0.0])
    check(tj.nn.BCELoss(reduction="none"), torch.nn.BCELoss(reduction="none"), x, t)
    mine = ours(x).requires_grad_()
    tj.nn.functional.binary_cross_entropy(mine, ours(t)).backward()
    assert np.isfinite(mine.grad.numpy()).all()
    assert np.isnan(tj.nn.BCELoss()(tj.tensor([1.5]), tj.tensor([0.5])).item())


@pytest.mark.parametrize("nn", [tj.nn, torch.nn], ids=["tracejit", "torch"])
def test_wrong_inputs(nn: Any) -> None:
    lib = tj if nn is tj.nn else torch
    for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"):
        with pytest.warns(UserWarning, match="different to the input size"):
            getattr(nn, name)()(lib.zeros(3), lib.zeros(1))
    with pytest.raises(ValueError):
        nn.BCELoss()(lib.zeros(3), lib.zeros(1))
    with pytest.raises(ValueError):
        nn.BCEWithLogitsLoss()(lib.zeros(3), lib.zeros(1))
    with pytest.raises(ValueError):
        nn.CrossEntropyLoss()(lib.zeros(3, 2), lib.zeros(2, dtype=lib.int64))
    with pytest.raises(IndexError):
        nn.CrossEntropyLoss()(lib.zeros(3, 2), lib.tensor([0, 1, 2]))
    with pytest.raises(ValueError):
        nn.MSELoss(reduction="average")(lib.zeros(3), lib.zeros(3))
    with pytest.raises(RuntimeError):
        nn.HuberLoss(delta=0.0)(lib.zeros(3), lib.zeros(3))
    with pytest.raises(ValueError):
        nn.TripletMarginLoss(margin=0.0)
    with pytest.raises(ValueError):
        nn.MultiMarginLoss(p=3)
    with pytest.raises(ValueError):
        nn.MultiMarginLoss(weight=lib.ones(2, 2))
    with pytest.raises(RuntimeError):
        nn.SmoothL1Loss(beta=-1.0)(lib.zeros(3), lib.zeros(3))


def test_old_flags() -> None:
    for flags, reduction in (((False, None), "sum"), ((None, False), "none"), ((True, True), "mean")):
        with pytest.warns(UserWarning, match=f"reduction='{reduction}'"):
            assert tj.nn.MSELoss(*flags).reduction == reduction


def test_weight_is_a_buffer() -> None:
    loss = tj.nn.CrossEntropyLoss(weight=tj.ones(3))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == tj.float64
    assert not list(tj.nn.CrossEntropyLoss().state_dict())
