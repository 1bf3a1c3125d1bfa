"""Choices at random that gradients go through."""

from __future__ import annotations

import warnings
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.arithmetic import add, div, eq, log, neg, sub
from tracejit.tensor.composite import composite
from tracejit.tensor.creation import empty_like
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.functional.activation import number, softmax
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.random import exponential_
from tracejit.tensor.reducing import argmax
from tracejit.tensor.shaping import reshape
from tracejit.tensor.tensor import Tensor


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Any:
    """Samples of classes along a dimension as shares, which are the softer the larger `tau` is.

    With `hard` the result is 1 for the class with the largest share and 0 for the others; its gradient is that of the
    shares. Edge: `eps` has no effect. Raises: RuntimeError for whole numbers.
    Source: Jang et al., Categorical reparameterization with Gumbel-softmax (2016).
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", UserWarning, stacklevel=2)
    if not logits._dtype.is_floating_point:
        raise RuntimeError(
            "Exponential distribution is a continuous probability distribution. dtype must be a floating point but "
            f"you specified {logits._dtype.title}"
        )
    waits = exponential_(empty_like(logits))
    return _gumbel(logits, waits, normalize_dim(dim, len(logits._shape)), hard, tau=number(tau, "tau"))


@composite
def _gumbel(logits: Tensor, waits: Tensor, dim: int, hard: bool, *, tau: Any) -> Any:
    # A wait of 0 would be an infinite logit.
    noise = neg(log(apply(ops.maximum, (waits, dtypes.finfo(waits._dtype).tiny))))
    soft = softmax(div(add(logits, noise), tau), dim)
    if not hard or not soft._shape:
        return soft
    size = soft._shape[dim]
    places = reshape(beside(soft, ops.iota, (), (size,)), tuple(size if d == dim else 1 for d in range(soft.dim())))
    chosen = to_dtype(eq(places, argmax(soft, dim, True)), soft._dtype)
    return add(sub(chosen, soft.detach()), soft)
