"""Reductions and scans with PyTorch's arguments."""

from __future__ import annotations

from functools import lru_cache
from math import prod as product
from typing import Any, NamedTuple

from tracejit import dtypes
from tracejit.dtypes import dtype as dtype_
from tracejit.ops.record import Op, ops
from tracejit.shapes import normalize_dim, normalize_dims, reductions
from tracejit.symbols import real
from tracejit.tensor.arithmetic import add, eq, exp, log, log1p, maximum, minimum, mul, sqrt, sub, truth, where
from tracejit.tensor.casting import SINGLE, call_cast
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, apply_reduction, apply_view, beside, shaped
from tracejit.tensor.inplace import in_place
from tracejit.tensor.naming import named
from tracejit.tensor.promote import floating, in_single, to_dtype
from tracejit.tensor.shaping import ints
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, method


class ValuesIndices(NamedTuple):
    """Extreme values and their places."""

    values: Any
    indices: Any


def reduce(op: Op, x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Any:
    """Apply a one-dimensional reduction over several dimensions, runs of adjacent ones at once."""
    steps, to = _reduced(x._shape, dims, keepdim)
    for merged, d in steps:
        if merged is not None:
            x = apply_view(ops.reshape, x, (merged,))
        x = apply_reduction(op, x, d)
    return shaped(x, to)


@lru_cache(256)
def _reduced(
    shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool
) -> tuple[tuple[tuple[tuple[int, ...] | None, int], ...], tuple[int, ...]]:
    """The reductions over one dimension each that go over several, with the shape that each needs first, if it is
    another one, and the shape of the result.
    """
    kept = tuple(1 if i in dims else s for i, s in enumerate(shape))
    rest = tuple(s for i, s in enumerate(shape) if i not in dims)
    steps = []
    for merged, d in reductions(shape, dims):
        steps.append((None if merged == shape else merged, d))
        shape = merged[:d] + merged[d + 1 :]
    return tuple(steps), kept if keepdim else rest


def _wide(x: Tensor, dtype: dtype_ | None) -> Tensor:
    """Whole numbers as int64, unless a type is asked for."""
    if dtype is not None:
        return to_dtype(x, dtype)  # type: ignore[no-any-return]
    return x if x._dtype.is_floating_point else to_dtype(x, dtypes.int64)


@method()
@named
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtype_ | None = None) -> Any:
    """Sum over some or all dimensions.

    DType: floats stay, others become int64. Edge: of nothing 0.
    Cost: the order of additions depends on the shape alone, so the bits do not depend on threads.

    >>> import tracejit as tj
    >>> tj.sum(tj.ones(2, 3), dim=1)
    tensor([3., 3.])
    """
    dims = normalize_dims(dim, len(input._shape))
    x = _wide(input, dtype)
    if not dims:
        return apply(ops.copy, (x,))
    return reduce(ops.sum, x, dims, keepdim)


@method()
@named
def sum_to_size(self: Tensor, *size: Any) -> Any:
    """The sum over the dimensions in which a shape broadcasts to the tensor's. Raises: RuntimeError if it does not."""
    shape, to = self._shape, ints(size, "sum_to_size")
    more = len(shape) - len(to)
    if more < 0 or not set(zip(to, shape[more:], strict=True)) <= {(s, n) for n in shape for s in (1, n)}:
        raise RuntimeError(f"size {{{list(to)}}} is not expandable to size {{{list(shape)}}}.")
    dims = [d for d, n in enumerate(shape) if d < more or to[d - more] != n]
    return shaped(sum(self, dims, True), to) if dims else self


