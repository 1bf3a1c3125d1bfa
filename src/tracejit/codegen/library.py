"""Library operations: the planner of each is found by its name.

In: a record, how its operands and results lie in memory, attributes. Out: launches of library kernels.
Must not know: what a planner does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from tracejit import kernels
from tracejit.kernels.launch import Launch, Operand
from tracejit.ops import Op
from tracejit.schedule.lower import Layout

_PREFIX = "plan_"
_FROM_SHAPES = frozenset(("size", "kernel", "single"))
"""Attributes that a planner may leave out: the result has that shape, or that type."""


@functools.cache
def planners() -> dict[str, Callable[..., tuple[Launch, ...]]]:
    """The planners of the kernel library by the name of the operation."""
    found: dict[str, Callable[..., tuple[Launch, ...]]] = {}
    for module in kernels.modules():
        for name, value in vars(module).items():
            if name.startswith(_PREFIX) and getattr(value, "__module__", None) == module.__name__:
                found[name[len(_PREFIX) :]] = value
    return found


@functools.cache
def _accepted(op: Op) -> tuple[int, ...]:
    """The places of the attributes that an operation's planner takes; the others follow from the shapes."""
    names = inspect.signature(planners()[op.name]).parameters
    unknown = [name for name in op.attrs if name not in names and name not in _FROM_SHAPES]
    if unknown:
        raise TypeError(f"{_PREFIX}{op.name} does not take {unknown}, which the shapes do not tell")
    return tuple(i for i, name in enumerate(op.attrs) if name in names)


def plan_call(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[Launch, ...]:
    """The launches of a library operation over operands, then results.

    Raises: NotImplementedError if there is no kernel, ValueError if an operand must be contiguous.
    """
    planner = planners().get(op.name)
    if planner is None:
        raise NotImplementedError(f"cannot compile '{op.name}': the kernel library has no {_PREFIX}{op.name}")
    chosen = {op.attrs[i]: attrs[i] for i in _accepted(op)}
    return planner(*(Operand(*layout) for layout in layouts), **chosen)


def panel_columns(dtype: str) -> int:
    """The columns of a panel that products of an element type are read in; see `kernels.gemm.panel_columns`.

    The kernels are loaded when this is asked for first, as by `planners`: an import of tracejit does not need them.
    """
    columns: int = importlib.import_module(f"{kernels.__name__}.gemm").panel_columns(dtype)
    return columns
