"""Operations that move elements and compute nothing: views of memory, and the two that join and pad."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLW0108 - the names of a rule's parameters say what it needs
from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.record import ops, record
from tracejit.shapes import reductions

_RESHAPE: dict[str, Any] = {
    "family": "view",
    "infer": lambda x, shape: Aval(shape, x.dtype),
    "numpy": lambda x, shape: x.reshape(shape),
    "exact": True,
    "vjp": {"x": lambda ct, x_aval: ops.reshape(ct, shape=x_aval.shape)},
}


@record(**_RESHAPE)
def reshape(x, *, shape):
    """The same elements in row-major order under another shape.

    Shape: `shape`, with as many elements.
    Cost: nothing if strides can say it, else a copy.
    """


@record(**_RESHAPE, plain=ops.reshape)
def reshaped(x, *, shape):
    """`reshape` of an operand that nobody else has or will have: the result is no view of it, but a tensor of its own.

    Shape: `shape`, with as many elements.
    Cost: nothing if strides can say it, else a copy.
    """


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


@record(
    family="view",
    infer=lambda x, dims: Aval(tuple(x.shape[d] for d in dims), x.dtype),
    numpy=lambda x, dims: x.transpose(dims),
    exact=True,
    vjp={"x": lambda ct, dims: ops.permute(ct, dims=_inverse(dims))},
)
def permute(x, *, dims):
    """Dimensions in another order.

    Shape: size `dims[i]` of `x` at i.
    Cost: nothing, it is a view.
    """


def sum_to(x: Any, shape: tuple[int, ...], target: tuple[int, ...]) -> Any:
    """`x` of shape `shape`, summed over the dimensions that broadcasting `target` to it repeated."""
    if shape == target:
        return x
    lead = len(shape) - len(target)
    repeated = [i for i in range(len(shape)) if i < lead or (target[i - lead] == 1 and shape[i] != 1)]
    # As the fronts do.
    for merged, dim in reductions(shape, repeated):
        x = ops.sum(x if merged == shape else ops.reshape(x, shape=merged), dim=dim)
        shape = merged[:dim] + merged[dim + 1 :]
    return x if shape == target else ops.reshape(x, shape=target)


@record(
    family="view",
    infer=lambda x, shape: Aval(shape, x.dtype),
    numpy=np.broadcast_to,
    exact=True,
    vjp={"x": lambda ct, x_aval, shape: sum_to(ct, shape, x_aval.shape)},
)
def expand(x, *, shape):
    """Dimensions of size 1, and new leading ones, repeated without a copy.

    Shape: `shape`.
    """


def region_of(start: tuple[int, ...], length: tuple[int, ...], step: tuple[int, ...]) -> tuple[builtins.slice, ...]:
    """The index that NumPy calls what `slice` reads."""
    # The operation `slice` of this module hides the built-in one.
    # A list takes less time than a generator.
    return tuple(
        [builtins.slice(a, a + (n - 1) * s + 1 if n else a, s) for a, n, s in zip(start, length, step, strict=True)]
    )


def _slice(x: Any, start: tuple[int, ...], length: tuple[int, ...], step: tuple[int, ...]) -> Any:
    return x[region_of(start, length, step)]


@record(
    family="view",
    infer=lambda x, start, length, step: Aval(length, x.dtype),
    numpy=_slice,
    exact=True,
    vjp={"x": lambda ct, x_aval, start, step: ops.unslice(ct, shape=x_aval.shape, start=start, step=step)},
)
def slice(x, *, start, length, step):
    """For each dimension `length` elements from `start` on, every `step`-th (step >= 1).

    Shape: `length`.
    Cost: nothing, it is a view.
    """


def _unslice(x: Any, shape: tuple[int, ...], start: tuple[int, ...], step: tuple[int, ...]) -> Any:
    out = np.zeros(shape, x.dtype)
    out[region_of(start, x.shape, step)] = x
    return out


@record(
    family="place",
    infer=lambda x, shape, start, step: Aval(shape, x.dtype),
    numpy=_unslice,
    exact=True,
    vjp={"x": lambda ct, x_aval, start, step: ops.slice(ct, start=start, length=x_aval.shape, step=step)},
)
def unslice(x, *, shape, start, step):
    """Zeros of `shape` with `x` put where `slice` would read: the adjoint of `slice`, also padding with zeros.

    Shape: `shape`.
    """


def _place(x: Any, src: Any, start: tuple[int, ...], step: tuple[int, ...]) -> Any:
    out = np.array(x)
    out[region_of(start, src.shape, step)] = src
    return out


def _hole(ct: Any, src: Aval, start: tuple[int, ...], step: tuple[int, ...]) -> Any:
    zero = ops.full(0, shape=src.shape, dtype=src.dtype)
    return ops.place(ct, zero, start=start, step=step)


@record(
    family="place",
    infer=lambda x, src, start, step: x,
    numpy=_place,
    exact=True,
    vjp={
        "x": lambda ct, src_aval, start, step: _hole(ct, src_aval, start, step),
        "src": lambda ct, src_aval, start, step: ops.slice(ct, start=start, length=src_aval.shape, step=step),
    },
)
def place(x, src, *, start, step):
    """`x` with `src` put where `slice` would read.

    Shape: that of `x`.
    """


@record(
    family="view",
    infer=lambda x, dims: x,
    numpy=lambda x, dims: np.flip(x, dims),
    exact=True,
    vjp={"x": lambda ct, dims: ops.flip(ct, dims=dims)},
)
def flip(x, *, dims):
    """Dimensions in reverse order of their elements."""


def _diagonal(x: Any) -> Any:
    # NumPy's own is read-only.
    return np.lib.stride_tricks.as_strided(x, x.shape[:-1], (*x.strides[:-2], x.strides[-2] + x.strides[-1]))


def on_diagonals(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Where the diagonals of square matrices lie among rows of all elements of each: the shape of those, the first
    element, and the step from one to the next."""
    *lead, n, _ = shape
    return (*lead, n * n), (0,) * (len(lead) + 1), (*((1,) * len(lead)), n + 1)


