"""Library operations: the planner of each is found by its name.

In: a record, how its operands and results lie in memory, attributes. Out: launches of library kernels.
Must not know: what a planner does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tracejit import kernels
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.ops import Op
from tracejit.schedule import cost
from tracejit.schedule.lower import Layout, Prepared

_PREFIX = "plan_"
_FROM_SHAPES = frozenset(("size", "kernel", "single"))
"""Attributes that a planner may leave out: the result has that shape, or that type."""


@functools.cache
def planner(name: str) -> Callable[..., tuple[Launch, ...]] | None:
    """The planner of the operation of this name, if the kernel library has one."""
    module = kernels.defining(_PREFIX + name)
    return None if module is None else getattr(module, _PREFIX + name)


@functools.cache
def _accepted(op: Op) -> tuple[int, ...]:
    """The places of the attributes that an operation's planner takes; the others follow from the shapes."""
    names = inspect.signature(_planner_of(op)).parameters
    unknown = [name for name in op.attrs if name not in names and name not in _FROM_SHAPES]
    if unknown:
        raise TypeError(f"{_PREFIX}{op.name} does not take {unknown}, which the shapes do not tell")
    return tuple(i for i, name in enumerate(op.attrs) if name in names)


def _planner_of(op: Op) -> Callable[..., tuple[Launch, ...]]:
    found = planner(op.name)
    if found is None:
        raise NotImplementedError(f"cannot compile '{op.name}': the kernel library has no {_PREFIX}{op.name}")
    return found


def plan_call(op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[Launch, ...]:
    """The launches of a library operation over operands, then results.

    Raises: NotImplementedError if there is no kernel, ValueError if an operand must be contiguous.
    """
    plan = _planner_of(op)
    chosen = {op.attrs[i]: attrs[i] for i in _accepted(op)}
    return plan(*(Operand(*layout) for layout in layouts), **chosen)


def prepared(launches: tuple[Launch, ...], operands: int) -> Prepared | None:
    """The launches of an operation with so many operands as two, if the first of them only puts operands into the
    scratch memory another way, and that is little, or only looks at an index: the sooner that is done, the less is
    written before it may fail.
    """
    if len(launches) < 2 or not (launches[0].prepares or launches[0].fails):
        return None
    first, *rest = launches
    if not cost.comes_first(first.scratch):
        return None
    read = tuple(sorted({slot.index for slot in first.slots if isinstance(slot, Ptr)}))
    if len(read) == operands:
        # There is nothing that it could come before.
        return None
    alone = _numbered(first, {number: k for k, number in enumerate(read)}.__getitem__, len(read))
    room = 1 if first.scratch else 0
    others = tuple([_numbered(launch, lambda k: k + room * (k >= operands), operands) for launch in rest])
    return Prepared(read, first.scratch, (alone,), others)


def _numbered(launch: Launch, number: Callable[[int], int], room: int) -> Launch:
    """A launch with other numbers for operands and results, of which the scratch memory is one."""
    slots = [
        Ptr(number(s.index)) if isinstance(s, Ptr) else Ptr(room) if isinstance(s, Scratch) else s
        for s in launch.slots
    ]
    return replace(launch, slots=tuple(slots), along=tuple(map(number, launch.along)), prepares=False)


def panel_columns(dtype: str) -> int:
    """The columns of a panel that products of an element type are read in; see `kernels.gemm.panel_columns`.

    The kernels are loaded when this is asked for first, as by `planner`: an import of tracejit does not need them.
    """
    columns: int = importlib.import_module(f"{kernels.__name__}.gemm").panel_columns(dtype)
    return columns
