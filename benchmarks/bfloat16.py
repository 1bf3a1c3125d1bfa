"""Matrix products of bfloat16, and of float32 that may be rounded to it, beside PyTorch's, in one run, interleaved.

Run: PYTHONPATH=src:. python benchmarks/bfloat16.py [--threads N] [--rounds N] [--only TEXT]   (needs torch, AMX or
AVX512-BF16)
Prints the least microseconds of each, of the thread's CPU time if there is one alone, GFLOP/s, and how many times
faster ours is: by the least times, and the median over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

_parser = argparse.ArgumentParser()
_parser.add_argument("--threads", type=int, default=1)
_parser.add_argument("--rounds", type=int, default=15)
_parser.add_argument("--only", default="", help="a part of the names of the cases to run")
OPTIONS = _parser.parse_args()
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TRACEJIT_NUM_THREADS"):
    os.environ[_variable] = str(OPTIONS.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.launching import operand, program  # noqa: E402
from tracejit import dtypes  # noqa: E402
from tracejit.kernels.square import plan_bfloat16_matmul  # noqa: E402

SIZES = [(1024, 1024, 1024), (512, 512, 512), (128, 512, 512), (768, 128, 512), (128, 128, 128), (64, 64, 64)]
"""m, n, k of the products."""

CLOCK = time.thread_time if OPTIONS.threads == 1 else time.perf_counter

REST_SECONDS, ROUND_SECONDS = 0.02, 0.02
"""Before each turn, as a BLAS's threads spin for a while; how long a turn is."""


def case(m: int, n: int, k: int, layout: str, short: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """A product by this library and by PyTorch, of bfloat16 if it is `short`."""
    kind = dtypes.bfloat16.np if short else np.float32
    tensor_kind = torch.bfloat16 if short else torch.float32
    arrays, tensors = [], []
    for shape, way in ((m, k), layout[0]), ((k, n), layout[1]):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        array, tensor = values.astype(kind), torch.from_numpy(values).to(tensor_kind)
        arrays.append(array if way == "N" else np.ascontiguousarray(array.T).T)
        tensors.append(tensor if way == "N" else tensor.T.contiguous().T)
    arrays.append(np.empty((m, n), kind))
    tensors.append(torch.empty(m, n, dtype=tensor_kind))
    ours = program(plan_bfloat16_matmul(*map(operand, arrays)), arrays)
    return ours, lambda: torch.matmul(tensors[0], tensors[1], out=tensors[2])


def measure(runs: tuple[Callable[[], object], ...]) -> list[list[float]]:
    """Microseconds of each, by rounds."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(OPTIONS.rounds):
        for run, found in zip(runs, times, strict=True):
            time.sleep(REST_SECONDS)
            end = time.perf_counter() + ROUND_SECONDS / 2
            while time.perf_counter() < end:
                run()
            count, start = 0, CLOCK()
            while CLOCK() < start + ROUND_SECONDS:
                run()
                count += 1
            found.append((CLOCK() - start) / count * 1e6)
    return times


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    torch.set_float32_matmul_precision("medium")
    print(f"{OPTIONS.threads} threads{'':26}{'ours us':>9}{'torch us':>9}  GFLOP/s  times faster, median of rounds")
    for m, n, k in SIZES:
        for layout in ("NN", "NT", "TN"):
            for short in (False, True):
                name = f"{m}x{k} @ {k}x{n} {layout} {'bfloat16' if short else 'medium'}"
                if OPTIONS.only not in name:
                    continue
                ours, peer = measure(case(m, n, k, layout, short))
                ratio = statistics.median(b / a for a, b in zip(ours, peer, strict=True))
                speed = 2e-3 * m * n * k / min(ours)
                least = min(peer) / min(ours)
                print(f"{name:35}{min(ours):9.1f}{min(peer):9.1f}{speed:9.0f}{least:9.2f}{ratio:9.2f}", flush=True)


if __name__ == "__main__":
    main()
