"""Matrix products."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.dtypes import bfloat16, float32
from tracejit.ops.record import ops, record

LONGEST_ADDED = 96
"""The largest inner size of a product that `matmul_add` adds."""

LONGEST_CHAIN = 4096
"""The largest inner size of a product with one element that is one chain; as a sum it is a row of one block."""

_LEAST_SIDE, _LEAST_DEPTH, _LEAST_WORK = 16, 32, 1 << 15
"""Rows and columns of a tile, places that one holds of what is added up, multiply-adds: from these on packing pays."""


def pays_in_bfloat16(m: int, n: int, k: int) -> bool:
    """Whether a product of bfloat16, (m, k) by (k, n), is to be computed as one where the CPU multiplies bfloat16.

    Sizes alone decide: what is computed must not depend on what else is.
    """
    return min(m, n) >= _LEAST_SIDE and k >= _LEAST_DEPTH and m * n * k >= _LEAST_WORK


def _product(a: Aval, b: Aval) -> Aval:
    return Aval((*a.shape[:-1], b.shape[-1]), a.dtype)


def transposed(x: Any, ndim: int) -> Any:
    """`x` with its last two dimensions exchanged."""
    dims = (*range(ndim - 2), ndim - 1, ndim - 2)
    return ops.permute(x, dims=dims)


def product(a: Any, b: Any, shape: tuple[int, ...], k: int) -> Any:
    """The product of two matrices or stacks, of a shape, with so many places to add up."""
    if k <= LONGEST_CHAIN or shape[-1] != 1 or shape[-2] != 1:
        return ops.matmul(a, b)
    rows = (*shape[:-2], k)
    sums = ops.dot(ops.reshape(a, shape=rows), ops.reshape(b, shape=rows), dim=len(rows) - 1)
    return ops.reshape(sums, shape=shape)


@record(
    family="library",
    infer=_product,
    numpy=np.matmul,
    kinds="if",
    vjp={
        "a": lambda ct, b, a_aval, b_aval: product(ct, transposed(b, b_aval.ndim), a_aval.shape, b_aval.shape[-1]),
        "b": lambda ct, a, a_aval, b_aval: product(transposed(a, a_aval.ndim), ct, b_aval.shape, a_aval.shape[-2]),
    },
)
def matmul(a, b):
    """Matrix product of two matrices, or of two stacks of matrices with the same leading size.

    Shape: (n, k) and (k, m) give (n, m), (b, n, k) and (b, k, m) give (b, n, m); fronts broadcast before.
    Edge: zeros if k is 0.
    Cost: 2 * b * n * k * m floating point operations.
    Source: each element is one chain of fused multiply-adds along the inner dimension, in ascending order.
    """


def _dot(x: Any, y: Any, dim: int) -> Any:
    kind = np.float32 if x.dtype == np.float16 else x.dtype
    return np.sum(np.multiply(x, y, dtype=kind), axis=dim, dtype=kind).astype(x.dtype)


def _kept(x: Any, shape: tuple[int, ...], dim: int) -> Any:
    """What was summed along a dimension of a shape, with that dimension as one of size 1."""
    return ops.reshape(x, shape=(*shape[:dim], 1, *shape[dim + 1 :]))


@record(
    family="contraction",
    infer=lambda x, y, dim: Aval(x.shape[:dim] + x.shape[dim + 1 :], x.dtype),
    numpy=_dot,
    kinds="if",
    vjp={
        "x": lambda ct, y, x_aval, dim: ops.mul(y, _kept(ct, x_aval.shape, dim)),
        "y": lambda ct, x, x_aval, dim: ops.mul(x, _kept(ct, x_aval.shape, dim)),
    },
)
def dot(x, y, *, dim):
    """Sums of products along a dimension of two tensors of one shape; of nothing 0.

    DType: that of `x`. Those of 16 bits are multiplied and added up in float32, and rounded once.
    Cost: 2 floating point operations for each element, and no memory for the products.
    Source: each product rounded, then the order of `sum`.
    """


def _rounded(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(bfloat16.np).astype(np.float32)


def _type_of(single: bool) -> Any:
    return float32 if single else bfloat16


def _product_like(x: Aval, left: Any, right: Any) -> Any:
    return ops.bfloat16_matmul(left, right, single=x.dtype is float32)


@record(
    family="library",
    infer=lambda a, b, single: Aval((*a.shape[:-1], b.shape[-1]), _type_of(single)),
    numpy=lambda a, b, single: np.matmul(_rounded(a), _rounded(b)).astype(_type_of(single).np),
    kinds="f",
    vjp={
        "a": lambda ct, b, a_aval, b_aval: _product_like(a_aval, ct, transposed(b, b_aval.ndim)),
        "b": lambda ct, a, a_aval, b_aval: _product_like(b_aval, transposed(a, a_aval.ndim), ct),
    },
)
def bfloat16_matmul(a, b, *, single):
    """Matrix product of operands rounded to bfloat16, added up in float32, by AMX or AVX512-BF16.

    Shape: as `matmul`. DType: each operand bfloat16 or float32; float32 if it is to be `single`, else rounded once.
    Edge: zeros if k is 0. Subnormal numbers count as 0, among operands, sums and results.
    Raises: NotImplementedError on a CPU that has neither.
    Cost: 2 * b * n * k * m floating point operations.
    Source: for each 32 places of the inner dimension the even ones are a chain of fused multiply-adds from 0, and the
    odd ones; the sum of both is added to that of the places before. So AMX; AVX512-BF16 has one chain, the odd place
    before the even one of each two.
    """


def _packed(b: Aval, columns: int) -> Aval:
    return Aval((-(-b.shape[1] // columns), b.shape[0], columns), b.dtype)


def _pack(b: Any, columns: int) -> Any:
    k, size = b.shape
    padded = np.pad(b, ((0, 0), (0, -size % columns)))
    return np.ascontiguousarray(padded.reshape(k, -(-size // columns), columns).swapaxes(0, 1))


@record(family="library", infer=_packed, numpy=_pack, kinds="f", nograd="the compiler makes it")
def pack_panels(b, *, columns):
    """A matrix as panels of so many columns, which products read fastest; the last one is filled up with zeros.

    Shape: (k, m) gives (ceil(m / columns), k, columns).
    """


def _unpack(panels: Any, size: int) -> Any:
    count, k, columns = panels.shape
    return panels.swapaxes(0, 1).reshape(k, count * columns)[:, :size]


@record(
    family="library",
    infer=lambda a, panels, size: Aval((a.shape[0], size), a.dtype),
    numpy=lambda a, panels, size: np.matmul(a, _unpack(panels, size)),
    kinds="f",
    nograd="the compiler makes it of several products with one matrix",
)
def matmul_panels(a, panels, *, size):
    """a @ b, where `panels` are what `pack_panels` made of a b with `size` columns.

    Shape: (n, k) and (p, k, c) give (n, size).
    Cost: 2 * n * k * size floating point operations.
    """


@record(
    family="library",
    infer=lambda a, b, bias: Aval((a.shape[0], b.shape[1]), a.dtype),
    numpy=lambda a, b, bias: ops.relu.numpy(np.matmul(a, b) + bias),
    kinds="f",
    nograd="the compiler makes it of a product and what reads it",
)
def matmul_relu(a, b, bias):
    """relu(a @ b + bias), the product and the sum rounded one by one.

    Shape: (n, k), (k, m) and (m,) give (n, m).
    Cost: 2 * n * k * m floating point operations.
    """


@record(
    family="library",
    infer=lambda a, b, gate: gate,
    numpy=lambda a, b, gate: np.matmul(a, b) * gate,
    kinds="f",
    nograd="the compiler makes it of a product and what reads it",
)
def matmul_mul(a, b, gate):
    """(a @ b) * gate, the product rounded before it is multiplied.

    Shape: (n, k), (k, m) and (n, m) give (n, m).
    Cost: 2 * n * k * m floating point operations, and no memory for the product.
    """


@record(
    family="library",
    infer=lambda a, b, gate: gate,
    numpy=lambda a, b, gate: np.where(gate <= 0, gate.dtype.type(0), np.matmul(a, b)),
    kinds="f",
    nograd="the compiler makes it of a product and what reads it",
)
def matmul_mask(a, b, gate):
    """a @ b, but 0 where gate <= 0.

    Shape: (n, k), (k, m) and (n, m) give (n, m).
    Cost: 2 * n * k * m floating point operations, and no memory for the product.
    """


@record(
    family="library",
    infer=lambda a, b, bias: Aval((a.shape[0], b.shape[1]), a.dtype),
    numpy=lambda a, b, bias: np.matmul(a, b) + bias,
    kinds="f",
    nograd="the compiler makes it of a product and what reads it",
)
def matmul_bias(a, b, bias):
    """a @ b + bias, the product rounded before it is added to.

    Shape: (n, k), (k, m) and (m,) give (n, m).
    Cost: 2 * n * k * m floating point operations, and no memory for the product.
    """


def _added(total: Any, *factors: Any) -> Any:
    for a, b in zip(factors[::2], factors[1::2], strict=True):
        total = total + np.matmul(a, b)
    return total


def _added_both(first: Any, second: Any, *factors: Any) -> Any:
    a, b, other = factors[::3], factors[1::3], factors[2::3]
    return tuple([_added(x, *chain(*zip(a, y, strict=True))) for x, y in ((first, b), (second, other))])


@record(
    family="library",
    infer=lambda *terms: terms[0],
    numpy=_added,
    kinds="f",
    nograd="the compiler makes it of gradients that are added up",
)
def matmul_add(*terms):
    """c + a @ b + a' @ b' + ..., each product rounded before it is added.

    Shape: (n, m), then (n, k) and (k, m) for each product give (n, m); k is at most `LONGEST_ADDED`.
    Cost: 2 * n * k * m floating point operations for each product, and no memory for them.
    """


@record(
    family="library",
    infer=lambda *terms: terms[:2],
    numpy=_added_both,
    results=("first", "second"),
    kinds="f",
    nograd="the compiler makes it of gradients that are added up",
)
def matmul_add_both(*terms):
    """Two sums of products as by `matmul_add` with the same first factors: c, c', then a, b, b' for each product.

    Shape: (n, m) twice, then (n, k), (k, m) and (k, m) for each product give (n, m) twice.
    Cost: that of both, but each first factor is read once.
    """


def _distances(x: Any, y: Any) -> Any:
    gap = x[..., :, None, :] - y[..., None, :, :]
    return np.sqrt(np.sum(gap * gap, axis=-1))


def _pulls(ct: Any, x: Any, y: Any, out: Any, x_aval: Aval, y_aval: Aval) -> tuple[Any, Any]:
    """The gradients of distances: each pulls both points apart along the line through them, those of 0 do not."""
    touching = ops.eq(out, 0)
    pull = ops.div(ops.where(touching, 0, ct), ops.where(touching, 1, out))
    # Sums of differences by way of products lose what the points have in common, so that goes before.
    length = tuple(1 if d == y_aval.ndim - 2 else n for d, n in enumerate(y_aval.shape))
    first = ops.slice(y, start=(0,) * y_aval.ndim, length=length, step=(1,) * y_aval.ndim)
    x, y = ops.sub(x, first), ops.sub(y, first)
    return (
        _pulled(x, y, pull, x_aval, y_aval.shape[-2]),
        _pulled(y, x, transposed(pull, x_aval.ndim), y_aval, x_aval.shape[-2]),
    )


def _pulled(x: Any, y: Any, pull: Any, x_aval: Aval, others: int) -> Any:
    """The sum of pull * (x - y) over all y, for each x."""
    total = ops.reshape(ops.sum(pull, dim=x_aval.ndim - 1), shape=(*x_aval.shape[:-1], 1))
    return ops.sub(ops.mul(x, total), product(pull, y, x_aval.shape, others))


@record(
    family="library",
    infer=lambda x, y: Aval((*x.shape[:-1], y.shape[-2]), x.dtype),
    numpy=_distances,
    kinds="f",
    vjp=dict.fromkeys(("x", "y"), _pulls),
    joint=True,
)
def distances(x, y):
    """The Euclidean distance of each row of a matrix and each row of another, or of stacks with the same leading size.

    Shape: (n, k) and (m, k) give (n, m), (b, n, k) and (b, m, k) give (b, n, m).
    Edge: zeros if k is 0. The gradient of a distance of 0 is 0.
    Cost: 3 * b * n * m * k floating point operations; its gradients are two products.
    Source: each is the root of one chain of fused multiply-adds of differences along k, in ascending order.
    """


PRODUCTS = (matmul, bfloat16_matmul)
"""Matrix products each of whose elements is added up in an order that depends on the inner dimension alone."""
