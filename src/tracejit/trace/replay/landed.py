"""What a followed call left behind, for a proof to be compared with and a replay to be made of.

In: a segment that ran, values. Out: its end, its program, what lived on; what stands in containers.
Must not know: text.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

from tracejit.tensor.tensor import Tensor, on_gpu
from tracejit.trace.executable import Executable
from tracejit.trace.replay.proof import Proof, inner
from tracejit.trace.replay.symbols import Unproven
from tracejit.trace.tree import External, path


class Landed:
    """What a followed segment did: its end, the program that ran, and the tensors that lived on, by slot."""

    def __init__(self, stop: Any, last: Any, executable: Executable, values: list[Any], alive: tuple[int, ...]) -> None:
        self.stop = stop
        self.last = last
        self.executable = executable
        self.alive = {slot: weakref.ref(values[slot]) for slot in alive}

    def with_program(self, executable: Executable, alive: tuple[int, ...]) -> Landed:
        """The same segment with another program, which gives fewer of the tensors that lived on."""
        other = copy.copy(self)
        other.executable = executable
        other.alive = {slot: self.alive[slot] for slot in alive}
        return other


def external_of(t: Tensor) -> External:
    """What a tensor from outside is like now."""
    array = t._array
    strides = None if array.flags.c_contiguous else array.strides
    leaf = t._node is None
    return External(array.shape, t._dtype, t._requires_grad, leaf, strides, array.flags.writeable, on_gpu(t))


def check_result(proof: Proof, landed: list[Landed]) -> Landed:
    """The one segment that ran, if it is the proof's.

    Raises: Unproven if the call took another way.
    """
    segment = proof.segment()
    if len(landed) != 1 or landed[0].stop is not segment.stop or landed[0].last is not segment.last:
        raise Unproven("the call took another way than the bytecode says")
    return landed[0]


def check_leaves(landed: Landed) -> None:
    """Raises: Unproven if a tensor that the segment let require gradients lives on: replays make none."""
    executable = landed.executable
    lives = set(landed.alive) | (set() if executable.tape is None else executable.tape.leaves())
    if any(event.kind == "require" and event.operands[0] in lives for event in path(landed.last)):
        raise Unproven("a tensor that gets requires_grad lives on", "return what is computed of it")


def leaving(proof: Proof, *kinds: type) -> Iterator[Any]:
    """What leaves the call, of some kinds, wherever it stands in a container."""
    changed = [value for _, _, _, value in proof.changes]
    return inner((proof.result, *changed, *(value for _, value in proof.world.appended)), kinds)


def handed_out(proof: Proof) -> set[int]:
    """The slots of tensors that leave the call, or whose values do."""
    found = {id(t) for t in leaving(proof, Tensor)}
    if proof.session.uncut is None:
        found |= {id(t) for _, _, t, _ in proof.session.reads}
    return {slot for slot, t in enumerate(proof.segment().values) if id(t) in found}
