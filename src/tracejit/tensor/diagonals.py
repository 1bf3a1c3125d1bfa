"""Diagonals, windows and differences of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.dtypes import dtype as dtype_
from tracejit.ops.record import ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.arithmetic import add, div, isinf, isnan, logical_and, lt, mul, ne, sqrt, sub, where
from tracejit.tensor.casting import SINGLE
from tracejit.tensor.clamping import clamp
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, apply_view, beside, wrap
from tracejit.tensor.inplace import assign, in_place
from tracejit.tensor.naming import named
from tracejit.tensor.products import in_stacks, matmul
from tracejit.tensor.promote import to_dtype, unify
from tracejit.tensor.reducing import any, norm, sum
from tracejit.tensor.shaping import cat, diagonal, movedim, narrow, permute, reshape, select, unsqueeze
from tracejit.tensor.tensor import Tensor, method, on_gpu


@method()
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Matrices, in two dimensions of the result, with the last dimension on a diagonal, zeros elsewhere.

    Raises: RuntimeError for one dimension given twice, IndexError for one that does not exist.
    """
    if not input._shape:
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got -2)")
    rank = len(input._shape) + 1
    rows, columns = normalize_dim(dim1, rank), normalize_dim(dim2, rank)
    if rows == columns:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    if rows > columns:
        # The transpose has its diagonal on the other side.
        rows, columns, offset = columns, rows, -offset
    *lead, n = input._shape
    m = n + abs(offset)
    ones = (0,) * len(lead)
    start = offset if offset >= 0 else -offset * m
    steps = (*(1,) * len(lead), m + 1)
    flat = apply(ops.unslice, (input,), ((*lead, m * m), (*ones, start if n else 0), steps))
    out = reshape(flat, (*lead, m, m))
    if columns == rank - 1 and rows == rank - 2:
        return out
    return movedim(out, (-2, -1), (rows, columns))


@method()
def diag(input: Tensor, diagonal: int = 0) -> Any:
    """A matrix with a vector on its diagonal, or the diagonal of a matrix. Raises: RuntimeError for anything else."""
    n = len(input._shape)
    if n == 1:
        return diag_embed(input, diagonal)
    if n != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {n}D")
    return apply(ops.copy, (_diagonal(input, diagonal),))


@method()
def diagflat(input: Tensor, offset: int = 0) -> Any:
    """A matrix with all elements, in order, on a diagonal."""
    return diag_embed(reshape(input, (input.numel(),)), offset)


_diagonal = diagonal


@method()
def trace(input: Tensor) -> Any:
    """The sum of the diagonal of a matrix. Raises: RuntimeError for anything else."""
    if len(input._shape) != 2:
        raise RuntimeError("trace: expected a matrix")
    return sum(diagonal(input))


@method()
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Set the main diagonal of a matrix to a number; with `wrap` it goes on after each square of a tall matrix.

    Raises: RuntimeError for fewer than 2 dimensions, or more with sizes that differ.
    """
    shape = self._shape
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    rows, cols = shape[0], shape[-1]
    step = 1
    for s in reversed(shape[1:]):
        step = step * s + 1
    step = step if len(shape) > 2 else cols + 1
    total = self.numel()
    limit = total if wrap and len(shape) == 2 else min(total, cols * cols if len(shape) == 2 and rows > cols else total)
    count = len(range(0, limit, step))
    value = beside(self, ops.full, (fill_value,), ((count,), self._dtype))
    flat = apply(ops.place, (reshape(self, -1), value), ((0,), (step,)))
    return assign(self, reshape(flat, shape))


def _triangle(rows: int, cols: int, offset: int, lower: bool, dtype: dtype_ | None) -> Tensor:
    found = (np.tril_indices if lower else np.triu_indices)(rows, offset, cols)
    return wrap(np.stack(found).astype((dtype or dtypes.int64).np))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """Coordinates of the elements on and below a diagonal, one column each."""
    return _triangle(row, col, offset, True, dtype)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """Coordinates of the elements on and above a diagonal, one column each."""
    return _triangle(row, col, offset, False, dtype)


@method()
@named
def diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along a dimension, n times; of bools whether they differ."""
    d = normalize_dim(dim, len(input._shape))
    if not input._shape:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    parts = [p for p in (prepend, input, append) if p is not None]
    x = cat(parts, d) if len(parts) > 1 else input
    for _ in range(min(n, x._shape[d])):
        size = x._shape[d] - 1
        high, low = narrow(x, d, 1, size), narrow(x, d, 0, size)
        x = ne(high, low) if x._dtype is dtypes.bool else apply(ops.sub, (high, low))
    return x


