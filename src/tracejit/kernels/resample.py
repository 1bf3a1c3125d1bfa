"""Resampling along one axis, and its adjoint: each slice of the result is a weighted sum of slices of the source.

Which slices with what weights is put into a table first: for each slice of the result the places of its terms in
ascending order, and their weights. Its sum is one chain of products and additions in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.resample_vectors import (
    ROWS_OF_UNIT,
    TABLE_UNIT,
    resample_rows_f32,
    resample_rows_f64,
    resample_slices_f32,
    resample_slices_f64,
    resample_table_f32,
    resample_table_f64,
    resample_turned_f32,
    resample_turned_f64,
)
from tracejit.kernels.template import lanes, launched, require_contiguous, require_same_dtype

_SIZES = {"float32": 4, "float64": 8}
_TABLE: dict[str, Callable[..., Any]] = {"float32": resample_table_f32, "float64": resample_table_f64}
_TURNED: dict[str, Callable[..., Any]] = {"float32": resample_turned_f32, "float64": resample_turned_f64}
_ROWS: dict[str, Callable[..., Any]] = {"float32": resample_rows_f32, "float64": resample_rows_f64}
_SLICES: dict[str, Callable[..., Any]] = {"float32": resample_slices_f32, "float64": resample_slices_f64}


def step_of(old: int, new: int, ratio: float, places: str) -> tuple[float, float, float]:
    """How places follow one another: that of element s of `new` among `old` is (s + before) * ratio - behind.

    A `ratio` of 0 says that the sizes decide: all of the source, or from its first element to its last.

    >>> step_of(4, 8, 0.0, "middle"), step_of(4, 7, 0.0, "corners"), step_of(4, 8, 0.4, "left")
    ((0.5, 0.5, 0.5), (0.5, 0.0, 0.0), (0.4, 0.0, 0.0))
    """
    if places == "corners":
        return ((old - 1) / (new - 1) if new > 1 else 0.0), 0.0, 0.0
    ratio = ratio or old / new
    return ratio, 0.5 if places in ("within", "middle") else 0.0, 0.5 if places == "middle" else 0.0


def _launches(
    what: str, x: Operand, out: Operand, dim: int, ratio: float, taps: int, places: str, backward: bool
) -> tuple[Launch, ...]:
    require_contiguous(what, x, out)
    require_same_dtype(what, x, out)
    if x.dtype not in _SIZES:
        raise NotImplementedError(f"{what}: there is no kernel for {x.dtype}")
    outer, sources, inner = lanes(what, x.shape, dim)
    results = lanes(what, out.shape, dim)[1]
    if 0 in (outer, sources, inner, results):
        return ()
    size = _SIZES[x.dtype]
    old, new = (results, sources) if backward else (sources, results)
    # Of the table: places, weights, where the terms of each slice begin; for the adjoint these once more, turned.
    entries = taps * new
    sections = [8 * entries, 8 * entries, 8 * (new + 1)]
    if backward:
        sections += [8 * entries, 8 * entries, 8 * (old + 2)]
    offsets = [sum(sections[:k]) for k in range(len(sections))]
    table = Scratch(sum(sections))
    step = step_of(old, new, ratio, places)
    slots: tuple[int | float | Scratch, ...] = (table, old, new, taps, *map(float, step))
    make = [Launch(_TABLE[x.dtype], slots, -(-new // TABLE_UNIT), 0.4 * taps * min(new, TABLE_UNIT))]
    if backward:
        make.append(Launch(_TURNED[x.dtype], slots, 1, 1.2 * entries))
    terms = taps * max(new / old, 1.0) if backward else float(taps)
    shared: tuple[int | Ptr | Scratch, ...] = (Ptr(0), Ptr(1), table, *offsets[-3:], sources, results)
    vectors = inner * size / 64
    if inner == 1:
        rows = ROWS_OF_UNIT[x.dtype]
        cost = (sources + results) * 1.3 + results * terms * 0.6
        return launched(*make, Launch(_ROWS[x.dtype], (*shared, outer), -(-outer // rows), cost))
    cost = 3.0 + vectors * (1.0 + 0.9 * terms)
    return launched(*make, Launch(_SLICES[x.dtype], (*shared, inner), outer * results, cost))


def plan_resample(
    x: Operand, out: Operand, dim: int, ratio: float, taps: int, places: str
) -> tuple[Launch, ...]:
    """The launches of x resampled along `dim`. Operands: x, out.

    Shape: out as x but for its size along `dim`.
    DType: float32 or float64.
    Edge: a place outside of x counts as the nearest one inside.
    """
    return _launches("resample", x, out, dim, ratio, taps, places, False)


def plan_resample_grad(
    ct: Operand, dx: Operand, dim: int, ratio: float, taps: int, places: str
) -> tuple[Launch, ...]:
    """The launches of the adjoint of `plan_resample`. Operands: ct, dx.

    Edge: what nothing was taken from gets 0; terms are added in ascending order of their places in ct.
    """
    return _launches("resample_grad", ct, dx, dim, ratio, taps, places, True)
