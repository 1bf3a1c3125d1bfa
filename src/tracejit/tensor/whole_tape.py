"""Tapes that come again: their backward pass as one program.

In: the roots of a backward pass that adds gradients to leaves, outside of regions. Out: `Pass`, which gives what goes
to the leaves by one program if its tape has been met often enough, and takes note of how long the walk took if not.
Must not know: who walks the tape step by step, what becomes of the gradients.

A training loop leaves the same tape in every step. Walked step by step, each gradient rule is Python that makes
operations one by one, ten times as long as few elements take. What tells one tape from another (operations,
attributes, types, which value is where) is put into a key, which costs a quarter of that; for a key that was met often
the rules run once more on tensors without values (`draft.py`), and what they do is compiled like a region.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from tracejit.config import PRODUCTS, logger
from tracejit.dtypes import get_default_dtype
from tracejit.ops.record import ops
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.array_program import ArrayProgram
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.draft import Gradients, Rules, Unfit
from tracejit.tensor.modes import set_grad_enabled
from tracejit.tensor.state import state
from tracejit.tensor.tape import TapeNode, current, pull
from tracejit.tensor.tensor import Tensor

_log = logger("fusion")
_PRICE, _STEP_PRICE = 0.1, 2e-3
"""Seconds that building a program takes, and for each step: walks of a tape that took as long are worth it."""
_HEAVY = 250e-6
"""Seconds a step from which on its kernels take the time, which a program would not save."""
_TRIES = 8
"""Passes by a program after which it is compared with as many walks: the last ones before it was built."""
_TAPES = 64
"""Tapes that are known: beyond that all are forgotten."""
_MISSES, _EVERY = 32, 16
"""So many tapes in a row that were not met before, as where sizes change in each step, or that have no use for a
program, and further on only one of so many passes is looked at."""
_MOST = 4096
"""Steps of a tape that is looked at."""
_NUMBERS = (int, float, bool)
_order_of = attrgetter("seq")
Way = tuple[ArrayProgram, list[int], list[int]]
"""A program for a tape, the numbers of the leaves that it gives gradients, and those of the steps that it walks."""


class _Tape:
    """A tape that was met: how often it was walked, the seconds of the last walks, and its program, once there is one.

    `runs` are the seconds of passes by the program until it was compared with walks. `may_pay` says that there is, or
    may be, a program.
    """

    __slots__ = ("last", "may_pay", "runs", "walks", "way")

    def __init__(self) -> None:
        self.last: deque[float] = deque(maxlen=_TRIES)
        self.walks = 0
        self.runs: list[float] = []
        self.way: Way | None = None
        self.may_pay = True

    def is_worth_a_program(self, steps: int) -> bool:
        """Whether walks took as long as a program takes to be built, and not because of their kernels."""
        if len(self.last) < _TRIES:
            return False
        # The first ones build kernels.
        walk = median(self.last)
        if self.walks * walk < _PRICE + _STEP_PRICE * steps:
            return False
        self.may_pay = walk < _HEAVY * steps
        return self.may_pay

    def note_walk(self, seconds: float) -> None:
        """Note a walk."""
        self.last.append(seconds)
        self.walks += 1

    def note_run(self, seconds: float) -> None:
        """Note a pass by the program; what turns out to take longer than walks is given up."""
        if len(self.runs) < _TRIES:
            self.runs.append(seconds)
            if len(self.runs) == _TRIES and median(self.runs) > median(self.last):
                self.give_up()

    def give_up(self) -> None:
        """No program from here on."""
        self.way, self.may_pay = None, False


_tapes: dict[tuple[Any, ...], _Tape] = {}


class _Pace:
    """How many passes in a row were looked at in vain, and how many came since that was so for long."""

    misses = 0
    left = 0


def clear() -> None:
    """Forget all tapes."""
    _tapes.clear()
    _Pace.misses = _Pace.left = 0


class Pass:
    """A backward pass: its steps, newest first, the leaves that they lead to, and all arrays that rules may read."""

    __slots__ = ("_arrays", "_at", "_begin", "_given", "_leaves", "_place", "_steps", "_tape")

    def __init__(self, steps: list[TapeNode], given: list[tuple[TapeNode, int, Tensor, bool]], begin: float) -> None:
        self._steps, self._given, self._begin = steps, given, begin
        self._place = {node: k for k, node in enumerate(steps)}
        self._leaves: dict[int, tuple[int, Tensor]] = {}
        self._at: dict[int, int] = {}
        self._arrays: list[np.ndarray] = []

    def meet(self) -> bool:
        """Find the tape among those that were met. Whether a program may stand for it."""
        key = self._key()
        if key is None:
            return False
        tape = _tapes.get(key)
        _Pace.misses = _Pace.misses + 1 if tape is None or not tape.may_pay else 0
        if tape is None:
            if len(_tapes) >= _TAPES:
                _tapes.clear()
            tape = _tapes[key] = _Tape()
        self._tape = tape
        return tape.may_pay

    # --- what tells it from others ------------------------------------------------------------------------------------

    def _key(self) -> tuple[Any, ...] | None:
        key: list[Any] = [PRODUCTS.bfloat16, get_default_dtype()]
        for node, which, ct, is_one in self._given:
            key += (self._place[node], which, is_one)
            if is_one:
                key += (ct._shape, ct._dtype)
            elif not self._see(ct, ct._version, key):
                return None
        for node in self._steps:
            if node.fused:
                unit = node.unit  # type: ignore[attr-defined]
                found = node.left()  # type: ignore[attr-defined]
                if found is None:
                    return None
                key.append(unit)
                for array in found:
                    self._see_array(array, key)
                self._see_edges(node.sources, key)  # type: ignore[attr-defined]
                continue
            key += (node.op, node.attrs, node.avals, len(node.edges))
            for entry in node.saved:
                if entry is None:
                    key.append(None)
                    continue
                value, version = entry
                if isinstance(value, Tensor):
                    if not self._see(value, version, key):
                        return None
                elif type(value) in _NUMBERS:
                    # Equal numbers may differ in their type and sign.
                    key += (type(value), value or repr(value))
                else:
                    return None
            for value, version in node.results:
                if not self._see(value, version, key):
                    return None
            self._see_edges(node.edges, key)
        return tuple(key)

    def _see(self, t: Tensor, version: int, key: list[Any]) -> bool:
        array = t._array
        if type(array) is not np.ndarray or t._version != version:
            return False
        self._see_array(array, key)
        return True

    def _see_array(self, array: np.ndarray, key: list[Any]) -> None:
        at = self._at.get(id(array))
        if at is None:
            at = self._at[id(array)] = len(self._arrays)
            self._arrays.append(array)
            key += (array.shape, array.dtype, None if array.flags.c_contiguous else array.strides)
        else:
            key.append(at)

    def _see_edges(self, edges: tuple[Any, ...], key: list[Any]) -> None:
        for edge in edges:
            if type(edge) is tuple:
                key += (self._place[edge[0]], edge[1])
            elif edge is None:
                key.append(None)
            else:
                leaf = self._leaves.get(id(edge))
                if leaf is None:
                    leaf = self._leaves[id(edge)] = (len(self._leaves), edge)
                key.append(-1 - leaf[0])

    # --- its program --------------------------------------------------------------------------------------------------

    def run(self) -> tuple[list[tuple[Tensor, np.ndarray]], list[TapeNode]] | None:
        """The leaves with what goes to each, in the order of a walk, and the steps that it would walk; None if there is
        no program, or if that refuses.
        """
        tape = self._tape
        if tape.way is None:
            if not tape.is_worth_a_program(len(self._steps)):
                return None
            try:
                tape.way = self._build()
            except Exception:  # noqa: BLE001 - rules on tensors without values may raise anything
                _log.info("a tape of %d steps is walked step by step", len(self._steps))
                tape.may_pay = False
                return None
        program, ends, walked = tape.way
        found = program(self._arrays)
        if found is None:
            tape.give_up()
            return None
        tape.note_run(perf_counter() - self._begin)
        leaves = [leaf for _, leaf in self._leaves.values()]
        return [(leaves[k], array) for k, array in zip(ends, found, strict=True)], [self._steps[k] for k in walked]

    def took(self) -> None:
        """The pass was a walk, which ends now."""
        self._tape.note_walk(perf_counter() - self._begin)

    def _build(self) -> Way:
        rules = Rules()
        walked: list[int] = []
        found = Gradients(rules, lambda edge: None if type(edge) is tuple else self._leaves[id(edge)][0])
        with rules.taking(), set_grad_enabled(False):
            ghosts = [rules.ghost(wrap(array)) for array in self._arrays]
            for ghost in ghosts:
                ghost._share()
            inputs = list(enumerate(rules.strides))
            for node, which, ct, is_one in self._given:
                one = ops.full(1, shape=ct._shape, dtype=ct._dtype) if is_one else ghosts[self._at[id(ct._array)]]
                found.send((node, which), one)
            for k, node in enumerate(self._steps):
                cts = found.pending.pop(node, None)
                if cts is None:
                    continue
                walked.append(k)
                if node.fused:
                    unit, sources = node.unit, node.sources  # type: ignore[attr-defined]
                    for at in unit.several:
                        # A walk looks at these first, which decides whose turn it is.
                        if type(sources[at]) is not tuple:
                            found.ends.setdefault(self._leaves[id(sources[at])][0], [])
                    left = [ghosts[self._at[id(array)]] for array in node.left()]  # type: ignore[attr-defined]
                    for at, terms in zip(unit.wanted, unit.rule(rules, left, cts[0]), strict=True):
                        for g in terms:
                            found.send(sources[at], g)
                    continue
                for edge, g in zip(node.edges, pull(self._stand_in(node, ghosts), cts, False), strict=True):
                    found.send(edge, g)
        program = ArrayProgram(rules.graph("backward", inputs, list(found.ends.values()), [], {}, ()))
        return program, list(found.ends), walked

    def _stand_in(self, node: TapeNode, ghosts: list[Tensor]) -> TapeNode:
        """A step that saved tensors without values."""

        def of(entry: Any) -> Any:
            return (ghosts[self._at[id(entry[0]._array)]], 0) if entry and isinstance(entry[0], Tensor) else entry

        if any(type(value) is float and not value for value in node.attrs):
            # Zeros of either sign make the same key.
            raise Unfit
        stand: TapeNode = TapeNode.__new__(TapeNode)
        stand.__dict__.update(node.__dict__, saved=tuple(map(of, node.saved)), results=tuple(map(of, node.results)))
        return stand


def pass_over(roots: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> Pass | None:
    """A backward pass that may run as one program, or whose walk shall be timed.

    Cost: 3 us for each step; nothing where tapes do not come again.
    """
    begin = perf_counter()
    if DeviceArray.used or state.autocast is not None:
        return None
    if _Pace.misses >= _MISSES:
        _Pace.left += 1
        if _Pace.left % _EVERY:
            return None
    given: list[tuple[TapeNode, int, Tensor, bool]] = []
    for root, ct in zip(roots, cotangents, strict=True):
        node = current(root)
        if node is None or type(root._array) is not np.ndarray:
            return None
        given.append((node, root._index, root if ct is None else ct, ct is None))
    seen: set[TapeNode] = set()
    stack = [node for node, *_ in given]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.custom or node.deferred or node.hooks or node.retain or (not node.fused and node.done):
            return None
        for edge in node.sources if node.fused else node.edges:  # type: ignore[attr-defined]
            if type(edge) is tuple and edge[0] not in seen:
                stack.append(edge[0])
    if len(seen) > _MOST:
        return None
    found = Pass(sorted(seen, key=_order_of, reverse=True), given, begin)
    return found if found.meet() else None
