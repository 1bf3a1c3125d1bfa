"""What a library kernel needs to be launched: its function, its argument block and how its work splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operand:
    """How one array lies in memory: numpy dtype name, shape, and strides counted in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        if 0 in self.shape:
            return True
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True, slots=True)
class Ptr:
    """An argument slot that holds the address of operand `index` (inputs first, then outputs)."""

    index: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """An argument slot that holds the address of memory, at least `nbytes`, which the launches of an operation share.

    The first launch finds anything in it. The address is a multiple of 64 unless `nbytes` is 0.
    """

    nbytes: int


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: `function(p, lo, hi)` over `units` of work with the argument block `slots`.

    `unit_cost` is a rough serial cost of one unit in nanoseconds; the scheduler splits [0, units) over
    threads by it. `fails` says that the function may return an error code other than 0. `in_place` are pairs of slots,
    of an operand and of a result, that may be one buffer: the operand must be contiguous, and is read only by this
    launch. The k-th of `parts` equal parts of the units reads and writes at most the k-th part of the rows of the
    operands and results that are `along`, by the numbers that `Ptr` has, and of the scratch memory no more than these
    parts of the launches before have written; 0 parts if there is no such number. So many units as `grain` that follow
    one another on one thread share what the first of them prepares. `loose` says that parts take no longer one by one
    than together. What `prepares` is the first launch, and only puts operands into the scratch memory another way.
    """

    function: Callable[..., Any]
    slots: tuple[int | float | Ptr | Scratch, ...]
    units: int
    unit_cost: float
    fails: bool = False
    in_place: tuple[tuple[int, int], ...] = ()
    parts: int = 0
    along: tuple[int, ...] = ()
    grain: int = 1
    loose: bool = False
    prepares: bool = False

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory that the launch needs."""
        return max((slot.nbytes for slot in self.slots if isinstance(slot, Scratch)), default=0)
