"""Tensors resampled along a dimension."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.record import ops, record

_SHARPNESS = -0.75


def _near(t: Any) -> Any:
    """Keys' cubic convolution at a distance below 1."""
    return ((_SHARPNESS + 2) * t - (_SHARPNESS + 3)) * t * t + 1


def _far(t: Any) -> Any:
    """Keys' cubic convolution at a distance of 1 + t."""
    x = t + 1.0
    return ((_SHARPNESS * x - 5 * _SHARPNESS) * x + 8 * _SHARPNESS) * x - 4 * _SHARPNESS


def _table(old: int, new: int, ratio: float, taps: int, places: str, kind: Any) -> tuple[Any, Any]:
    """Places in `old` of the terms of each of `new` elements, and their weights: two arrays (new, taps)."""
    if places == "corners":
        ratio = (old - 1) / (new - 1) if new > 1 else 0.0
    elif not ratio:
        ratio = old / new
    wide = np.float32 if taps == 1 else kind.type
    at = np.arange(new).astype(wide)
    at = (at + wide(0.5 if places in ("middle", "within") else 0)) * wide(ratio)
    if places == "middle":
        at = at - wide(0.5)
    if taps == 2:
        at = np.maximum(at, wide(0))
    first = np.floor(at)
    part = at - first
    rest = 1 - part
    weights = {
        1: lambda: (np.ones_like(part),),
        2: lambda: (rest, part),
        4: lambda: (_far(part), _near(part), _near(rest), _far(rest)),
    }[taps]()
    terms = first.astype(np.int64)[:, None] + np.arange(taps) - (1 if taps == 4 else 0)
    return np.clip(terms, 0, old - 1), np.stack(weights, 1).astype(kind)


def _resized(x: Any, dim: int, size: int) -> tuple[int, ...]:
    return (*x.shape[:dim], size, *x.shape[dim + 1 :])


def _resample(x: Any, dim: int, size: int, ratio: float, taps: int, places: str) -> Any:
    terms, weights = _table(x.shape[dim], size, ratio, taps, places, x.dtype)
    rows = np.moveaxis(x, dim, -1)
    out = rows[..., terms[:, 0]] * weights[:, 0]
    for t in range(1, taps):
        out = out + rows[..., terms[:, t]] * weights[:, t]
    return np.moveaxis(out, -1, dim)


def _resample_grad(y: Any, dim: int, size: int, ratio: float, taps: int, places: str) -> Any:
    terms, weights = _table(size, y.shape[dim], ratio, taps, places, y.dtype)
    rows = np.moveaxis(y, dim, 0)
    # Sums keep the sign of a first term that is 0; those of no terms are 0.
    out = np.zeros((size, *rows.shape[1:]), y.dtype)
    out[np.unique(terms)] = -0.0
    for s, t in np.ndindex(*terms.shape):
        out[terms[s, t]] += rows[s] * weights[s, t]
    return np.moveaxis(out, 0, dim)


@record(
    family="library",
    infer=lambda x, dim, size, *attrs: Aval(_resized(x, dim, size), x.dtype),
    numpy=_resample,
    kinds="f",
    vjp={
        "x": lambda ct, x_aval, dim, ratio, taps, places: ops.resample_grad(
            ct, dim=dim, size=x_aval.shape[dim], ratio=ratio, taps=taps, places=places
        )
    },
)
def resample(x, *, dim, size, ratio, taps, places):
    """`x` with another size along a dimension: each element a weighted sum of `taps` neighbours in `x`.

    One is the nearest element, two are interpolated between, four are Keys' cubic convolution. Element s of the result
    lies in `x` at s * ratio ("left"), (s + 0.5) * ratio ("within"), or that minus 0.5 ("middle"); a `ratio` of 0 is the
    old size by the new one. With "corners" the first and the last elements of both lie at the same places.

    Shape: that of `x`, with `size` at `dim`; none is 0.
    Edge: a place outside of `x` counts as the nearest one inside.
    """


@record(
    family="library",
    infer=lambda y, dim, size, *attrs: Aval(_resized(y, dim, size), y.dtype),
    numpy=_resample_grad,
    kinds="f",
    vjp={
        "y": lambda ct, y_aval, dim, ratio, taps, places: ops.resample(
            ct, dim=dim, size=y_aval.shape[dim], ratio=ratio, taps=taps, places=places
        )
    },
)
def resample_grad(y, *, dim, size, ratio, taps, places):
    """The adjoint of `resample`: a gradient of the result carried back to the elements that it was taken from."""
