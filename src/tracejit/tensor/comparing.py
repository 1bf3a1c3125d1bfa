"""Comparisons of whole tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.ops.record import ops
from tracejit.tensor.arithmetic import abs, add, eq, isfinite, isnan, le, logical_and, logical_or, mul, sub
from tracejit.tensor.dispatch import apply, wrap
from tracejit.tensor.host import comparable, host
from tracejit.tensor.naming import named
from tracejit.tensor.reducing import all
from tracejit.tensor.scalar import NUMBERS
from tracejit.tensor.shaping import unbind
from tracejit.tensor.tensor import Tensor, method


@method()
@host
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements. Edge: NaN equals nothing."""
    if not isinstance(other, Tensor):
        raise TypeError(f"equal(): argument 'other' (position 2) must be Tensor, not {type(other).__name__}")
    return bool(np.array_equal(input._data(), other._data()))


@method()
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Any:
    """Whether abs(input - other) <= atol + rtol * abs(other), element by element. DType: bool.

    Raises: RuntimeError for types that differ or a negative tolerance.
    """
    if input._dtype is not other._dtype:
        raise RuntimeError(f"{input._dtype.title} did not match {other._dtype.title}")
    if rtol < 0 or atol < 0:
        raise RuntimeError(f"tolerances must be >= 0, but got rtol={rtol}, atol={atol}")
    same = eq(input, other)
    if equal_nan and input._dtype.is_floating_point:
        same = logical_or(same, logical_and(isnan(input), isnan(other)))
    if input._dtype.category == 0:
        return same
    gap = abs(sub(input, other))
    near = le(gap, add(mul(abs(other), rtol), atol))
    # An infinity is near nothing but itself.
    return logical_or(same, logical_and(near, isfinite(gap)))


@method()
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether all elements are close, as `isclose` says."""
    return bool(all(isclose(input, other, rtol, atol, equal_nan)))


@host
@named(element="elements", test_element="test_elements")
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is among others. DType: bool."""
    x, y = (comparable(v) if isinstance(v, Tensor) else np.asarray(v) for v in (elements, test_elements))
    return wrap(np.asarray(np.isin(x, y, invert=invert)))


@method()
def is_nonzero(input: Tensor) -> bool:
    """Whether the only element is not zero. Raises: RuntimeError for more than one."""
    return bool(input)


def is_tensor(obj: Any) -> bool:
    """Whether an object is a tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the element type is a floating point type."""
    return input.is_floating_point()


def numel(input: Tensor) -> int:
    """Number of elements."""
    return input.numel()


@method()
def __iter__(self: Tensor) -> Any:
    """The slices along the first dimension. Raises: TypeError for a tensor without dimensions."""
    if not self._shape:
        raise TypeError("iteration over a 0-d tensor")
    return iter(unbind(self))


@method()
def __contains__(self: Tensor, element: Any) -> bool:
    """Whether an element is equal to a number or, broadcast, to a tensor. Raises: RuntimeError for anything else."""
    if not isinstance(element, (Tensor, *NUMBERS)):
        raise RuntimeError(
            f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element).__name__}."
        )
    hit = eq(self, element)
    return bool(hit.any()) if hit._shape else bool(apply(ops.copy, (hit,)))
