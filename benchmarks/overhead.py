"""What calls of compiled functions cost beyond their programs, on one core.

Run as `python benchmarks/overhead.py [--json FILE]`. Every figure is the median of rounds of interleaved measurements,
so that a change in the machine's load meets all of them; the spread is half of the interquartile range.

* *follow, a call*: a function without any operation, called in the mode "follow", less the plain function.
* *follow, an operation*: the slope over chains of 10 to 110 operations, each with the program's time taken off.
* *replay, a call*: a whole training step (zero_grad, forward, loss, backward, Adam) of an MLP with 10 parameters, less
  its program.
* *guard check*: the native comparison of all words that say that the world of that step is unchanged.
* *an empty call*: a Python function without arguments, called from the measuring loop: the scale of the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import tracejit as tj
from tracejit import nn, optim
from tracejit.nn import functional as F
from tracejit.trace.compiled import region_of
from tracejit.trace.replay.words import hold

ROUNDS = 25


def clock(function: Callable[[], Any], calls: int) -> float:
    """Microseconds of a call, of the thread's own time: everything here runs on one thread and waits for nothing."""
    begin = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - begin) / calls * 1e6


def measure(cases: dict[str, Callable[[], Any]], calls: int = 400) -> dict[str, list[float]]:
    """The rounds of each case, taken in turns."""
    for function in cases.values():
        clock(function, calls)
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, function in cases.items():
            found[name].append(clock(function, calls))
    return found


def programs_of(compiled: Any) -> Callable[[], Any]:
    """Runs what a compiled function's programs run, without anything else."""
    ((_, executable),) = region_of(compiled).executables()
    pointers, scalars, run = executable.pointers, executable.scalars, executable.compiled.run
    return lambda: run(pointers, scalars)


def chain(length: int) -> Any:
    """A chain of operations on a small tensor."""

    def function(x: Any, y: Any) -> Any:
        for _ in range(length // 2):
            x = x + y
            x = x * y
        return x

    return function


def follow() -> dict[str, list[float]]:
    """Costs of a followed call and of an operation in it."""
    x, y = tj.ones(8), tj.ones(8)
    lengths = (10, 110)
    compiled = {n: tj.compile(chain(n), mode="follow") for n in lengths}
    nothing = tj.compile(lambda x, y: x, mode="follow")
    for function in (*compiled.values(), nothing):
        for _ in range(30):
            function(x, y)
    plain = lambda x, y: x  # noqa: E731
    rounds = measure(
        {
            "nothing": lambda: nothing(x, y),
            "plain": lambda: plain(x, y),
            **{f"chain {n}": lambda f=f: f(x, y) for n, f in compiled.items()},
            **{f"program {n}": programs_of(f) for n, f in compiled.items()},
        }
    )
    return {
        "follow, a call": [a - b for a, b in zip(rounds["nothing"], rounds["plain"], strict=True)],
        "follow, an operation": [
            (long - program - short + short_program) / (lengths[1] - lengths[0])
            for long, program, short, short_program in zip(
                rounds["chain 110"], rounds["program 110"], rounds["chain 10"], rounds["program 10"], strict=True
            )
        ],
    }


def replay() -> dict[str, list[float]]:
    """Costs of a replayed training step of 10 parameters, and of its guards."""
    tj.manual_seed(0)
    layers: list[Any] = []
    for _ in range(4):
        layers += [nn.Linear(4, 4), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    opt = optim.Adam(model.parameters(), lr=1e-3)
    assert len(list(model.parameters())) == 10

    @tj.compile(mode="replay")
    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = tj.randn(1, 4), tj.randn(1, 2)
    for _ in range(20):
        step(x, y)
    region = region_of(step)
    assert region.prover is not None
    assert region.calls.replayed > 10
    one = region.prover.replays[0]
    executable, words = one.executable, one.watch.tables[0]
    rounds = measure(
        {
            "step": lambda: step(x, y),
            "program": lambda: executable.compiled.run(executable.pointers, executable.scalars),
            "guards": lambda: hold(words),
            "lambda": lambda: None,
        }
    )
    return {
        "replay, a call": [a - b for a, b in zip(rounds["step"], rounds["program"], strict=True)],
        "replay, its program": rounds["program"],
        "guard check": [a - b for a, b in zip(rounds["guards"], rounds["lambda"], strict=True)],
        "an empty call": rounds["lambda"],
    }


TARGETS = {"follow, a call": 10.0, "follow, an operation": 1.5, "replay, a call": 5.0, "guard check": 1.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tj.set_num_threads(1)
    gc.disable()
    found = {**follow(), **replay()}
    figures = {}
    print(f"{'':24}{'median':>9}{'spread':>9}{'target':>9}   µs; load {os.getloadavg()[0]:.1f}")
    for name, rounds in found.items():
        low, median, high = statistics.quantiles(rounds, n=4)
        figures[name] = {"median": median, "spread": (high - low) / 2}
        target = f"{TARGETS[name]:9.1f}" if name in TARGETS else f"{'-':>9}"
        print(f"{name:24}{median:9.2f}{(high - low) / 2:9.2f}{target}")
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "load": os.getloadavg()[0]}
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump({"microseconds": figures, "machine": machine, "rounds": ROUNDS}, f, indent=1)


if __name__ == "__main__":
    main()