@method()
@composite
@named
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtype_ | None = None) -> Any:
    """Mean over some or all dimensions.

    Edge: of nothing NaN. Raises: RuntimeError for whole numbers.
    """
    x = to_dtype(input, dtype) if dtype is not None else input
    if not x._dtype.is_floating_point:
        raise RuntimeError(
            f"mean(): could not infer output dtype. {'Input' if dtype is None else 'Optional'} dtype must be either a "
            f"floating point or complex dtype. Got: {x._dtype.title}"
        )
    dims = normalize_dims(dim, len(x._shape))
    n = product(x._shape[d] for d in dims)
    wide = to_dtype(x, dtypes.widened(x._dtype))
    total = sum(wide, dims, keepdim) if dims else wide
    return to_dtype(apply(ops.div, (total, real(n))), x._dtype)


@method()
@named
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: dtype_ | None = None) -> Any:
    """Product along a dimension, or of all elements."""
    if state.autocast is not None:
        return call_cast(SINGLE, prod, (input, dim, keepdim), {"dtype": dtype})
    x = _wide(input, dtype)
    dims = normalize_dims(dim, len(x._shape))
    return reduce(ops.prod, x, dims, keepdim) if dims else apply(ops.copy, (x,))


def _without_nan(x: Tensor) -> Any:
    return where(apply(ops.ne, (x, x)), 0, x) if x._dtype.is_floating_point else x


@method()
@named
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtype_ | None = None) -> Any:
    """Sum over some or all dimensions, in which NaN counts as 0."""
    return sum(_without_nan(input), dim, keepdim, dtype=dtype)


@method()
@named
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtype_ | None = None) -> Any:
    """Mean over some or all dimensions of what is not NaN. Raises: RuntimeError for whole numbers."""
    if not input._dtype.is_floating_point:
        raise RuntimeError(
            "nanmean(): expected input to have floating point or complex dtype but got "
            f"{input._dtype.title}"
        )
    x = input if dtype is None else to_dtype(input, dtype)
    return to_dtype(_nanmean(x, dim, keepdim), x._dtype)


@composite
@in_single
def _nanmean(x: Tensor, dim: Any, keepdim: bool) -> Any:
    counted = to_dtype(apply(ops.eq, (x.detach(), x.detach())), x._dtype)
    return apply(ops.div, (sum(_without_nan(x), dim, keepdim), sum(counted, dim, keepdim)))


def _nonempty(x: Tensor, dims: tuple[int, ...], name: str) -> None:
    if any_empty(x, dims):
        raise IndexError(f"{name}(): Expected reduction dim to have non-zero size.")


@method()
@named
def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    """Largest element over some or all dimensions; the gradient is shared by equal ones."""
    dims = normalize_dims(dim, len(input._shape))
    _nonempty(input, dims, "amax")
    return reduce(ops.amax, input, dims, keepdim) if dims else apply(ops.copy, (input,))


@method()
@named
def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    """Smallest element over some or all dimensions; the gradient is shared by equal ones."""
    dims = normalize_dims(dim, len(input._shape))
    _nonempty(input, dims, "amin")
    return reduce(ops.amin, input, dims, keepdim) if dims else apply(ops.copy, (input,))


def _places(op: Op, x: Tensor, dim: int | None, keepdim: bool) -> Any:
    if dim is None:
        if x.numel() == 0:
            raise IndexError(f"{op.name}(): Expected reduction dim to be specified for input.numel() == 0.")
        flat = apply(ops.reshape, (x,), ((x.numel(),),))
        out = apply(op, (flat,), (0,))
        return shaped(out, (1,) * len(x._shape)) if keepdim else out
    d = normalize_dim(dim, len(x._shape))
    if not x._shape:
        return beside(x, ops.full, (0,), ((), dtypes.int64))
    if x._shape[d] == 0:
        raise IndexError(f"{op.name}(): Expected reduction dim {d} to have non-zero size.")
    out = apply(op, (x,), (d,))
    return shaped(out, (*x._shape[:d], 1, *x._shape[d + 1 :])) if keepdim else out


@method()
@named
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Place of the first largest element along a dimension, or in the flattened tensor. DType: int64."""
    return _places(ops.argmax, input, dim, keepdim)


@method()
@named
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Place of the first smallest element along a dimension, or in the flattened tensor. DType: int64."""
    return _places(ops.argmin, input, dim, keepdim)


