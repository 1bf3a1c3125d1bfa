"""Python's search for reference cycles, and when it is not worth its time.

In: nothing. Out: blocks in which it does not run, or seldom among old objects. Must not know: what the blocks do.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 20_000
"""New objects that take longer to search than most steps of a program."""
_SELDOM = 10
"""How many times as many new objects are waited for until all are searched."""


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


@contextmanager
def seldom_all() -> Iterator[None]:
    """Searches all objects a tenth as often, new ones as before, for code that may make garbage of its own.

    A record grows and is kept: all that is there already was searched again for each part of it, for half of the time.
    """
    young, middle, old = before = gc.get_threshold()
    changed = young, middle, old * _SELDOM
    gc.set_threshold(*changed)
    try:
        yield
    finally:
        # Who sets others meanwhile wants them to stay so.
        if gc.get_threshold() == changed:
            gc.set_threshold(*before)
