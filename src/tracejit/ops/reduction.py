"""Reductions and scans over one dimension.

The front merges adjacent reduced dimensions and applies the record once for each run, innermost first, so
the order of accumulation depends on the shape alone. With the operand seen as [outer, size, inner], `inner == 1`
is a row reduction and anything else a column reduction; `kernels` fixes the order of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import ops, record


def _dropped(x: Aval, dim: int) -> Aval:
    return Aval(x.shape[:dim] + x.shape[dim + 1 :], x.dtype)


def _kept(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 1, *shape[dim + 1 :])


def _spread(value: Any, shape: tuple[int, ...], dim: int) -> Any:
    """A reduced value repeated along the reduced dimension."""
    return ops.expand(ops.reshape(value, shape=_kept(shape, dim)), shape=shape)


def _numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim: function(x, axis=dim).astype(x.dtype)


def _accumulate(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, dim: int) -> Any:
        kind = np.float32 if x.dtype == np.float16 else x.dtype
        return function(x, axis=dim, dtype=kind).astype(x.dtype)

    return run


@record(
    family="reduction",
    infer=_dropped,
    numpy=_accumulate(np.sum),
    kinds="if",
    vjp={"x": lambda ct, x_aval, dim: _spread(ct, x_aval.shape, dim)},
)
def sum(x, *, dim):  # noqa: A001 - the operation's name
    """Sum along a dimension; of nothing 0."""


def _prod_gradient(ct: Any, x: Any, x_aval: Aval, dim: int) -> Any:
    """The product of the others, by products from both ends, so that zeros do no harm."""
    before = _exclusive_products(x, x_aval.shape, dim)
    back = ops.flip(x, dims=(dim,))
    after = ops.flip(_exclusive_products(back, x_aval.shape, dim), dims=(dim,))
    return ops.mul(_spread(ct, x_aval.shape, dim), ops.mul(before, after))


def _exclusive_products(x: Any, shape: tuple[int, ...], dim: int) -> Any:
    """At each place the product of all elements before it."""
    if shape[dim] == 0:
        return x
    one = (*shape[:dim], 1, *shape[dim + 1 :])
    start = tuple(0 for _ in shape)
    length = (*shape[:dim], shape[dim] - 1, *shape[dim + 1 :])
    step = tuple(1 for _ in shape)
    head = ops.slice(x, start=start, length=length, step=step)
    ones = ops.add(ops.mul(ops.slice(x, start=start, length=one, step=step), 0), 1)
    ones = ops.where(ops.eq(ones, ones), ones, 1)
    return ops.cumprod(ops.cat(ones, head, dim=dim), dim=dim)


@record(
    family="reduction", infer=_dropped, numpy=_accumulate(np.prod), kinds="if", vjp={"x": _prod_gradient}
)
def prod(x, *, dim):
    """Product along a dimension; of nothing 1."""


def _extreme_gradient(ct: Any, x: Any, out: Any, x_aval: Aval, dim: int) -> Any:
    """Spread evenly over the places that attain the extreme."""
    hit = ops.eq(x, _spread(out, x_aval.shape, dim))
    weight = ops.cast(hit, dtype=x_aval.dtype)
    share = ops.div(ct, ops.sum(weight, dim=dim))
    return ops.mul(weight, _spread(share, x_aval.shape, dim))


@record(
    family="reduction", infer=_dropped, numpy=_numpy(np.max), vjp={"x": _extreme_gradient}, smooth=False
)
def amax(x, *, dim):
    """Largest element along a dimension, NaN if one is there; of bools whether any holds."""


@record(
    family="reduction", infer=_dropped, numpy=_numpy(np.min), vjp={"x": _extreme_gradient}, smooth=False
)
def amin(x, *, dim):
    """Smallest element along a dimension, NaN if one is there; of bools whether all hold."""


def _index_of(x: Aval, dim: int) -> Aval:
    return Aval(_dropped(x, dim).shape, dtypes.int64)


@record(
    family="library",
    infer=_index_of,
    numpy=lambda x, dim: np.argmax(x, axis=dim),
    exact=True,
    smooth=False,
)
def argmax(x, *, dim):
    """Place of the first largest element along a dimension; NaN counts as largest."""


@record(
    family="library",
    infer=_index_of,
    numpy=lambda x, dim: np.argmin(x, axis=dim),
    exact=True,
    smooth=False,
)
def argmin(x, *, dim):
    """Place of the first smallest element along a dimension; NaN counts as smallest."""


@record(
    family="library",
    infer=lambda x, dim: x,
    numpy=_accumulate(np.cumsum),
    exact=True,
    kinds="if",
    vjp={"x": lambda ct, dim: ops.flip(ops.cumsum(ops.flip(ct, dims=(dim,)), dim=dim), dims=(dim,))},
)
def cumsum(x, *, dim):
    """Running sums along a dimension."""


def _cumprod_gradient(ct: Any, x: Any, out: Any, dim: int) -> Any:
    """Reversed running sums of ct * out, over x."""
    weighted = ops.flip(ops.cumsum(ops.flip(ops.mul(ct, out), dims=(dim,)), dim=dim), dims=(dim,))
    return ops.div(weighted, x)


@record(
    family="library",
    infer=lambda x, dim: x,
    numpy=_accumulate(np.cumprod),
    exact=True,
    kinds="if",
    sample=(0.5, 2.0),
    vjp={"x": _cumprod_gradient},
)
def cumprod(x, *, dim):
    """Running products along a dimension.

    Edge: the gradient is NaN where an element is zero.
    """
