"""Loader workers: forked processes that fetch batches and send them back through a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import random
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from tracejit.data.fetch import Fetcher
from tracejit.tensor import manual_seed

__all__ = ["Failure", "Finished", "Worker", "WorkerInfo", "get_worker_info"]


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker knows of itself."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


class _Here:
    """This process."""

    info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """What this worker knows of itself; None in the main process."""
    return _Here.info


@dataclass(frozen=True)
class Finished:
    """A worker's answer where its dataset has come to its end."""


@dataclass(frozen=True)
class Failure:
    """A worker's answer where fetching raised: the exception's type and its text with the traceback."""

    kind: type[BaseException]
    text: str
    number: int

    def reraise(self) -> None:
        """Raise an exception of the same type with the worker's traceback in its text."""
        message = f"Caught {self.kind.__name__} in DataLoader worker process {self.number}.\nOriginal {self.text}"
        if self.kind is KeyError:
            # A KeyError shows its argument's repr, which would make one line of the traceback.
            raise KeyError(_Verbatim(message))
        try:
            error = self.kind(message)
        except TypeError:
            # An exception whose constructor wants other arguments.
            error = RuntimeError(message)
        raise error


class _Verbatim(str):
    def __repr__(self) -> str:
        return str(self)


class Worker:
    """One forked process with a pipe. Batches come back in the order in which they were asked for."""

    def __init__(
        self,
        make_fetcher: Callable[[], Fetcher],
        info: WorkerInfo,
        init: Callable[[int], Any] | None,
        inherited: list[Connection],
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.number = info.id
        self.pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=_work, args=(make_fetcher, info, init, far_end, [self.pipe, *inherited]), daemon=True
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads. Workers run no kernel threads of their parent: the
            # runtime starts its team anew in a forked child.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        far_end.close()

    def ask(self, indices: Any) -> None:
        """Ask for a batch."""
        self._send(indices)

    def _send(self, message: Any) -> None:
        try:
            self.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def receive(self, timeout: float) -> Any:
        """The next answer.

        Raises: RuntimeError where the worker died, or where nothing came within ``timeout`` seconds (0: no limit).
        """
        ready = wait([self.pipe, self._process.sentinel], timeout or None)
        if not ready:
            raise RuntimeError(f"DataLoader timed out after {timeout} seconds")
        if not self.pipe.poll():
            raise self._died()
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error

    def _died(self) -> RuntimeError:
        self._process.join(1.0)
        return RuntimeError(
            f"DataLoader worker {self.number} (pid {self._process.pid}) exited unexpectedly with exit code "
            f"{self._process.exitcode}"
        )

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            # It is in the middle of a batch that nobody waits for.
            self._process.terminate()
            self._process.join()
        self._process.close()


def _work(
    make_fetcher: Callable[[], Fetcher],
    info: WorkerInfo,
    init: Callable[[int], Any] | None,
    pipe: Connection,
    inherited: list[Connection],
) -> None:
    _Here.info = info
    # The parent's ends must be open in the parent only, or no worker would see it go.
    for connection in inherited:
        connection.close()
    # A thread takes the questions in, so that the parent never waits to put one while this process waits to
    # send a batch.
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, questions), daemon=True).start()
    failure: Failure | None = None
    fetcher: Fetcher | None = None
    try:
        random.seed(info.seed)
        np.random.seed(info.seed % 2**32)
        manual_seed(info.seed)
        if init is not None:
            init(info.id)
        fetcher = make_fetcher()
    except Exception as error:  # noqa: BLE001 - it is raised in the parent
        failure = _failure(error, info.id)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while (question := questions.get()) is not _END:
            answer: Any = failure
            if fetcher is not None:
                try:
                    answer = ("batch", fetcher.fetch(question))
                except StopIteration:
                    answer = Finished()
                except Exception as error:  # noqa: BLE001 - it is raised in the parent
                    answer = _failure(error, info.id)
            try:
                pipe.send(answer)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - it is raised in the parent
                # The batch, or the exception's type, cannot be pickled.
                pipe.send(Failure(RuntimeError, _failure(error, info.id).text, info.id))


_END = object()


def _listen(pipe: Connection, questions: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            questions.put(pipe.recv())
    except (EOFError, OSError):
        questions.put(_END)


def _failure(error: Exception, number: int) -> Failure:
    return Failure(type(error), "".join(traceback.format_exception(error)), number)
