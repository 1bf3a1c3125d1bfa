"""Losses of counts and of values with a variance."""

from __future__ import annotations

import math
from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.arithmetic import add, div, exp, gt, log, lt, mul, sub, where
from tracejit.tensor.casting import SINGLE
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.functional.activation import floats, number
from tracejit.tensor.functional.loss import check_reduction, reduced
from tracejit.tensor.promote import in_single, unify
from tracejit.tensor.reducing import any
from tracejit.tensor.shaping import unsqueeze
from tracejit.tensor.tensor import Tensor


@composite(operands=SINGLE)
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Any:
    """Negative log likelihood of counts under a Poisson distribution, of whose rate the input is the logarithm.

    Without `log_input` it is the rate itself; with `full` Stirling's approximation of log(target!) is added where the
    target exceeds 1. Edge: there the gradient of a target of 0 is finite, in PyTorch NaN.

    >>> import tracejit as tj
    >>> poisson_nll_loss(tj.tensor([0.0]), tj.tensor([3.0]))
    tensor(1.)
    """
    check_reduction(reduction)
    x, y = unify(input, target)
    return _poisson(x, y, log_input, full, reduction, eps=number(eps, "eps"))


@composite
@in_single
def _poisson(x: Tensor, target: Tensor, log_input: bool, full: bool, reduction: str, *, eps: Any) -> Any:
    loss = sub(exp(x), mul(target, x)) if log_input else sub(x, mul(target, log(add(x, eps))))
    if full:
        many = gt(target, 1)
        n = where(many, target, 1)
        stirling = add(sub(mul(n, log(n)), n), mul(log(mul(n, 2 * math.pi)), 0.5))
        loss = add(loss, where(many, stirling, 0))
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """Negative log likelihood of values under normal distributions of given means and variances.

    Shape: `var` is a number, or has the input's shape, or one that is 1 or missing in the last dimension. Edge: a
    variance below `eps` counts as `eps`, and its gradient is that of `eps`.
    Raises: ValueError for a negative variance, which is a look at all of them, or for another shape.
    Source: Nix and Weigend, Estimating the mean and variance of the target probability distribution (1994).
    """
    if bool(any(lt(var, 0))) if isinstance(var, Tensor) else var < 0:
        raise ValueError("var has negative entry/entries")
    shape = input._shape
    v = var if isinstance(var, Tensor) else beside(input, ops.full, (var,), (shape, input._dtype))
    if v._shape != shape:
        if shape[:-1] == v._shape:
            v = unsqueeze(v, -1)
        elif len(shape) != len(v._shape) or [n for m, n in zip(shape, v._shape, strict=True) if m != n] != [1]:
            raise ValueError("var is of incorrect size")
    check_reduction(reduction)
    x, y, v = unify(input, target, v)
    floats(x, "gaussian_nll_loss")
    return _gaussian(x, y, v, full, reduction, eps=number(eps, "eps"))


@composite
@in_single
def _gaussian(x: Tensor, target: Tensor, var: Tensor, full: bool, reduction: str, *, eps: Any) -> Any:
    # What is raised to `eps` keeps its gradient, as PyTorch's change in place without history does.
    var = where(lt(var, eps), add(sub(var, var.detach()), eps), var)
    gap = sub(x, target)
    loss = mul(add(apply(ops.log, (var,)), div(mul(gap, gap), var)), 0.5)
    if full:
        loss = add(loss, 0.5 * math.log(2 * math.pi))
    return reduced(loss, reduction)
