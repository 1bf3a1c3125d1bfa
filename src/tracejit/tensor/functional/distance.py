"""Losses and measures of distance."""

from __future__ import annotations

import warnings
from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.arithmetic import add, exp, mul, sub
from tracejit.tensor.casting import SINGLE, call_cast
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply
from tracejit.tensor.functional.activation import floats
from tracejit.tensor.functional.loss import check_reduction, everything, reduced
from tracejit.tensor.naming import named
from tracejit.tensor.promote import in_single, unify
from tracejit.tensor.reducing import norm, sum
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor


def _compared(input: Tensor, target: Tensor, reduction: str) -> tuple[Any, ...]:
    """Both in one type; a warning if their shapes differ."""
    check_reduction(reduction)
    for x in (input, target):
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a Tensor, but got {type(x).__name__}")
    if input._shape != target._shape:
        warnings.warn(
            f"Using a target size ({list(target._shape)}) that is different to the input size ({list(input._shape)}). "
            "This will likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            UserWarning,
            stacklevel=3,
        )
    x, y = unify(input, target)
    floats(x, "loss")
    return x, y


def _weighted(loss: Any, weight: Tensor | None, reduction: str) -> Any:
    if weight is None:
        return reduced(loss, reduction)
    if weight._shape != loss._shape:
        raise ValueError("Weights and input must have the same size.")
    loss = apply(ops.mul, (loss, weight))
    return apply(ops.div, (everything(loss), everything(weight))) if reduction == "mean" else reduced(loss, reduction)


@composite(operands=SINGLE)
def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Any:
    """Squared differences, reduced.

    >>> import tracejit as tj
    >>> mse_loss(tj.tensor([1.0, 2.0]), tj.tensor([1.0, 4.0]))
    tensor(2.)
    """
    return _mse(*_compared(input, target, reduction), weight, reduction)


@composite
def _mse(x: Tensor, y: Tensor, weight: Tensor | None, reduction: str) -> Any:
    gap = apply(ops.sub, (x, y))
    return _weighted(apply(ops.mul, (gap, gap)), weight, reduction)


@composite(operands=SINGLE)
def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Any:
    """Absolute differences, reduced."""
    return _l1(*_compared(input, target, reduction), weight, reduction)


@composite
def _l1(x: Tensor, y: Tensor, weight: Tensor | None, reduction: str) -> Any:
    return _weighted(apply(ops.abs, (apply(ops.sub, (x, y)),)), weight, reduction)


@composite(operands=SINGLE)
def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Squared differences over 2 * beta below `beta`, absolute ones less beta / 2 above.

    Raises: RuntimeError for a negative `beta`. Source: Girshick, Fast R-CNN (2015).
    """
    check_reduction(reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    x, y = _compared(input, target, reduction)
    if beta == 0:
        return _l1(x, y, None, reduction)
    return _smooth_l1(x, y, reduction, beta=beta, rise=0.5 / beta, less=0.5 * beta)


@composite
def _smooth_l1(x: Tensor, y: Tensor, reduction: str, *, beta: Any, rise: Any, less: Any) -> Any:
    gap = apply(ops.abs, (apply(ops.sub, (x, y)),))
    near = apply(ops.mul, (apply(ops.mul, (gap, gap)), rise))
    return reduced(apply(ops.where, (apply(ops.lt, (gap, beta)), near, apply(ops.sub, (gap, less)))), reduction)


@composite(operands=SINGLE)
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Any:
    """Half squared differences up to `delta`, linear above.

    Raises: RuntimeError unless `delta` is positive. Source: Huber, Robust estimation of a location parameter (1964).
    """
    check_reduction(reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    return _huber(*_compared(input, target, reduction), weight, reduction, delta=delta, less=0.5 * delta)


@composite
def _huber(x: Tensor, y: Tensor, weight: Tensor | None, reduction: str, *, delta: Any, less: Any) -> Any:
    gap = apply(ops.abs, (apply(ops.sub, (x, y)),))
    near = apply(ops.mul, (apply(ops.mul, (gap, gap)), 0.5))
    far = apply(ops.mul, (apply(ops.sub, (gap, less)), delta))
    return _weighted(apply(ops.where, (apply(ops.le, (gap, delta)), near, far)), weight, reduction)


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Any:
    """target * (log(target) - input) for an input that is a logarithm; 0 where the target is 0.

    Edge: "mean" is over all elements, "batchmean" over the examples.
    """
    if state.autocast is not None:
        return call_cast(SINGLE, kl_div, (input, target, reduction, log_target))
    if reduction != "batchmean":
        check_reduction(reduction)
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' divides "
            "only by the batch size, and aligns with the KL math definition.",
            UserWarning,
            stacklevel=2,
        )
    return _kl(*unify(input, target), reduction, log_target)


@composite
def _kl(x: Tensor, target: Tensor, reduction: str, log_target: bool) -> Any:
    if log_target:
        loss = mul(exp(target), sub(target, x))
    else:
        zero = apply(ops.eq, (target, 0))
        log = apply(ops.log, (apply(ops.where, (zero, 1, target)),))
        loss = sub(apply(ops.where, (zero, 0, mul(target, log))), mul(target, x))
    if reduction == "batchmean":
        return apply(ops.div, (everything(loss), float(x._shape[0] if x._shape else 1)))
    return reduced(loss, reduction)


@named
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between vectors along a dimension; lengths below `eps` count as `eps`."""
    x, y = unify(x1, x2)
    floats(x, "cosine_similarity")
    return _cosine(x, y, dim, least=eps * eps)


@composite
@in_single
def _cosine(x: Tensor, y: Tensor, dim: int, *, least: Any) -> Any:
    def length(v: Tensor) -> Any:
        # The square is limited, not the root: the root's slope at zero is infinite.
        square = sum(apply(ops.mul, (v, v)), dim)
        return apply(ops.sqrt, (apply(ops.where, (apply(ops.ge, (square, least)), square, least)),))

    return apply(ops.div, (sum(apply(ops.mul, (x, y)), dim), apply(ops.mul, (length(x), length(y)))))


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    return norm(add(sub(x1, x2), eps), p, -1, keepdim)
