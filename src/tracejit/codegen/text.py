"""The text of a kernel while it is written: its lines, its argument block, its alias scopes.

In: lines, buffers, sizes and numbers in the order in which a template asks for them. Out: `KernelText`.
Must not know: which template writes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.dtypes import dtype
from tracejit.schedule.memory import Buffer
from tracejit.schedule.values import Number


@dataclass(slots=True, unsafe_hash=True)
class Place:
    """An argument slot: `offset` bytes into a buffer.

    Nobody changes it: it is not frozen because it is made often.
    """

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Scalar:
    """An argument slot: a scalar of the call."""

    index: int


Slot = int | float | Place | Scalar


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel: its name, its text, and one launch's arguments, units and cost of a unit in nanoseconds."""

    name: str
    text: str
    doc: str
    slots: tuple[Slot, ...]
    units: int
    unit_cost: float

    def over(self, slots: tuple[Slot, ...]) -> KernelText:
        """The same with other arguments."""
        return KernelText(self.name, self.text, self.doc, slots, self.units, self.unit_cost)


class Writer:
    """Collects the text of one kernel."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._head: list[str] = []
        self._body: list[tuple[int, str]] = []
        self._pointers: dict[tuple[int, int], tuple[str, int]] = {}
        self._scopes: dict[Any, int] = {}
        self._numbers: dict[tuple[Any, ...], str] = {}
        self._names = 0
        self.depth = 1

    def line(self, text: str) -> None:
        """Adds a line at the present depth."""
        self._body.append((self.depth, text))

    def interleave(self, count: int) -> None:
        """Asks for so many vectors side by side in the loop around."""
        if count > 1:
            self.line(f"interleave({count})")

    def name(self, letter: str) -> str:
        """A new variable."""
        self._names += 1
        return f"{letter}{self._names - 1}"

    def _slot(self, slot: Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

    def size(self, number: int, letter: str = "n") -> str:
        """A variable that holds a size or a stride."""
        name = self.name(letter)
        self._head.append(f"{name} = load_arg(p, {self._slot(number)})")
        return name

    def given(self, text: str) -> str:
        """A variable that follows from sizes, for all units."""
        name = self.name("n")
        self._head.append(f"{name} = {text}")
        return name

    def pointer(self, buffer: Buffer, offset: int = 0, *, apart: bool = False) -> tuple[str, int]:
        """A variable that holds an address, and its alias scope: one for each buffer, or for each offset if what is
        reached from there is `apart` from everything else.
        """
        key = (id(buffer), offset)
        if key not in self._pointers:
            name = self.name("a")
            self._head.append(f"{name} = {self._address(self._slot(Place(buffer, offset)), offset)}")
            scope = self._scopes.setdefault(key if apart else id(buffer), len(self._scopes))
            self._pointers[key] = (name, scope)
        return self._pointers[key]

    def _address(self, slot: int, offset: int) -> str:
        """The text of the address in a slot, `offset` bytes into a buffer."""
        return f"load_arg(p, {slot})"

    def scratch(self, short: str, count: int) -> tuple[str, int]:
        """A variable that holds the address of memory of the kernel's own, and its alias scope."""
        name = self.name("s")
        self._head.append(f"{name} = stack_{short}({count})")
        scope = len(self._scopes)
        self._scopes[-scope - 1] = scope
        return name, scope

    def number(self, number: Number, kind: dtype) -> str:
        """A variable that holds a number as an element of a type."""
        key = (*number.key, kind.short)
        if key not in self._numbers:
            slot, is_float = self._number_slot(number, kind)
            name = self.name("c")
            self._head.append(f"{name} = {expression.number(slot, is_float, kind)}")
            self._numbers[key] = name
        return self._numbers[key]

    def integer(self, number: Number) -> str:
        """A variable that holds a number as 64 bits, such as a seed."""
        return self.number(number, dtypes.int64)

    def _number_slot(self, number: Number, kind: dtype) -> tuple[int, bool]:
        if number.index >= 0:
            return self._slot(Scalar(number.index)), number.kind == "f"
        constant = number.constant
        if kind.is_floating_point:
            return self._slot(float(constant)), True
        whole = int(constant) & 0xFFFFFFFFFFFFFFFF
        return self._slot(int(np.uint64(whole).astype(np.int64))), False

    def load(self, short: str, pointer: tuple[str, int], index: str) -> str:
        """The text of a load."""
        return f"load_{short}_s({pointer[0]}, {index}, {pointer[1]}, SCOPES)"

    def store(self, short: str, pointer: tuple[str, int], index: str, value: str) -> None:
        """Adds a store."""
        self.line(f"store_{short}_s({pointer[0]}, {index}, {value}, {pointer[1]}, SCOPES)")

    def finish(self, stem: str, doc: str, units: int, unit_cost: float) -> KernelText:
        """The kernel. Its name is `stem` and a digest of its text."""
        lines = [f"    # {doc}", *(f"    {line}" for line in self._head)]
        lines += [f"{'    ' * depth}{text}" for depth, text in self._body]
        body = "\n".join([*lines, "    return 0", ""]).replace("SCOPES", str(max(1, len(self._scopes))))
        name = f"{stem}_{hashlib.sha256(body.encode()).hexdigest()[:8]}"
        return KernelText(name, f"def {name}(p, lo, hi):\n{body}", doc, tuple(self.slots), units, unit_cost)
