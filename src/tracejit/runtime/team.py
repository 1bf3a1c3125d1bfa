"""The team: native threads that share the work of heavy launches and programs, asleep when there is none.

In: the number of threads. Out: the launch function of `entry` that uses them.
Must not know: what the work is.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.config import SETTINGS, logger, thread_budget
from tracejit.kernels import threads as native_side
from tracejit.runtime import entry
from tracejit.runtime.build import build_together
from tracejit.runtime.entry import ENTRY

_log = logger("timing")
_libc = ctypes.CDLL(None)
_CALIBRATION_SPINS = 5_000
_ALONE = -1.0
"""A cost below every threshold, whatever `parallel_us` is."""


def aligned_words(count: int) -> np.ndarray:
    """`count` zero int64 words that begin on a 64-byte boundary."""
    raw = np.zeros(count + 8, np.int64)
    start = (-raw.ctypes.data % 64) // 8
    return raw[start : start + count]


class Team:
    """The process's threads. The calling thread is one of them; the others are started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lock = threading.RLock()
        self._handles: list[ctypes.c_ulong] = []
        # Never freed: a call in another Python thread may still read the block of a team that was stopped.
        self._blocks: list[np.ndarray] = []
        self._spins = 0
        self._starter = self.start
        state = ENTRY.state
        state[entry.THREADS] = threads
        state[entry.THRESHOLD : entry.THRESHOLD + 1].view(np.float64)[0] = SETTINGS.parallel_us * 1e3
        state[entry.STARTER] = id(self._starter)
        # One after another they took three times as long, most of it when the first heavy launch waits for a team.
        addresses = build_together(native_side.KERNELS, "team")
        state[entry.LAUNCH_ON_TEAM], state[entry.RUN_PROGRAM], self._worker, self._stop, self._spin = addresses

    @property
    def started(self) -> bool:
        """Whether the threads are running."""
        return bool(ENTRY.state[entry.TEAM])

    def start(self) -> None:
        """Starts the threads, if there are to be more than one and they are not running."""
        with self._lock:
            if self.started or self.threads <= 1:
                return
            self._calibrate()
            block = aligned_words(native_side.SHARES + native_side.LINE * self.threads)
            block[native_side.TEAM_THREADS] = self.threads
            block[native_side.SPINS] = self._spins
            self._blocks.append(block)
            # The workers inherit the mask: signals are for Python's own threads.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                for number in range(1, self.threads):
                    arguments = np.array([self._worker, block.ctypes.data, number], np.int64)
                    self._blocks.append(arguments)
                    self._handles.append(self._create(arguments))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ENTRY.state[entry.TEAM] = block.ctypes.data

    def _create(self, arguments: np.ndarray) -> ctypes.c_ulong:
        handle = ctypes.c_ulong()
        error = _libc.pthread_create(
            ctypes.byref(handle), None, ctypes.c_void_p(ENTRY.thread_main), ctypes.c_void_p(arguments.ctypes.data)
        )
        if error:
            raise OSError(error, f"cannot start a thread: {os.strerror(error)}")
        return handle

    def _calibrate(self) -> None:
        """How many spins take `spin_us`; the fastest of three measurements, as others may share the CPU."""
        if self._spins:
            return
        word = np.zeros(1, np.int64)
        fastest = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            ENTRY.launch(self._spin, _CALIBRATION_SPINS, _ALONE, word)
            fastest = min(fastest, time.perf_counter() - begin)
        self._spins = max(1, int(SETTINGS.spin_us * 1e-6 / fastest * _CALIBRATION_SPINS))
        _log.debug("a spin takes %.1f ns", fastest / _CALIBRATION_SPINS * 1e9)

    def stop(self) -> None:
        """Ends the threads; they are started again when needed."""
        with self._lock:
            address = int(ENTRY.state[entry.TEAM])
            if not address:
                return
            ENTRY.state[entry.TEAM] = 0
            ENTRY.launch(self._stop, 1, _ALONE, address)
            for handle in self._handles:
                _libc.pthread_join(handle, None)
            self._handles.clear()

    def resize(self, threads: int) -> None:
        """Sets the number of threads."""
        with self._lock:
            if threads != self.threads:
                self.stop()
                self.threads = threads
                ENTRY.state[entry.THREADS] = threads

    def forget(self) -> None:
        """In a forked child, which has none of the parent's threads: there is no team until one is needed."""
        self._lock = threading.RLock()
        self._handles.clear()
        ENTRY.state[entry.TEAM] = 0


TEAM = Team(thread_budget(SETTINGS, os.environ))
os.register_at_fork(after_in_child=TEAM.forget)
# The workers sleep in native code that is freed when the interpreter ends.
atexit.register(TEAM.stop)

launch: Callable[..., int] = ENTRY.launch
"""launch(kernel address, units, unit cost in ns, *slots) -> error code: runs a kernel at once.

A slot is an int, a float (its bits) or an array (its address). From `parallel_us` of cost on, the units are split
over the team. Raises: TypeError on anything else. Cost: about 0.1 us.
"""
address_of: Callable[[Any], int] = ENTRY.address_of
"""The address of an array's first element, as `array.ctypes.data`. Cost: 30 ns."""


def set_num_threads(count: int) -> None:
    """Sets the number of threads to compute with.

    Raises: ValueError unless it is positive.
    """
    if count < 1:
        raise ValueError(f"expected a positive number of threads, got {count}")
    TEAM.resize(int(count))


def get_num_threads() -> int:
    """The number of threads to compute with."""
    return TEAM.threads
