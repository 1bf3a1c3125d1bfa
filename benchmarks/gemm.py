"""Matrix products and convolutions of the kernel library against NumPy and PyTorch, in one run, interleaved.

Run: PYTHONPATH=src:. python benchmarks/gemm.py [--threads N] [--only TEXT] [--rounds N]   (needs torch)
Prints the least microseconds of each and how many times faster than the better peer the library is.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

_parser = argparse.ArgumentParser()
_parser.add_argument("--threads", type=int, default=2)
_parser.add_argument("--only", default="", help="a part of the names of the cases to run")
_parser.add_argument("--rounds", type=int, default=15)
OPTIONS = _parser.parse_args()
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TRACEJIT_NUM_THREADS"):
    os.environ[_variable] = str(OPTIONS.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.launching import operand, program  # noqa: E402
from tracejit.kernels.conv import plan_conv2d, plan_conv2d_input_grad, plan_conv2d_weight_grad  # noqa: E402
from tracejit.kernels.gemm import plan_matmul  # noqa: E402

PRODUCTS = [
    *[(m, n, k, layout) for m, n, k in [
        (1024, 1024, 1024), (512, 512, 512), (64, 128, 128), (32, 512, 128), (32, 128, 512), (128, 512, 784),
        (64, 64, 64),
    ] for layout in ("NN", "NT", "TN")],
    (64, 10, 128, "NT"), (1, 64, 64, "NT"), (1, 64, 64, "NN"), (64, 64, 1, "NN"), (4, 128, 128, "NT"),
    (1, 512, 512, "NT"), (8, 512, 512, "NT"),
]  # fmt: skip
BATCHED = [(48, 64, 64, 32, "NT"), (48, 64, 32, 64, "NN"), (48, 64, 32, 64, "TN")]
CONVOLUTIONS = [
    ((64, 1, 28, 28), 16, 1),
    ((64, 16, 14, 14), 32, 1),
    ((16, 32, 32, 32), 64, 1),
    ((16, 32, 32, 32), 64, 2),
]


REST_SECONDS, WARM_SECONDS = 0.02, 0.01
"""Before each turn: the threads of a BLAS go on spinning for a while, which the next one would pay for; and the
system takes a while to spread threads that just woke up over the cores."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to compute: its name, floating point operations, and who computes it."""

    name: str
    flops: float
    runs: dict[str, Callable[[], object]]


def random(*shape: int, transposed: bool = False) -> np.ndarray:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2) if transposed else array


def product(batch: tuple[int, ...], m: int, n: int, k: int, layout: str) -> Case:
    a, b = random(*batch, m, k, transposed=layout[0] == "T"), random(*batch, k, n, transposed=layout[1] == "T")
    c, other = np.empty((*batch, m, n), np.float32), np.empty((*batch, m, n), np.float32)
    left, right, result = torch.from_numpy(a), torch.from_numpy(b), torch.empty(*batch, m, n)
    runs: dict[str, Callable[[], object]] = {
        "ours": program(plan_matmul(operand(a), operand(b), operand(c)), [a, b, c]),
        "numpy": lambda: np.matmul(a, b, out=other),
        "torch": lambda: torch.matmul(left, right, out=result),
    }
    name = f"matmul {'x'.join(map(str, (*batch, m, k)))} @ {k}x{n} {layout}"
    return Case(name, 2.0 * c.size * k, runs)


def convolution(shape: tuple[int, int, int, int], channels: int, stride: int) -> list[Case]:
    x, w = random(*shape), random(channels, shape[1], 3, 3)
    sides, padding = (stride, stride), (1, 1)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    y = torch.nn.functional.conv2d(tx, tw, None, sides, padding).numpy()
    ct = random(*y.shape)
    tct = torch.from_numpy(ct)
    attrs = (sides, padding, (1, 1), 1)

    def backward(mask: list[bool]) -> Callable[[], object]:
        rest = (None, list(sides), list(padding), [1, 1], False, [0, 0], 1, mask)
        return lambda: torch.ops.aten.convolution_backward(tct, tx, tw, *rest)

    cases = []
    for kind, plan, inputs, out, peer in [
        ("forward", plan_conv2d, [x, w], y, lambda: torch.nn.functional.conv2d(tx, tw, None, sides, padding)),
        ("input grad", plan_conv2d_input_grad, [ct, w], x, backward([True, False, False])),
        ("weight grad", plan_conv2d_weight_grad, [ct, x], w, backward([False, True, False])),
    ]:
        result = np.empty_like(out)
        launches = plan(operand(inputs[0]), operand(inputs[1]), operand(result), *attrs)
        name = f"conv {'x'.join(map(str, shape))} -> {channels} 3x3/{stride} {kind}"
        flops = 2.0 * y.size * shape[1] * 9
        cases.append(Case(name, flops, {"ours": program(launches, [*inputs, result]), "torch": peer}))
    return cases


def measure(case: Case) -> dict[str, float]:
    """The least microseconds of each over the rounds, the runs taken in turn: others on the machine only add time."""
    counts, times = {}, {name: [] for name in case.runs}
    for name, run in case.runs.items():
        run()
        start = time.perf_counter()
        run()
        counts[name] = max(1, int(0.003 / max(time.perf_counter() - start, 1e-7)))
    for _ in range(OPTIONS.rounds):
        for name, run in case.runs.items():
            time.sleep(REST_SECONDS)
            warm = time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < warm:
                run()
            start = time.perf_counter()
            for _ in range(counts[name]):
                run()
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    cases = [product((), *sizes) for sizes in PRODUCTS] + [product((batch,), *sizes) for batch, *sizes in BATCHED]
    cases += [case for shape, channels, stride in CONVOLUTIONS for case in convolution(shape, channels, stride)]
    print(
        f"{OPTIONS.threads} threads, microseconds, float32\n"
        f"{'':48}{'ours':>9}{'numpy':>9}{'torch':>9}  GFLOP/s  x best peer"
    )
    for case in cases:
        if OPTIONS.only in case.name:
            best = measure(case)
            peers = [value for name, value in best.items() if name != "ours"]
            columns = "".join(f"{best.get(name, float('nan')):9.1f}" for name in ("ours", "numpy", "torch"))
            speed = case.flops / best["ours"] / 1e3
            print(f"{case.name:48}{columns}{speed:9.1f}{min(peers) / best['ours']:9.2f}", flush=True)


if __name__ == "__main__":
    main()
