"""Places of elements in order along the last dimension.

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
