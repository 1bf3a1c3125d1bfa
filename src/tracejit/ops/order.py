"""Places of elements in order along the last dimension, or of values among elements that are in order.

Equal elements keep their order, and -0.0 equals 0.0; NaN is larger than any number.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import record


def _argsort(x: Any, descending: bool) -> Any:
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")
    last = x.shape[-1] - 1
    return np.flip(last - np.argsort(np.flip(x, -1), axis=-1, kind="stable"), -1)


@record(
    family="library",
    infer=lambda x, descending: Aval(x.shape, dtypes.int64),
    numpy=_argsort,
    exact=True,
    smooth=False,
    nograd="the result is an integer",
)
def argsort(x, *, descending):
    """The places of the elements in order along the last dimension."""


@record(
    family="library",
    infer=lambda x, k, largest: Aval((*x.shape[:-1], k), dtypes.int64),
    numpy=lambda x, k, largest: _argsort(x, largest)[..., :k],
    exact=True,
    smooth=False,
    nograd="the result is an integer",
)
def topk(x, *, k, largest):
    """The places of the k largest (or smallest) elements along the last dimension, in order."""


def _place(rows: Any, x: Any, right: bool) -> Any:
    side = "right" if right else "left"
    if rows.dtype.itemsize == 2:
        # NumPy has no order of bfloat16.
        rows, x = (v.astype(np.float32) for v in (rows, x))
    if rows.ndim == 1:
        found = np.searchsorted(rows, x, side)  # type: ignore[call-overload]
    else:
        found = np.empty(x.shape, np.int64)
        for at in np.ndindex(*rows.shape[:-1]):
            found[at] = np.searchsorted(rows[at], x[at], side)  # type: ignore[call-overload]
    return np.where(x != x, rows.shape[-1], found).astype(np.int64)


@record(
    family="library",
    infer=lambda rows, x, right: Aval(x.shape, dtypes.int64),
    numpy=_place,
    kinds="if",
    exact=True,
    smooth=False,
    nograd="the result is an integer",
)
def searchsorted(rows, x, *, right):
    """How many elements of a row, which are in order, are less than each value; with `right` also those equal to it.

    There is one row for all values, or one for those along their last dimension. NaN is beyond all elements.
    """
