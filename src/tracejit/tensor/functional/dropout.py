"""Dropout."""

from __future__ import annotations

import math
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.generator import draw
from tracejit.tensor.naming import named
from tracejit.tensor.promote import in_single
from tracejit.tensor.scalar import plain
from tracejit.tensor.tensor import Tensor

# What `selu` comes to far below zero, without its sign.
_SELU_LIMIT = 1.7580993408473766


def _checked(p: Any) -> float:
    p = plain(p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return float(p)


def _check_type(x: Tensor) -> None:
    if not x._dtype.is_floating_point:
        raise RuntimeError(f"result type Float can't be cast to the desired output type {x._dtype.title}")


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


@named(train="training")
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


@named(train="training")
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False) -> Any:
    """Each element the limit of `selu` with probability `p`, then scaled and shifted to keep mean 0 and variance 1.

    Raises: ValueError for `p` outside [0, 1]. Source: Klambauer et al., Self-normalizing neural networks (2017).
    """
    p = _checked(p)
    if not training or p == 0:
        return input
    _check_type(input)
    # Without any element that stays there is nothing to scale.
    scale = 1.0 / math.sqrt((_SELU_LIMIT * _SELU_LIMIT * p + 1.0) * (1.0 - p)) if p < 1 else 0.0
    shift = _SELU_LIMIT * scale * p
    low = shift - _SELU_LIMIT * scale
    return _alpha_kept(input, noise(input, input._shape), keep=1.0 - p, scale=scale, shift=shift, low=low)


@composite
@in_single
def _alpha_kept(x: Tensor, u: Tensor, *, keep: Any, scale: Any, shift: Any, low: Any) -> Any:
    stays = apply(ops.add, (apply(ops.mul, (x, scale)), shift))
    return apply(ops.where, (apply(ops.lt, (u, keep)), stays, low))


dropout1d = dropout3d = feature_dropout = dropout2d
