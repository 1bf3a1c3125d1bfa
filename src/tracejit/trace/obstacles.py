"""Why something cannot be part of a program.

In: operations and tensors. Out: a reason, or None. Must not know: what is recorded.
"""

from __future__ import annotations

from typing import Any

from tracejit.compiler import supports
from tracejit.ops.record import Op
from tracejit.tensor.exposure import is_exposed
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, aval_of, on_gpu


def of_operation(op: Op, args: tuple[Any, ...]) -> str | None:
    """Why an operation cannot."""
    if op.family == "transfer":
        return "a tensor is copied between devices"
    if op.family != "elementwise":
        # All others have kernels for all types.
        return None
    if type(op.expr) is str and any(isinstance(a, Tensor) for a in args):
        # One text for all types.
        return None
    if not supports(op, tuple(aval_of(a) if isinstance(a, Tensor) else None for a in args)):
        return f"{op.name} has no kernel for these types, so it runs eagerly"
    return None


def of_assignment(target: Tensor, value: Tensor) -> str | None:
    """Why a change in place cannot."""
    if state.exposed is not None and is_exposed(target):
        return "memory that a NumPy array shows is changed in place"
    if on_gpu(target) is not on_gpu(value):
        return "a tensor is changed in place with one of another device"
    if target._base is not None:
        return "a view from outside is changed in place"
    if not target._array.flags.c_contiguous or not target._array.flags.writeable:
        return "a tensor that is not contiguous is changed in place"
    return None