@method()
def unfold(self: Tensor, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` along a dimension, one every `step`, as a new last dimension. Cost: nothing, it is a view.

    Edge: windows of more than `step` elements show some of them several times, and are not changed in place.
    Raises: RuntimeError for a window larger than the dimension.

    >>> import tracejit as tj
    >>> tj.arange(5).unfold(0, 3, 1)
    tensor([[0, 1, 2],
            [1, 2, 3],
            [2, 3, 4]])
    """
    x = self if self._shape else reshape(self, (1,))
    d = normalize_dim(dimension, len(x._shape))
    if size < 0 or size > x._shape[d]:
        raise RuntimeError(
            f"maximum size for tensor at dimension {d} is {x._shape[d]} but size is {size}"
        )
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    return apply_view(ops.windows, x, (d, size, step))


@method()
def nan_to_num(input: Tensor, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """NaN and infinities replaced by numbers: 0 and the limits of the type if none are given."""
    if not input._dtype.is_floating_point:
        return apply(ops.copy, (input,))
    limits = dtypes.finfo(input._dtype)
    out = where(isnan(input), 0.0 if nan is None else nan, input)
    below = logical_and(isinf(input), lt(input, 0))
    above = logical_and(isinf(input), lt(0, input))
    out = where(above, limits.max if posinf is None else posinf, out)
    return where(below, limits.min if neginf is None else neginf, out)


@composite(operands=SINGLE)
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Any:
    """The p-norm of the difference of each row of one stack of matrices and each of another.

    Edge: differences are computed as such, however many rows there are; in PyTorch from 26 on by way of a product.
    """
    x, y = unify(x1, x2)
    if len(x._shape) < 2 or len(y._shape) < 2:
        raise RuntimeError("cdist only supports at least 2D tensors")
    if x._shape[-1] != y._shape[-1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {x._shape[-1]} X2: {y._shape[-1]}")
    if p != 2 or on_gpu(x) or not x._dtype.is_floating_point:
        return norm(apply(ops.sub, (unsqueeze(x, -2), unsqueeze(y, -3))), p, -1)
    if len(x._shape) == len(y._shape) == 2:
        return apply(ops.distances, (x, y))
    one, other, lead = in_stacks(x, y)
    return reshape(apply(ops.distances, (one, other)), (*lead, x._shape[-2], y._shape[-2]))


@method()
def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Any:
    """The covariances of the rows of a matrix.

    `fweights` says how often each column counts, `aweights` how much it weighs. Edge: weights are a look at their
    values. Raises: RuntimeError for more than two dimensions, and for weights that are not one for each column, of
    another kind of number, negative, or 0 altogether.
    """
    if len(input._shape) > 2:
        raise RuntimeError(f"cov(): expected input to have two or fewer dimensions but got an input with "
                           f"{len(input._shape)} dimensions")  # fmt: skip
    x = to_dtype(input, dtypes.get_default_dtype()) if not input._dtype.is_floating_point else input
    rows = x if len(x._shape) == 2 else reshape(x, (1, -1))
    n = rows._shape[1]
    for name, weights, floats in (("fweights", fweights, False), ("aweights", aweights, True)):
        if weights is not None:
            _check_weights(name, weights, floats, n)
    if fweights is None and aweights is None:
        low = apply(ops.sub, (rows, apply(ops.div, (sum(rows, 1, True), float(n)))))
        out = apply(ops.div, (matmul(low, permute(low, (1, 0))), float(max(n - correction, 0))))
    else:
        out = _weighted_cov(rows, fweights, aweights, correction)
    return out if len(input._shape) == 2 else reshape(out, ())


def _check_weights(name: str, weights: Tensor, floats: bool, n: int) -> None:
    if len(weights._shape) > 1:
        raise RuntimeError(
            f"cov(): expected {name} to have one or fewer dimensions but got {name} with {len(weights._shape)} "
            "dimensions"
        )
    if weights._dtype.is_floating_point is not floats or weights._dtype is dtypes.bool:
        raise RuntimeError(
            f"cov(): expected {name} to have {'floating point' if floats else 'integral'} dtype but got {name} with "
            f"{weights._dtype.title} dtype"
        )
    if weights.numel() != n:
        raise RuntimeError(
            f"cov(): expected {name} to have the same numel as there are observations in the input but got "
            f"{weights.numel()} != {n}"
        )
    if bool(any(lt(weights, 0))):
        raise RuntimeError(f"cov(): {name} cannot be negative")


def _weighted_cov(rows: Tensor, fweights: Tensor | None, aweights: Tensor | None, correction: int) -> Any:
    given = [reshape(to_dtype(w, rows._dtype), (-1,)) for w in (fweights, aweights) if w is not None]
    weights = given[0] if len(given) == 1 else mul(*given)
    total = sum(weights)
    if rows._shape[1] and not bool(total):
        raise RuntimeError("cov(): weights sum to zero, can't be normalized")
    low = sub(rows, div(sum(mul(rows, weights), 1, True), total))
    lost: Any = correction
    if aweights is not None and correction:
        lost = mul(div(sum(mul(weights, given[-1])), total), correction)
    return div(matmul(low, permute(mul(low, weights), (1, 0))), clamp(sub(total, lost), 0))


@method()
def corrcoef(input: Tensor) -> Any:
    """The correlation coefficients of the rows of a matrix, in [-1, 1].

    Edge: of a row without variance NaN. Raises: RuntimeError for more than two dimensions.
    """
    if len(input._shape) > 2:
        raise RuntimeError(
            "corrcoef(): expected input to have two or fewer dimensions but got an input with "
            f"{len(input._shape)} dimensions"
        )
    found = cov(input)
    if not found._shape:
        return div(found, found)
    deviation = sqrt(diagonal(found))
    return clamp(div(div(found, unsqueeze(deviation, 1)), unsqueeze(deviation, 0)), -1, 1)


@named
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Any:
    """The integral along a dimension by the trapezoidal rule, at points `x` or at distances `dx`, 1 if none is given.

    Raises: RuntimeError for bools, or points that are not one for each sample; IndexError for no dimensions.
    """
    if not y._shape:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    d = normalize_dim(dim, len(y._shape))
    if y._dtype is dtypes.bool:
        raise RuntimeError("trapezoid: received a bool input for `y`, but bool is not supported")
    size = y._shape[d]
    if size == 0:
        return beside(y, ops.full, (0,), (y._shape[:d] + y._shape[d + 1 :], y._dtype))
    if x is None:
        ends = mul(add(select(y, d, 0), select(y, d, size - 1)), 0.5)
        return mul(sub(sum(y, d), ends), 1 if dx is None else dx)
    if x._dtype is dtypes.bool:
        raise RuntimeError("trapezoid: received a bool input for `x`, but bool is not supported")
    if len(x._shape) == 1:
        if x._shape[0] != size:
            raise RuntimeError("trapezoid: There must be one `x` value for each sample point")
        x = reshape(x, tuple(size if k == d else 1 for k in range(len(y._shape))))
    elif len(x._shape) < len(y._shape):
        x = reshape(x, (1,) * (len(y._shape) - len(x._shape)) + x._shape)
    gaps = diff(x, 1, d - len(y._shape))
    both = add(narrow(y, d, 1, size - 1), narrow(y, d, 0, size - 1))
    return div(sum(mul(gaps, both), d), 2)


trapz = trapezoid


IN_PLACE = (in_place(nan_to_num),)
