"""Programs: a list of launches, with their memory and their threads, that one native call runs.

In: launches in stages, with arguments that are fixed, in the program's arena, or given at each call.
Out: `Program.run(pointers, scalars)`, which gives 0 or the error of the first launch that failed.
Must not know: what a kernel computes, or why the launches stand in this order.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tracejit.config import SETTINGS
from tracejit.kernels.threads import (
    BLOCK,
    CHUNKS,
    ERROR_SHIFT,
    MUTEX,
    PARALLEL,
    POINTER_PATCHES,
    POINTER_TABLE,
    PROGRAM_THREADS,
    PROGRAM_WORDS,
    RANGES,
    RELEASE,
    SCALAR_PATCHES,
    SCALAR_TABLE,
    SEGMENTS,
    TASK_WORDS,
    TASKS,
    TIMES,
    TRIAL,
    TRIAL_ALONE,
    TRIAL_WORDS,
    read_ticks,
)
from tracejit.runtime.blocks import BLOCKS
from tracejit.runtime.build import Kernel, build
from tracejit.runtime.entry import ENTRY, MAX_SLOTS, OTHER_THREADS
from tracejit.runtime.pages import LARGE, pages
from tracejit.runtime.shares import Segment, Task, segment, sharing_threshold
from tracejit.runtime.team import TEAM, address_of, aligned_words

_ALIGNMENT = 64
_TRIED_NS = 1_000_000.0
"""A shared program that takes less tries whether one thread alone is faster: results that go from one CPU's caches to
another's may take longer than their computation, and how long that takes is different on every machine."""
_RELEASE_NS = 200_000.0
"""A program that takes longer lets other Python threads run meanwhile. Python itself makes them wait 5 ms, and a replay
that nobody can disturb need not take gradients from their tensors before it writes where they were."""


class Address(NamedTuple):
    """An argument slot: `offset` bytes into buffer `buffer` of the program."""

    buffer: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ScalarRef:
    """An argument slot: the scalar `index` of the call."""

    index: int


Slot = int | float | Address | ScalarRef


class _Buffer(NamedTuple):
    """External buffer number `place`, or the arena from byte `place` on, or the fixed address `place`."""

    kind: str
    place: int


class _Launch(NamedTuple):
    kernel: Kernel
    slots: tuple[Slot, ...]
    units: int
    unit_cost: float
    stage: int
    fails: bool = False
    strand: int = 0
    parts: int = 0
    grain: int = 1
    block: int = 0

    @property
    def cost(self) -> float:
        return self.units * self.unit_cost


