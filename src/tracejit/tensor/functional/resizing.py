"""Images and sequences in other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.functional.activation import floats
from tracejit.tensor.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, means_of_parts
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.tensor import Tensor

_NEAREST = ("nearest", "nearest-exact")
_DIMENSIONS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_SHARPNESS = -0.75


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Any:
    """Images or sequences resized: by the nearest element, between neighbours, or by means of areas.

    Modes are "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" and "area". Corner elements are
    corner areas, or with `align_corners` corner points.

    Shape: (N, C, L), (N, C, H, W) or (N, C, D, H, W). Raises: ValueError unless one of `size` and `scale_factor` is
    given, and for options without a meaning; NotImplementedError for other modes or dimensions.

    >>> import tracejit as tj
    >>> x = tj.tensor([[[0.0, 10.0, 30.0]]])
    >>> tj.nn.functional.interpolate(x, size=5, mode="linear", align_corners=True)
    tensor([[[ 0.,  5., 10., 20., 30.]]])
    """
    n = len(input._shape) - 2
    if mode not in (*_NEAREST, "area", *_DIMENSIONS):
        raise NotImplementedError(f"interpolate(): mode '{mode}' is not supported")
    if mode not in _DIMENSIONS and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear"
        )
    if n not in (1, 2, 3) or _DIMENSIONS.get(mode, n) != n:
        raise NotImplementedError(f"interpolate(): mode '{mode}' does not take a tensor of {n + 2} dimensions")
    if (size is None) == (scale_factor is None):
        raise ValueError("only one of size or scale_factor should be defined, and one of them must be")
    old = input._shape[2:]
    if size is not None:
        if recompute_scale_factor:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        new = tuple(size) if isinstance(size, Sequence) else (size,) * n
        factors = None
    else:
        factors = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * n
        if any(not f > 0 for f in factors):
            raise RuntimeError(f"interpolate(): scale factors must be above 0, but got {list(factors)}")
        new = tuple(int(o * f) for o, f in zip(old, factors, strict=True))
    if len(new) != n:
        raise ValueError(f"interpolate(): expected sizes of {n} dimensions, but got {list(new)}")
    if min(new) < 1 or min(old) < 1:
        raise RuntimeError(f"Input and output sizes should be greater than 0, but got {list(old)} and {list(new)}")
    if factors is None or recompute_scale_factor:
        ratios = tuple(o / s for o, s in zip(old, new, strict=True))
    else:
        ratios = tuple(1.0 / f for f in factors)
    if mode == "nearest" and n == 2:
        # As PyTorch has it for images, whatever the factor: as many elements, and twice as many, are exactly that.
        ratios = tuple(o / s if s in (o, 2 * o) else r for o, s, r in zip(old, new, ratios, strict=True))
    if mode in _NEAREST:
        return _nearest(input, new, ratios, mode == "nearest-exact")
    floats(input, "interpolate")
    if mode == "area":
        return _areas(input, new)
    if align_corners:
        ratios = tuple((o - 1) / (s - 1) if s > 1 else 0.0 for o, s in zip(old, new, strict=True))
    return _between(input, new, ratios, bool(align_corners), mode == "bicubic")


def _areas(x: Tensor, new: tuple[int, ...]) -> Any:
    if len(new) == 1:
        return adaptive_avg_pool1d(x, new)
    if len(new) == 2:
        return adaptive_avg_pool2d(x, new)
    for i, count in enumerate(new):
        x = means_of_parts(x, 2 + i, count)
    return x


def _counted(x: Tensor, size: int, kind: dtypes.dtype) -> Any:
    return to_dtype(beside(x, ops.iota, (), (size,)), kind)


@composite
def _nearest(x: Tensor, new: tuple[int, ...], ratios: tuple[float, ...], exact: bool) -> Any:
    given = x
    for i, (size, ratio) in enumerate(zip(new, ratios, strict=True)):
        old = x._shape[2 + i]
        if old == size and ratio == 1.0:
            continue
        at = _counted(x, size, dtypes.float32)
        at = to_dtype((at + 0.5 if exact else at) * ratio, dtypes.int64)
        x = apply(ops.take, (x, apply(ops.minimum, (at, old - 1))), (2 + i,))
    return apply(ops.copy, (x,)) if x is given else x


@composite
def _between(x: Tensor, new: tuple[int, ...], ratios: tuple[float, ...], corners: bool, cubic: bool) -> Any:
    given, kind = x, x._dtype
    wide = dtypes.float64 if kind is dtypes.float64 else dtypes.float32
    x = to_dtype(x, wide)
    for i, (size, ratio) in enumerate(zip(new, ratios, strict=True)):
        # Where no size changes, linear weights are 0 and 1 whatever the factor, as PyTorch has it.
        if x._shape[2 + i] != size or (cubic and ratio != 1.0):
            at = _counted(x, size, wide)
            at = at * ratio if corners else (at + 0.5) * ratio - 0.5
            x = _cubic(x, 2 + i, at) if cubic else _linear(x, 2 + i, at)
    return apply(ops.copy, (x,)) if x is given else to_dtype(x, kind)


def _at(x: Tensor, dim: int, places: Any, weights: Any) -> Any:
    """The slices at some places, each times its weight."""
    inside = apply(ops.maximum, (apply(ops.minimum, (places, x._shape[dim] - 1)), 0))
    spread = apply(ops.reshape, (weights,), ((weights._shape[0], *(1,) * (len(x._shape) - dim - 1)),))
    return apply(ops.take, (x, inside), (dim,)) * spread


def _linear(x: Tensor, dim: int, at: Any) -> Any:
    at = apply(ops.maximum, (at, 0.0))
    first = to_dtype(at, dtypes.int64)
    part = at - to_dtype(first, at._dtype)
    return _at(x, dim, first, 1.0 - part) + _at(x, dim, first + 1, part)


def _cubic(x: Tensor, dim: int, at: Any) -> Any:
    floor = apply(ops.floor, (at,))
    first, part = to_dtype(floor, dtypes.int64), at - floor
    rest = 1.0 - part
    outer, inner = _at(x, dim, first - 1, _far(part)), _at(x, dim, first, _near(part))
    return outer + inner + _at(x, dim, first + 1, _near(rest)) + _at(x, dim, first + 2, _far(rest))


def _near(t: Any) -> Any:
    """Keys' cubic convolution at a distance below 1."""
    return ((_SHARPNESS + 2) * t - (_SHARPNESS + 3)) * t * t + 1


def _far(t: Any) -> Any:
    """Keys' cubic convolution at a distance of 1 + t."""
    x = t + 1.0
    return ((_SHARPNESS * x - 5 * _SHARPNESS) * x + 8 * _SHARPNESS) * x - 4 * _SHARPNESS
