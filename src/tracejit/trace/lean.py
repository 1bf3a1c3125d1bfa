"""Lean tapes: of what steps saved a run leaves a few values, from which a program that walks the tape back, or whoever
looks at the steps, computes the others again.

In: the events of a segment, which slots only its tape holds, and which of them a program for the gradients wants in
memory. Out: `Lean`.
Must not know: how programs are made, who walks the tape.

What eager saves of a norm, its relu and its mask is several arrays as large as the one that all of them are made of. A
compiled step keeps that one. A model that is compiled by itself had better do so, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.ops.contraction import PRODUCTS
from tracejit.ops.record import Op
from tracejit.runtime.arrays import LINE_BYTES
from tracejit.runtime.blocks import BLOCK_BYTES
from tracejit.schedule import cost
from tracejit.tensor.draft import Number, Step, run_again
from tracejit.trace.memory import Memory
from tracejit.trace.tree import Event
from tracejit.trace.tree import Number as Variable

WORTH, MANY = 1 << 18, 64
"""Bytes that a lean tape must save, or values from which on it is worth to have many in one block: it costs another
program for the result."""
_FUSED = frozenset(("elementwise", "reduction", "view", "create"))
"""Families whose operands need no memory: they are computed where they are read."""
_SOURCES = 16
"""Values that one is computed from again: a kernel that reads more of them had better read it."""


@dataclass(eq=False, slots=True)
class Lean:
    """What a run leaves for its tape.

    `kept` are the slots whose values it leaves, of types `avals`. The first ones are large and have arrays of their
    own, `apart` of them; the others have places in one block, from `offsets` on, of `nbytes` in all: a recurrent model
    leaves a thousand small values. `away` are the slots of saved tensors that are made of them, by `steps` in order:
    their operands are slots. `sources` says of each for which places of `kept` it is made. `numbers` are the indices
    of run-time numbers that the steps take.
    """

    kept: list[int]
    avals: list[Aval]
    apart: int
    offsets: np.ndarray
    nbytes: int
    away: frozenset[int]
    steps: list[Step]
    sources: dict[int, frozenset[int]]
    numbers: list[int] = field(default_factory=list)

    def arrays(self, left: list[Any]) -> list[Any]:
        """The arrays of the values that are kept, from what a run left; None for what it has let go of."""
        found, small = left[: self.apart], self.avals[self.apart :]
        if not small:
            return found
        block = left[self.apart]
        if block is None:
            return found + [None] * len(small)
        for aval, begin in zip(small, self.offsets.tolist(), strict=True):
            memory = block[begin : begin + aval.numel * aval.dtype.itemsize]
            found.append(memory.view(aval.dtype.np).reshape(aval.shape))
        return found

    def needed(self, places: Collection[int]) -> set[int]:
        """Where in what a run left some places of `kept` are."""
        return {min(k, self.apart) for k in places}

    def again(
        self,
        known: dict[int, Any],
        number: Callable[[int], Any],
        apply: Callable[[Op, tuple[Any, ...], tuple[Any, ...]], Any],
        detach: Callable[[Any], Any],
    ) -> None:
        """Add what can be made of known values to them; `number` gives a run-time number by its index."""
        for step in self.steps:
            if all(type(a) is not int or a in known for a in step.args):
                run_again([step], known, number, apply, detach)


def is_fused(op: Op | None) -> bool:
    """Whether an operation needs no operand in memory."""
    return op is None or op.family in _FUSED


def is_view(op: Op | None) -> bool:
    """Whether an operation shows the memory of its operand."""
    return op is None or op.family == "view"


class _Origin:
    """What a slot is made of: at most one `large` value, some that are small beside it, and the work an element."""

    __slots__ = ("large", "small", "work")

    def __init__(self, large: int | None, small: Iterable[int] = (), work: float = 0.0) -> None:
        self.large, self.small, self.work = large, frozenset(small), work


class _Choice:
    """Chooses what to keep.

    A value is the *origin* of those that are computed from it alone, cheaply, with others that are small beside them: a
    result of a product or of a sum, what two large values were put together to, what costs much to compute. It is kept
    instead of those that were saved if it is smaller, or is kept anyway.
    """

    def __init__(self, events: list[Event], memory: Memory, wanted: Collection[int], shared: Collection[int]) -> None:
        self.memory = memory
        self.avals: dict[int, Aval] = {}
        self.steps = [step for event in events for step in event.steps]
        self.made = {out: step for step in self.steps for out in step.outs}
        self.away = [slot for slot in wanted if self._is_private(slot, shared)]
        self.shared = shared
        self.readers = Counter(a for step in self.steps for a in step.args if type(a) is int)
        self.origins: dict[int, _Origin] = {}
        for event in events:
            for slot, ext in event.binds.items():
                self.avals[slot] = Aval(ext.shape, ext.dtype)
                self.origins[slot] = _Origin(slot)
            for step in event.steps:
                self._enter(step)

    def _is_private(self, slot: int, shared: Collection[int]) -> bool:
        """Whether a slot is the tape's alone, and its memory was not changed."""
        memory = self.memory
        for at in memory.way(slot):
            if at in memory.external or at in shared or at in memory.final or at in memory.renamed:
                return False
        return True

    def base(self, slot: int) -> int:
        """The slot whose memory a slot shows."""
        return self.memory.way(slot)[-1]

    def _enter(self, step: Any) -> None:
        """Say what the results of a step are made of."""
        args = [a for a in step.args if type(a) is int]
        if step.op is None:
            (out,), (source,) = step.outs, args
            self.avals[out], self.origins[out] = self.avals[source], self.origins[source]
            return
        known = [self.avals[a] if type(a) is int else a.value for a in step.args]
        found = step.op.infer(*known, *step.attrs)
        if len(step.op.results) > 1:
            for out, aval in zip(step.outs, found, strict=True):
                self.avals[out], self.origins[out] = aval, _Origin(out)
            return
        (out,) = step.outs
        self.avals[out] = found
        self.origins[out] = self._origin(step, out, args) or _Origin(out)

    def _origin(self, step: Any, out: int, args: list[int]) -> _Origin | None:
        """What a result is made of; None if it had better be kept itself."""
        op, numel = step.op, self.avals[out].numel
        if op.family in ("view", "create"):
            work = 0.0
        elif op.family == "elementwise":
            work = op.work
        else:
            return None
        small: set[int] = set()
        large: set[int] = set()
        for a in args:
            if op.family == "elementwise" and self._is_small(a, numel):
                small.add(self._shown(a))
                continue
            origin = self.origins[a]
            work += origin.work
            small |= origin.small
            if origin.large is not None:
                (small if self._is_small(origin.large, numel) else large).add(origin.large)
        if len(large) > 1 or len(small) > _SOURCES or work > cost.RECOMPUTED:
            return None
        if op.family == "elementwise" and not all(self._is_origin(v, args) for v in large):
            return None
        return _Origin(next(iter(large), None), small, work)

    def _is_small(self, slot: int, numel: int) -> bool:
        return cost.is_small_beside(self.avals[slot].numel, numel)

    def _shown(self, slot: int) -> int:
        """The slot whose elements a slot has, seen through views."""
        while slot in self.made and is_view(self.made[slot].op):
            slot = next(a for a in self.made[slot].args if type(a) is int)
        return slot

    def _is_origin(self, value: int, args: list[int]) -> bool:
        """Whether a large value may be kept for what is made of it with these operands."""
        maker = self.made.get(value)
        if maker is None or maker.op is None or maker.op.family == "random":
            # What is from outside may change.
            return False
        # A product takes in what is done with its result alone.
        bare = any(self.origins[a].large == value and not self.origins[a].work for a in args)
        return not (maker.op in PRODUCTS and bare and self.readers[value] == 1)

    def lean(self, needed: Collection[int]) -> Lean | None:
        """What to keep, where `needed` are wanted in memory; None if that saves too little."""
        roots = dict.fromkeys(map(self.base, self.away))
        known = {self.base(slot) for slot in needed} | {slot for slot in roots if self.origins[slot].large == slot}
        groups: dict[int | None, list[int]] = {}
        for slot in roots:
            if slot not in known:
                groups.setdefault(self.origins[slot].large, []).append(slot)
        kept = {slot for slot in roots if slot in known}
        saved = 0
        for origin, members in groups.items():
            gain = sum(map(self._nbytes, members))
            if origin is not None and origin not in kept:
                gain -= self._nbytes(origin)
                if gain <= 0 or not self._is_free(origin):
                    kept.update(members)
                    continue
                kept.add(origin)
            kept.update(slot for member in members for slot in self.origins[member].small)
            saved += gain
        return self._made(sorted(kept)) if (saved and saved >= WORTH) or len(kept) >= MANY else None

    def _is_free(self, slot: int) -> bool:
        """Whether the value of a slot is not in memory that lives on, where it would be there twice, or change."""
        memory = self.memory
        return slot not in memory.external and all(
            at not in self.shared and at not in memory.final and at not in memory.renamed for at in memory.way(slot)
        )

    def _nbytes(self, slot: int) -> int:
        aval = self.avals[slot]
        return aval.numel * aval.dtype.itemsize

    def _made(self, kept: list[int]) -> Lean:
        """The steps that lead from what is kept to the rest."""
        kept.sort(key=lambda slot: self._nbytes(slot) < BLOCK_BYTES)
        apart = sum(self._nbytes(slot) >= BLOCK_BYTES for slot in kept)
        ends = np.cumsum([0, *(-(-self._nbytes(slot) // LINE_BYTES) * LINE_BYTES for slot in kept[apart:])])
        at = {slot: k for k, slot in enumerate(kept)}
        sources: dict[int, frozenset[int]] = {slot: frozenset((k,)) for slot, k in at.items()}
        needed: set[int] = set()
        stack = list(self.away)
        while stack:
            slot = stack.pop()
            if slot not in at and slot not in needed:
                needed.add(slot)
                stack += [a for a in self.made[slot].args if type(a) is int]
        avals = [self.avals[slot] for slot in kept]
        lean = Lean(kept, avals, apart, ends[:-1], max(int(ends[-1]), LINE_BYTES), frozenset(self.away), [], {})
        numbers: dict[int, None] = {}
        for step in self.steps:
            if step.outs[0] not in needed:
                continue
            args: list[Any] = []
            for a in step.args:
                if type(a) is not int and type(a) is Variable and a.varies and not a.fixed:
                    numbers[a.index] = None
                    args.append(Number(a.index))
                else:
                    args.append(a if type(a) is int else (a.value,))
            lean.steps.append(Step(step.op, tuple(args), step.attrs, step.outs[0], 0))
            found = [sources[a] for a in step.args if type(a) is int]
            sources[step.outs[0]] = frozenset().union(*found)
        lean.sources = {slot: sources[slot] for slot in lean.away}
        lean.numbers = list(numbers)
        return lean


def lean_of(
    events: list[Event], memory: Memory, wanted: Collection[int], shared: Collection[int], needed: Collection[int]
) -> Lean | None:
    """What a run leaves for a tape that holds the slots `wanted`, where memory of the slots `shared` lives on anyway.

    `needed` are those that a program for the gradients reads as they lie.
    """
    return _Choice(events, memory, wanted, shared).lean(needed)