def _float_bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Arena:
    """Memory for the intermediate values of programs of which only one runs at a time."""

    def __init__(self) -> None:
        self._memory = aligned_words(0).view(np.uint8)

    def take(self, nbytes: int) -> np.ndarray:
        """Memory of at least this size: the same for all programs as long as none needs more."""
        if nbytes > self._memory.nbytes:
            # Half as much again, so that sizes that grow step by step leave few outgrown arenas behind.
            size = max(nbytes, self._memory.nbytes * 3 // 2)
            if size >= 2 * LARGE:
                # What operations took one by one, of which most is in here from now on.
                BLOCKS.release()
            self._memory = pages(size) if size >= 2 * LARGE else aligned_words(-(-size // 8)).view(np.uint8)
        return self._memory


LENT = Arena()
"""Stands for memory that each run is given: its address is one more pointer, behind those of the external buffers."""


class ProgramBuilder:
    """Collects launches and buffers, then makes a `Program` of them.

    >>> import numpy as np
    >>> from tracejit.runtime.build import build
    >>> text = "def twice(p, lo, hi):\\n"
    >>> text += "    for i in range(lo, hi):\\n"
    >>> text += "        store_f64(load_arg(p, 1), i, load_f64(load_arg(p, 0), i) * arg_f64(p, 2))\\n"
    >>> text += "    return 0\\n"
    >>> builder = ProgramBuilder()
    >>> x, y, factor = builder.external(), builder.external(), builder.scalar()
    >>> slots = [Address(x), Address(y), factor]
    >>> builder.add_launch(build(text, "twice"), slots, units=3, unit_cost=1.0, stage=0)
    0
    >>> program = builder.build()
    >>> source, target = np.arange(3.0), np.zeros(3)
    >>> program.run(np.array([source.ctypes.data, target.ctypes.data]), np.array([2.0]))
    0
    >>> target
    array([0., 2., 4.])
    """

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._launches: list[_Launch] = []
        self._pinned: list[np.ndarray] = []
        self._externals = 0
        self._scalars = 0
        self._arena_bytes = 0

    def external(self, count: int = 1) -> int:
        """A buffer whose address each call gives, the first of so many; the k-th is the k-th of the call's pointers."""
        first = len(self._buffers)
        self._buffers += [_Buffer("external", self._externals + k) for k in range(count)]
        self._externals += count
        return first

    def arena(self, offset: int, nbytes: int) -> int:
        """A buffer of the program's own memory, `nbytes` from byte `offset` of the arena on.

        Raises: ValueError unless the offset is a multiple of 64.
        """
        if offset < 0 or offset % _ALIGNMENT:
            raise ValueError(f"expected an arena offset that is a multiple of {_ALIGNMENT}, got {offset}")
        self._arena_bytes = max(self._arena_bytes, offset + nbytes)
        self._buffers.append(_Buffer("arena", offset))
        return len(self._buffers) - 1

    def pinned(self, array: np.ndarray) -> int:
        """A buffer that is an array, which the program keeps alive."""
        self._pinned.append(array)
        self._buffers.append(_Buffer("pinned", array.ctypes.data))
        return len(self._buffers) - 1

    def scalar(self) -> ScalarRef:
        """A scalar that each call gives; the k-th of them is the k-th of the call's scalars."""
        self._scalars += 1
        return ScalarRef(self._scalars - 1)

    def add_launch(
        self,
        kernel: Kernel,
        slots: Sequence[Slot],
        *,
        units: int,
        unit_cost: float,
        stage: int,
        fails: bool = False,
        strand: int = 0,
        parts: int = 0,
        grain: int = 1,
        block: int = 0,
    ) -> int:
        """Adds a launch over `units` of `unit_cost` nanoseconds each; gives its index.

        Launches of one stage must not depend on each other; stages run in ascending order. `fails` is for
        `written_last` alone: every launch's error code is looked at. The stages of a `strand` other than 0 follow one
        another, hold no other launches and none that fails; each of its launches is cut into so many equal `parts`,
        whose k-th depends on k-th ones alone, and threads do not wait for each other between its stages. So many units
        as `grain` stay together where shares are large enough. Launches of a strand that follow one another and have a
        `block` other than 0 are done for so many of the parts at a time.

        Raises: ValueError on an unknown buffer or scalar, or units that such parts do not divide.
        """
        buffers, scalars = len(self._buffers), self._scalars
        for slot in slots:
            if type(slot) is Address:
                if not 0 <= slot.buffer < buffers:
                    raise ValueError(f"the program has no buffer {slot.buffer}")
            elif type(slot) is ScalarRef and not 0 <= slot.index < scalars:
                raise ValueError(f"the program has no scalar {slot.index}")
        if units < 0:
            raise ValueError(f"expected a number of units, got {units}")
        if strand and (parts < 1 or units % parts):
            raise ValueError(f"expected units that {parts} parts divide, got {units}")
        launch = _Launch(kernel, tuple(slots), units, float(unit_cost), stage, fails, strand, parts, grain, block)
        self._launches.append(launch)
        return len(self._launches) - 1

    def build(self, arena: Arena | None = None) -> Program:
        """The program of everything added so far, in an arena of its own, in one that it shares, or in `LENT`."""
        memory = None if arena is LENT else (Arena() if arena is None else arena).take(self._arena_bytes)
        return Program(self._launches, self._buffers, self._pinned, self._externals, self._scalars, memory)


def _table(words: Sequence[int]) -> np.ndarray:
    table = aligned_words(len(words) + 1)
    # NumPy looks at each item of a list.
    table[: len(words)] = array("q", words)
    return table


@dataclass(frozen=True, slots=True)
class _Layout:
    """A program cut up for a number of threads, and the tables that its control block points to."""

    segments: list[Segment]
    control: np.ndarray
    tables: tuple[np.ndarray, ...]
    tasks: tuple[Task, ...]
    times: np.ndarray
    trial: np.ndarray

    def measure(self, wanted: bool) -> None:
        """Makes runs note when each task begins and ends, or not."""
        self.times[:] = 0
        self.control[TIMES] = self.times.ctypes.data if wanted else 0


class Program:
    """A list of launches that runs in one native call; made by `ProgramBuilder`.

    Two Python threads that run one program take turns, as it has one arena.
    """

    def __init__(
        self,
        launches: Sequence[_Launch],
        buffers: Sequence[_Buffer],
        pinned: Sequence[np.ndarray],
        externals: int,
        scalars: int,
        arena: np.ndarray | None,
    ) -> None:
        self.externals = externals
        self.scalars = scalars
        self.launches = tuple(launch.kernel.name for launch in launches)
        self.arena = arena
        self._launches = tuple(launches)
        self._places = [buffer.place if buffer.kind == "external" else None for buffer in buffers]
        self._pinned = tuple(pinned)
        self._run, self._run_on = ENTRY.run, ENTRY.run_on
        self._threshold = sharing_threshold(launches, SETTINGS.parallel_us * 1e3)
        self._mutex = aligned_words(1)
        self._lay_out_slots(buffers)
        # A layout is never changed, as a thread may be running it; a new number of threads makes another one.
        self._layouts: dict[int, _Layout] = {}
        self._measured = False
        self._use_layout()
        _programs.add(self)

    def _lay_out_slots(self, buffers: Sequence[_Buffer]) -> None:
        pointers: list[int] = []
        scalars: list[int] = []
        words: list[int] = []
        places = self._find(buffers)
        for at, slot in enumerate(itertools.chain.from_iterable([launch.slots for launch in self._launches])):
            if type(slot) is int:
                words.append(slot)
            elif type(slot) is Address:
                pointer, begin = places[slot.buffer]
                if pointer is None:
                    words.append(begin + slot.offset)
                else:
                    pointers += (at, pointer, begin + slot.offset)
                    words.append(0)
            elif type(slot) is ScalarRef:
                scalars += (at, slot.index)
                words.append(0)
            else:
                words.append(_float_bits(slot) if isinstance(slot, float) else slot)  # type: ignore[arg-type]
        self._block = _table(words)
        lengths = [8 * len(launch.slots) for launch in self._launches]
        self._block_of = [*itertools.accumulate(lengths, initial=self._block.ctypes.data)]
        self._patches = (len(pointers) // 3, _table(pointers), len(scalars) // 2, _table(scalars))

    def _find(self, buffers: Sequence[_Buffer]) -> list[tuple[int | None, int]]:
        """Of each buffer which of a call's pointers leads to it, if one does, and the bytes from there or its address.
        """
        pointer, begin = (self.externals, 0) if self.arena is None else (None, self.arena.ctypes.data)
        return [
            (place, 0) if kind == "external" else (pointer, begin + place) if kind == "arena" else (None, place)
            for kind, place in buffers
        ]

    def _use_layout(self) -> None:
        threads = TEAM.threads
        layout = self._layouts.get(threads)
        if layout is None:
            layout = self._layouts[threads] = self._lay_out_tasks(threads)
        self.segments = layout.segments
        self._control = layout.control
        self._threads = threads
        layout.measure(self._measured)

    def _lay_out_tasks(self, threads: int) -> _Layout:
        segments = segment(self._launches, threads, self._threshold)
        chunks = [chunk for shares in segments for share in shares for chunk in share]
        tasks = [task for chunk in chunks for task in chunk]
        words: list[int] = []
        for launch, low, high in tasks:
            words += (self._launches[launch].kernel.address, self._block_of[launch], low, high, launch)
        table = _table(words)
        assert len(table) == len(tasks) * TASK_WORDS + 1
        lengths = (len(share) for shares in segments for share in shares)
        ranges = _table([*itertools.accumulate(lengths, initial=0)])
        begins = _table([*itertools.accumulate(map(len, chunks), initial=0)])
        control = aligned_words(PROGRAM_WORDS)
        control[MUTEX] = self._mutex.ctypes.data
        control[BLOCK] = self._block.ctypes.data
        control[POINTER_PATCHES], control[SCALAR_PATCHES] = self._patches[0], self._patches[2]
        control[POINTER_TABLE] = self._patches[1].ctypes.data
        control[SCALAR_TABLE] = self._patches[3].ctypes.data
        control[PROGRAM_THREADS] = threads
        control[SEGMENTS] = len(segments)
        control[RANGES] = ranges.ctypes.data
        control[CHUNKS] = begins.ctypes.data
        control[TASKS] = table.ctypes.data
        control[PARALLEL] = any(any(shares[1:]) for shares in segments)
        control[RELEASE] = self.releases
        trial = aligned_words(TRIAL_WORDS)
        if control[PARALLEL] and sum(launch.cost for launch in self._launches) < _TRIED_NS:
            control[TRIAL] = trial.ctypes.data
        times = aligned_words(2 * len(tasks) + 1)
        return _Layout(segments, control, (table, ranges, begins), tuple(tasks), times, trial)

    def measure(self, wanted: bool) -> None:
        """Makes runs note when each task begins and ends, for `timeline`, or not."""
        self._measured = wanted
        self._layouts[self._threads].measure(wanted)

    @property
    def trial(self) -> np.ndarray:
        """The words of the trial whether sharing is worth it, which runs of a short program write."""
        return self._layouts[self._threads].trial

    @property
    def stays_alone(self) -> bool:
        """Whether one thread alone was found faster than the team, the last time that both were tried."""
        return bool(self.trial[TRIAL_ALONE])

    def timeline(self) -> list[tuple[int, int, int]]:
        """The tasks of the last run since `measure`: launch, beginning and end in ticks. Empty if there was none."""
        layout = self._layouts[self._threads]
        times = layout.times.tolist()
        ran = [(task.launch, times[2 * k], times[2 * k + 1]) for k, task in enumerate(layout.tasks)]
        return ran if any(end for *_, end in ran) else []

    def expected(self, launch: int) -> float:
        """What the cost model expects of a launch, in seconds."""
        return self._launches[launch].cost * 1e-9

    def run(self, pointers: np.ndarray, scalars: np.ndarray) -> int:
        """Runs the program; gives 0, or the error of the first launch that failed, which `failure` explains.

        `pointers` holds the addresses of the external buffers (int64), `scalars` the scalars as float64 or, where a
        kernel reads an integer, the int64 of it in the same eight bytes. Both must be contiguous and long enough.

        Edge: after a failure, launches of later stages have not run.
        Cost: less than 1 us beyond the kernels.
        """
        code = self._run(self._control, pointers, scalars)
        while code == OTHER_THREADS:
            self._use_layout()
            code = self._run(self._control, pointers, scalars)
        return code

    def run_on(self, scalars: np.ndarray, *arrays: np.ndarray) -> int:
        """`run` on arrays, whose addresses are the pointers. Cost: up to `MAX_SLOTS` of them less than half of it."""
        if len(arrays) > MAX_SLOTS:
            return self.run(np.array([address_of(a) for a in arrays], np.int64), scalars)
        code = self._run_on(self._control, scalars, *arrays)
        while code == OTHER_THREADS:
            self._use_layout()
            code = self._run_on(self._control, scalars, *arrays)
        return code

    @property
    def control(self) -> np.ndarray:
        """What `ENTRY.run` takes for this program at the number of threads it ran with last."""
        return self._control

    def failure(self, result: int) -> tuple[int, str, int]:
        """Launch index, kernel name and error code that a result of `run` other than 0 stands for."""
        launch = result >> ERROR_SHIFT
        return launch, self.launches[launch], result & ((1 << ERROR_SHIFT) - 1)

    def first_user(self, buffer: int) -> Kernel | None:
        """The kernel of the first launch that is given a buffer, in the order of stages: of an output, its writer."""
        for launch in sorted(self._launches, key=lambda launch: launch.stage):
            if any(isinstance(slot, Address) and slot.buffer == buffer for slot in launch.slots):
                return launch.kernel
        return None

    def written_last(self, external: int) -> bool:
        """Whether an external buffer is used only in stages behind every launch that may fail: where `run` gives an
        error, nothing has been written there.
        """
        return external not in self._used_early

    @cached_property
    def _used_early(self) -> frozenset[int | None]:
        """The external buffers that are used in stages up to the last one with a launch that may fail."""
        checked = max((launch.stage for launch in self._launches if launch.fails), default=-1)
        return frozenset(
            self._places[slot.buffer]
            for launch in self._launches
            if launch.stage <= checked
            for slot in launch.slots
            if isinstance(slot, Address)
        )

    @property
    def releases(self) -> bool:
        """Whether other Python threads may run while the program does."""
        return bool(sum(launch.cost for launch in self._launches) >= _RELEASE_NS)

    def forget(self) -> None:
        """In a forked child, where a thread that was running this program does not exist."""
        self._mutex[0] = 0


def seconds_of_tick() -> float:
    """How long a tick of the CPU's counter takes.

    Cost: 20 ms.
    """
    kernel, found = build(read_ticks).address, np.zeros(1, np.int64)
    ENTRY.launch(kernel, 1, 0.0, found)
    first, begin = int(found[0]), time.perf_counter()
    time.sleep(0.02)
    ENTRY.launch(kernel, 1, 0.0, found)
    return (time.perf_counter() - begin) / max(1, int(found[0]) - first)


_programs: weakref.WeakSet[Program] = weakref.WeakSet()


def _forget_all() -> None:
    for program in _programs:
        program.forget()


os.register_at_fork(after_in_child=_forget_all)
