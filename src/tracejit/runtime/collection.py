"""Python's search for reference cycles, and when it is not worth its time.

In: nothing. Out: a block in which it does not run. Must not know: what the block does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 20_000
"""New objects that take longer to search than most steps of a program."""


@contextmanager
def without_collections() -> Iterator[None]:
    """Pauses the search for reference cycles: what compiling makes is kept, or is garbage all together in the end, and
    searched again and again while it grows it takes a fifth of the time.

    If that is much, it counts as old: one search for all objects will find it, not the next ones for new objects.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            # Who has frozen objects wants them to stay so.
            if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
