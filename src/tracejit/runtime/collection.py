"""Python's search for reference cycles, and when it is not worth its time.

In: nothing. Out: blocks in which it does not run, or not among old objects. Must not know: what the blocks do.
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
def only_new() -> Iterator[None]:
    """Leaves alone what is there already, and searches all that is new a tenth as often, for code that may make garbage
    of its own.

    A record grows and is kept: with each part of it all objects of the program were searched again, for half of the
    time. Once still took 50 ms of the 220 in which an LSTM's steps are recorded.
    """
    young, middle, old = before = gc.get_threshold()
    changed = young, middle, old * _SELDOM
    is_free = not gc.get_freeze_count()
    if is_free:
        gc.freeze()
    gc.set_threshold(*changed)
    try:
        yield
    finally:
        # Who sets others meanwhile wants them to stay so.
        if gc.get_threshold() == changed:
            gc.set_threshold(*before)
        if is_free:
            gc.unfreeze()
