"""Views: what each of them does to how memory is read.

In: a read, the view's shape and attributes. Out: the read that the view is.
Must not know: nodes, what is computed of the elements.
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.schedule.values import Read
from tracejit.shapes import view_strides


def _reshape(x: Read, shape: tuple[int, ...], to: tuple[int, ...]) -> Read | None:
    strides = view_strides(x.shape, x.strides, shape)
    return None if strides is None else Read(x.source, shape, strides, x.offset)


def _permute(x: Read, shape: tuple[int, ...], dims: tuple[int, ...]) -> Read:
    return Read(x.source, shape, tuple(x.strides[d] for d in dims), x.offset)


def _expand(x: Read, shape: tuple[int, ...], to: tuple[int, ...]) -> Read:
    lead = len(shape) - len(x.shape)
    kept = (0 if s == 1 else stride for s, stride in zip(x.shape, x.strides, strict=True))
    return Read(x.source, shape, (0,) * lead + tuple(kept), x.offset)


def _slice(
    x: Read, shape: tuple[int, ...], start: tuple[int, ...], length: tuple[int, ...], step: tuple[int, ...]
) -> Read:
    offset = x.offset + sum(a * s for a, s in zip(start, x.strides, strict=True))
    return Read(x.source, shape, tuple(a * s for a, s in zip(step, x.strides, strict=True)), offset)


def flipped(x: Read, shape: tuple[int, ...], dims: tuple[int, ...]) -> Read:
    """What is read in the opposite order along some dimensions."""
    last = x.offset + sum((x.shape[d] - 1) * x.strides[d] for d in dims)
    return Read(x.source, shape, tuple(-s if d in dims else s for d, s in enumerate(x.strides)), last)


def _diagonal(x: Read, shape: tuple[int, ...]) -> Read:
    *lead, down, along = x.strides
    return Read(x.source, shape, (*lead, down + along), x.offset)


def _windows(x: Read, shape: tuple[int, ...], dim: int, size: int, step: int) -> Read:
    along = x.strides[dim]
    return Read(x.source, shape, (*x.strides[:dim], along * step, *x.strides[dim + 1 :], along), x.offset)


# The views are a closed set: what a view does to strides is the same on every backend, so it is said here.
VIEWS: dict[str, Callable[..., Read | None]] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "flip": flipped,
    "diagonal": _diagonal,
    "windows": _windows,
}
