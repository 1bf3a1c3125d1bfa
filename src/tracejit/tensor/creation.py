"""New tensors from numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.devices import require
from tracejit.dtypes import dtype as dtype_
from tracejit.ops.record import ops
from tracejit.runtime.arrays import copied
from tracejit.tensor.arithmetic import add, binary, mul
from tracejit.tensor.dispatch import apply, beside, made_on, wrap
from tracejit.tensor.inplace import in_place
from tracejit.tensor.naming import named
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.scalar import alike
from tracejit.tensor.shaping import ints
from tracejit.tensor.tensor import Tensor, method
from tracejit.tensor.transfer import moved


def sizes_of(size: tuple[Any, ...], what: str) -> tuple[int, ...]:
    """The shape that a creation function was given, as integers or one sequence.

    Raises: RuntimeError for a negative size.
    """
    shape = ints(size, what)
    for s in shape:
        if s < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {s}: {list(shape)}")
    return shape


def full(
    size: Any, fill_value: Any, *, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number.

    DType: of the number if none is given.

    >>> full((2,), 7)
    tensor([7, 7])
    """
    d = dtype or dtypes.of_number(alike(fill_value))
    shape = sizes_of((size,) if isinstance(size, int) else (tuple(size),), "full")
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    return _filled(shape, fill_value, d, device, requires_grad)


def _filled(shape: tuple[int, ...], value: Any, kind: dtype_ | None, device: Any, requires_grad: bool) -> Tensor:
    where = require(device)
    t: Tensor = made_on(where, ops.full, (value,), (shape, kind or dtypes.get_default_dtype()))
    return t.requires_grad_() if requires_grad else t


@named
def zeros(*size: Any, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return _filled(sizes_of(size, "zeros"), 0, dtype, device, requires_grad)


@named
def ones(*size: Any, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return _filled(sizes_of(size, "ones"), 1, dtype, device, requires_grad)


@named
def empty(*size: Any, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose elements are not set to anything in particular: zeros."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def _like(name: str, make: Any, doc: str) -> Any:
    def function(
        input: Tensor, *, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False
    ) -> Tensor:
        where = device or input.device
        return make(input._shape, dtype=dtype or input._dtype, device=where, requires_grad=requires_grad)  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


zeros_like = _like("zeros_like", zeros, "Zeros in the shape and type of a tensor.")
ones_like = _like("ones_like", ones, "Ones in the shape and type of a tensor.")
empty_like = _like("empty_like", empty, "An unset tensor in the shape and type of a tensor.")


def full_like(input: Tensor, fill_value: Any, *, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """One number in the shape and type of a tensor."""
    return full(input._shape, fill_value, dtype=dtype or input._dtype, device=device or input.device)


@method()
@named
def new_zeros(self: Tensor, *size: Any, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """Zeros of another shape in the type of the tensor."""
    return zeros(*size, dtype=dtype or self._dtype, device=device or self.device)


@method()
@named
def new_ones(self: Tensor, *size: Any, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """Ones of another shape in the type of the tensor."""
    return ones(*size, dtype=dtype or self._dtype, device=device or self.device)


@method()
def new_full(
    self: Tensor, size: Any, fill_value: Any, dtype: dtype_ | None = None, device: Any = None
) -> Tensor:
    """One number in another shape and the type of the tensor."""
    return full(size, fill_value, dtype=dtype or self._dtype, device=device or self.device)


@method()
@named
def new_empty(self: Tensor, *size: Any, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """An unset tensor of another shape in the type of the tensor."""
    return empty(*size, dtype=dtype or self._dtype, device=device or self.device)


@method()
def new_tensor(self: Tensor, data: Any, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """A tensor with a copy of the data in the type of the tensor."""
    array = copied(data._data() if isinstance(data, Tensor) else data, (dtype or self._dtype).np)
    return moved(wrap(array), require(device or self.device))


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` up to but without `end` by `step`; with one number from 0 up to it.

    DType: int64 if all are whole, else the default float type. Raises: RuntimeError for a step of the wrong sign.
    """
    where = require(device)
    if end is None:
        start, end = 0, start
        if end is None:
            raise TypeError("arange() received an invalid combination of arguments: an end is needed")
    elif start is None:
        start = 0
    start, end, step = (x.item() if isinstance(x, Tensor) else x for x in (start, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and larger bound inconsistent with step sign")
    whole = all(isinstance(x, (int, np.integer)) for x in (start, end, step))
    d = dtype or (dtypes.int64 if whole else dtypes.get_default_dtype())
    n = math.ceil((end - start) / step)
    x = made_on(where, ops.iota, (), (n,))
    if whole:
        x = x if step == 1 else binary(ops.mul, x, step)
        x = x if start == 0 else binary(ops.add, x, start)
        t = to_dtype(x, d)
    else:
        wide = to_dtype(x, dtypes.float64)
        t = to_dtype(add(mul(wide, float(step)), float(start)), d)
    return t.requires_grad_() if requires_grad else t  # type: ignore[no-any-return]


def linspace(start: float, end: float, steps: int, *, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """`steps` numbers from `start` to `end`, evenly spaced."""
    array = np.linspace(start, end, steps, dtype=np.float64).astype((dtype or dtypes.get_default_dtype()).np)
    return moved(wrap(array), require(device))


def logspace(
    start: float, end: float, steps: int, base: float = 10.0, *, dtype: dtype_ | None = None, device: Any = None
) -> Tensor:
    """`steps` powers of `base`, with exponents from `start` to `end`."""
    array = np.logspace(start, end, steps, base=base).astype((dtype or dtypes.get_default_dtype()).np)
    return moved(wrap(array), require(device))


def eye(n: int, m: int | None = None, *, dtype: dtype_ | None = None, device: Any = None) -> Tensor:
    """The identity matrix."""
    return moved(wrap(np.eye(n, m, dtype=(dtype or dtypes.get_default_dtype()).np)), require(device))


def _triangle(input: Tensor, diagonal: int, lower: bool) -> Any:
    if len(input._shape) < 2:
        raise RuntimeError(f"{'tril' if lower else 'triu'}: input tensor must have at least 2 dimensions")
    rows, cols = input._shape[-2:]
    i = apply(ops.reshape, (beside(input, ops.iota, (), (rows,)),), ((rows, 1),))
    j = beside(input, ops.iota, (), (cols,))
    inside = apply(ops.le if lower else ops.ge, (j, apply(ops.add, (i, diagonal))))
    return apply(ops.where, (inside, input, 0))


@method()
def tril(input: Tensor, diagonal: int = 0) -> Any:
    """The elements on and below a diagonal, zeros above."""
    return _triangle(input, diagonal, True)


@method()
def triu(input: Tensor, diagonal: int = 0) -> Any:
    """The elements on and above a diagonal, zeros below."""
    return _triangle(input, diagonal, False)


IN_PLACE = (in_place(tril), in_place(triu))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """Coordinates of a grid, one tensor for each vector; `indexing` is "ij" or "xy"."""
    xs = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    for x in xs:
        if len(x._shape) > 1:
            raise RuntimeError(f"torch.meshgrid: Expected 0D or 1D tensor in the tensor list but got: {len(x._shape)}D")
    swap = indexing == "xy" and len(xs) >= 2
    if swap:
        xs[0], xs[1] = xs[1], xs[0]
    shape = tuple(x.numel() for x in xs)
    out = [
        x.reshape(tuple(shape[i] if i == k else 1 for i in range(len(xs)))).expand(shape) for k, x in enumerate(xs)
    ]
    if swap:
        out[0], out[1] = out[1], out[0]
    return tuple(out)
