"""Sums of products, each in one function: what optimizers are written with."""

from __future__ import annotations

from typing import Any

from tracejit.tensor.arithmetic import add, div, mul, sub
from tracejit.tensor.promote import in_single
from tracejit.tensor.tensor import Tensor, method


@method()
@in_single
def lerp(input: Tensor, end: Tensor, weight: Any) -> Any:
    """input + weight * (end - input)."""
    return add(input, mul(sub(end, input), weight))


@method()
@in_single
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Any:
    """input + value * tensor1 * tensor2."""
    scaled = tensor1 if type(value) is int and value == 1 else mul(tensor1, value)
    return add(input, mul(scaled, tensor2))


@method()
@in_single
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Any:
    """input + value * tensor1 / tensor2."""
    scaled = tensor1 if type(value) is int and value == 1 else mul(tensor1, value)
    return add(input, div(scaled, tensor2))
