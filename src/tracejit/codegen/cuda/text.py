"""The text of a GPU kernel while it is written, and what its launch needs.

In: lines, buffers, sizes and numbers in the order in which a template asks for them. Out: `CudaText`.
Must not know: which template writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracejit.codegen import expression
from tracejit.codegen.text import Place, Slot, Writer
from tracejit.dtypes import dtype
from tracejit.kernels.cuda.blas import Gemm
from tracejit.schedule.memory import Buffer
from tracejit.schedule.values import Number

VECTOR_BYTES = 16
"""The widest access to memory."""


SCALARS = Place(Buffer("scalars", 0, 0))
"""An argument slot: the address of the call's scalars in the device's memory, 8 bytes each.

They are no arguments themselves, so that the arguments of a launch never change, and a captured graph neither.
"""


@dataclass(frozen=True, slots=True)
class CudaText:
    """A kernel for a GPU: its name, its text, and what one launch needs.

    The text's `lo` is the number of the block, its `hi` the number of units.

    The grid has `blocks` blocks of `threads` threads in a row, which is part of the kernel; shared memory is part of
    its code. Its parameters are the argument block by value, 8 bytes for each of `slots`, and then `units` as an int64,
    beyond which no thread does anything. `promises` are pairs of a slot and a power of two that its argument is a
    multiple of: the text counts on them.

    The text may call `function`, a kernel of the library. Such a kernel, and one that `may_not_run`, has a third
    parameter, the address of an int64: it does nothing if that is not 0, and puts its error code there if it fails.
    """

    name: str
    text: str
    doc: str
    slots: tuple[Slot, ...]
    units: int
    blocks: int
    threads: int
    promises: tuple[tuple[int, int], ...]
    function: Callable[..., Any] | None = None
    may_not_run: bool = False

    @property
    def has_status(self) -> bool:
        """Whether it has that parameter."""
        return self.may_not_run or self.function is not None


@dataclass(frozen=True, slots=True)
class CudaCall:
    """A product that the GPU's library computes: its arguments, and the addresses of A, B and C."""

    gemm: Gemm
    doc: str
    slots: tuple[Slot, ...]

    @property
    def name(self) -> str:
        """What it is called where kernels have names."""
        return f"cublas_{self.gemm.short}"

    @property
    def text(self) -> str:
        """Its arguments."""
        return f"{self.gemm}\n"


HEAD = 2
"""Words of a row of a batch's table before the argument block."""


@dataclass(frozen=True, slots=True)
class CudaBatch:
    """Launches of one kernel that are done as one, such as the updates of all parameters.

    The grid has all their `blocks`. The parameters are the address of a table in the device's memory and the int64
    number of its rows, one for each launch: the number of its first block, its units, its argument block.
    """

    launches: tuple[CudaText, ...]

    @property
    def kernel(self) -> CudaText:
        """The kernel of all of them."""
        return self.launches[0]

    @property
    def blocks(self) -> int:
        """The blocks of the grid."""
        return sum(launch.blocks for launch in self.launches)

    @property
    def rows(self) -> list[tuple[Slot, ...]]:
        """The rows of the table."""
        found: list[tuple[Slot, ...]] = []
        first = 0
        for launch in self.launches:
            found.append((first, launch.units, *(launch.slots or (0,))))
            first += launch.blocks
        return found


def batched(launches: Sequence[CudaText]) -> list[CudaText | CudaBatch]:
    """Launches that may run side by side, those of one kernel as one; library kernels stay by themselves."""
    alike: dict[tuple[object, ...], list[CudaText]] = {}
    for launch in launches:
        alike.setdefault((launch.text, launch.threads, launch.function), []).append(launch)
    found: list[CudaText | CudaBatch] = []
    for same in alike.values():
        found += [CudaBatch(tuple(same))] if len(same) > 1 and not same[0].has_status else same
    return found


