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
_FEW_FROZEN = 1_000
"""Objects that are frozen anyway: a search of all objects in Python 3.12 leaves some hundreds of its own so."""


def _is_frozen() -> bool:
    """Whether somebody has frozen objects, who wants them to stay so."""
    return gc.get_freeze_count() > _FEW_FROZEN


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
            if gc.get_count()[0] > _MANY and not _is_frozen():
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
    freezes = not _is_frozen()
    if freezes:
        gc.freeze()
    gc.set_threshold(*changed)
    try:
        yield
    finally:
        # Who sets others meanwhile wants them to stay so.
        if gc.get_threshold() == changed:
            gc.set_threshold(*before)
        if freezes:
            gc.unfreeze()
