"""A child process that works beside this one: how it begins, what it leaves alone, how it ends.

In: what it is to do. Out: its answers, line by line. Must not know: what that is.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

FORK_BYTES = 256 << 20
"""A process that ever had more memory is not forked: training writes to most of it, so the next step would copy it."""
STANDARD = 3
"""How many standard files there are."""
_FILES = 4096
"""How many files there may be if the system has no limit."""


class Process:
    """A child with a process group of its own, and the pipe from which its answers come."""

    def __init__(self, start: Callable[[int], int]) -> None:
        reader, writer = os.pipe()
        try:
            self.pid = start(writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self.answered = False
        self.status: int | None = None
        self._reader = reader
        self._rest = b""

    def has_ended(self) -> bool:
        """Whether it is gone; it leaves no zombie then. Cost: a microsecond."""
        return self._wait(os.WNOHANG)

    def _wait(self, options: int) -> bool:
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                # The program waits for any child, or ignores how they end.
                pid, status = self.pid, 0
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def answers(self) -> list[bytes]:
        """The lines that came since the last look."""
        # Raised where there is nothing more for now.
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._reader, 1 << 16):
                self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return lines

    def kill(self) -> None:
        """End it and what it started, at once."""
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._wait(0)

    def close(self) -> None:
        """Nothing more is wanted of it."""
        os.close(self._reader)


def may_fork() -> bool:
    """Whether a fork is safe, and cheap."""
    # A child has the locks that other threads held, for ever; macOS's own libraries do not work in a forked child.
    if threading.active_count() > 1 or sys.platform == "darwin":
        return False
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 <= FORK_BYTES


def fork(work: Callable[[], object]) -> int:
    """The number of a child that does this work and ends."""
    with warnings.catch_warnings():
        # Python warns of a fork beside native threads; this child only compiles, and nothing relies on its success.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _work_in_child(work)
    with contextlib.suppress(OSError):
        # The child does the same: whoever is first, it has its group before anything can happen to it.
        os.setpgid(pid, pid)
    return pid


def _work_in_child(work: Callable[[], object]) -> NoReturn:
    """Leaves alone all that is the parent's: its handlers, its objects, its way of ending."""
    status = 1
    try:
        gc.disable()
        sys.settrace(None)
        sys.setprofile(None)
        logging.disable()
        os.setpgid(0, 0)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        work()
        status = 0
    finally:
        os._exit(status)


def alone_with(answers: int, *others: int) -> int:
    """Closes all files but some, silences the standard ones, and gives the one for answers."""
    kept = sorted((answers, *others))
    for low, high in zip([STANDARD - 1, *kept], [*kept, max(os.sysconf("SC_OPEN_MAX"), _FILES)], strict=True):
        os.closerange(low + 1, high)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(STANDARD):
        os.dup2(null, standard)
    return answers
