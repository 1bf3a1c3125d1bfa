"""Elements limited to an interval."""

from __future__ import annotations

from typing import Any

from tracejit.ops.record import Op, ops
from tracejit.tensor.arithmetic import binary
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply
from tracejit.tensor.promote import result_type, to_dtype
from tracejit.tensor.scalar import Scalar, plain
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, method


@method("clip")
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Any:
    """Elements limited to [min, max]; a limit of None does not limit.

    Edge: NaN stays. Raises: RuntimeError if both limits are None.
    """
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    low, high = _is_of_floats(input, min), _is_of_floats(input, max)
    if low and high:
        return _run(_between, input, low=_number(min), high=_number(max))
    out = input
    if min is not None:
        out = _run(_not_below, out, low=_number(min)) if low else _limited(out, min, ops.maximum, ops.ge)
    if max is not None:
        out = _run(_not_above, out, high=_number(max)) if high else _limited(out, max, ops.minimum, ops.le)
    return out


clip = clamp


def _is_of_floats(x: Tensor, limit: Any) -> bool:
    return x._dtype.is_floating_point and limit is not None and not isinstance(limit, Tensor)


def _number(limit: Any) -> Any:
    """A limit as a number of a program."""
    return limit if isinstance(limit, Scalar) else float(plain(limit))


def _run(part: Any, x: Tensor, **limits: Any) -> Any:
    """As a composite of its own, unless it is a part of one."""
    return part(x, **limits) if state.composite is None else part.function(x, **limits)


@composite
def _between(x: Tensor, *, low: Any, high: Any) -> Any:
    return _kept(_kept(x, low, ops.maximum, ops.ge), high, ops.minimum, ops.le)


@composite
def _not_below(x: Tensor, *, low: Any) -> Any:
    return _kept(x, low, ops.maximum, ops.ge)


@composite
def _not_above(x: Tensor, *, high: Any) -> Any:
    return _kept(x, high, ops.minimum, ops.le)


def _kept(x: Tensor, limit: Any, extreme: Op, inside: Op) -> Any:
    """One limit of floats. The gradient passes where the element is not beyond it, also at the limit, not where it is
    NaN.
    """
    return apply(ops.where, (apply(inside, (x, limit)), x, apply(extreme, (x.detach(), limit))))


def _limited(x: Tensor, limit: Any, extreme: Op, inside: Op) -> Any:
    """One limit that is a tensor, or a number for whole numbers."""
    if isinstance(limit, Tensor):
        return binary(extreme, x, limit)
    d = result_type(x, limit)
    x = to_dtype(x, d)
    return _kept(x, limit, extreme, inside) if d.is_floating_point else apply(extreme, (x, limit))


@method()
def clamp_min(input: Tensor, min: Any) -> Any:
    """Elements not below `min`."""
    return clamp(input, min=min)


@method()
def clamp_max(input: Tensor, max: Any) -> Any:
    """Elements not above `max`."""
    return clamp(input, max=max)
