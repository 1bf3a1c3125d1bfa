"""What a new size costs: the first, second and third call at each of some random sizes, for several models.

Run: PYTHONPATH=src python benchmarks/sizes.py [--only TEXT] [--sizes N]
Prints for each model the medians in milliseconds: an eager step at a size that is new to eager, the first compiled call
at a new size (the tree grows, a program is laid out), the second (matchers are written) and the third (settled), then
kernels and compilations of the first three sizes and of all others together.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tracejit as tj
from tracejit import nn
from tracejit.optim import Adam
from tracejit.runtime.build import _built
from tracejit.tools.demo.models import MODELS, Block
from tracejit.tools.demo.training import make_step
from tracejit.trace import pace
from tracejit.trace.compiled import region_of

_WARM = 3
"""Sizes after which no kernel should be missing."""


class Sequences(nn.Module):
    """Tokens of any number through two transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.blocks = nn.ModuleList([Block(64, 4, 0.1) for _ in range(2)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits of each sequence."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(1))


class Recurrent(nn.Module):
    """An LSTM cell over any number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits of each sequence."""
        h, c = tj.zeros(x.shape[0], 32), tj.zeros(x.shape[0], 32)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.head(h)


def _labels(rng: np.random.Generator, n: int) -> tj.Tensor:
    return tj.from_numpy(rng.integers(0, 10, n))


def _images(draw: random.Random, rng: np.random.Generator) -> tuple[Any, ...]:
    n = draw.randint(2, 200)
    return n, tj.from_numpy(rng.standard_normal((n, 64)).astype(np.float32)), _labels(rng, n)


def _tokens(draw: random.Random, rng: np.random.Generator) -> tuple[Any, ...]:
    n, t = draw.randint(2, 16), draw.randint(2, 40)
    return (n, t), tj.from_numpy(rng.integers(0, 50, (n, t))), _labels(rng, n)


def _steps(draw: random.Random, rng: np.random.Generator) -> tuple[Any, ...]:
    n, t = draw.randint(2, 16), draw.randint(2, 24)
    return (n, t), tj.from_numpy(rng.standard_normal((n, t, 16)).astype(np.float32)), _labels(rng, n)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., tuple[Any, ...]]]] = {
    **{name: (make, _images) for name, make in MODELS.items()},
    "sequences": (Sequences, _tokens),
    "lstm over time": (Recurrent, _steps),
}


def _timed(step: Callable[..., Any], x: tj.Tensor, y: tj.Tensor) -> float:
    begin = time.perf_counter()
    step(x, y).item()
    return (time.perf_counter() - begin) * 1e3


def measure(name: str, count: int) -> None:
    """Print the line of one model."""
    make, data = CASES[name]
    tj.manual_seed(0)
    model, other = make(), make()
    plain = make_step(other, Adam(other.parameters()))
    step = tj.compile(make_step(model, Adam(model.parameters())), mode="follow")
    region = region_of(step)
    draw, rng = random.Random(1), np.random.default_rng(1)
    seen: set[Any] = set()
    times: list[list[float]] = []
    while len(seen) < count:
        size, x, y = data(draw, rng)
        if size in seen:
            continue
        seen.add(size)
        gc.collect()
        eager = _timed(plain, x, y)
        before = len(_built), region.compiles
        calls = [_timed(step, x, y) for _ in range(4 if len(seen) == 1 else 3)]
        after = len(_built) - before[0], region.compiles - before[1]
        times.append([eager, *calls[-3:], *map(float, after)])
    early, late = times[:_WARM], times[_WARM:]
    eager, first, second, third = (statistics.median(t[k] for t in late) for k in range(4))
    kernels = [int(sum(t[4] for t in part)) for part in (early, late)]
    compiles = [int(sum(t[5] for t in part)) for part in (early, late)]
    print(
        f"{name:<16} {eager:9.1f} {first:9.1f} {second:9.1f} {third:9.2f}"
        f" {kernels[0]:>8} + {kernels[1]:<4} {compiles[0]:>6} + {compiles[1]}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the names of the models to run")
    parser.add_argument("--sizes", type=int, default=20)
    options = parser.parse_args()
    # What a branch costs, also where calls would go on eagerly.
    pace.FIRST = 1 << 30
    print(f"{'model':<16} {'new eager':>9} {'first':>9} {'second':>9} {'third':>9}  kernels         compilations")
    for name in CASES:
        if options.only in name:
            measure(name, options.sizes)


if __name__ == "__main__":
    main()
