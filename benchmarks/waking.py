"""What the first products after a pause take beside PyTorch's: the threads that share them have slept.

Run: PYTHONPATH=src:. python -m benchmarks.waking [--json FILE] [--pauses SECONDS ...]   (needs PyTorch)
Each framework runs in processes of its own, in turns, with all CPUs that this one may use. After each pause there are
twelve products of 480x480 matrices, each timed. A product is slow if it takes 1.5 times the least of its process: on
two threads that is one that found no second CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tracejit.runtime.team import get_num_threads
from tracejit.tools import table

SIDE, PRODUCTS, ROUNDS, SLOW = 480, 12, 3, 1.5
FRAMEWORKS = ("tracejit", "torch")
SECONDS = 4.0
"""What a process spends on a pause."""


def measure(framework: str, threads: int, pauses: list[float]) -> dict[str, list[list[float]]]:
    """For each pause the milliseconds of the products after it, time after time."""
    T = importlib.import_module(framework)
    T.set_num_threads(threads)
    a, b = T.randn(SIDE, SIDE), T.randn(SIDE, SIDE)
    for _ in range(50):
        a @ b
    found = {}
    for pause in pauses:
        times = []
        for _ in range(max(5, int(SECONDS / (pause + 0.02)))):
            time.sleep(pause)
            spent = []
            for _ in range(PRODUCTS):
                begin = time.perf_counter()
                a @ b
                spent.append((time.perf_counter() - begin) * 1e3)
            times.append(spent)
        found[str(pause)] = times
    return found


def in_process(framework: str, pauses: list[float]) -> dict[str, list[list[float]]]:
    """`measure` in a process of its own.

    Raises: subprocess.CalledProcessError if that fails.
    """
    options = ["--worker", framework, "--threads", str(get_num_threads()), "--pauses", *map(str, pauses)]
    command = [sys.executable, "-m", "benchmarks.waking", *options]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def summary(rounds: list[list[list[float]]]) -> dict[str, list[float]]:
    """For the first product, the next three and the rest: median milliseconds, and the share of slow ones."""
    spans = (slice(0, 1), slice(1, 4), slice(4, None))
    medians, slow = [], []
    for span in spans:
        shown = [(t, min(map(min, times))) for times in rounds for spent in times for t in spent[span]]
        medians.append(round(statistics.median(t for t, _ in shown), 3))
        slow.append(round(statistics.mean(t > SLOW * least for t, least in shown), 3))
    return {"ms": medians, "slow": slow}


def main() -> None:
    """Measure both frameworks, or be one of their processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pauses", type=float, nargs="+", default=[0.002, 0.02, 0.3], metavar="SECONDS")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker is not None:
        print(json.dumps(measure(chosen.worker, chosen.threads, chosen.pauses)))
        return
    rounds: list[dict[str, Any]] = [
        {framework: in_process(framework, chosen.pauses) for framework in FRAMEWORKS} for _ in range(ROUNDS)
    ]
    found = {
        framework: {str(p): summary([one[framework][str(p)] for one in rounds]) for p in chosen.pauses}
        for framework in FRAMEWORKS
    }
    body = [
        [framework, pause, *[f"{ms:.2f} ({slow:.0%})" for ms, slow in zip(one["ms"], one["slow"], strict=True)]]
        for framework in FRAMEWORKS
        for pause, one in found[framework].items()
    ]
    print(table.render(["framework", "pause", "first ms (slow)", "next three", "the rest"], body))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
