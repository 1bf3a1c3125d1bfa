"""Operations that make tensors out of numbers."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLW0108 - the names of a rule's parameters say what it needs
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import record


def _full(value: Any, shape: tuple[int, ...], dtype: dtypes.dtype) -> Any:
    return np.full(shape, value, dtype.np)


@record(
    family="create",
    infer=lambda value, shape, dtype: Aval(shape, dtype),
    numpy=_full,
    exact=True,
    smooth=False,
    nograd="no operand is a tensor",
)
def full(value, *, shape, dtype):
    """A tensor of one number.

    Shape: `shape`.
    DType: `dtype`, to which the number is converted.
    """


@record(
    family="create",
    infer=lambda size: Aval((size,), dtypes.int64),
    numpy=lambda size: np.arange(size),
    exact=True,
    smooth=False,
    nograd="no operand is a tensor",
)
def iota(*, size):
    """0, 1, 2, ... as int64.

    Shape: (`size`,).
    """
