"""What the machine can do at best: multiply-adds and bytes in a second, measured with kernels of nothing else.

A workload's floor is the time that its arithmetic or its memory traffic would take at these rates, whichever is more.
Rates change from one minute to the next on a shared machine, as steps do: a `Meter` takes its turns among frameworks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import llvmlite.ir as ir
import numpy as np

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.emit import I64, emit_loop
from tracejit.kernels.vectors import F32, TARGET, VectorBuilder
from tracejit.runtime.build import build
from tracejit.runtime.team import launch, set_num_threads
from tracejit.tools.bench.process import keep_to_cpus, serve

_CHAINS = 24 if TARGET.registers == 32 else 12
"""Chains of multiply-adds side by side: enough to hide their latency, few enough for the registers."""
_TURNS, _UNITS = 20_000, 64
_ELEMENTS = {"4M": 1 << 22, "32M": 1 << 25}
_ROUNDS, _TURN = 9, 5


def _multiply_add(code: Code, block: Word, low: Word, high: Word) -> None:
    v = VectorBuilder(code.builder, F32)
    one = ir.Constant(F32.vector, [1.0] * v.width)
    (out,) = code.slots(block, 0)
    with code.loop(low, high) as unit:
        starts = [v.spread(code.builder.uitofp((unit + k).value, F32.kind)) for k in range(_CHAINS)]
        sums = emit_loop(code.builder, I64(_TURNS), starts, lambda state: [v.fma(x, x, one) for x in state])
        for k, total in enumerate(sums):
            v.store(total, (out + (unit * _CHAINS + k) * TARGET.vector_bytes).value)


multiply_add = native_kernel("multiply_add", _multiply_add)


def peak_f32(p: Any, lo: int, hi: int) -> Any:
    """Multiply-adds and nothing else."""
    return multiply_add(p, lo, hi)


_COPY = """
def stream_copy(p, lo, hi):
    a = load_arg(p, 0)
    c = load_arg(p, 2)
    for j in range(lo, hi):
        store_f32_s(c, j, load_f32_s(a, j, 0, 2), 1, 2)
    return 0
"""
_TRIAD = """
def stream_triad(p, lo, hi):
    a = load_arg(p, 0)
    b = load_arg(p, 1)
    c = load_arg(p, 2)
    for j in range(lo, hi):
        store_f32_s(c, j, load_f32_s(a, j, 0, 3) + float32(3.0) * load_f32_s(b, j, 1, 3), 2, 3)
    return 0
"""
_COPY_PAST = """
def stream_copy_past(p, lo, hi):
    stream(load_arg(p, 2) + 4 * lo, load_arg(p, 0) + 4 * lo, hi - lo)
    end_streams()
    return 0
"""
_TRIAD_PAST = """
def stream_triad_past(p, lo, hi):
    a = load_arg(p, 0)
    b = load_arg(p, 1)
    piece = stack_i64(256)
    for first in range(lo, hi, 512):
        stop = min(first + 512, hi)
        for j in range(first, stop):
            store_f32_s(piece, j - first, load_f32_s(a, j, 0, 3) + float32(3.0) * load_f32_s(b, j, 1, 3), 2, 3)
        stream(load_arg(p, 2) + 4 * first, piece, stop - first)
    end_streams()
    return 0
"""
WAYS = {
    "copy": (2, {"stream_copy": _COPY, "stream_copy_past": _COPY_PAST}),
    "triad": (3, {"stream_triad": _TRIAD, "stream_triad_past": _TRIAD_PAST}),
}
"""How many arrays each moves, and the kernels that do it: with ordinary stores, and with stores past the caches."""


Pick = Callable[[list[float]], float]
"""Which of several times counts."""


def _timed(pick: Pick, times: int, run: Callable[..., object], *args: object) -> float:
    run(*args)
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        run(*args)
        seconds.append(time.perf_counter() - begin)
    return pick(seconds)


def _gflops(pick: Pick, times: int) -> float:
    out = np.zeros(_UNITS * _CHAINS * F32.count, np.float32)
    flops = 2.0 * _UNITS * _TURNS * _CHAINS * F32.count
    return flops / _timed(pick, times, launch, build(peak_f32).address, _UNITS, 1e6, out) / 1e9


def _gigabytes(pick: Pick, times: int, arrays: Sequence[Any]) -> dict[str, float]:
    """STREAM's rules: a copy moves two arrays, a triad three; what the cache reads in order to write is not counted.

    Each is the faster of two ways to store.
    """
    count, found = len(arrays[0]), {}
    for name, (moved, kernels) in WAYS.items():
        seconds = min(
            _timed(pick, times, launch, build(text, kernel).address, count, 1.0, *arrays)
            for kernel, text in kernels.items()
        )
        found[name] = moved * 4.0 * count / seconds / 1e9
    return found


def _arrays(count: int) -> list[Any]:
    return [np.ones(count, np.float32) for _ in range(3)]


def measure(threads: int) -> dict[str, float]:
    """Giga floating point operations (float32) and gigabytes a second on so many threads: the best of several times."""
    set_num_threads(threads)
    found = {"gflops": _gflops(min, _ROUNDS)}
    for label, count in _ELEMENTS.items():
        found |= {f"{name}_{label}": rate for name, rate in _gigabytes(min, _ROUNDS, _arrays(count)).items()}
    return {name: round(value, 1) for name, value in found.items()}


class Meter:
    """The machine as one more that takes turns: what it can do in the moments in which steps are timed.

    Its arrays are several times the caches, as STREAM wants them.
    """

    def __init__(self, threads: int) -> None:
        set_num_threads(threads)
        self._arrays = _arrays(_ELEMENTS["32M"])

    def time(self) -> dict[str, float]:
        """The median rates of this moment: `gflops`, and gigabytes a second of `copy` and `triad`."""
        median = statistics.median
        return {"gflops": _gflops(median, _TURN), **_gigabytes(median, _TURN, self._arrays)}


MODULE = "tracejit.tools.bench.roofline"
"""The module that measures, in a process of its own that is limited to so many CPUs as the workers are."""


def in_process(threads: int) -> dict[str, float]:
    """`measure` in a process of its own.

    Raises: subprocess.CalledProcessError if that fails.
    """
    command = [sys.executable, "-m", MODULE, "--threads", str(threads)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def best(moments: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The best of each rate: what a machine gave once it can do, though others may have wanted it at the other moments.

    >>> best([{"gflops": 90.0, "copy_4M": 20.0}, {"gflops": 80.0, "copy_4M": 30.0}])
    {'gflops': 90.0, 'copy_4M': 30.0}
    """
    found: dict[str, float] = {}
    for rates in moments:
        found |= {name: max(value, found.get(name, 0.0)) for name, value in rates.items()}
    return found


def floor(flops: float, nbytes: float, rates: Mapping[str, float], way: str = "copy") -> float:
    """The least seconds for so many floating point operations and so many bytes, moved in one of the WAYS.

    >>> floor(2e9, 1e6, {"gflops": 100.0, "copy": 20.0})
    0.02
    """
    return max(flops / rates["gflops"], nbytes / rates[way]) * 1e-9


def main() -> None:
    """Print the rates as JSON; with --serve, be a `Meter` that answers commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--serve", action="store_true")
    chosen = parser.parse_args()
    keep_to_cpus(chosen.threads)
    if chosen.serve:
        serve(Meter(chosen.threads), sys.stdin, sys.stdout)
    else:
        print(json.dumps(measure(chosen.threads)))


if __name__ == "__main__":
    main()
