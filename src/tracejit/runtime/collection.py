"""Python's search for reference cycles, and when it is not worth its time.

In: nothing. Out: a block in which it does not run. Must not know: what the block does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Pauses the search for reference cycles: what compiling makes is kept, or is garbage all together in the end, and
    searched again and again while it grows it takes a fifth of the time.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()
