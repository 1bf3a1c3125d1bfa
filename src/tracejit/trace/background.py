"""Another process that compiles while eager goes on, and hands over what it made through the cache on disk.

In: graphs and kernels that are not on disk. Out: `Job`s, which say when to look there, or why it is not worth it.
Must not know: regions, trees.

There is one such process at a time. It takes all that was asked for until it begins, answers after each job, and ends;
what is asked for meanwhile is the next one's. No thread of this process waits for it: whoever needs a program looks.

It is a fork where that is safe and cheap, which begins at once. Beside other Python threads, whose locks a fork would
keep for ever, and where much memory would have to be copied because training goes on to write it, it is a new
interpreter, which takes a second more to begin.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import marshal
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tracejit.compiler import compile_kernels, compile_text
from tracejit.config import SETTINGS, logger, thread_budget
from tracejit.runtime.build import limit_workers
from tracejit.runtime.cache import STORE
from tracejit.runtime.process import STANDARD, Process, alone_with, fork, may_fork
from tracejit.runtime.recipe import Origin, plain

_log = logger("timing")
GRAPH, KERNELS = "graph", "kernels"
"""What a job is about."""
_JOB_SECONDS = 60.0
"""How long one job may take."""
_START = "import sys; sys.path[:] = {path!r}; from tracejit.trace.background import serve; serve()"
_Request = tuple[str, str, Any]
"""Key, kind and content of a job."""


@dataclass(slots=True, eq=False)
class Job:
    """Something that another process is to compile, named by its content.

    `done` says that there is nothing to wait for, `error` why it was not compiled, `seconds` how long it took there.
    """

    key: str
    kind: str
    content: Any
    done: bool = False
    error: str | None = None
    seconds: float = 0.0

    def end(self, error: str | None = None, seconds: float = 0.0) -> None:
        """It is over."""
        self.content, self.done, self.error, self.seconds = None, True, error, seconds

    def fail(self, error: str) -> None:
        """It could not be done."""
        _log.warning("not compiled in the background, so a call will wait for it: %s", error)
        self.end(error)


class Worker:
    """The process that compiles, if there is one, and what is to be done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[Job] = []
        self._given: list[Job] = []
        self._process: Process | None = None
        self._deadline = 0.0
        self._broken: str | None = None

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be compiled by another process."""
        if not STORE.usable:
            return "the cache on disk, through which another process would hand it over, is off or cannot be written"
        return self._broken

    @property
    def pid(self) -> int | None:
        """The process that compiles now."""
        return None if self._process is None else self._process.pid

    def compile_graph(self, key: str, content: str) -> Job:
        """Asks for the program of a graph's text, which is to be found on disk under a digest."""
        return self._ask(Job(key, GRAPH, content))

    def compile_kernels(self, key: str, texts: Sequence[tuple[str, str]], origins: Sequence[Origin]) -> Job:
        """Asks for kernels: texts with their names, and kernels of the library with the calls they are for."""
        return self._ask(Job(key, KERNELS, (list(texts), [plain(origin) for origin in origins])))

    def _ask(self, job: Job) -> Job:
        with self._lock:
            for other in (*self._given, *self._queue):
                if other.key == job.key:
                    return other
            self._queue.append(job)
            self._look()
        return job

    def look(self) -> None:
        """Takes note of what the process did meanwhile, and lets the next one begin. Cost: some microseconds."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        process = self._process
        if process is not None:
            # Whether it ended is asked first: whatever it answered is then there to be read.
            ended = process.has_ended()
            self._read(process)
            if not self._given:
                # It is about to end, and leaves no zombie if it is waited for.
                process.kill()
                self._close(process)
            elif ended:
                self._end(process, f"the process that compiled it ended with status {process.status}")
            elif time.monotonic() > self._deadline:
                process.kill()
                self._end(process, f"it took longer than {_JOB_SECONDS:.0f} s")
        if self._process is None and self._queue:
            self._start()

    def _read(self, process: Process) -> None:
        for found in map(_answer, process.answers()):
            for job in self._given:
                if job.key == found.get("key"):
                    if found["error"] is None:
                        job.end(seconds=found["seconds"])
                    else:
                        job.fail(found["error"])
                    process.answered = True
                    self._deadline = time.monotonic() + _JOB_SECONDS
        self._given = [job for job in self._given if not job.done]

    def _end(self, process: Process, error: str) -> None:
        """The process is gone: the job that it had begun is lost, the others are another one's."""
        self._close(process)
        if process.status is not None and process.status > 0 and not process.answered:
            # It did not even begin, and another one would not either.
            self._broken = error
        self._given.pop(0).fail(error)
        self._queue[:0] = self._given
        self._given = []

    def _close(self, process: Process) -> None:
        process.close()
        self._process = None

    def _start(self) -> None:
        self._given, self._queue = self._queue, []
        requests = [(job.key, job.kind, job.content) for job in self._given]
        start = _fork if may_fork() else _spawn
        try:
            self._process = Process(lambda answers: start(requests, answers))
        except OSError as error:
            self._broken = f"no process could be started: {error}"
            for job in self._given:
                job.fail(self._broken)
            self._given = []
        self._deadline = time.monotonic() + _JOB_SECONDS

    def stop(self) -> None:
        """Ends the process at once; what it made up to then is on disk."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
            self._drop("the process that compiled it was ended")

    def forget(self) -> None:
        """In a forked child, to which the process does not answer."""
        self._lock = threading.Lock()
        self._drop("it was asked for before a fork")

    def _drop(self, error: str) -> None:
        if self._process is not None:
            self._close(self._process)
        for job in (*self._given, *self._queue):
            job.end(error)
        self._given, self._queue = [], []


def _answer(line: bytes) -> dict[str, Any]:
    """An answer of the process; nothing if the line is none, such as what the site's start-up code may print."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.keys() == {"key", "error", "seconds"} else {}


