"""Tensors that a replayed call finds where others were in the call before: the short looks at them.

In: what the tensors must be like, where their addresses go. Out: a table for the native look, or lines of a replay's
text.
Must not know: where a call finds them.

A batch is another tensor in each call, so this is what most calls of a training step pay for. Whatever is not plain
(views, strided memory, inputs that the program writes) is left to the long look, `Replay.admits`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from tracejit.kernels import looks
from tracejit.runtime.build import build
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.objects import peek, slot_offset, slot_place
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.tree import External

EARNED = 200
"""Long looks after which the kernel of the native one is compiled, which takes as long as some thousands of them: many
programs are called less often."""

Found = tuple[str, type[Tensor], External]
"""The text of a tensor in a call, its class, and what else one in its place must be like."""


def _places(taken: Sequence[Sequence[int]], inputs: dict[int, int]) -> list[list[int]]:
    """Where each tensor's address goes: the places of its slots among the program's inputs."""
    return [[inputs[slot] for slot in slots if slot in inputs] for slots in taken]


def _plain(found: Sequence[Found], places: list[list[int]], exe: Executable) -> bool:
    """Whether no tensor needs the long look for what it is."""
    return all(
        external.strides is None and exe.written.isdisjoint(at)
        for (_, _, external), at in zip(found, places, strict=True)
    )


class Look:
    """The native look at the tensors of a call: `ENTRY.look(table, *tensors)` is 0 if all are as expected.

    Edge: it says no until it is told where the program writes, and has been told so `EARNED` times.
    """

    def __init__(
        self, found: Sequence[Found], places: list[list[int]], exe: Executable, constants: Iterable[int]
    ) -> None:
        known = sorted(set(constants))
        self._constants = np.array([len(known), *known], np.int64)
        self._spans = np.zeros(1, np.int64)
        # The table has the addresses of these.
        self._kept = found, exe.pointers
        self._left = EARNED
        words = [0] * looks.ROWS
        words[looks.TENSORS] = len(found)
        words[looks.CONSTANTS] = self._constants.ctypes.data
        words[looks.SPANS] = self._spans.ctypes.data
        words[looks.POINTERS] = exe.pointers.ctypes.data
        for (_, cls, external), at in zip(found, places, strict=True):
            words += _row(cls, external, at)
        self.table = np.array(words, np.int64)

    def refuse(self) -> None:
        """Say no until told otherwise."""
        self.table[looks.READY] = 0

    def admit(self, exe: Executable) -> None:
        """The program writes where it says now; tensors that are as expected and lie elsewhere are admitted."""
        self._spans = np.array([len(exe.lows), *exe.highs, *exe.lows], np.int64)
        self.table[looks.SPANS] = self._spans.ctypes.data
        self._left -= 1
        if self._left == 0:
            self.table[looks.KERNEL] = build(looks.look_at_tensors).address
        self.table[looks.READY] = 1


def _row(cls: Any, external: External, at: list[int]) -> list[int]:
    fields = {"_base": None, "_hooks": None, "_dtype": external.dtype, "_requires_grad": external.requires_grad}
    if external.leaf:
        fields["_node"] = None
    pairs = [word for name, value in fields.items() for word in (slot_place(cls, name), id(value))]
    row = [0] * looks.ROW_WORDS
    row[looks.LENGTH] = looks.ROW_WORDS + len(pairs) + len(external.shape) + len(at)
    row[looks.CLASS] = id(cls)
    row[looks.MEMORY] = slot_place(cls, "_array")
    row[looks.HISTORY] = 0 if external.leaf else slot_place(cls, "_node")
    row[looks.ARRAY_CLASS] = id(np.ndarray)
    row[looks.FLAGS] = looks.C_CONTIGUOUS | (looks.WRITEABLE if external.writeable else 0)
    row[looks.DIMENSIONS] = len(external.shape)
    row[looks.NBYTES] = int(np.prod(external.shape, dtype=np.int64)) * external.dtype.itemsize
    row[looks.PAIRS] = len(pairs) // 2
    row[looks.PLACES] = len(at)
    return [*row, *pairs, *external.shape, *at]


@cache
def _tells(cls: Any) -> bool:
    """Whether tensors of a class and arrays lie in memory as the native look expects."""
    slots = ("_array", "_base", "_dtype", "_hooks", "_node", "_requires_grad")
    if any(slot_offset(cls, name) is None for name in slots):
        return False
    whole = np.zeros((3, 4, 5), np.float32)
    fixed = np.zeros((2, 7))
    fixed.flags.writeable = False
    for array in (whole, whole[1:, ::2], whole.T, fixed, np.zeros((), np.int8), np.zeros((0, 6), np.int64)):
        flags = (looks.C_CONTIGUOUS * array.flags.c_contiguous) | (looks.WRITEABLE * array.flags.writeable)
        sizes = peek(id(array) + 8 * looks.ARRAY_SIZES)
        if (
            peek(id(array) + 8 * looks.OBJECT_CLASS) != id(np.ndarray)
            or peek(id(array) + 8 * looks.ARRAY_DATA) != array.ctypes.data
            or peek(id(array) + 8 * looks.ARRAY_DIMENSIONS) & 0xFFFF_FFFF != array.ndim
            or peek(id(array) + 8 * looks.ARRAY_FLAGS) & (looks.C_CONTIGUOUS | looks.WRITEABLE) != flags
            or any(peek(sizes + 8 * k) != size for k, size in enumerate(array.shape))
        ):
            return False
    return True


def native_look(
    found: Sequence[Found],
    taken: Sequence[Sequence[int]],
    inputs: dict[int, int],
    exe: Executable,
    constants: Iterable[int],
) -> Look | None:
    """The native look at the tensors of a call, None where Python has to look.

    A long program lets other threads run, which could take the memory of a tensor away: its text holds the arrays.
    """
    places = _places(taken, inputs)
    if not found or exe.compiled.releases or not _plain(found, places, exe):
        return None
    classes: set[Any] = {cls for _, cls, _ in found}
    if not all(map(_tells, classes)):
        return None
    return Look(found, places, exe, constants)


def short_look(
    found: Sequence[Found], taken: Sequence[Sequence[int]], inputs: dict[int, int], exe: Executable, listing: Any
) -> tuple[list[str], str] | None:
    """Lines that set names and pointers once the condition holds, and that condition; None if none is plain.

    `taken` are the slots of each tensor, `inputs` the places of slots among the program's inputs. The text has F and A,
    the tensors of the call before and their memory, P, the pointers, and L, the arrays that they belong to. Every part
    of the condition may be looked at and still the long look taken: nothing is set before all of it holds.
    """
    places = _places(taken, inputs)
    if not _plain(found, places, exe):
        return None
    conditions, lines = ["F[0] is not None"], []
    for k, ((text, cls, external), at) in enumerate(zip(found, places, strict=True)):
        dtype, kind = listing.constant(external.dtype), listing.constant(cls)
        conditions += [
            f"type({text}) is {kind}",
            f"id({text}) not in constant_ids",
            *(f"{text} is not {other}" for other, _, _ in found[:k]),
            f"{text}._base is None",
            f"{text}._hooks is None",
            f"{text}._dtype is {dtype}",
            f"{text}._requires_grad is {external.requires_grad}",
            f"{text}._node is {'' if external.leaf else 'not '}None",
            f"type(a{k} := {text}._array) is {listing.constant(DeviceArray if external.gpu else np.ndarray)}",
            f"a{k}.shape == {external.shape!r}",
            f"(f := a{k}.flags).c_contiguous",
            f"f.writeable is {external.writeable}",
        ]
        nbytes = int(np.prod(external.shape, dtype=np.int64)) * external.dtype.itemsize
        if at:
            conditions.append(f"clear(E, p{k} := address_of(a{k}), {nbytes})")
        lines += [f"F[{k}] = {text}", f"A[{k}] = a{k}", *(f"P[{i}] = p{k}; L[{i}] = a{k}" for i in at)]
    return lines, " and ".join(conditions)


def clear(exe: Executable, low: int, nbytes: int) -> bool:
    """Whether memory from `low` on does not meet what the program writes in place."""
    at = bisect_right(exe.highs, low)
    return at == len(exe.highs) or exe.lows[at] >= low + nbytes
