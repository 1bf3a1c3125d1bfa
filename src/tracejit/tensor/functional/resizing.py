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
_SAME = (0.0, 1.0)
"""Ratios with which an axis of the same size stays as it is."""


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
    # 0 stands for what the sizes say: it is the same for all of them.
    known = factors is None or recompute_scale_factor or align_corners
    ratios = (0.0,) * n if known or factors is None else tuple(1.0 / f for f in factors)
    if mode == "nearest" and n == 2:
        # As PyTorch has it for images, whatever the factor: as many elements, and twice as many, are exactly that.
        ratios = tuple(0.0 if s in (o, 2 * o) else r for o, s, r in zip(old, new, ratios, strict=True))
    if mode in _NEAREST and not input._dtype.is_floating_point:
        return _taken(input, new, ratios, mode == "nearest-exact")
    floats(input, "interpolate")
    if mode == "area":
        return _areas(input, new)
    if mode in _NEAREST:
        return _resampled(input, new, ratios, 1, "left" if mode == "nearest" else "within")
    return _resampled(input, new, ratios, 4 if mode == "bicubic" else 2, "corners" if align_corners else "middle")


def _areas(x: Tensor, new: tuple[int, ...]) -> Any:
    if len(new) == 1:
        return adaptive_avg_pool1d(x, new)
    if len(new) == 2:
        return adaptive_avg_pool2d(x, new)
    for i, count in enumerate(new):
        x = means_of_parts(x, 2 + i, count)
    return x


@composite
def _taken(x: Tensor, new: tuple[int, ...], ratios: tuple[float, ...], exact: bool) -> Any:
    """The nearest elements, of a type that is not computed with."""
    given = x
    for i, (size, ratio) in enumerate(zip(new, ratios, strict=True)):
        old = x._shape[2 + i]
        if old == size and ratio in _SAME:
            continue
        at = to_dtype(beside(x, ops.iota, (), (size,)), dtypes.float32)
        at = to_dtype((at + 0.5 if exact else at) * (ratio or old / size), dtypes.int64)
        x = apply(ops.take, (x, apply(ops.minimum, (at, old - 1))), (2 + i,))
    return apply(ops.copy, (x,)) if x is given else x


@composite
def _resampled(x: Tensor, new: tuple[int, ...], ratios: tuple[float, ...], taps: int, places: str) -> Any:
    given, kind = x, x._dtype
    x = to_dtype(x, dtypes.float64 if kind is dtypes.float64 else dtypes.float32)
    for i, (size, ratio) in enumerate(zip(new, ratios, strict=True)):
        # Where no size changes, linear weights are 0 and 1 whatever the factor, as PyTorch has it.
        if x._shape[2 + i] != size or (taps != 2 and ratio not in _SAME):
            x = apply(ops.resample, (x,), (2 + i, size, ratio, taps, places))
    return apply(ops.copy, (x,)) if x is given else to_dtype(x, kind)
