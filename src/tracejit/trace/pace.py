"""Whether calls at new sizes let the tree grow or go on eagerly: where sizes never come again, what takes less time.

In: which calls met new sizes, and how long they took. Out: a choice for the next one.
Must not know: trees.

A branch for new sizes takes time once, and saves some whenever these sizes come again. Where the tree is full of sizes
and most calls still bring new ones, nothing comes of it but the call itself.
"""

from __future__ import annotations

import statistics

GROWN = 128
"""Calls at new sizes that grow before anything is judged: a tree keeps as many branches."""
_WINDOW = 64
"""Calls over which the share of those at new sizes is a moving mean."""
_TRIED, _SETTLING, _CYCLE = 10, 2, 512
"""Calls that try either way, the first of them that do not count, and calls after which both are tried again."""


class Pace:
    """The choice of one region.

    >>> pace = Pace()
    >>> for _ in range(GROWN + 2 * _TRIED):
    ...     pace.end(2.0 if pace.grows() else 1.0)
    >>> pace.grows()
    False
    """

    def __init__(self) -> None:
        self.met = 0
        self.share = 0.0
        self.eager = False
        """Whether this call goes on eagerly."""
        self._new = False
        self._judged = 0
        self._times: dict[bool, list[float]] = {True: [], False: []}

    def grows(self) -> bool:
        """Whether the call, which has just met new sizes, lets the tree grow."""
        self._new = True
        self.met += 1
        if self.met <= GROWN or self.share < 0.5:
            return True
        at = self._judged % _CYCLE
        if at == 0:
            self._times[True].clear()
            self._times[False].clear()
        self._judged += 1
        if at < 2 * _TRIED:
            self.eager = at >= _TRIED
        else:
            grown, eager = (statistics.median(self._times[way][_SETTLING:]) for way in (True, False))
            self.eager = eager < grown
        return not self.eager

    def end(self, seconds: float) -> None:
        """A call that was followed is done."""
        new = self._new
        self.share += (new - self.share) / _WINDOW
        if not new:
            return
        times = self._times[not self.eager]
        if self._judged and len(times) < _TRIED:
            times.append(seconds)
        self._new = self.eager = False
