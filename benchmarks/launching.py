"""Launches of the kernel library as one native program, for benchmarks of kernels alone.

Import it when the environment says how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.runtime.build import build
from tracejit.runtime.program import Address, ProgramBuilder


def operand(array: np.ndarray) -> Operand:
    """How an array lies in memory, as a planner wants it."""
    return Operand(array.dtype.name, array.shape, tuple(stride // array.itemsize for stride in array.strides))


def program(plan: tuple[Launch, ...], arrays: list[np.ndarray]) -> Callable[[], object]:
    """A native program of the launches."""
    builder = ProgramBuilder()
    buffers = [builder.external() for _ in arrays]
    scratch = Address(builder.arena(0, max(launch.scratch for launch in plan)))
    for stage, launch in enumerate(plan):
        slots = [
            Address(buffers[slot.index]) if isinstance(slot, Ptr) else scratch if isinstance(slot, Scratch) else slot
            for slot in launch.slots
        ]
        builder.add_launch(build(launch.function), slots, units=launch.units, unit_cost=launch.unit_cost, stage=stage)
    made = builder.build()
    pointers, scalars = np.array([array.ctypes.data for array in arrays]), np.zeros(0)
    return lambda: (made.run(pointers, scalars), arrays)
