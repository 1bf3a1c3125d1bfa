"""Interrupts that come from a clock, at any moment of what runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tracejit as tj


@contextmanager
def alarms() -> Iterator[Callable[[float, Callable[[], None]], bool]]:
    """Gives a function that runs another one and interrupts it after so many seconds (0: never); whether it was hit."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def hits(seconds: float, run: Callable[[], None]) -> bool:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            run()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            # An interrupt in the first instruction of a context manager's `__exit__` leaves its mode, also eagerly.
            tj.set_grad_enabled(True)
            return True
        return False

    try:
        yield hits
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
