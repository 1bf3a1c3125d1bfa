"""Products over chosen dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

from tracejit.shapes import broadcast, normalize_dim
from tracejit.tensor.arithmetic import mul, sub
from tracejit.tensor.dispatch import shaped
from tracejit.tensor.naming import named
from tracejit.tensor.products import inner_products, mm
from tracejit.tensor.reducing import sum
from tracejit.tensor.shaping import cat, expand, narrow, permute, reshape
from tracejit.tensor.tensor import Tensor, method


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Any:
    """The sum of products over pairs of dimensions: the last ones of `a` and the first of `b`, or two lists of them.

    Shape: what is left of `a`, then of `b`. Raises: RuntimeError for sizes, numbers of dimensions or types that do not
    fit.

    >>> import tracejit as tj
    >>> tensordot(tj.ones(2, 3, 4), tj.ones(3, 4, 5)).shape
    tracejit.Size([2, 5])
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(len(a._shape), len(b._shape)):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        return _tensordot(a, b, list(range(-dims, 0)), list(range(dims)))
    first, second = dims
    return _tensordot(a, b, list(first), list(second))


def _tensordot(a: Tensor, b: Tensor, first: list[int], second: list[int]) -> Any:
    if len(first) != len(second):
        raise RuntimeError("both dimension lists should have same length")
    if a._dtype is not b._dtype:
        raise RuntimeError("both inputs should have same dtype")
    for d, e in zip(first, second, strict=True):
        p, q = normalize_dim(d, len(a._shape)), normalize_dim(e, len(b._shape))
        m, n = a._shape[p], b._shape[q]
        if m != n and 1 not in (m, n):
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {m} in dim {d} and second has size {n} in "
                f"dim {e}"
            )
        # A size of 1 stands for all: what is beside it is summed by itself.
        if m != n:
            a, b = (sum(a, p, True), b) if n == 1 else (a, sum(b, q, True))
    one, two = _places(first, len(a._shape)), _places(second, len(b._shape))
    left = [d for d in range(len(a._shape)) if d not in one]
    right = [d for d in range(len(b._shape)) if d not in two]
    rows, columns = [a._shape[d] for d in left], [b._shape[d] for d in right]
    inner = prod(a._shape[d] for d in one)
    if not left and not right:
        return inner_products(reshape(permute(a, tuple(one)), (inner,)), reshape(permute(b, tuple(two)), (inner,)))
    x = reshape(permute(a, (*left, *one)), (prod(rows), inner))
    y = reshape(permute(b, (*two, *right)), (inner, prod(columns)))
    return reshape(mm(x, y), (*rows, *columns))


def _places(dims: Sequence[int], n: int) -> list[int]:
    places = [normalize_dim(d, n) for d in dims]
    for d in places:
        if places.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return places


@method()
def inner(input: Tensor, other: Tensor) -> Any:
    """The inner products of the last dimensions; a tensor without dimensions scales the other.

    Raises: RuntimeError for last dimensions of two sizes, or two types.
    """
    if not input._shape or not other._shape:
        return mul(input, other)
    if input._shape[-1] != other._shape[-1]:
        raise RuntimeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(input._shape)} and {list(other._shape)}"
        )
    return tensordot(input, other, ([-1], [-1]))


@method()
def kron(input: Tensor, other: Tensor) -> Any:
    """The Kronecker product: the other tensor in the place of each element, times that element.

    Shape: the product of the sizes. DType: promoted.
    """
    n = max(len(input._shape), len(other._shape))
    a = (1,) * (n - len(input._shape)) + input._shape
    b = (1,) * (n - len(other._shape)) + other._shape
    x = reshape(input, tuple(size for s in a for size in (s, 1)))
    y = reshape(other, tuple(size for s in b for size in (1, s)))
    return shaped(mul(x, y), tuple(s * t for s, t in zip(a, b, strict=True)))


@method()
@named
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Any:
    """The cross products of vectors of 3 elements along a dimension; without one along the first of size 3.

    Shape: broadcast. Raises: RuntimeError for two numbers of dimensions or types, or a size that is not 3.
    """
    if dim is None:
        warnings.warn(
            "Using cross without specifying the dim arg is deprecated. Please pass the dim explicitly.",
            UserWarning,
            stacklevel=2,
        )
        if 3 not in input._shape:
            raise RuntimeError("no dimension of size 3 in input")
        dim = input._shape.index(3)
    if len(input._shape) != len(other._shape):
        raise RuntimeError("cross: inputs must have the same number of dimensions.")
    d = normalize_dim(dim, len(input._shape))
    if input._shape[d] != 3 or other._shape[d] != 3:
        raise RuntimeError(
            f"cross: inputs dimension {dim} must have length 3. Got {input._shape[d]} and {other._shape[d]}"
        )
    if input._dtype is not other._dtype:
        raise RuntimeError(
            f"expected scalar type {input._dtype.title} but found {other._dtype.title}"
        )
    shape = broadcast(input._shape, other._shape)
    x, y = expand(input, shape), expand(other, shape)

    def turned(v: Tensor, by: int) -> Any:
        return cat([narrow(v, d, by, 3 - by), narrow(v, d, 0, by)], d)

    return sub(mul(turned(x, 1), turned(y, 2)), mul(turned(x, 2), turned(y, 1)))
