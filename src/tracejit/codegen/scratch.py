"""Stack memory of a kernel for what one loop leaves to a later one.

In: values, or operands of theirs, and the type that each is kept in. Out: the text of loads and stores.
Must not know: which loops.
"""

from __future__ import annotations

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.text import Writer
from tracejit.dtypes import dtype
from tracejit.schedule.rows import Operand
from tracejit.schedule.values import Value


class Scratch:
    """Rows of a kernel's own memory for what a later visit or a fold needs, elements in the type they are folded in."""

    def __init__(self, writer: Writer, length: int) -> None:
        self._writer = writer
        self._length = length
        self._rows: dict[Value | Operand, tuple[str, int]] = {}

    def row(self, value: Value | Operand, kind: dtype) -> tuple[str, int]:
        if value not in self._rows:
            size = dtypes.widened(kind).itemsize
            self._rows[value] = self._writer.scratch("i64", self._length * size // 8)
        return self._rows[value]

    def store(self, value: Value | Operand, kind: dtype, index: str, text: str) -> None:
        packed = f"uint8({text})" if kind is dtypes.bool else text
        self._writer.store(expression.folding(kind), self.row(value, kind), index, packed)

    def load(self, value: Value | Operand, kind: dtype, index: str) -> str:
        text = self._writer.load(expression.folding(kind), self.row(value, kind), index)
        return f"{text} != 0" if kind is dtypes.bool else text
