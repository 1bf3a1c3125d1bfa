"""Matrix products."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.record import ops, record

LONGEST_ADDED = 96
"""The largest inner size of a product that `matmul_add` adds."""


def _product(a: Aval, b: Aval) -> Aval:
    return Aval((*a.shape[:-1], b.shape[-1]), a.dtype)


def transposed(x: Any, ndim: int) -> Any:
    """`x` with its last two dimensions exchanged."""
    dims = (*range(ndim - 2), ndim - 1, ndim - 2)
    return ops.permute(x, dims=dims)


@record(
    family="library",
    infer=_product,
    numpy=np.matmul,
    kinds="if",
    vjp={
        "a": lambda ct, b, b_aval: ops.matmul(ct, transposed(b, b_aval.ndim)),
        "b": lambda ct, a, a_aval: ops.matmul(transposed(a, a_aval.ndim), ct),
    },
)
def matmul(a, b):
    """Matrix product of two matrices, or of two stacks of matrices with the same leading size.

    Shape: (n, k) and (k, m) give (n, m), (b, n, k) and (b, k, m) give (b, n, m); fronts broadcast before.
    Edge: zeros if k is 0.
    Cost: 2 * b * n * k * m floating point operations.
    Source: each element is one chain of fused multiply-adds along the inner dimension, in ascending order.
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
    infer=lambda a, b, c: c,
    numpy=lambda a, b, c: c + np.matmul(a, b),
    kinds="f",
    nograd="the compiler makes it of gradients that are added up",
)
def matmul_add(a, b, c):
    """c + a @ b, the product rounded before it is added.

    Shape: (n, k), (k, m) and (n, m) give (n, m); k is at most `LONGEST_ADDED`.
    Cost: 2 * n * k * m floating point operations, and no memory for the product.
    """
