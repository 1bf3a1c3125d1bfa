"""Slices that begin where a number of the run says: what a compiled region makes of a subscript that changes from call
to call.

In graphs they are picked and put by a vector of places (`passes/dynamic.py`), so no kernel knows them.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.record import Op, ops, record


def _part(ndim: int, at: int, dim: int, length: int) -> tuple[slice, ...]:
    return tuple([slice(at, at + length) if d == dim else slice(None) for d in range(ndim)])


def _dynamic_place(x: Any, src: Any, at: int, dim: int) -> Any:
    out = np.array(x)
    out[_part(x.ndim, at, dim, src.shape[dim])] = src
    return out


def _among_zeros(ct: Any, at: Any, x_aval: Aval, dim: int) -> Any:
    return ops.dynamic_place(ops.full(0, shape=x_aval.shape, dtype=x_aval.dtype), ct, at, dim=dim)


def _with_hole(ct: Any, at: Any, src_aval: Aval, dim: int) -> Any:
    return ops.dynamic_place(ct, ops.full(0, shape=src_aval.shape, dtype=src_aval.dtype), at, dim=dim)


@record(
    family="view",
    infer=lambda x, at, dim, length: Aval((*x.shape[:dim], length, *x.shape[dim + 1 :]), x.dtype),
    numpy=lambda x, at, dim, length: x[_part(x.ndim, at, dim, length)],
    exact=True,
    vjp={"x": _among_zeros},
)
def dynamic_slice(x, at, *, dim, length):
    """`length` elements along a dimension from a place on, which is a number of the run.

    Shape: that of `x`, with `length` at `dim`.
    Edge: the place lies in [0, size - length]; who makes the call sees to that.
    Cost: nothing, it is a view.
    """


@record(
    family="place",
    infer=lambda x, src, at, dim: x,
    numpy=_dynamic_place,
    exact=True,
    stepwise=True,
    vjp={
        "x": _with_hole,
        "src": lambda ct, at, src_aval, dim: ops.dynamic_slice(ct, at, dim=dim, length=src_aval.shape[dim]),
    },
)
def dynamic_place(x, src, at, *, dim):
    """`x` with `src` put where `dynamic_slice` would read.

    Shape: that of `x`, which is that of `src` but for `dim`.
    """


DYNAMIC = (ops.dynamic_slice, ops.dynamic_place)


def room(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> int:
    """The last place where what a call reads or writes still lies inside: its number is from 0 to that."""
    dim = attrs[0]
    length = attrs[1] if op is ops.dynamic_slice else args[1].shape[dim]
    return int(args[0].shape[dim] - length)
