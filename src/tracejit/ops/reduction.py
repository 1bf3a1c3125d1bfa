"""Reductions and scans over one dimension.

The front merges adjacent reduced dimensions and applies the record once for each run, innermost first, so
the order of accumulation depends on the shape alone. With the operand seen as [outer, size, inner], `inner == 1`
is a row reduction and anything else a column reduction; `kernels` fixes the order of each.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
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
def sum(x, *, dim):
    """Sum along a dimension; of nothing 0.

    DType: that of `x`; fronts cast bools and small integers before. float16 is added up in float32.
    Source: the order of the additions depends on the length and the layout alone.
    """


def _prod_gradient(ct: Any, x: Any, x_aval: Aval, dim: int) -> Any:
    """The product of the others, by products from both ends, so that zeros do no harm."""
    before = _exclusive_products(x, x_aval, dim)
    back = ops.flip(x, dims=(dim,))
    after = ops.flip(_exclusive_products(back, x_aval, dim), dims=(dim,))
    return ops.mul(_spread(ct, x_aval.shape, dim), ops.mul(before, after))


def _part(x: Any, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Any:
    """Places start..stop-1 of a dimension."""
    return ops.slice(
        x,
        start=tuple(start if d == dim else 0 for d in range(len(shape))),
        length=(*shape[:dim], stop - start, *shape[dim + 1 :]),
        step=(1,) * len(shape),
    )


def _exclusive_products(x: Any, aval: Aval, dim: int) -> Any:
    """At each place the product of all elements before it."""
    n = aval.shape[dim]
    if n == 0:
        return x
    ones = ops.full(1, shape=_kept(aval.shape, dim), dtype=aval.dtype)
    return ops.cumprod(ops.cat(ones, _part(x, aval.shape, dim, 0, n - 1), dim=dim), dim=dim) if n > 1 else ones


@record(
    family="reduction", infer=_dropped, numpy=_accumulate(np.prod), kinds="if", vjp={"x": _prod_gradient}
)
def prod(x, *, dim):
    """Product along a dimension; of nothing 1.

    DType: that of `x`; fronts cast bools and small integers before.
    Edge: the gradient divides by nothing, so zeros do no harm.
    """


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
    """Largest element along a dimension, NaN if one is there; of bools whether any holds.

    Edge: equal elements share the gradient.
    Raises: ValueError for a dimension of size 0.
    """


@record(
    family="reduction", infer=_dropped, numpy=_numpy(np.min), vjp={"x": _extreme_gradient}, smooth=False
)
def amin(x, *, dim):
    """Smallest element along a dimension, NaN if one is there; of bools whether all hold.

    Edge: equal elements share the gradient.
    Raises: ValueError for a dimension of size 0.
    """


def _index_of(x: Aval, dim: int) -> Aval:
    return Aval(_dropped(x, dim).shape, dtypes.int64)


@record(
    family="library",
    infer=_index_of,
    numpy=lambda x, dim: np.argmax(x, axis=dim),
    exact=True,
    smooth=False,
    nograd="the result is an integer",
)
def argmax(x, *, dim):
    """Place of the first largest element along a dimension; NaN counts as largest."""


@record(
    family="library",
    infer=_index_of,
    numpy=lambda x, dim: np.argmin(x, axis=dim),
    exact=True,
    smooth=False,
    nograd="the result is an integer",
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
    """Running sums along a dimension.

    Source: from the front, one by one; float16 is added up in float32.
    """


def _recur(x: Any, decay: Any, dim: int) -> Any:
    kind = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
    out = np.empty(x.shape, kind)
    results, terms, factors = (np.moveaxis(a, dim, 0) for a in (out, x.astype(kind), decay.astype(kind)))
    carried = kind.type(-0.0)
    for k in range(x.shape[dim]):
        results[k] = terms[k] + carried
        carried = results[k] * factors[k]
    return out.astype(x.dtype)


def _recurrence_gradients(ct: Any, decay: Any, out: Any, x_aval: Aval, dim: int) -> tuple[Any, Any]:
    """What reaches each place from all behind it: g[k] = ct[k] + decay[k] * g[k + 1]."""
    shape, n = x_aval.shape, x_aval.shape[dim]
    if n == 0:
        return ct, decay
    back = ops.flip(decay, dims=(dim,))
    # A factor stands before the place that it is for; the last one is for none.
    factors = ops.cat(_part(back, shape, dim, 1, n), _part(back, shape, dim, 0, 1), dim=dim)
    g = ops.flip(ops.linear_recurrence(ops.flip(ct, dims=(dim,)), factors, dim=dim), dims=(dim,))
    reached = ops.mul(_part(g, shape, dim, 1, n), _part(out, shape, dim, 0, n - 1))
    none = ops.full(0, shape=_kept(shape, dim), dtype=x_aval.dtype)
    return g, ops.cat(reached, none, dim=dim)


@record(
    family="library",
    infer=lambda x, decay, dim: x,
    numpy=_recur,
    exact=True,
    kinds="f",
    vjp=dict.fromkeys(("x", "decay"), _recurrence_gradients),
    joint=True,
)
def linear_recurrence(x, decay, *, dim):
    """out[k] = x[k] + decay[k - 1] * out[k - 1] along a dimension; the last of `decay` is not used.

    Shape: that of both operands.
    DType: that of both operands; types of 16 bits run in float32.
    Source: from the front, one by one; each product is rounded before it is added.
    """


def _cumprod_gradient(ct: Any, x: Any, out: Any, x_aval: Aval, dim: int) -> Any:
    """d/dx[i] = (product of x before i) * g[i], where g[i] = ct[i] + x[i + 1] * g[i + 1]; nothing is divided by."""
    shape, n = x_aval.shape, x_aval.shape[dim]
    if n == 0:
        return ct
    back, factors = ops.flip(ct, dims=(dim,)), ops.flip(x, dims=(dim,))
    g = ops.flip(ops.linear_recurrence(back, factors, dim=dim), dims=(dim,))
    ones = ops.full(1, shape=_kept(shape, dim), dtype=x_aval.dtype)
    return ops.mul(ops.cat(ones, _part(out, shape, dim, 0, n - 1), dim=dim), g)


@record(
    family="library",
    infer=lambda x, dim: x,
    numpy=_accumulate(np.cumprod),
    exact=True,
    kinds="if",
    vjp={"x": _cumprod_gradient},
)
def cumprod(x, *, dim):
    """Running products along a dimension.

    Edge: the gradient divides by nothing, so zeros do no harm.
    """
