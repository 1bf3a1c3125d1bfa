"""The text of tensors is PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import torch

RNG = np.random.default_rng(0)
ARRAYS: list[Any] = [
    np.float32([1, 2, 3]), np.float32([1.5, 2, -3]), np.float32([1e-5, 2]), np.float32([1e9, 1]), np.float32([1000, 1]),
    np.float32([1001, 1]), np.float32([0, 0]), np.float32([np.nan, 1]), np.float32([np.inf, -np.inf, 1.5]),
    np.float32([np.nan]), np.float32(3), np.float32(3.14159), np.float64(2), np.float64([1, 2.5]), np.array(True),
    np.int64([[1, 20], [300, -4]]), np.array([True, False]), np.int32([1]), np.zeros(0, np.float32),
    np.zeros((0, 3), np.float32), np.zeros((2, 0), np.int64), np.zeros(0, np.int64), np.float16([1.5, 2]),
    RNG.standard_normal((3, 4)).astype("f"), RNG.standard_normal((2, 3, 4)).astype("f"), np.float32([1e-10, 1e10]),
    RNG.standard_normal((30, 40)).astype("f"), RNG.standard_normal(1100).astype("f"), np.float32([-0.0]),
    RNG.standard_normal((3, 40)).astype("f"), RNG.standard_normal((8, 8, 8, 8)).astype("f"), np.uint8([1, 255]),
    np.arange(2000).reshape(2, 1000), np.arange(100), np.float32([1e20]), np.float32([123456.5, 1]),
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {}, {"precision": 2}, {"sci_mode": True}, {"sci_mode": False}, {"profile": "short"}, {"profile": "full"},
    {"linewidth": 40}, {"edgeitems": 1, "threshold": 5},
]  # fmt: skip


@pytest.fixture
def _default_options() -> Iterator[None]:
    yield
    tj.set_printoptions(profile="default")
    torch.set_printoptions(profile="default")


@pytest.mark.usefixtures("_default_options")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_text_is_that_of_pytorch(options: dict[str, Any]) -> None:
    tj.set_printoptions(**options)
    torch.set_printoptions(**options)
    for array in ARRAYS:
        theirs = repr(torch.tensor(array)).replace("torch.", "tracejit.")
        assert repr(tj.tensor(array)) == theirs


@pytest.mark.parametrize("index", range(len(ARRAYS)))
def test_gradients_are_mentioned(index: int) -> None:
    array = ARRAYS[index]
    if array.dtype.kind != "f":
        pytest.skip("whole numbers have no gradients")
    ours, theirs = tj.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    assert str(ours) == str(theirs).replace("torch.", "tracejit.")
    assert str(ours * 1) == str(theirs * 1).replace("torch.", "tracejit.")


def test_format_of_one_number() -> None:
    assert f"{tj.tensor(2.0):.3f} {tj.tensor(7)}" == "2.000 7"
    with pytest.raises(TypeError):
        f"{tj.ones(2):.3f}"
