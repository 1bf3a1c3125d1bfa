"""A process that builds kernels before this one asks for them: what it compiles is on disk when they are asked for.

In: jobs, each of which builds something. Out: nothing; kernels are on disk, each compiled by one process.
Must not know: why anybody thinks that they will be needed.

Who compiles a kernel has a place of a file locked that is the kernel's own. The other process leaves such a kernel
alone; this one does other jobs until it is there, and waits if there are none. When it is through, the other one waits
to be one of a crew, for a minute at most.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from tracejit.runtime.crew import Crew, Job
from tracejit.runtime.process import Process, alone_with, fork, may_fork

_SECONDS = 60.0
"""How long the process may take."""
_FEWEST = 4
"""Jobs for which a process pays: a fork, and the memory that both have then, cost as much as two kernels."""
_DIGITS = 15
"""How many digits of a digest tell a kernel's place in the file."""


class Ahead:
    """The process that builds ahead, if there is one, and who compiles what."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._crew: Crew | None = None
        self._file: IO[bytes] | None = None
        self._answers: int | None = None
        self._made: set[str] = set()
        self._expected: Callable[[], Sequence[Job]] | None = None
        self._fewest = _FEWEST

    # --- what there is to do ------------------------------------------------------------------------------------------

    @contextmanager
    def expecting(self, jobs: Callable[[], Sequence[Job]], fewest: int = _FEWEST) -> Iterator[None]:
        """What is to be built as soon as this process has to compile a kernel within this block.

        If there is no process yet, one begins for `fewest` jobs.
        """
        before = self._expected, self._fewest
        self._expected, self._fewest = jobs, fewest
        try:
            yield
        finally:
            self._expected, self._fewest = before

    @property
    def is_expecting(self) -> bool:
        """Whether a process would begin now, or get more to do."""
        return self._expected is not None

    def open(self) -> bool:
        """Gets ready for a process to begin, whether one may; one that is there gets what is expected."""
        self.look()
        if self._process is None and may_fork():
            # Without a place for files there is no process.
            with contextlib.suppress(OSError):
                self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as the process
                return True
        expected, self._expected = self._expected, None
        if self._crew is not None and expected is not None:
            self._crew.add(expected())
        return False

    def begin(self) -> None:
        """Has another process do the jobs that are expected."""
        expected, self._expected = self._expected, None
        jobs = () if expected is None else expected()
        if len(jobs) >= self._fewest:
            crew = Crew(jobs)
            # With too many files or processes there is none.
            with contextlib.suppress(OSError):
                crew.welcome(self._hire)
            if self._process is not None:
                self._crew = crew
                return
            crew.leave()
        self._close()

    def _hire(self, files: Sequence[int], work: Callable[[], None]) -> tuple[int, Callable[[], bool]]:
        # The child forgets all that is the parent's.
        file, self._file = self._file, None
        assert file is not None
        try:
            self._process = Process(lambda answers: fork(lambda: self._work(answers, file, files, work)))
        finally:
            self._file = file
        return self._process.pid, self._process.has_ended

    def end(self) -> None:
        """Lets the process begin with no further job; it ends by itself then."""
        crew = self.hand_over()
        if crew is not None:
            crew.leave()

    def hand_over(self) -> Crew | None:
        """A crew in which the process is, whose jobs are those that are begun; None if there is none."""
        self.look()
        crew, self._crew = self._crew, None
        if crew is not None:
            while crew.take() is not None:
                pass
        return crew

    # --- who compiles what --------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, digest: str) -> Iterator[bool]:
        """A block in which no other process compiles the kernel of a digest, and whether one may have done it before.

        Raises: BlockingIOError in the process that builds ahead if another one compiles it.
        """
        place = int(digest[:_DIGITS], 16)
        shared = self._lock(place, waits=False) if self._answers is not None else self._lock_at_last(place)
        try:
            yield shared
        finally:
            self._unlock(place)

    def tell(self, digest: str) -> None:
        """Tells who began this process, if it builds ahead, what it compiled."""
        if self._answers is not None:
            os.write(self._answers, digest.encode() + b"\n")

    def has_made(self, digest: str) -> bool:
        """Whether what is on disk under a digest was compiled for this process."""
        self.look()
        return digest in self._made

    def _lock_at_last(self, place: int) -> bool:
        """Locks a place, if need be when the other process is through with it; does other jobs meanwhile."""
        while True:
            try:
                return self._lock(place, waits=False)
            except BlockingIOError:
                job = None if self._crew is None else self._crew.take()
                if job is None:
                    return self._lock(place)
            except (OSError, ValueError):
                # Nothing can be locked: to wait does no harm.
                return self._lock(place)
            # Who needs what it builds finds what is wrong.
            with contextlib.suppress(Exception):
                job()

    def _lock(self, place: int, *, waits: bool = True) -> bool:
        """Locks a place of the file for this process; whether there is a file."""
        file = self._file
        if file is None:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB), 1, place)
        except (OSError, ValueError):
            # It is closed as soon as anybody sees that there is no other process any more.
            if not waits:
                raise
        return True

    def _unlock(self, place: int) -> None:
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                fcntl.lockf(file, fcntl.LOCK_UN, 1, place)

    # --- the process --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Takes note of what the process did. Cost: some microseconds."""
        process = self._process
        if process is None:
            return
        # Whether it ended is asked first: whatever it answered is then there to be read.
        ended = process.has_ended()
        self._made.update(line.decode() for line in process.answers())
        if ended:
            self._drop()

    def kill(self) -> None:
        """Ends the process at once; what it made up to then is on disk."""
        if self._process is not None:
            self._process.kill()
            self._drop()

    def _drop(self) -> None:
        assert self._process is not None
        self._process.close()
        self._process = None
        self._leave()
        self._close()

    def _leave(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.leave()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def forget(self) -> None:
        """In a forked child, which has nothing to do with the process: as long as it held it open, it would not end."""
        self._expected = None
        if self._process is not None:
            self._drop()

    def _work(self, answers: int, file: IO[bytes], files: Sequence[int], work: Callable[[], None]) -> None:
        # Who began it may be gone.
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        self._file, self._answers = file, alone_with(answers, file.fileno(), *files)
        work()


AHEAD = Ahead()
"""The one process that builds ahead."""
os.register_at_fork(after_in_child=AHEAD.forget)
atexit.register(AHEAD.kill)
