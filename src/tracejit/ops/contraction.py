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
