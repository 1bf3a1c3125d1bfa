"""Whether calls at new sizes let the tree grow or go on eagerly: where sizes never come again, what takes less time.

In: which calls met new sizes, and how long they took. Out: a choice for the next one.
Must not know: trees.

A branch for new sizes takes time once, and saves some whenever these sizes come again. Where they do not, or where so
many do that the tree does not keep them, nothing comes of it but the call itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable
from typing import Any

from tracejit.tensor.tensor import Tensor

FIRST = 8
"""Calls at new sizes that let the tree grow, whatever the sizes: most functions have few."""
GROWN = 128
"""Calls at new sizes up to which all that come again let the tree grow: it keeps as many branches."""
_SIZES = 4096
"""Sizes that are remembered."""
_WINDOW = 64
"""Calls over which the share of those at new sizes is a moving mean."""
_TRIED, _SETTLING, _CYCLE = 10, 2, 512
"""Calls that try either way, the first of them that do not count, and calls after which both are tried again."""


def sizes_of(value: Any, depth: int = 3) -> Hashable:
    """The sizes of all tensors in an argument, and its whole numbers.

    >>> import tracejit as tj
    >>> sizes_of(([tj.ones(2, 3), 4.5], {"n": 7}))
    (((2, 3), None), (7,))
    """
    if isinstance(value, Tensor):
        return tuple(value._shape)
    if type(value) is int:
        return value
    if depth and isinstance(value, dict):
        value = value.values()
    elif not depth or not isinstance(value, (list, tuple)):
        return None
    return tuple([sizes_of(one, depth - 1) for one in value])


class Pace:
    """The choice of one region.

    >>> pace = Pace()
    >>> for n in range(FIRST + 2 * _TRIED):
    ...     pace.end(2.0 if pace.grows(n) else 1.0)
    >>> pace.grows(100)
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
        self._sizes: set[Hashable] = set()

    def grows(self, sizes: Hashable) -> bool:
        """Whether the call, which has met new sizes, lets the tree grow."""
        if self._new:
            return not self.eager
        self._new = True
        self.met += 1
        again = sizes in self._sizes
        if not again:
            if len(self._sizes) >= _SIZES:
                self._sizes.clear()
            self._sizes.add(sizes)
        if self.met <= FIRST or (again and (self.met <= GROWN or self.share < 0.5)):
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
