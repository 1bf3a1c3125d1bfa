"""What the machine can do at best: multiply-adds and bytes in a second, measured with kernels of nothing else.

A workload's floor is the time that its arithmetic or its memory traffic would take at these rates, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import llvmlite.ir as ir
import numpy as np

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.emit import I64, emit_loop
from tracejit.kernels.vectors import F32, TARGET, VectorBuilder
from tracejit.runtime.build import build
from tracejit.runtime.team import launch, set_num_threads

_CHAINS = 24 if TARGET.registers == 32 else 12
"""Chains of multiply-adds side by side: enough to hide their latency, few enough for the registers."""
_TURNS, _UNITS = 20_000, 64
_ELEMENTS = {"4M": 1 << 22, "32M": 1 << 25}
_ROUNDS = 9


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


def _least(run: Callable[..., object], *args: object) -> float:
    run(*args)
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        run(*args)
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(threads: int) -> dict[str, float]:
    """Giga floating point operations (float32) and gigabytes a second on so many threads.

    STREAM's rules: a copy moves two arrays, a triad three; what the cache reads in order to write is not counted. Each
    is the faster of two ways to store.
    """
    set_num_threads(threads)
    out = np.zeros(_UNITS * _CHAINS * F32.count, np.float32)
    address = build(peak_f32).address
    flops = 2.0 * _UNITS * _TURNS * _CHAINS * F32.count
    found = {"gflops": flops / _least(launch, address, _UNITS, 1e6, out) / 1e9}
    for label, count in _ELEMENTS.items():
        a, b, c = (np.ones(count, np.float32) for _ in range(3))
        for name, (arrays, kernels) in WAYS.items():
            seconds = min(
                _least(launch, build(text, kernel).address, count, 1.0, a, b, c) for kernel, text in kernels.items()
            )
            found[f"{name}_{label}"] = arrays * 4.0 * count / seconds / 1e9
    return {name: round(value, 1) for name, value in found.items()}


def in_process(threads: int) -> dict[str, float]:
    """`measure` in a process of its own, limited to so many CPUs as the workers are.

    Raises: subprocess.CalledProcessError if that fails.
    """
    command = [sys.executable, "-m", __name__, "--threads", str(threads)]
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


def floor(flops: float, nbytes: float, rates: Mapping[str, float]) -> float:
    """The least seconds for so many floating point operations and so many bytes between memory and caches.

    >>> floor(2e9, 1e6, {"gflops": 100.0, "copy_4M": 20.0})
    0.02
    """
    return max(flops / rates["gflops"], nbytes / rates["copy_4M"]) * 1e-9


def main() -> None:
    """Print the rates as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    print(json.dumps(measure(threads)))


if __name__ == "__main__":
    main()
