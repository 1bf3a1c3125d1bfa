"""Order and sets: sorting, extremes by rank, unique values, counts.

The values at the places are gathered and carry gradients. What has as many elements as the values say is found on the
host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.eager import run_op
from tracejit.ops.record import Op, ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.arithmetic import isnan, where
from tracejit.tensor.dispatch import apply, beside, shaped, wrap
from tracejit.tensor.host import comparable, host
from tracejit.tensor.naming import named
from tracejit.tensor.reducing import ValuesIndices
from tracejit.tensor.shaping import narrow, reshape
from tracejit.tensor.tensor import Tensor, method


def _line(x: Tensor) -> Any:
    return x if x._shape else apply(ops.reshape, (x,), ((1,),))


def _along_last(x: Tensor, d: int, op: Op, attrs: tuple[Any, ...]) -> Tensor:
    """The places that an operation along the last dimension finds along another one."""
    last = len(x._shape) - 1
    at = apply(op, (x if d == last else x.transpose(d, last),), attrs)
    return at if d == last else at.transpose(d, last)


def _sorted(input: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor, int]:
    """A tensor of at least one dimension, the places of its elements in order, and the dimension."""
    d = normalize_dim(dim, len(input._shape))
    x = _line(input)
    return x, _along_last(x, d, ops.argsort, (descending,)), d


@method()
@named
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The places of the elements in order along a dimension. Edge: equal elements always keep their order."""
    return shaped(_sorted(input, dim, descending)[1], input._shape)


@method()
@named
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesIndices:
    """The elements in order along a dimension, and their places.

    Edge: equal elements always keep their order; NaN is larger than any number.
    Cost: goes through the tensor once for each byte of its type.

    >>> import tracejit as tj
    >>> tj.tensor([3, 1, 2]).sort().values
    tensor([1, 2, 3])
    """
    x, at, d = _sorted(input, dim, descending)
    return ValuesIndices(shaped(apply(ops.gather, (x, at), (d,)), input._shape), shaped(at, input._shape))


@method()
def msort(input: Tensor) -> Any:
    """The elements in order along the first dimension."""
    return sort(input, 0).values


_FEW, _FEW_OF = 16, 4
"""So many of the first are found one by one, if there are so many times as many elements; else all are sorted."""


@method()
@named
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    """The k largest (or smallest) elements along a dimension in order, and their places.

    Raises: RuntimeError if there are fewer than k.
    """
    d = normalize_dim(dim, len(input._shape))
    x = _line(input)
    size = x._shape[d]
    if not 0 <= k <= size:
        raise RuntimeError("selected index k out of range")
    if k <= _FEW and _FEW_OF * k <= size:
        at = _along_last(x, d, ops.topk, (k, largest))
    else:
        at = narrow(_along_last(x, d, ops.argsort, (largest,)), d, 0, k)
    if not input._shape:
        at = reshape(at, ()) if k else at
        return ValuesIndices(reshape(apply(ops.gather, (x, _line(at)), (0,)), at._shape), at)
    return ValuesIndices(apply(ops.gather, (x, at), (d,)), at)


def _at_rank(input: Tensor, rank: Any, dim: int, keepdim: bool) -> ValuesIndices:
    x, order, d = _sorted(input, dim, False)
    at = narrow(order, d, rank, 1) if not isinstance(rank, Tensor) else apply(ops.gather, (order, rank), (d,))
    values = apply(ops.gather, (x, at), (d,))
    if not input._shape:
        return ValuesIndices(shaped(values, ()), shaped(at, ()))
    if keepdim:
        return ValuesIndices(values, at)
    rest = (*values._shape[:d], *values._shape[d + 1 :])
    return ValuesIndices(shaped(values, rest), shaped(at, rest))


@method()
@named
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The k-th smallest element along a dimension, and its place. Raises: RuntimeError if there are fewer than k."""
    d = normalize_dim(dim, len(input._shape))
    size = input._shape[d] if input._shape else 1
    if size == 0:
        raise IndexError(f"kthvalue(): Expected reduction dim {d} to have non-zero size.")
    if not 1 <= k <= size:
        raise RuntimeError("kthvalue(): selected number k out of range for dimension " + str(dim))
    return _at_rank(input, k - 1, dim, keepdim)


def _middle(x: Tensor, dim: int) -> Any:
    """The rank of the median: the lower of two, or that of the first NaN."""
    size = x._shape[dim]
    lower = (size - 1) // 2
    if not x._dtype.is_floating_point:
        return lower
    missing = isnan(x).sum(dim, keepdim=True)
    return where(missing > 0, size - missing, lower)


@method()
@named
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, of two the lower; along a dimension with its place.

    Edge: NaN if one is there. Raises: IndexError for nothing along the dimension.
    """
    if dim is None:
        if not input.numel():
            return beside(input, ops.full, (float("nan"),), ((), input._dtype))
        flat = reshape(input, -1)
        return _at_rank(flat, _middle(flat, 0), 0, False).values
    d = normalize_dim(dim, len(input._shape))
    x = _line(input)
    if x._shape[d] == 0:
        raise IndexError(f"median(): Expected reduction dim {d} to have non-zero size.")
    return _at_rank(input, _middle(x, d), dim, keepdim)


