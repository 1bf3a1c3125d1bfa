"""Dropout."""

from __future__ import annotations

from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.generator import draw
from tracejit.tensor.scalar import plain
from tracejit.tensor.tensor import Tensor


def _checked(p: Any) -> float:
    p = plain(p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return float(p)


def _check_type(x: Tensor) -> None:
    if not x._dtype.is_floating_point:
        raise RuntimeError(f"result type Float can't be cast to the desired output type {x._dtype.name.capitalize()}")


def noise(x: Tensor, shape: tuple[int, ...]) -> Any:
    """The uniform numbers that decide what a dropout of a tensor keeps."""
    return beside(x, ops.uniform, draw(None), (shape, dtypes.widened(x._dtype)))


def rates(p: float) -> tuple[float, float]:
    """The share that stays, and the factor that makes up for the rest."""
    keep = 1.0 - p
    return keep, 1.0 / keep if keep else 0.0


@composite
def kept(x: Tensor, u: Tensor, *, keep: Any, scale: Any) -> Any:
    """Elements scaled where the uniform number is below `keep`, else 0."""
    return apply(ops.where, (apply(ops.lt, (u, keep)), apply(ops.mul, (x, scale)), 0))


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Any:
    """Each element 0 with probability `p`, else scaled by 1 / (1 - p); unchanged if not training.

    Raises: ValueError for `p` outside [0, 1].
    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (2014).
    """
    p = _checked(p)
    if not training:
        return input
    _check_type(input)
    keep, scale = rates(p)
    return kept(input, noise(input, input._shape), keep=keep, scale=scale)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Any:
    """Whole channels (dimension 1) 0 with probability `p`, else scaled by 1 / (1 - p).

    Shape: (N, C, *). Raises: ValueError for `p` outside [0, 1], RuntimeError for fewer than 2 dimensions.
    """
    p = _checked(p)
    if not training:
        return input
    if len(input._shape) < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    _check_type(input)
    keep, scale = rates(p)
    shape = (*input._shape[:2], *(1,) * (len(input._shape) - 2))
    return kept(input, noise(input, shape), keep=keep, scale=scale)


dropout1d = dropout3d = feature_dropout = dropout2d
