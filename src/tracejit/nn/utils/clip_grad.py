"""Clipping of gradients by their norm or value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict

from tracejit.tensor import Tensor, clamp, composite, ne, no_grad, sqrt, stack, tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "get_total_norm"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _norm(tensors: list[Tensor], kind: str, order: float, inverse: float) -> Tensor:
    if kind == "max":
        return stack([t.abs().max() for t in tensors]).max()
    if kind == "min":
        return stack([t.abs().min() for t in tensors]).min()
    if kind == "count":
        return stack([ne(t, 0).sum() for t in tensors]).ne(0).sum().to(tensors[0].dtype)
    if kind == "one":
        return stack([t.abs().sum() for t in tensors]).sum()
    if kind == "two":
        # The square of each tensor's norm, not of its elements' sum: the order in which PyTorch rounds.
        parts = stack([sqrt((t * t).sum()) for t in tensors])
        return sqrt((parts * parts).sum())
    parts = stack([(t.abs() ** order).sum() ** inverse for t in tensors])
    return (parts**order).sum() ** inverse


_KINDS = {math.inf: "max", -math.inf: "min", 0.0: "count", 1.0: "one", 2.0: "two"}


class _Order(TypedDict):
    kind: str
    order: float
    inverse: float


def _order(norm_type: float) -> _Order:
    # The inverse is taken here: inside the composite the order is a number of the run, not of the structure.
    order = float(norm_type)
    return {"kind": _KINDS.get(order, "general"), "order": order, "inverse": 1.0 / order if order else math.inf}


@composite(mutates=("grads",))
def clip_by_norm(grads: list[Tensor], *, max_norm: float, order: float, inverse: float, kind: str) -> Tensor:
    """Scale the gradients, as one vector, down to ``max_norm``; returns the norm that they had."""
    total = _norm(grads, kind, order, inverse)
    coefficient = clamp(max_norm / (total + 1e-6), max=1.0)
    for grad in grads:
        grad.mul_(coefficient.to(grad.dtype))
    return total


@composite(mutates=("grads",))
def clip_by_value(grads: list[Tensor], *, clip_value: float, negative: float) -> None:
    """Limit each element of the gradients to ``[negative, clip_value]``."""
    for grad in grads:
        grad.clamp_(negative, clip_value)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of several tensors as one vector.

    Edge: 0 for no tensor. Raises: RuntimeError for a norm that is not finite, if asked to.
    """
    found = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not found:
        return tensor(0.0)
    total = _norm(found, **_order(norm_type))
    if error_if_nonfinite:
        _check_finite(total, float(norm_type))
    return total


def _check_finite(total: Tensor, norm_type: float) -> None:
    if not math.isfinite(float(total)):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients, as one vector, down to ``max_norm``; returns the norm that they had.

    Edge: 0 where no parameter has a gradient.
    Raises: RuntimeError for a norm that is not finite, if asked to; the gradients then stay as they were.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.zeros(2))
    >>> w.grad = tj.tensor([3.0, 4.0])
    >>> tj.nn.utils.clip_grad_norm_([w], 1.0).item()
    5.0
    """
    grads = _gradients(parameters)
    if not grads:
        return tensor(0.0)
    order = _order(norm_type)
    with no_grad():
        if error_if_nonfinite:
            _check_finite(_norm(grads, **order), order["order"])
        return clip_by_norm(grads, max_norm=float(max_norm), **order)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit each element of the gradients to ``[-clip_value, clip_value]``."""
    grads = _gradients(parameters)
    if grads:
        with no_grad():
            clip_by_value(grads, clip_value=float(clip_value), negative=-float(clip_value))
