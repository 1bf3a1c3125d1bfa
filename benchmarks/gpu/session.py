"""What all sections share: where results go, how kernels are found and started, how time is taken."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.driver import Driver, Launch

ROUNDS = 7


class Session:
    """A section while it runs. `note` keeps a figure at once, so that what a time limit cuts off is not lost."""

    def __init__(self, section: str, folder: Path, capability: int, ptx: Callable[[str], str]) -> None:
        self.section = section
        self.folder = folder
        self.capability = capability
        """What the trial kernels are compiled for, such as 90."""
        self.ptx = ptx
        """Gives the PTX of a trial kernel."""
        self._file = folder / f"{section}.jsonl"
        self._driver: Driver | None = None
        self._functions: dict[str, tuple[int, int]] = {}

    @property
    def driver(self) -> Driver:
        """The driver, in the context that PyTorch uses."""
        if self._driver is None:
            torch.cuda.init()
            torch.zeros(1, device="cuda")
            self._driver = Driver()
        return self._driver

    def note(self, name: str, value: Any) -> None:
        """Keeps and prints a figure."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, value]) + "\n")
        print(f"{self.section}: {name}: {value}", flush=True)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part whose failure is noted and does not end the section."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self.note(f"{name}: failed", f"{type(error).__name__}: {error}"[:500])

    def launch(self, name: str, grid: int | tuple[int, int], arguments: Sequence[Any]) -> Launch:
        """A trial kernel ready to start."""
        if name not in self._functions:
            text = self.ptx(name)
            found = re.search(r"\.maxntid (\d+)", text)
            if found is None:
                raise ValueError(f"{name}: the PTX names no block size")
            self._functions[name] = (self.driver.load(text.encode(), name)[1], int(found[1]))
        function, threads = self._functions[name]
        return Launch(self.driver, function, grid, threads, [_word(a) for a in arguments])


def _word(argument: Any) -> Any:
    return argument.data_ptr() if isinstance(argument, torch.Tensor) else argument


def here() -> int:
    """Handle of the stream that PyTorch works on now."""
    return int(torch.cuda.current_stream().cuda_stream)


def device_us(work: Callable[[], Any], repeats: int = 20, rounds: int = ROUNDS, *, captured: bool = True) -> float:
    """Median microseconds of `work` on the device; captured, so that launches cost the host nothing."""
    stream = torch.cuda.Stream()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
        stream.synchronize()

        def many() -> None:
            for _ in range(repeats):
                work()

        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                many()
            many = graph.replay
        many()
        times = []
        for _ in range(rounds):
            stream.synchronize()
            begin.record(stream)
            many()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / repeats)
    return statistics.median(times)


def host_us(work: Callable[[], Any], count: int = 200, rounds: int = 25) -> float:
    """Median microseconds that a call of `work` keeps the host, with a queue that is never full."""
    for _ in range(20):
        work()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            work()
        times.append((time.perf_counter() - start) / count * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def error_of(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float64."""
    return float((result.double() - reference.double()).norm() / reference.double().norm())
