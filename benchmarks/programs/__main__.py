"""Whole programs beside PyTorch's: the same text, only the import differs.

Run: PYTHONPATH=src:. python -m benchmarks.programs [--json FILE] [--rounds N] [--seconds S] [--only TEXT]; needs torch.
Each round runs all programs compiled, eagerly, and in PyTorch, each in a process of its own, with the same threads and
the same parameters. A figure is the least of the rounds' medians. Losses of the first steps are compared before: those
of compiled programs with eager ones bit by bit, with PyTorch's to a few digits. Prints the least ratios first.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.programs import CHANGING, PROGRAMS
from benchmarks.programs.parts import Batch
from benchmarks.workloads import initial_value
from tracejit.runtime.team import get_num_threads
from tracejit.tools import table

COMPARED, WARM_UP, LEAST = 6, 60, 5
"""Steps whose losses are compared, the fewest before the first one that is timed, and the fewest that are."""
UNSETTLED, SETTLING = 400, 3.0
"""Steps before that, and the seconds after which there are no more of them, unless each brings other sizes: what eager
calls and regions do is found out by trying.
"""
CLOSE = 2e-3
KINDS = ("compiled", "eager", "torch")


def prepared(torch: Any, name: str, compile: bool) -> tuple[Any, Batch]:
    """The step of a program, with parameters that depend on their names alone, and what makes its arguments."""
    batch: Batch = lambda k: ()  # noqa: E731
    if name in PROGRAMS:
        net, step = PROGRAMS[name](torch)
    else:
        net, step, batch = CHANGING[name](torch)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            parameter.copy_(torch.from_numpy(initial_value(key, tuple(parameter.shape))))
    return torch.compile(step) if compile else step, batch


def work(kind: str, seconds: float, only: str) -> dict[str, tuple[list[float], float]]:
    """Of all programs, in this process, the first losses and the median milliseconds of a step."""
    torch = importlib.import_module("torch" if kind == "torch" else "tracejit")
    torch.set_num_threads(get_num_threads())
    found = {}
    for name in (*PROGRAMS, *CHANGING):
        if only not in name:
            continue
        step, batch = prepared(torch, name, kind == "compiled")
        losses = [step(*batch(k)).item() for k in range(COMPARED)]
        calls = itertools.count(COMPARED)
        begin = time.perf_counter()
        for k in range(UNSETTLED):
            if k >= WARM_UP and name in PROGRAMS and time.perf_counter() - begin > SETTLING:
                break
            step(*batch(next(calls)))
        spent: list[float] = []
        begin = time.perf_counter()
        while len(spent) < LEAST or time.perf_counter() - begin < seconds:
            given = batch(next(calls))
            start = time.perf_counter()
            step(*given)
            spent.append(time.perf_counter() - start)
        found[name] = losses, statistics.median(spent) * 1e3
    return found


def _differences(found: dict[str, dict[str, Any]]) -> list[str]:
    """The programs whose losses are not what they should be."""
    wrong = []
    for name, (compiled, _) in found["compiled"].items():
        if compiled != found["eager"][name][0]:
            wrong.append(f"{name}: compiled differs from eager")
        if not np.allclose(compiled, found["torch"][name][0], rtol=CLOSE, atol=CLOSE / 10):
            wrong.append(f"{name}: {compiled} differs from PyTorch's {found['torch'][name][0]}")
    return wrong


def main() -> int:
    """Measure all programs in processes that take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="", help="a part of the names of the programs to run")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker is not None:
        print(json.dumps(work(chosen.worker, chosen.seconds, chosen.only)))
        return 0
    rounds: list[dict[str, dict[str, Any]]] = []
    for _ in range(chosen.rounds):
        rounds.append({})
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.programs", "--worker", kind]
            command += ["--seconds", str(chosen.seconds), "--only", chosen.only]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rounds[-1][kind] = json.loads(found)
    wrong = _differences(rounds[0])
    least = {kind: {name: min(r[kind][name][1] for r in rounds) for name in rounds[0][kind]} for kind in KINDS}
    ratios = sorted((least["torch"][name] / ms, name) for name, ms in least["compiled"].items())
    body = [
        [name, *[f"{least[kind][name]:.3f}" for kind in KINDS], f"{least['torch'][name] / least['eager'][name]:.2f}x",
         f"{ratio:.2f}x"]
        for ratio, name in ratios
    ]  # fmt: skip
    print(table.render(["program", "compiled ms", "eager ms", "torch ms", "eager ratio", "compiled ratio"], body))
    print(f"{math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios)):.2f}x in the geometric mean")
    for line in wrong:
        print(line)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(least, indent=1) + "\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
