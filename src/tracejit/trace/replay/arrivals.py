"""Tensors that a replayed call finds where others were in the call before: the short look at them.

In: what the tensors must be like, where their addresses go. Out: lines of a replay's text.
Must not know: where a call finds them.

A batch is another tensor in each call, so this is what most calls of a training step pay for. Whatever is not plain
(views, strided memory, inputs that the program writes) is left to the long look, `Replay.admits`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.tree import External

Found = tuple[str, Tensor, External]
"""The text of a tensor in a call, the tensor of the proof, and what one in its place must be like."""


def short_look(
    found: Sequence[Found], taken: Sequence[Sequence[int]], inputs: dict[int, int], exe: Executable, listing: Any
) -> tuple[list[str], str] | None:
    """Lines that set names and pointers once the condition holds, and that condition; None if none is plain.

    `taken` are the slots of each tensor, `inputs` the places of slots among the program's inputs. The text has F and A,
    the tensors of the call before and their memory, P, the pointers, and L, the arrays that they belong to. Every part
    of the condition may be looked at and still the long look taken: nothing is set before all of it holds.
    """
    places = [[inputs[slot] for slot in slots if slot in inputs] for slots in taken]
    if any(
        external.strides is not None or not exe.written.isdisjoint(at)
        for (_, _, external), at in zip(found, places, strict=True)
    ):
        return None
    conditions, lines = ["F[0] is not None"], []
    for k, ((text, t, external), at) in enumerate(zip(found, places, strict=True)):
        dtype, kind = listing.constant(external.dtype), listing.constant(type(t))
        conditions += [
            f"type({text}) is {kind}",
            f"id({text}) not in constant_ids",
            *(f"{text} is not {other}" for other, _, _ in found[:k]),
            f"{text}._base is None",
            f"{text}._hooks is None",
            f"{text}._dtype is {dtype}",
            f"{text}._requires_grad is {external.requires_grad}",
            f"{text}._node is {'' if external.leaf else 'not '}None",
            f"(a{k} := {text}._array) is not None",
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
