"""Element types of operations on several operands: PyTorch's promotion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tracejit import dtypes
from tracejit.dtypes import dtype
from tracejit.ops.record import ops
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.scalar import NUMBERS, Scalar, alike, plain
from tracejit.tensor.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def operand(x: Any, what: str) -> Any:
    """An operand of `what`: a tensor or a number.

    Raises: TypeError for anything else.
    """
    if isinstance(x, Tensor) or type(x) in (int, float, bool, Scalar):
        return x
    if isinstance(x, NUMBERS):
        return plain(x)
    raise TypeError(f"{what}(): expected a Tensor or a number, but got {type(x).__name__}")


def result_type(*operands: Any) -> dtype:
    """The type that an operation on the operands computes in.

    Tensors with dimensions decide; a tensor without dimensions or a number only raises the category.

    >>> import tracejit as tj
    >>> result_type(tj.ones(2, dtype=tj.int32), 1.5)
    tracejit.float32
    """
    found: list[dtype | None] = [None, None, None]
    for x in operands:
        if isinstance(x, Tensor):
            rank = 0 if x._shape else 1
            d = x._dtype
        else:
            rank = 2
            d = dtypes.of_number(alike(x))
        before = found[rank]
        found[rank] = d if before is None else dtypes.promote_types(before, d)
    best: dtype | None = None
    for d in found:  # type: ignore[assignment]
        if d is not None and (best is None or d.category > best.category):
            best = d
    if best is None:
        raise ValueError("result_type needs at least one operand")
    return best


def to_dtype(x: Any, d: dtype) -> Any:
    """A tensor in another type; a number stays, a whole one wrapped to what an integer type holds.

    Raises: OverflowError for a whole number beyond 64 bits.
    """
    if isinstance(x, Tensor):
        return x if x._dtype is d else apply(ops.cast, (x,), (d,))
    return _wrapped(x, d) if type(x) is int else x


def _wrapped(x: int, d: dtype) -> int:
    if not -(2**63) <= x < 2**63:
        raise OverflowError("int too big to convert: a whole number is in [-2**63, 2**63)")
    if d.category != 1:
        return x
    bits = 8 * d.itemsize
    low = 0 if d.np.kind == "u" else -(1 << (bits - 1))
    return (x - low) % (1 << bits) + low


def in_single(function: F) -> F:
    """Let a chain of operations on tensors of one type of 16 bits run in float32, and round its result alone."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("input")
        kind = first._dtype if isinstance(first, Tensor) else None
        if kind not in dtypes.HALVES:
            return function(*args, **kwargs)
        operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if any(a._dtype is not kind for a in operands):
            return function(*args, **kwargs)
        wide = (to_dtype(a, dtypes.float32) if isinstance(a, Tensor) else a for a in args)
        given = {k: to_dtype(a, dtypes.float32) if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        return to_dtype(function(*wide, **given), kind)

    # Proofs would take the function for one that somebody else wrapped.
    del run.__dict__["__wrapped__"]
    return run  # type: ignore[return-value]


def unify(*operands: Any) -> tuple[Any, ...]:
    """The operands in the type of the operation."""
    d = result_type(*operands)
    return tuple(to_dtype(x, d) for x in operands)


def floating(x: Tensor) -> Tensor:
    """The tensor in a floating point type: its own, or the default."""
    return x if x._dtype.is_floating_point else to_dtype(x, dtypes.get_default_dtype())


def tensor_of(x: Any, like: Tensor | None = None) -> Tensor:
    """A number as a tensor without dimensions; a tensor stays."""
    if isinstance(x, Tensor):
        return x
    number = alike(x)
    d = dtypes.of_number(number) if like is None else dtypes.weak_result(like._dtype, number)
    if like is not None:
        return beside(like, ops.full, (x,), ((), d))  # type: ignore[no-any-return]
    return apply(ops.full, (x,), ((), d))  # type: ignore[no-any-return]
