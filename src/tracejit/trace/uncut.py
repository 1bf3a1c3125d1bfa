"""Calls that are not cut where Python reads a value: what the proof of a function that reads in its middle stands on.

In: calls of a function, run eagerly. Out: a tree without cuts, and followers that find the values that Python reads on
it.
Must not know: proofs, and what Python does with the values.

A follower of the tree with cuts runs a program for each stretch between two reads. A replay needs none of the values
before its end: what Python only stores it stores then, and what it decides on, its program looks at
(`trace/expected.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor
from tracejit.trace.eager import EAGER
from tracejit.trace.expected import Form
from tracejit.trace.follower import Follower
from tracejit.trace.recorder import Recorder
from tracejit.trace.repeat import materialise
from tracejit.trace.tree import Segment, Stop, path
from tracejit.trace.verify import evaluate


class Uncut(Segment):
    """A segment that is a whole call.

    `seen` are the values that Python read, by slot; `broken` says why the call could not be recorded as one. `count` is
    how many numbers operations take. What numbers that change decided in that call is not known: `latest` are the
    values that were read in a later call, `left` whether that one took another way, and `outcomes` how such numbers
    decided in one that did not, by what forms have in common. `guessed` is how they are taken to have decided.
    """

    def __init__(self, region: Any) -> None:
        super().__init__(region, 0)
        self.seen: dict[int, Any] = {}
        self.latest: dict[int, Any] = {}
        self.left = False
        self.outcomes: dict[Form, bool] = {}
        self.guessed: dict[Form, bool] = {}
        self.count = 0
        self.broken = ""
        self.complete = False

    @property
    def obstacle(self) -> str | None:
        """Why there is no whole call."""
        return self.broken or (None if self.complete else "the call that was to be recorded raised an exception")


class UncutRecorder(Recorder):
    """Runs a call eagerly and writes it down, reads and all, as one segment."""

    def __init__(self, region: Any, segment: Uncut) -> None:
        super().__init__(region, segment.root)
        self.segment = segment

    def read(self, t: Tensor) -> Any:
        """Memory is looked at: what is there is noted."""
        # A view shows what it was a view of as long as that is as it was.
        shows_changes = t._base is not None and id(t._cell) in self.mutated
        if self.unit is None and not (self.segment.broken or shows_changes or self.stale(t)):
            slot = self.known(t)
            if slot is not None and t._array.size == 1:
                self.segment.seen.setdefault(slot, t._array.item())
                return t._array
        return super().read(t)

    def cut(self, reason: str, silent: bool = False, eager: Any = None) -> None:
        """Where the tracer itself needs a cut there is no whole: the rest of the call is recorded as any other."""
        self.segment.broken = self.segment.broken or reason
        super().cut(reason, silent, eager)

    def give_up(self, what: Any, reason: str) -> None:
        """A unit turned out half way not to be one."""
        self.segment.broken = self.segment.broken or reason
        super().give_up(what, reason)

    def finish(self) -> None:
        """The call is done."""
        super().finish()
        self.segment.complete, self.segment.count = True, self.numbers
        if self.gpu:
            self.segment.broken = "values of a GPU are read"


class UncutFollower(Follower):
    """Follows a whole call; a value that Python reads is computed eagerly, beside what is pending.

    `given` are the numbers that the program looks at, behind those of the operations.
    """

    grows = False

    def __init__(self, segment: Uncut, given: Sequence[Any]) -> None:
        super().__init__(segment.region, segment.root)
        self.segment, self.given = segment, given
        segment.latest, segment.left = {}, False

    def read(self, t: Tensor) -> Any:
        """The memory of a tensor, or what it will be."""
        if t._array is not None and not (self.mutators and (self.is_mutated(t) or self.shows_mutated(t))):
            return t._array
        slot = next((slot for slot in range(len(self.values) - 1, -1, -1) if self.values[slot] is t), None)
        if slot is None:
            return self.leave("read", None, (), [t], []).read(t)
        events = path(self.last)
        outside = {slot: self.values[slot]._array for event in events for slot in event.binds}
        found = evaluate(events, outside, self.numbers)[slot]
        if found.size == 1:
            self.segment.latest[slot] = found.item()
        return found

    def commit(self, stop: Stop) -> None:
        """Run the program."""
        self.numbers += self.given
        super().commit(stop)

    def leave(self, *call: Any) -> Any:
        """Compute eagerly what was matched; the rest of the call is eager, too."""
        self.segment.left = True
        self.region.account.start_exit()
        materialise(self)
        self.region.calls.side_exits += 1
        self.region.account.enter_exit("side exit", "?", "a call took another way than the one that is being proven")
        state.session = None
        return EAGER

    def cut(self, reason: str) -> NoReturn:
        """There are no cuts."""
        raise AssertionError("a whole call has no cuts")
