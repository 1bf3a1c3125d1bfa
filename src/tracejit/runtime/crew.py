"""Processes that compile beside this one, into the disk cache.

In: jobs. Out: nothing; whoever asks for what a job leaves on disk finds whether it was done.
Must not know: what a job compiles.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import select
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import IO, NoReturn

Job = Callable[[], object]
"""What a process does at a time."""
_INDEX_BYTES = 4
_CHILD_SECONDS = 60.0


def _has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0


def is_possible() -> bool:
    """Whether a process may be forked: one waits for ever for a lock that another Python thread held."""
    return threading.active_count() == 1


class Crew:
    """Jobs, and processes that take one after another; this one is among them from `finish` on.

    Jobs that are added when processes have begun are pickled.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = list(jobs)
        self._children: list[tuple[int, Callable[[], bool]]] = []
        self._is_open = True
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._added: IO[bytes] | None = None
        self._seen = 0
        self._post(0)

    def _post(self, first: int) -> None:
        """Offers the jobs from the first one on."""
        numbers = range(first, len(self._jobs))
        os.write(self._writer, b"".join(number.to_bytes(_INDEX_BYTES, "little") for number in numbers))

    def hire(self, workers: int) -> None:
        """Lets so many processes work, this one among them; fewer where nothing can be left for them."""
        if len(self._children) >= workers - 1:
            return
        try:
            self._added = self._added or tempfile.TemporaryFile()  # noqa: SIM115 - closed with the crew
        except OSError:
            return
        with warnings.catch_warnings():
            # Python warns of a fork beside native threads; the child only compiles, and nobody relies on it.
            warnings.simplefilter("ignore", DeprecationWarning)
            while len(self._children) < workers - 1:
                child = os.fork()
                if child == 0:
                    self._work_in_child()
                self._children.append((child, functools.partial(_has_ended, child)))

    def welcome(self, begin: Callable[[Sequence[int], Callable[[], None]], tuple[int, Callable[[], bool]]]) -> None:
        """Lets in a process that is begun in another way.

        `begin` gets the files that the process needs, and what it is to do; it gives the process and what tells whether
        that has ended.

        Raises: OSError if there can be none.
        """
        self._added = self._added or tempfile.TemporaryFile()  # noqa: SIM115 - closed with the crew
        self._children.append(begin((self._reader, self._added.fileno()), self._work_for_another))

    def take(self) -> Job | None:
        """A job that nobody has begun, and that nobody else will; None if there is none."""
        number = self._next(waits=False)
        return None if number is None else self._jobs[number]

    def add(self, jobs: Sequence[Job]) -> None:
        """More jobs."""
        first = len(self._jobs)
        self._jobs += jobs
        if self._added is not None:
            self._added.write(pickle.dumps(jobs))
            self._added.flush()
        self._post(first)

    def finish(self) -> None:
        """Works until no job is left, and waits for the others.

        Raises: what a job raises that this process does.
        """
        self._is_open = False
        os.close(self._writer)
        try:
            self._work()
        finally:
            self._close()

    def dismiss(self) -> None:
        """Takes back all jobs that nobody has begun, and waits for those that are begun; nothing if all is finished."""
        if not self._is_open:
            return
        self._is_open = False
        os.close(self._writer)
        while self._next(waits=True) is not None:
            pass
        self._close()

    def leave(self) -> None:
        """Leaves it to the others, who end without jobs, and waits for nobody; nothing if all is finished."""
        if self._is_open:
            self._is_open = False
            os.close(self._writer)
            self._close_files()

    def _close_files(self) -> None:
        os.close(self._reader)
        if self._added is not None:
            self._added.close()

    def _close(self) -> None:
        self._close_files()
        deadline = time.monotonic() + _CHILD_SECONDS
        for child, has_ended in self._children:
            while not has_ended():
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.001)

    def _next(self, *, waits: bool) -> int | None:
        """The number of a job that nobody has begun; None if there will be none, or, unless it waits, is none now."""
        while True:
            try:
                index = os.read(self._reader, _INDEX_BYTES)
            except BlockingIOError:
                if not waits:
                    return None
                ready = select.poll()
                ready.register(self._reader, select.POLLIN)
                ready.poll()
            else:
                return int.from_bytes(index, "little") if index else None

    def _work(self) -> None:
        while (number := self._next(waits=True)) is not None:
            self._jobs[number]()

    def _work_for_another(self) -> None:
        while (number := self._next(waits=True)) is not None:
            while number >= len(self._jobs):
                self._learn()
            # Whatever it is, who needs what is missing finds it too.
            with contextlib.suppress(Exception):
                self._jobs[number]()

    def _learn(self) -> None:
        """Reads jobs that were added."""
        assert self._added is not None
        file = self._added.fileno()
        data = io.BytesIO(os.pread(file, os.fstat(file).st_size - self._seen, self._seen))
        self._jobs += pickle.load(data)
        self._seen += data.tell()

    def _work_in_child(self) -> NoReturn:
        status = 1
        try:
            os.close(self._writer)
            self._work_for_another()
            status = 0
        finally:
            # Neither the parent's exit handlers nor its exceptions are the child's.
            os._exit(status)