def _extreme(x: Tensor, dim: int, keepdim: bool, op: Op) -> ValuesIndices:
    if not x._shape:
        return ValuesIndices(apply(ops.copy, (x,)), _places(op, x, dim, keepdim))
    d = normalize_dim(dim, len(x._shape))
    places = _places(op, x, d, True)
    values = apply(ops.gather, (x, places), (d,))
    if not keepdim:
        shape = x._shape[:d] + x._shape[d + 1 :]
        values, places = (shaped(v, shape) for v in (values, places))
    return ValuesIndices(values, places)


def _max_or_min(input: Tensor, dim: Any, keepdim: bool, op: Op, all_op: Op, pair_op: Op) -> Any:
    if isinstance(dim, Tensor):
        from_pair = apply(pair_op, (input, dim)) if input._dtype is dim._dtype else None
        return from_pair if from_pair is not None else _unified(pair_op, input, dim)
    if dim is None:
        if input.numel() == 0:
            raise RuntimeError(
                f"{all_op.name[1:]}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        return reduce(all_op, input, tuple(range(len(input._shape))), False) if input._shape else apply(
            ops.copy, (input,)
        )
    return _extreme(input, dim, keepdim, op)


def _unified(op: Op, x: Tensor, y: Tensor) -> Any:
    d = dtypes.promote_types(x._dtype, y._dtype)
    return apply(op, (to_dtype(x, d), to_dtype(y, d)))


@method()
@named(other="dim")
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; along a dimension the values with their places; of two tensors the larger elements."""
    return _max_or_min(input, dim, keepdim, ops.argmax, ops.amax, ops.maximum)


@method()
@named(other="dim")
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; along a dimension the values with their places; of two tensors the smaller elements."""
    return _max_or_min(input, dim, keepdim, ops.argmin, ops.amin, ops.minimum)


@method()
@named
def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether an element is not zero. DType: bool."""
    x = truth(input)
    dims = normalize_dims(dim, len(x._shape)) if dim is None or isinstance(dim, int) or len(dim) else ()
    if not dims:
        return apply(ops.copy, (x,))
    if any_empty(x, dims):
        return _constant(x, dims, keepdim, False)
    return reduce(ops.amax, x, dims, keepdim)


@method()
@named
def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether no element is zero. DType: bool."""
    x = truth(input)
    dims = normalize_dims(dim, len(x._shape)) if dim is None or isinstance(dim, int) or len(dim) else ()
    if not dims:
        return apply(ops.copy, (x,))
    if any_empty(x, dims):
        return _constant(x, dims, keepdim, True)
    return reduce(ops.amin, x, dims, keepdim)


def any_empty(x: Tensor, dims: tuple[int, ...]) -> bool:
    """Whether one of the dimensions has size 0."""
    return 0 in [x._shape[d] for d in dims]


def _constant(x: Tensor, dims: tuple[int, ...], keepdim: bool, value: bool) -> Any:
    shape = tuple(1 if i in dims else s for i, s in enumerate(x._shape) if keepdim or i not in dims)
    return beside(x, ops.full, (value,), (shape, dtypes.bool))


@method()
@composite(deep=2)
@in_single
@named
def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Variance over some or all dimensions, the sum of squares divided by n - correction (1 if `unbiased`).

    Edge: NaN where n <= correction.
    """
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    x = input
    if not x._dtype.is_floating_point:
        raise RuntimeError("std and var only support floating point and complex dtypes")
    dims = normalize_dims(dim, len(x._shape))
    c = (1 if unbiased else 0) if correction is None else correction
    n = product(x._shape[d] for d in dims)
    centred = sub(x, mean(x, dims, True)) if dims else sub(x, x)
    total = sum(mul(centred, centred), dims, keepdim) if dims else mul(centred, centred)
    left = n - c
    return apply(ops.div, (total, real(left if left > 0 else 0)))


def root(x: Tensor) -> Any:
    """The square root of a sum of squares, with gradient 0 where it is 0."""
    if not (x._requires_grad and state.grad_enabled):
        return sqrt(x)
    zero = apply(ops.eq, (x, 0))
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


@method()
@composite(deep=2)
@in_single
@named
def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Standard deviation: the square root of `var`."""
    return root(var(input, dim, unbiased, keepdim, correction=correction))


