"""Kernels written once as text with blanks, and one function made of the text for each dtype."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable, Iterable
from string import Template
from typing import Any

from numba.core import types

from tracejit.dtypes import BY_NAME
from tracejit.kernels import memory, scalar
from tracejit.kernels.launch import Launch, Operand

MOVES = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}
"""How elements of a size in bytes are moved: as integers, so that one kernel serves every dtype of that size."""


@functools.cache
def _instantiate(text: str, name: str, blanks: tuple[tuple[str, str], ...]) -> Callable[..., Any]:
    source = Template(text).substitute(dict(blanks), name=name)
    file = f"<tracejit kernel {name}>"
    # Registered like an imported file's lines, so that inspect, tracebacks and the kernel cache find the text.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope = {**vars(memory), "select": scalar.select, "__name__": __name__}
    scope |= {"float32": types.float32, "float64": types.float64}
    exec(compile(source, file, "exec"), scope)
    function: Callable[..., Any] = scope[name]
    return function


def instantiate(text: str, name: str, **blanks: str) -> Callable[..., Any]:
    """The function `name` made of `text`, whose `$blanks` are filled in; equal calls give the same function.

    The text sees the memory intrinsics, `select`, and the casts float32(v) and float64(v).

    Edge: `$name` in the text is the function's name.

    >>> import inspect
    >>> first = instantiate("def $name(p, lo, hi):\\n    return load_arg(p, $slot)\\n", "slot_1", slot="1")
    >>> print(inspect.getsource(first))
    def slot_1(p, lo, hi):
        return load_arg(p, 1)
    """
    return _instantiate(text, name, tuple(sorted(blanks.items())))


def short_name(operand: Operand) -> str:
    """The short name of an operand's dtype, in which the names of loads, stores and kernels end."""
    return BY_NAME[operand.dtype].short


def move_name(operand: Operand) -> str:
    """The short name of the integers as which an operand's elements are moved.

    >>> move_name(Operand("float16", (3,), (1,)))
    'i16'
    """
    return MOVES[BY_NAME[operand.dtype].itemsize]


def index_name(what: str, index: Operand) -> str:
    """The short dtype name of an index operand.

    Raises: TypeError if the operand is neither int64 nor int32.
    """
    if index.dtype not in ("int64", "int32"):
        raise TypeError(f"{what}: expected index of dtype int64 or int32, got {index.dtype}")
    return short_name(index)


def require_contiguous(what: str, *operands: Operand) -> None:
    """Raises: ValueError if an operand is not contiguous, for kernels that count on it."""
    for operand in operands:
        # Strides mean nothing where there are no elements, and NumPy then gives zeros.
        if product(operand.shape) and not operand.contiguous:
            raise ValueError(f"{what}: expected contiguous operands, got strides {operand.strides}")


def require_same_dtype(what: str, *operands: Operand) -> None:
    """Raises: TypeError if the operands' dtypes differ."""
    if len({operand.dtype for operand in operands}) > 1:
        raise TypeError(f"{what}: expected one dtype, got {', '.join(operand.dtype for operand in operands)}")


def product(sizes: Iterable[int]) -> int:
    """The product of some sizes, 1 of none."""
    result = 1
    for size in sizes:
        result *= size
    return result


def lanes(what: str, shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    """A shape seen as (outer, size, inner) about `dim`; a shape () counts as (1,).

    Raises: ValueError if there is no such dimension.

    >>> lanes("cumsum", (2, 3, 4, 5), 1), lanes("cumsum", (), -1)
    ((2, 3, 20), (1, 1, 1))
    """
    ndim = max(1, len(shape))
    if not -ndim <= dim < ndim:
        raise ValueError(f"{what}: dimension out of range (expected to be in [{-ndim}, {ndim - 1}], but got {dim})")
    if not shape:
        return 1, 1, 1
    dim %= ndim
    return product(shape[:dim]), shape[dim], product(shape[dim + 1 :])


def launched(*launches: Launch) -> tuple[Launch, ...]:
    """The launches that have something to do."""
    return tuple(launch for launch in launches if launch.units > 0)
