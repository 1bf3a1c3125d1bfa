"""What eager operations on few elements take beside PyTorch's: mostly the way to a kernel, not the kernel.

Run: PYTHONPATH=src:. python -m benchmarks.eager_calls [--json FILE]   (needs PyTorch)
Both run in this process, on one core, in turns; the median of rounds, in microseconds.
"""

# ruff: noqa: PLW0108 - what a call costs includes finding the method
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tracejit as tj
from tracejit.tools import table

ROUNDS, CALLS = 15, 2000


def cases(T: Any) -> dict[str, Callable[[], Any]]:
    """The operations, in PyTorch's words."""
    x, y, w = T.linspace(-1, 1, 8), T.linspace(0, 3, 8), T.linspace(-2, 2, 4096).reshape(64, 64)
    total = T.zeros(8)
    return {
        "x + y": lambda: x + y,
        "x * 2": lambda: x * 2,
        "x > y": lambda: x > y,
        "total.add_(x)": lambda: total.add_(x),
        "relu": lambda: T.relu(x),
        "exp": lambda: x.exp(),
        "where": lambda: T.where(x > y, x, y),
        "w[0]": lambda: w[0],
        "w[:, 1:3]": lambda: w[:, 1:3],
        "view": lambda: w.view(4096),
        "transpose": lambda: w.transpose(0, 1),
        "unsqueeze": lambda: x.unsqueeze(0),
        "x[0].item()": lambda: x[0].item(),
        "cat": lambda: T.cat([x, y]),
        "stack": lambda: T.stack([x, y]),
        "sum": lambda: x.sum(),
        "max": lambda: x.max(),
        "mean(-1)": lambda: w.mean(-1),
        "argmax(-1)": lambda: w.argmax(-1),
        "softmax(-1)": lambda: w.softmax(-1),
        "matmul": lambda: w @ w,
        "linear": lambda: T.nn.functional.linear(x[None], w[:, :8]),
        "zeros": lambda: T.zeros(8),
    }


def measure(function: Callable[[], Any]) -> float:
    """Microseconds of a call."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - begin) / CALLS * 1e6


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tj.set_num_threads(1)
    ours, theirs = cases(tj), cases(torch)
    found: dict[str, tuple[float, float]] = {}
    for name in ours:
        rounds = [(measure(ours[name]), measure(theirs[name])) for _ in range(ROUNDS + 2)][2:]
        found[name] = statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)
    rows = sorted(found.items(), key=lambda item: item[1][1] / item[1][0])
    body = [[name, f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}x"] for name, (a, b) in rows]
    print(table.render(["operation", "us", "PyTorch's us", "ratio"], body))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({name: list(pair) for name, pair in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