def _runs(flat: Any, inverse: bool, counts: bool) -> tuple[Any, Any, Any]:
    """The first of each run of equal elements; the number of each element's run and how long runs are, if wanted."""
    first = np.concatenate([np.ones(min(flat.size, 1), bool), flat[1:] != flat[:-1]])
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, flat.size)).astype(np.int64) if counts else None
    return flat[starts], np.cumsum(first) - 1 if inverse else None, lengths


def _asked(x: Tensor, *found: Any) -> Any:
    """The values, and what was wanted beside them."""
    values, *others = found
    asked = (wrap(values.astype(x._dtype.np, copy=False)), *[wrap(other) for other in others if other is not None])
    return asked if len(asked) > 1 else asked[0]


@host
def _unique(x: Tensor, dim: int | None, inverse: bool, counts: bool) -> Any:
    array = comparable(x)
    if dim is None:
        order = run_op(ops.argsort, (np.ascontiguousarray(array).reshape(-1),), (False,))
        values, numbers, lengths = _runs(array.reshape(-1)[order], inverse, counts)
        places = None
        if inverse:
            places = np.empty(array.shape, np.int64)
            places.reshape(-1)[order] = numbers
        return _asked(x, values, places, lengths)
    values, places, lengths = np.unique(array, axis=dim, return_inverse=True, return_counts=True, equal_nan=False)
    return _asked(x, values, places.reshape(array.shape[dim]) if inverse else None, lengths if counts else None)


@host
def _consecutive(x: Tensor, inverse: bool, counts: bool) -> Any:
    values, numbers, lengths = _runs(x._data().reshape(-1), inverse, counts)
    return _asked(x, values, numbers.reshape(x._shape) if inverse else None, lengths)


@method()
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements (or slices along `dim`) in ascending order, also with where and how often they occur.

    Cost: reads the tensor, which a compiled region computes first.
    """
    if dim is not None and not input._shape:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    d = None if dim is None else normalize_dim(dim, len(input._shape))
    return _unique(input, d, return_inverse, return_counts)


@method()
def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The first of each run of equal elements, also with where and how often they occur."""
    return _consecutive(input, return_inverse, return_counts)


@method()
@host
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each whole number occurs, or the sum of its weights.

    Raises: RuntimeError for something else than a vector of whole numbers that are not negative.
    """
    array = input._data()
    if array.dtype.kind not in "iu":
        raise NotImplementedError(f"\"bincount_cpu\" not implemented for '{input._dtype.title}'")
    if array.ndim != 1 or (array.size and int(array.min()) < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if weights is None:
        return wrap(np.bincount(array, minlength=minlength).astype(np.int64))
    if weights._shape != input._shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    kind = np.float32 if weights._dtype is dtypes.float32 else np.float64
    return wrap(np.bincount(array, weights._data(), minlength).astype(kind))


@method()
@host
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of `bins` equal parts of [min, max]; of their range if both are 0.

    Edge: elements outside do not count. Raises: RuntimeError for a range that is empty or not finite.
    """
    array = comparable(input)
    if bins <= 0:
        raise RuntimeError("bins must be > 0")
    if float(min) > float(max):
        raise RuntimeError("max must be larger than min")
    if array.dtype.kind != "f":
        raise NotImplementedError(f"\"histogram_cpu\" not implemented for '{input._dtype.title}'")
    low, high = float(min), float(max)
    if low == high and array.size:
        low, high = float(array.min()), float(array.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RuntimeError(f"range of [{low}, {high}] is not finite")
    inside = array[(array >= low) & (array <= high)].astype(np.float64)
    places = np.minimum(((inside - low) * (bins / (high - low))).astype(np.int64), bins - 1)
    return wrap(np.bincount(places, minlength=bins).astype(input._dtype.np))
