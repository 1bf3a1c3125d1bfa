"""Where the time of a compiled function goes: its kernels, measured while it does what it always does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracejit.compiler import Compiled
from tracejit.runtime.program import Program, seconds_of_tick
from tracejit.runtime.team import get_num_threads
from tracejit.tools import table
from tracejit.trace.compiled import region_of
from tracejit.trace.region import Region

CALLS = 20
Shot = tuple[float, list[tuple[Program, list[tuple[int, int, int]]]]]
"""A call: its seconds, and for each program that ran the launch, beginning and end of each task."""


@dataclass(slots=True)
class KernelTime:
    """A kernel's share of a call: its launches, its seconds on all threads, and what the cost model expected."""

    kernel: str
    launches: int = 0
    seconds: float = 0.0
    expected: float = 0.0


@dataclass(slots=True)
class Profile:
    """What a call costs: `seconds` in all, of which `python` are outside of programs; `kernels`, the dearest first.

    `idle` are the seconds that threads waited for one another, added up over threads; `threads` is their number.
    All figures are medians over `calls` calls.
    """

    name: str
    calls: int
    threads: int
    seconds: float
    python: float
    idle: float
    kernels: list[KernelTime] = field(default_factory=list)

    def __str__(self) -> str:
        busy = sum(k.seconds for k in self.kernels) or 1.0
        rows = [
            [
                k.kernel,
                str(k.launches),
                f"{k.seconds * 1e6:.1f}",
                f"{k.expected * 1e6:.1f}",
                f"{k.seconds / busy:.1%}",
            ]
            for k in self.kernels
        ]
        head = (
            f"{self.name}: {table.seconds(self.seconds)} a call (median of {self.calls}), {self.threads} threads; "
            f"outside of programs {table.seconds(self.python)}, idle threads {table.seconds(self.idle)}"
        )
        return f"{head}\n{table.render(['kernel', 'launches', 'us', 'expected us', 'share'], rows)}"


def profile(function: Callable[..., Any], *args: Any, calls: int = CALLS, **kwargs: Any) -> Profile:
    """Call a compiled function some times and tell what each of its kernels cost.

    The calls are real: a training step trains. Call the function a few times before, so that it is compiled.

    Raises: TypeError for something that `compile` did not make, ValueError for fewer than one call, NotImplementedError
    for a function whose programs run on a GPU.
    Cost: two reads of the CPU's counter for each task of a program.

    >>> import tracejit as tj
    >>> f = tj.compile(lambda x: (x * 2).sum())
    >>> for _ in range(4):
    ...     y = f(tj.ones(1000))
    >>> [k.launches for k in tj.profile(f, tj.ones(1000), calls=3).kernels]
    [1]
    """
    if calls < 1:
        raise ValueError(f"expected at least one call, got {calls}")
    region = region_of(function)
    if any(e.gpu for _, e in region.executables()):
        raise NotImplementedError(
            f"profile: programs of {region.name} run on cuda:0, whose kernels are not timed; tracejit.cuda.Event times "
            "what lies between two places of the program"
        )
    rate = seconds_of_tick()
    shots: list[Shot] = []
    try:
        for _ in range(calls):
            programs = _programs(region)
            for program in programs:
                program.measure(True)
            begin = time.perf_counter()
            function(*args, **kwargs)
            seconds = time.perf_counter() - begin
            timelines = ((program, program.timeline()) for program in programs)
            shots.append((seconds, [(program, tasks) for program, tasks in timelines if tasks]))
    finally:
        for program in _programs(region):
            program.measure(False)
    return _summary(region.name, shots, rate)


def _programs(region: Region) -> list[Program]:
    # What leaves nothing behind launches nothing, and has no program; nor has what serves all sizes.
    compiled = [e.compiled for _, e in region.executables() if e.obstacle is None and e.compiled.launches]
    return [c.program for c in compiled if isinstance(c, Compiled)]


def _summary(name: str, shots: list[Shot], rate: float) -> Profile:
    threads = get_num_threads()
    kernels: dict[str, KernelTime] = {}
    samples: dict[str, list[float]] = {}
    python, idle = [], []
    for number, (seconds, ran) in enumerate(shots):
        spent: dict[str, float] = {}
        inside = waited = 0.0
        for program, tasks in ran:
            whole = (max(end for *_, end in tasks) - min(begin for _, begin, _ in tasks)) * rate
            busy = sum(end - begin for _, begin, end in tasks) * rate
            inside += whole
            waited += whole * threads - busy
            for launch, begin, end in tasks:
                kernel = program.launches[launch]
                spent[kernel] = spent.get(kernel, 0.0) + (end - begin) * rate
            if number == len(shots) - 1:
                for launch in {launch for launch, _, _ in tasks}:
                    entry = kernels.setdefault(program.launches[launch], KernelTime(program.launches[launch]))
                    entry.launches += 1
                    entry.expected += program.expected(launch)
        for kernel, value in spent.items():
            samples.setdefault(kernel, []).append(value)
        python.append(seconds - inside)
        idle.append(waited)
    for kernel, entry in kernels.items():
        entry.seconds = statistics.median(samples[kernel])
    return Profile(
        name,
        len(shots),
        threads,
        statistics.median(seconds for seconds, _ in shots),
        statistics.median(python),
        statistics.median(idle),
        sorted(kernels.values(), key=lambda k: -k.seconds),
    )
