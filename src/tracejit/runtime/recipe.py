"""Recipes: what a program is put together from, as plain data, so that it need not be planned again.

In: launches of kernels that are named by digest, with buffers and slots. Out: a `Program`; bytes and back.
Must not know: the graph that the launches were planned from, or how a kernel is made.
"""

from __future__ import annotations

import marshal
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tracejit.runtime.build import Kernel
from tracejit.runtime.program import Address, Arena, Program, ProgramBuilder, ScalarRef, Slot

Origin = tuple[str, tuple[Any, ...], tuple[Any, ...], int]
"""A kernel of the library: the operation, how its operands and results lie in memory, attributes, number of launch."""


class Part(NamedTuple):
    """A kernel of a recipe: its digest, what it computes, and where it comes from if that is not its text."""

    digest: str
    doc: str
    origin: Origin | None


class Step(NamedTuple):
    """A launch of a recipe: kernel `part` over `units` of `unit_cost` nanoseconds, in a stage, perhaps in `parts` of a
    strand, `grain` together where that is possible, in blocks of `block` parts (see `ProgramBuilder.add_launch`)."""

    part: int
    slots: tuple[Slot, ...]
    units: int
    unit_cost: float
    stage: int
    fails: bool
    strand: int = 0
    parts: int = 0
    grain: int = 1
    block: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A program's kernels, launches, and buffers: `externals` that a call gives, then the arena's (offset and size)."""

    parts: tuple[Part, ...]
    steps: tuple[Step, ...]
    externals: int
    scalars: int
    arena: tuple[tuple[int, int], ...]
    arena_bytes: int
    stages: int

    def program(self, kernels: Sequence[Kernel], arena: Arena | None) -> Program:
        """The program, with the kernels of its parts."""
        builder = ProgramBuilder()
        builder.external(self.externals)
        for offset, nbytes in self.arena:
            builder.arena(offset, nbytes)
        for _ in range(self.scalars):
            builder.scalar()
        for s in self.steps:
            builder.add_launch(
                kernels[s.part],
                s.slots,
                units=s.units,
                unit_cost=s.unit_cost,
                stage=s.stage,
                fails=s.fails,
                strand=s.strand,
                parts=s.parts,
                grain=s.grain,
                block=s.block,
            )
        return builder.build(arena)

    def pack(self) -> bytes:
        """The recipe as bytes.

        >>> step = Step(0, (Address(0), ScalarRef(0), 3, 0.5), 3, 1.0, 0, False)
        >>> recipe = Recipe((Part("00ff", "twice", None),), (step,), 1, 1, (), 0, 1)
        >>> unpack(recipe.pack()) == recipe
        True
        """
        steps = [
            (part, [slot if type(slot) is int else _packed(slot) for slot in slots], *others)
            for part, slots, *others in self.steps
        ]
        rest = (self.externals, self.scalars, self.arena, self.arena_bytes, self.stages)
        return marshal.dumps(([(p.digest, p.doc, plain(p.origin)) for p in self.parts], steps, plain(rest)))


def unpack(data: bytes) -> Recipe:
    """The recipe of bytes that `Recipe.pack` gave, which must be whole."""
    parts, steps, rest = marshal.loads(data)
    return Recipe(
        tuple([Part(*part) for part in parts]),
        tuple(
            [
                Step(part, tuple([slot if type(slot) is int else _unpacked(slot) for slot in slots]), *others)
                for part, slots, *others in steps
            ]
        ),
        *rest,
    )


def _packed(slot: Slot) -> Any:
    if isinstance(slot, Address):
        return (slot.buffer, slot.offset)
    return (slot.index,) if isinstance(slot, ScalarRef) else plain(slot)


def plain(value: Any) -> Any:
    """Python's own numbers in place of NumPy's, which would not come back as numbers.

    Raises: TypeError if there is anything but numbers and text.
    """
    if isinstance(value, tuple):
        return tuple([v if type(v) is int else plain(v) for v in value])
    if value is None or isinstance(value, (bool, str)):
        return value
    return float(value) if isinstance(value, (float, np.floating)) else operator.index(value)


def _unpacked(slot: Any) -> Slot:
    if type(slot) is tuple:
        return Address(*slot) if len(slot) == 2 else ScalarRef(*slot)
    number: int | float = slot
    return number