class CudaWriter(Writer):
    """Collects the text of one kernel, whose threads take `vector` elements at a time."""

    def __init__(self, vector: int = 1) -> None:
        super().__init__()
        self.vector = vector
        self._promises: list[tuple[int, int]] = []
        self._private: set[str] = set()
        self._shared = 0
        self._numbers_block = ""

    def interleave(self, count: int) -> None:
        """Vectors side by side are the CPU's."""

    def _promise(self, text: str, slot: int, of: int) -> str:
        self._promises.append((slot, of))
        return f"multiple({text}, {of})"

    def size(self, number: int, letter: str = "n") -> str:
        """A variable that holds a size or a stride, known to be whole vectors where it is."""
        name, slot = self.name(letter), self._slot(number)
        text = f"load_arg(p, {slot})"
        if self.vector > 1 and isinstance(number, int) and number % self.vector == 0:
            text = self._promise(text, slot, self.vector)
        self._head.append(f"{name} = {text}")
        return name

    def _address(self, slot: int, offset: int) -> str:
        """The text of the address in a slot, known to be one of whole vectors where it is."""
        text = super()._address(slot, offset)
        if self.vector > 1 and isinstance(offset, int) and offset % VECTOR_BYTES == 0:
            return self._promise(text, slot, VECTOR_BYTES)
        return text

    def scratch(self, short: str, count: int) -> tuple[str, int]:
        """A variable that holds the address of memory of one thread, which is to be in registers."""
        place = super().scratch(short, count)
        self._private.add(place[0])
        return place

    def shared(self, count: int) -> tuple[str, int]:
        """A variable that holds the address of `count` int64s of the block's memory, and its alias scope."""
        name = self.name("m")
        self._head.append(f"{name} = shared({self._shared}, {count})")
        self._shared += 1
        scope = len(self._scopes)
        self._scopes[-scope - 1] = scope
        return name, scope

    def number(self, number: Number, kind: dtype) -> str:
        """A variable that holds a number as an element of a type."""
        if number.index < 0:
            return super().number(number, kind)
        key = (*number.key, kind.short)
        if key not in self._numbers:
            if not self._numbers_block:
                self._numbers_block = self.name("q")
                self._head.append(f"{self._numbers_block} = args_at(load_arg(p, {self._slot(SCALARS)}))")
            name = self.name("c")
            text = expression.number(number.index, number.kind == "f", kind, self._numbers_block)
            self._head.append(f"{name} = {text}")
            self._numbers[key] = name
        return self._numbers[key]

    def load(self, short: str, pointer: tuple[str, int], index: str) -> str:
        """The text of a load of the GPU's memory, or of the thread's own."""
        form = "s" if pointer[0] in self._private else "g"
        return f"load_{short}_{form}({pointer[0]}, {index}, {pointer[1]}, SCOPES)"

    def store(self, short: str, pointer: tuple[str, int], index: str, value: str) -> None:
        """Adds a store."""
        form = "s" if pointer[0] in self._private else "g"
        self.line(f"store_{short}_{form}({pointer[0]}, {index}, {value}, {pointer[1]}, SCOPES)")

    def load_shared(self, short: str, place: tuple[str, int], index: str) -> str:
        """The text of a load of the block's memory."""
        return f"load_{short}_b({place[0]}, {index}, {place[1]}, SCOPES)"

    def store_shared(self, short: str, place: tuple[str, int], index: str, value: str) -> None:
        """Adds a store to the block's memory."""
        self.line(f"store_{short}_b({place[0]}, {index}, {value}, {place[1]}, SCOPES)")

    def complete(self, stem: str, doc: str, units: int, blocks: int, threads: int) -> CudaText:
        """The kernel. Its name is `stem` and a digest of its text."""
        plain = self.finish(f"cuda_{stem}_{threads}", doc, units, 0.0)
        return CudaText(plain.name, plain.text, doc, tuple(self.slots), units, blocks, threads, tuple(self._promises))
