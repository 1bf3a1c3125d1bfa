"""What a library operation's own GPU kernel needs to be launched, and how its text gets its arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tracejit.kernels.launch import Ptr, Scratch

Argument = int | float | Ptr | Scratch
VECTOR_BYTES = 16
"""The widest access to memory."""
MOST = 1 << 31
"""Numbers that `quotient` divides are below this."""
_DIGITS = 10


@dataclass(frozen=True, slots=True)
class GpuLaunch:
    """One kernel launch: its text, its argument block `slots`, its units, and its grid.

    `promises` are pairs of a slot and a power of two that its argument is a multiple of; where one does not hold,
    `plain` is to be launched, which gives the same bits. A launch without `plain` promises nothing. A `checked` one
    does nothing if one before it in the same call has failed.
    """

    name: str
    text: str
    slots: tuple[Argument, ...]
    units: int
    blocks: int
    threads: int
    promises: tuple[tuple[int, int], ...] = ()
    plain: GpuLaunch | None = None
    checked: bool = False
    parts: int = 0
    along: tuple[int, ...] = ()
    loose: bool = False

    @property
    def unit_cost(self) -> float:
        """Of no use: the GPU shares out the work."""
        return 0.0

    @property
    def fails(self) -> bool:
        """Whether the kernel may return an error code: none of them does."""
        return False

    @property
    def in_place(self) -> tuple[tuple[int, int], ...]:
        """Slots that may be one buffer: none."""
        return ()

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory that the launch needs."""
        return max((slot.nbytes for slot in self.slots if isinstance(slot, Scratch)), default=0)


class Arguments:
    """The arguments of a kernel while its text is written: each has a name, the same in the text.

    >>> arguments = Arguments()
    >>> arguments.add("x", Ptr(0), 16)
    >>> arguments.add_divisor("n", 12)
    >>> arguments.lines()
    ['x = multiple(load_arg(p, 0), 16)', 'n_by, n_to = load_arg(p, 1), load_arg(p, 2)']
    >>> arguments.slots[1:], quotient("i", "n")
    ((2863311531, 35), '(i * n_by >> n_to)')
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._slots: list[Argument] = []
        self._promises: list[tuple[int, int]] = []

    def add(self, name: str, value: Argument, of: int = 1) -> None:
        """An argument that is a multiple of a power of two."""
        slot = len(self._slots)
        self._slots.append(value)
        text = f"load_arg(p, {slot})"
        if of > 1:
            self._promises.append((slot, of))
            text = f"multiple({text}, {of})"
        self._lines.append(f"{name} = {text}")

    def add_number(self, name: str, value: float, short: str) -> None:
        """A number, as an element of a type."""
        slot = len(self._slots)
        self._slots.append(float(value))
        self._lines.append(f"{name} = float{short[1:]}(arg_f64(p, {slot}))")

    def add_all(self, **values: Argument) -> None:
        """Arguments of which nothing is known."""
        for name, value in values.items():
            self.add(name, value)

    def add_divisor(self, name: str, number: int) -> None:
        """What `quotient` needs to divide by a number from 1 on: a product and a shift in place of a division.

        Source: Granlund and Montgomery, "Division by invariant integers using multiplication": rounding the
        reciprocal up gives the quotient of every dividend below 2^31.
        """
        shift = 31 + (number - 1).bit_length()
        slot = len(self._slots)
        self._slots += [-(-(1 << shift) // number), shift]
        self._lines.append(f"{name}_by, {name}_to = load_arg(p, {slot}), load_arg(p, {slot + 1})")

    def lines(self) -> list[str]:
        """The lines that a text begins with."""
        return list(self._lines)

    @property
    def slots(self) -> tuple[Argument, ...]:
        """The argument block."""
        return tuple(self._slots)

    @property
    def promises(self) -> tuple[tuple[int, int], ...]:
        """What the text counts on."""
        return tuple(self._promises)

    def launch(self, stem: str, body: Sequence[str], blocks: int, threads: int, units: int = -1) -> GpuLaunch:
        """The launch of these lines behind those of the arguments; its name is `stem` and a digest of its text.

        Raises: NotImplementedError for more blocks than a grid has.
        """
        if blocks >= MOST:
            raise NotImplementedError(f"{stem}: there are too many elements for one launch")
        lines = "\n".join(f"    {line}" for line in (*self._lines, *body)) + "\n    return 0\n"
        name = f"{stem}_{hashlib.sha256(f'{threads} {lines}'.encode()).hexdigest()[:_DIGITS]}"
        text = f"def {name}(p, lo, hi):\n{lines}"
        return GpuLaunch(name, text, self.slots, blocks if units < 0 else units, blocks, threads, self.promises)


def checked(launch: GpuLaunch) -> GpuLaunch:
    """A launch that does nothing if one before it has failed."""
    return replace(launch, checked=True)


def with_plain(launch: GpuLaunch, plain: Callable[[], GpuLaunch]) -> GpuLaunch:
    """A launch with the one for where what it counts on is not so; that is only asked for if it counts on anything."""
    return replace(launch, plain=plain()) if launch.promises else launch


def quotient(dividend: str, name: str) -> str:
    """The text of a quotient of a name or a number, rounded down, by a divisor among the arguments."""
    return f"({dividend} * {name}_by >> {name}_to)"


def indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    """Lines further in."""
    return ["    " * depth + line for line in lines]


def load_text(short: str, pointer: str, index: str, scope: int, scopes: int, vector: int = 1) -> str:
    """The text of a load from global memory, perhaps of the first element of a vector."""
    if vector == 1:
        return f"load_{short}_g({pointer}, {index}, {scope}, {scopes})"
    return f"load_{short}_v({pointer}, {index}, {scope}, {scopes}, {vector})"
