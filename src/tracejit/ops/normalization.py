"""Normalisation."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.elementwise import elementwise
from tracejit.ops.record import ops
from tracejit.ops.view import sum_to
from tracejit.symbols import real


def _standard(x: Aval, mean: Aval, scale: Aval, weight: Any, eps: Any) -> Aval:
    fits = x.dtype is mean.dtype and mean == scale and (mean == weight or not isinstance(weight, Aval))
    if not fits or not all(m in (1, n) for m, n in zip(mean.shape, x.shape, strict=True)):
        raise ValueError(f"standardize: operands {x}, {mean}, {scale}, {weight} do not go together")
    return x


def _standardized(x: Any, mean: Any, scale: Any, weight: Any, eps: Any) -> Any:
    kind = np.float32 if x.dtype == np.float16 else x.dtype
    return ((x.astype(kind, copy=False) - mean) * scale * weight).astype(x.dtype, copy=False)


def _gradients(
    ct: Any,
    x: Any,
    mean: Any,
    scale: Any,
    weight: Any,
    eps: Any,
    x_aval: Aval,
    mean_aval: Aval,
    create_graph: bool,
) -> tuple[Any, ...]:
    """Source: Ioffe and Szegedy, Batch normalization (2015), with what mean and variance move put together."""
    shape, each = x_aval.shape, mean_aval.shape
    n = real(prod(shape) // max(prod(each), 1))
    if create_graph:
        # Once more, with the history that they have not.
        mean = ops.div(sum_to(x, shape, each), n)
        low = ops.sub(x, mean)
        variance = ops.div(sum_to(ops.mul(low, low), shape, each), n)
        scale = ops.div(1.0, ops.sqrt(ops.add(variance, eps)))
    standard = ops.mul(ops.sub(x, mean), scale)
    total, along = (sum_to(part, shape, each) for part in (ct, ops.mul(ct, standard)))
    rest = ops.sub(ops.sub(ct, ops.div(total, n)), ops.mul(standard, ops.div(along, n)))
    return ops.mul(rest, ops.mul(scale, weight)), None, None, along, None


@elementwise(
    numpy=_standardized,
    exact=True,
    infer=_standard,
    kinds="f",
    expr="({x} - {mean}) * {scale} * {weight}",
    vjp=dict.fromkeys(("x", "weight"), _gradients),
    joint=True,
    work=3.0,
)
def standardize(x, mean, scale, weight, eps):
    """`x` less its mean, times the reciprocal of its deviation, times a weight.

    Shape: that of `x`; mean, scale and weight have 1 where `x` is gone over, the weight may be a number.
    Edge: the gradient is that of a function of `x` and the weight: `mean` is that of `x`, and `scale` 1 / sqrt(variance
    + eps), computed without a history. A gradient that will be differentiated computes them again.
    """