def _fork(requests: list[_Request], answers: int) -> int:
    return fork(lambda: _work(requests, alone_with(answers)))


def _spawn(requests: list[_Request], answers: int) -> int:
    # A file, as a pipe would have to be written bit by bit while the process reads it.
    with tempfile.TemporaryFile() as given, contextlib.ExitStack() as files:
        for request in requests:
            marshal.dump(request, given)
        given.seek(0)
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        for target, file in enumerate((given.fileno(), answers)):
            # Not itself one of the files that are set here.
            source = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, STANDARD)
            files.callback(os.close, source)
            actions.append((os.POSIX_SPAWN_DUP2, source, target))
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        return os.posix_spawn(sys.executable, command, _environment(), file_actions=actions, setpgroup=0)


def _environment() -> dict[str, str]:
    """The environment of a new interpreter: the same settings, even if the variables changed since they were read."""
    values = {name: int(value) if isinstance(value, bool) else value for name, value in asdict(SETTINGS).items()}
    values.update(cache_dir=STORE.directory, background=0, check=0, log="")
    settings = {f"TRACEJIT_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **settings, "PYTHONWARNINGS": "ignore"}


WORKER = Worker()
"""The one process that compiles for all regions."""
os.register_at_fork(after_in_child=WORKER.forget)
atexit.register(WORKER.stop)


class Pending(Exception):
    """A job has to be done first."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.key)
        self.job = job


@dataclass(slots=True)
class Elsewhere:
    """Has a program compiled by another process, if it can.

    `asked` is a job that was done for it before, `reason` says why this process has to compile it.
    """

    asked: Job | None
    reason: str = ""

    def graph(self, key: str | None, content: str) -> None:
        """The program of a graph is needed.

        Raises: Pending if another process compiles it.
        """
        if key is None:
            self.reason = self.reason or "its graph is not one that the cache on disk keeps"
        elif self._may_ask(key):
            self._wait(WORKER.compile_graph(key, content))

    def kernels(self, key: str, texts: Sequence[tuple[str, str]], origins: Sequence[Origin]) -> None:
        """Kernels are needed.

        Raises: Pending if another process compiles them.
        """
        if self._may_ask(key):
            self._wait(WORKER.compile_kernels(key, texts, origins))

    def _may_ask(self, key: str) -> bool:
        if self.reason:
            return False
        if WORKER.obstacle is not None:
            self.reason = WORKER.obstacle
        elif self.asked is not None and (self.asked.error is not None or self.asked.key == key):
            self.reason = self.asked.error or "what another process made is not on disk any more"
        return not self.reason

    def _wait(self, job: Job) -> None:
        if not job.done:
            raise Pending(job)
        self.reason = job.error or ""


# --- in the other process ---------------------------------------------------------------------------------------------


def serve() -> None:
    """Does the jobs that standard input holds, and answers to standard output with a line for each."""
    gc.disable()
    requests = os.dup(0)
    answers = alone_with(os.dup(1), requests)
    with open(requests, "rb") as file:
        _work(_requests(file), answers)


def _requests(file: Any) -> Iterable[_Request]:
    while True:
        try:
            yield marshal.load(file)
        except EOFError:
            return


def _work(requests: Iterable[_Request], answers: int) -> None:
    # Half of the processors are left to what goes on in the process that asked.
    limit_workers(max(1, thread_budget(SETTINGS, os.environ) // 2))
    for key, kind, content in requests:
        # Who asked may be gone: it ends those that take too long only while it is there.
        signal.setitimer(signal.ITIMER_REAL, 2 * _JOB_SECONDS)
        begin = time.perf_counter()
        error = None
        try:
            if kind == GRAPH:
                compile_text(key, content)
            else:
                compile_kernels(*content)
        except Exception as e:  # noqa: BLE001 - whatever it is, who asked finds it too when it compiles
            error = f"{type(e).__name__}: {e}"
        answer = {"key": key, "error": error, "seconds": time.perf_counter() - begin}
        os.write(answers, json.dumps(answer).encode() + b"\n")
