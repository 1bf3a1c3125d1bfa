"""What a region has on disk: when its tree is taken from there, and when it is put there."""

from __future__ import annotations

import time
from typing import Any

from tracejit.config import SETTINGS
from tracejit.runtime.collection import without_collections
from tracejit.trace.fingerprint import fingerprint
from tracejit.trace.kept import keep, recall
from tracejit.trace.source import user_line
from tracejit.trace.tree import Event

PATIENCE = 3
"""How many calls a tree with a new program waits for a proof, whose findings are then kept with it."""
KEEPS = 8
"""How often a region puts its tree on disk."""
EVENTS = 20_000
"""Events of a tree from which on it is not put there: that would take half a second, each time."""


class Keeper:
    """Takes the tree of a region from disk before its first call, and puts it there when it has learnt something.

    `digest` is the function's fingerprint. `trying` says that the first call is following a tree from disk. `unmet` are
    the events of that tree which no call has met yet: they are not put back.
    """

    def __init__(self, region: Any) -> None:
        self.region = region
        self.digest: str | None = None
        self.trying = False
        self.unmet: list[Event] = []
        # Events, hints, numbers that turned out to change, and lean tapes, of the tree on disk.
        self._kept: tuple[int, ...] = (0, 0, 0, 0)
        self._seen = self._kept
        self._times = 0
        self._waited = 0

    def recall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the tree of the function, which is called for the first time, is on disk and was taken."""
        if not (SETTINGS.cache and SETTINGS.trees):
            return False
        region = self.region
        begin = time.perf_counter()
        self.digest = fingerprint(region.function, args, kwargs)
        with without_collections():
            tree = recall(self.digest, region)
        if tree is None:
            return False
        region.root, region.eager_units, self.unmet = tree.root, tree.eager_units, tree.events
        region.recorded_events = len(tree.events)
        region.known.update((event.kind, event.function) for event in tree.events)
        for segment in tree.segments:
            region.first_roots.setdefault(segment.number, segment.root)
        for stop in tree.cuts:
            stop.note = region.account.foresee("cut", stop.line, stop.reason, bool(stop.eager))
        if region.prover is not None:
            region.prover.hints = tree.hints
        seconds = time.perf_counter() - begin
        region.note("kept", user_line(), f"another process recorded {len(tree.events)} events", seconds)
        self._kept = len(tree.events), len(tree.hints), region.generation, region.leans
        self.trying = True
        return True

    def end_call(self) -> None:
        """After a call: put the tree on disk if it is due."""
        region = self.region
        if self.digest is None or self._times >= KEEPS or not region.compiles or region.recorded_events > EVENTS:
            return
        hints = frozenset() if region.prover is None else region.prover.hints
        now = region.recorded_events, len(hints), region.generation, region.leans
        before, self._seen = self._seen, now
        if now == self._kept:
            self._waited = 0
            return
        self._waited += 1
        if now != before and now[0] < 2 * self._kept[0]:
            # It takes longer each time, and calls still bring something new.
            return
        if self._waited <= PATIENCE and not (region.prover is not None and region.prover.replays):
            return
        self._kept = now
        self._times += 1
        self._waited = 0
        self.unmet = [event for event in self.unmet if not event.met]
        with without_collections():
            keep(self.digest, region, self.unmet, hints)