def _from_diagonals(ct: Any, shape: tuple[int, ...]) -> Any:
    flat, start, step = on_diagonals(shape)
    return ops.reshape(ops.unslice(ct, shape=flat, start=start, step=step), shape=shape)


@record(
    family="view",
    infer=lambda x: Aval(x.shape[:-1], x.dtype),
    numpy=_diagonal,
    exact=True,
    vjp={"x": lambda ct, x_aval: _from_diagonals(ct, x_aval.shape)},
)
def diagonal(x):
    """The diagonals of square matrices, as the last dimension.

    Shape: that of `x` without the last dimension.
    Cost: nothing, it is a view.
    """


FEW = 32
"""Gradients of windows of up to so many elements are sums of shifted tensors, which fuse; all others are added up one
by one."""


def count_windows(length: int, size: int, step: int) -> int:
    """How many windows of `size` fit into a length, one every `step`."""
    return (length - size) // step + 1


def _windows_aval(x: Aval, dim: int, size: int, step: int) -> Aval:
    count = count_windows(x.shape[dim], size, step)
    return Aval((*x.shape[:dim], count, *x.shape[dim + 1 :], size), x.dtype)


def _windows(x: Any, dim: int, size: int, step: int) -> Any:
    shape = _windows_aval(x, dim, size, step).shape
    strides = (*x.strides[:dim], x.strides[dim] * step, *x.strides[dim + 1 :], x.strides[dim])
    # What several windows show is not changed through them.
    writeable = x.flags.writeable and (step >= size or shape[dim] < 2)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=writeable)


def one_after_another(windows: Any, shape: tuple[int, ...], dim: int) -> Any:
    """Windows of a shape, joined along the dimension that they were taken along."""
    *lead, size = shape
    n = len(lead)
    row = ops.permute(windows, dims=(*range(dim + 1), n, *range(dim + 1, n)))
    return ops.reshape(row, shape=(*lead[:dim], lead[dim] * size, *lead[dim + 1 :]))


def _from_windows(ct: Any, x: Aval, dim: int, size: int, step: int) -> Any:
    shape, length = x.shape, x.shape[dim]
    seen = _windows_aval(x, dim, size, step).shape
    none, one = (0,) * len(seen), (1,) * len(seen)
    count = seen[dim]
    if step >= size:
        whole = (*seen[:-1], step)
        ct = ct if step == size else ops.unslice(ct, shape=whole, start=none, step=one)
        row = one_after_another(ct, whole, dim)
        if count * step < length:
            return ops.unslice(row, shape=shape, start=none[1:], step=one[1:])
        return row if count * step == length else ops.slice(row, start=none[1:], length=shape, step=one[1:])
    if size > FEW:
        first = ops.reshape(ops.mul(ops.iota(size=count), step), shape=(count, 1))
        places = ops.reshape(ops.add(first, ops.iota(size=size)), shape=(count * size,))
        zeros = ops.full(0, shape=shape, dtype=x.dtype)
        return ops.index_add(zeros, places, one_after_another(ct, seen, dim), dim=dim)
    total = None
    for k in range(size):
        part = ops.slice(ct, start=(*none[1:], k), length=(*seen[:-1], 1), step=one)
        start, steps = ((*before[:dim], at, *before[dim + 1 : -1]) for before, at in ((none, k), (one, step)))
        part = ops.unslice(ops.reshape(part, shape=seen[:-1]), shape=shape, start=start, step=steps)
        total = part if total is None else ops.add(total, part)
    return total


@record(
    family="view",
    infer=_windows_aval,
    numpy=_windows,
    exact=True,
    vjp={"x": lambda ct, x_aval, dim, size, step: _from_windows(ct, x_aval, dim, size, step)},
)
def windows(x, *, dim, size, step):
    """Windows of `size` along a dimension, one every `step`, as a new last dimension.

    Shape: that of `x`, with the number of windows at `dim`, and (`size`,).
    Edge: windows of more than `step` elements show some of them several times, and are not changed in place.
    Cost: nothing, it is a view.
    """


def _cat_shape(*args: Any) -> Aval:
    *xs, dim = args
    first = xs[0]
    total = sum(x.shape[dim] for x in xs)
    return Aval((*first.shape[:dim], total, *first.shape[dim + 1 :]), first.dtype)


def _cat(*args: Any) -> Any:
    *xs, dim = args
    return np.concatenate(xs, axis=dim)


def _cat_gradient(ct: Any, xs_aval: tuple[Aval, ...], dim: int) -> tuple[Any, ...]:
    parts, at = [], 0
    for x in xs_aval:
        start = tuple(at if i == dim else 0 for i in range(x.ndim))
        parts.append(ops.slice(ct, start=start, length=x.shape, step=(1,) * x.ndim))
        at += x.shape[dim]
    return tuple(parts)


@record(family="place", infer=_cat_shape, numpy=_cat, exact=True, vjp={"xs": _cat_gradient})
def cat(*xs, dim):
    """Tensors of one type joined along a dimension.

    Shape: equal but for `dim`, whose sizes add up.
    """
