"""Operations that read or write at places given by an integer tensor.

Places out of range raise IndexError before anything is written.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLW0108 - the names of a rule's parameters say what it needs
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import ops, record


def check_places(index: Any, size: int, lowest: int = 0, dim: int | None = None) -> None:
    """Raise IndexError if a place, along a dimension if that is known, lies outside [lowest, size)."""
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < lowest or high >= size:
            bad = low if low < lowest else high
            along = "dimension" if dim is None else f"dimension {dim}"
            raise IndexError(f"index {bad} is out of bounds for {along} with size {size}")


def _check_index(index: Any, size: int) -> Any:
    check_places(index, size)
    return np.empty(0, np.bool_)


@record(
    family="library",
    infer=lambda index, size: Aval((0,), dtypes.bool),
    numpy=_check_index,
    exact=True,
    smooth=False,
    kinds="i",
    nograd="the result has no elements",
    looks_at="index",
)
def check_index(index, *, size):
    """A look at places, for plans: what picks by them comes after it, and looks at none itself.

    Shape: (0), as there is nothing to say of places that are right.
    Raises: IndexError for a place outside [0, size).
    """


def _rows(x: Any, dim: int) -> Any:
    return np.moveaxis(x, dim, 0)


def _take(x: Any, index: Any, dim: int) -> Any:
    check_places(index, x.shape[dim], dim=dim)
    return np.take(x, index, axis=dim)


@record(
    family="library",
    infer=lambda x, index, dim: Aval((*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]), x.dtype),
    numpy=_take,
    exact=True,
    vjp={
        "x": lambda ct, index, x_aval, dim: ops.index_add(
            ops.full(0, shape=x_aval.shape, dtype=x_aval.dtype), index, ct, dim=dim
        )
    },
    looks_at="index",
)
def take(x, index, *, dim):
    """Slices of `x` along a dimension, at the places of a vector.

    Shape: that of `x`, with the vector's length at `dim`.
    Raises: IndexError for a place outside [0, size).
    """


def _index_add(x: Any, index: Any, src: Any, dim: int) -> Any:
    check_places(index, x.shape[dim], dim=dim)
    out = np.array(x)
    np.add.at(_rows(out, dim), index, _rows(src, dim))
    return out


@record(
    family="library",
    infer=lambda x, index, src, dim: x,
    numpy=_index_add,
    exact=True,
    stepwise=True,
    vjp={"x": lambda ct: ct, "src": lambda ct, index, dim: ops.take(ct, index, dim=dim)},
    looks_at="index",
)
def index_add(x, index, src, *, dim):
    """`x` with slices of `src` added at the places of a vector, in ascending order.

    Shape: that of `x`; `src` has the vector's length at `dim`.
    Raises: IndexError for a place outside [0, size).
    """


def _index_copy(x: Any, index: Any, src: Any, dim: int) -> Any:
    check_places(index, x.shape[dim], dim=dim)
    out = np.array(x)
    rows, values = _rows(out, dim), _rows(src, dim)
    for i, place in enumerate(index):
        rows[place] = values[i]
    return out


def _blank_rows(ct: Any, index: Any, src_aval: Aval, dim: int) -> Any:
    return ops.index_copy(ct, index, ops.full(0, shape=src_aval.shape, dtype=src_aval.dtype), dim=dim)


@record(
    family="library",
    infer=lambda x, index, src, dim: x,
    numpy=_index_copy,
    exact=True,
    vjp={
        "x": lambda ct, index, src_aval, dim: _blank_rows(ct, index, src_aval, dim),
        "src": lambda ct, index, dim: ops.take(ct, index, dim=dim),
    },
    looks_at="index",
)
def index_copy(x, index, src, *, dim):
    """`x` with slices of `src` put at the places of a vector; the last of several wins.

    Edge: the gradient of `src` is right for distinct places only, as in PyTorch.
    Raises: IndexError for a place outside [0, size).
    """


def _along(index: Any, dim: int) -> tuple[Any, ...]:
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)


def _gather(x: Any, index: Any, dim: int) -> Any:
    check_places(index, x.shape[dim], dim=dim)
    return x[_along(index, dim)]


@record(
    family="library",
    infer=lambda x, index, dim: Aval(index.shape, x.dtype),
    numpy=_gather,
    exact=True,
    vjp={
        "x": lambda ct, index, x_aval, dim: ops.scatter_add(
            ops.full(0, shape=x_aval.shape, dtype=x_aval.dtype), index, ct, dim=dim
        )
    },
    looks_at="index",
)
def gather(x, index, *, dim):
    """For each place of `index` the element of `x` with that coordinate in `dim` and the same others.

    Shape: that of `index`, which may be shorter than `x` in the other dimensions.
    Raises: IndexError for a place outside [0, size).
    """


def _scatter(function: Callable[[Any, Any, Any], None]) -> Callable[..., Any]:
    def run(x: Any, index: Any, src: Any, dim: int) -> Any:
        check_places(index, x.shape[dim], dim=dim)
        out = np.array(x)
        function(out, _along(index, dim), src[tuple(slice(n) for n in index.shape)])
        return out

    return run


def _put(out: Any, places: Any, values: Any) -> None:
    flat = np.ravel_multi_index([np.broadcast_to(p, values.shape) for p in places], out.shape).ravel()
    # Of several values for one place, NumPy does not promise to keep the last.
    _, last = np.unique(flat[::-1], return_index=True)
    kept = flat.size - 1 - last
    out.flat[flat[kept]] = values.ravel()[kept]


def _blank(ct: Any, index: Any, src_aval: Aval, dim: int) -> Any:
    return ops.scatter(ct, index, ops.full(0, shape=src_aval.shape, dtype=src_aval.dtype), dim=dim)


def _back_to_source(ct: Any, index: Any, src_aval: Aval, index_aval: Aval, dim: int) -> Any:
    picked = ops.gather(ct, index, dim=dim)
    if src_aval.shape == index_aval.shape:
        return picked
    ones = (1,) * src_aval.ndim
    return ops.unslice(picked, shape=src_aval.shape, start=(0,) * src_aval.ndim, step=ones)


@record(
    family="library",
    infer=lambda x, index, src, dim: x,
    numpy=_scatter(_put),
    exact=True,
    vjp={"x": _blank, "src": _back_to_source},
    looks_at="index",
)
def scatter(x, index, src, *, dim):
    """`x` with the elements of `src` put at places along a dimension; the last of several wins.

    Shape: that of `x`; of `src` the part of `index`'s shape is read.
    Edge: the gradient of `src` is right for distinct places only, as in PyTorch.
    Raises: IndexError for a place outside [0, size).
    """


@record(
    family="library",
    infer=lambda x, index, src, dim: x,
    numpy=_scatter(np.add.at),
    exact=True,
    stepwise=True,
    vjp={"x": lambda ct: ct, "src": _back_to_source},
    looks_at="index",
)
def scatter_add(x, index, src, *, dim):
    """`x` with the elements of `src` added at places along a dimension, in ascending order.

    Shape: that of `x`; of `src` the part of `index`'s shape is read.
    Raises: IndexError for a place outside [0, size).
    """


def _wrap_index(index: Any, size: int) -> Any:
    check_places(index, size, -size)
    return np.where(index < 0, index + size, index)


@record(
    family="library",
    infer=lambda index, size: index,
    numpy=_wrap_index,
    exact=True,
    smooth=False,
    kinds="i",
    nograd="the result is an integer",
    looks_at="index",
)
def wrap_index(index, *, size):
    """Places counted from the front: `size` is added to negative ones.

    Raises: IndexError for a place outside [-size, size).
    """


def _true_places(mask: Any, count: int) -> Any:
    found = np.flatnonzero(mask)
    if found.size != count:
        raise IndexError(f"{found.size} elements of the mask hold, not {count}")
    return found


@record(
    family="library",
    infer=lambda mask, count: Aval((count,), dtypes.int64),
    numpy=_true_places,
    exact=True,
    smooth=False,
    kinds="b",
    nograd="the result is an integer",
)
def true_places(mask, *, count):
    """The places of the elements of a vector that hold, of which there are `count`.

    Shape: (`count`).
    Raises: IndexError if other than `count` hold. Programs do not look: who makes them knows how many hold.
    """


CHANGING = frozenset((ops.index_add, ops.index_copy, ops.scatter, ops.scatter_add))
"""Operations that give their first operand with a few elements changed, which an index picks."""