@named
def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[Any, Any]:
    """Variance and mean."""
    return var(input, dim, unbiased, keepdim, correction=correction), mean(input, dim, keepdim)


@named
def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[Any, Any]:
    """Standard deviation and mean."""
    return std(input, dim, unbiased, keepdim, correction=correction), mean(input, dim, keepdim)


@method()
@composite
@in_single
@named
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) without overflow."""
    x = floating(input)
    dims = normalize_dims(dim, len(x._shape))
    if not dims:
        return apply(ops.copy, (x,))
    if any_empty(x, dims):
        return log(sum(x, dims, keepdim))
    top = amax(x.detach(), dims, True)
    top = where(top.abs() == float("inf"), 0.0, top)
    out = log(sum(exp(sub(x, top)), dims, True)) + top
    return out if keepdim else shaped(out, tuple(s for i, s in enumerate(x._shape) if i not in dims))


@method()
@in_single
def logaddexp(input: Tensor, other: Tensor) -> Any:
    """log(exp(input) + exp(other)) without overflow."""
    top = maximum(input, other)
    low = minimum(input, other)
    gap = where(eq(top, low), 0.0, sub(low, top))
    return add(top, log1p(exp(gap)))


@method()
@named
def cumsum(input: Tensor, dim: int, *, dtype: dtype_ | None = None) -> Any:
    """Running sums along a dimension. DType: floats stay, others become int64."""
    x = _wide(input, dtype)
    d = normalize_dim(dim, len(x._shape))
    return apply(ops.cumsum, (x,), (d,)) if x._shape else apply(ops.copy, (x,))


@method()
@named
def cumprod(input: Tensor, dim: int, *, dtype: dtype_ | None = None) -> Any:
    """Running products along a dimension. DType: floats stay, others become int64."""
    x = _wide(input, dtype)
    d = normalize_dim(dim, len(x._shape))
    return apply(ops.cumprod, (x,), (d,)) if x._shape else apply(ops.copy, (x,))


@method()
@composite
def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: dtype_ | None = None) -> Any:
    """The p-norm over some or all dimensions; p may be inf, -inf or "fro"."""
    x = input if dtype is None else to_dtype(input, dtype)
    if not x._dtype.is_floating_point:
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            f"{x._dtype.title}"
        )
    return _norm(x, p, normalize_dims(dim, len(x._shape)), keepdim)


@in_single
def _norm(x: Tensor, p: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
    if p in (2, 2.0, "fro", None):
        return root(sum(mul(x, x), dims, keepdim) if dims else mul(x, x))
    size = x.abs()
    if p == float("inf"):
        return amax(size, dims, keepdim)
    if p == float("-inf"):
        return amin(size, dims, keepdim)
    if p == 0:
        return sum(to_dtype(apply(ops.ne, (x, 0)), x._dtype), dims, keepdim)
    if p == 1:
        return sum(size, dims, keepdim) if dims else size
    total = sum(size**p, dims, keepdim) if dims else size**p
    zero = apply(ops.eq, (total, 0))
    return where(zero, 0.0, where(zero, 1.0, total) ** (1.0 / p))


@method()
@named
def count_nonzero(input: Tensor, dim: Any = None) -> Any:
    """How many elements are not zero. DType: int64."""
    return sum(to_dtype(truth(input), dtypes.int64), dim)


IN_PLACE = (in_place(cumsum), in_place(cumprod))


