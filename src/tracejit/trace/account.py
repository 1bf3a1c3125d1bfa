"""The account of a region: what happened, where, why, how often and at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NOTES = 500
"""Different notes of a region; further ones of a kind are counted together."""
REST = "further ones, counted together"


@dataclass(slots=True)
class Note:
    """Something that a user may want to know: what, where, why.

    Equal ones are one note: `call` is the call of the first, `count` how many there were, `seconds` what they cost
    together. `eager` says that what stands behind a cut runs eagerly.
    """

    kind: str
    line: str
    reason: str
    call: int
    seconds: float = 0.0
    count: int = 1
    eager: bool = False

    def add(self, seconds: float) -> None:
        """It happened once more."""
        self.count += 1
        self.seconds += seconds


    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside is part of the cost."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin


@dataclass(slots=True)
class Calls:
    """How often the region ran in which way; of the others, `opened` are those that ran a program for all sizes, and
    `waited` those that ran partly eagerly while another process compiled.
    """

    cold: int = 0
    recorded: int = 0
    followed: int = 0
    replayed: int = 0
    eager: int = 0
    side_exits: int = 0
    resized: int = 0
    opened: int = 0
    waited: int = 0

    @property
    def total(self) -> int:
        """All calls."""
        return self.cold + self.recorded + self.followed + self.replayed + self.eager


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands between a function and running without Python: the user's line, why, and what to write instead."""

    line: str
    reason: str
    fix: str


class Account:
    """The notes of a region, and the clock of the call that left the tree.

    Cost: at most `NOTES` different notes are kept, however often the region runs.

    >>> account = Account()
    >>> for _ in range(3):
    ...     _ = account.note("cut", "train.py:12", "a value was read", 0.5)
    >>> [(n.kind, n.count, n.seconds) for n in account.notes]
    [('cut', 3, 1.5)]
    """

    def __init__(self) -> None:
        self.calls = Calls()
        self._notes: dict[tuple[str, str, str], Note] = {}
        self._left: float | None = None
        self._exit: Note | None = None

    @property
    def notes(self) -> list[Note]:
        """All notes of what happened, in the order in which each happened or was foreseen first."""
        return [note for note in self._notes.values() if note.count]

    def note(self, kind: str, line: str, reason: str, seconds: float = 0.0) -> Note:
        """Write down what happened."""
        found = self._notes.get((kind, line, reason))
        if found is None and len(self._notes) >= NOTES:
            line, reason = "?", REST
            found = self._notes.get((kind, line, reason))
        if found is not None:
            found.add(seconds)
            return found
        made = self._notes[kind, line, reason] = Note(kind, line, reason, self.calls.total, seconds)
        return made

    def foresee(self, kind: str, line: str, reason: str, eager: bool) -> Note:
        """A note of what may happen: not one of the account's before it does."""
        found = self._notes.get((kind, line, reason))
        if found is None:
            found = Note(kind, line, reason, self.calls.total, count=0, eager=eager)
            if len(self._notes) < NOTES:
                self._notes[kind, line, reason] = found
        return found

    @contextmanager
    def timed(self, kind: str, line: str, reason: str) -> Iterator[None]:
        """Write down what happens inside, with the time that it takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.note(kind, line, reason, time.perf_counter() - begin)

    def start_exit(self) -> None:
        """A call leaves the tree: what follows until its end is the cost of that."""
        self._left = time.perf_counter()

    def enter_exit(self, kind: str, line: str, reason: str) -> None:
        """Write down why it left."""
        self._exit = self.note(kind, line, reason)

    def end_call(self) -> None:
        """The call is over: one that left the tree has its cost now."""
        if self._left is not None:
            if self._exit is not None:
                self._exit.seconds += time.perf_counter() - self._left
            self._left = self._exit = None
