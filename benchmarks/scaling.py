"""How a training step grows: compiled MLPs against batch, width and depth, as figures and as plots.

Run: PYTHONPATH=src python benchmarks/scaling.py [--json FILE] [--plot FILE] [--quick]
Each point is a fresh MLP with Adam in this process, its kernels not in memory but possibly on disk; the median of
settled steps, the work of a step, the distinct kernels of its program, and the seconds of its compilation. Work is
multiply-adds at the machine's peak and then the bytes that go through memory, at the rate of copies that the last cache
holds or does not hold, as it does or does not what a step touches; peak and copies are the mean of what they were right
before the point and right after it. A step that grows faster than its work would bend away from the dotted line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tracejit as tj
from benchmarks.models import define
from tracejit.schedule.cost import last_cache
from tracejit.tools import table
from tracejit.tools.bench import roofline, runner

STEPS, SECONDS = 7, 0.5
AXES: dict[str, tuple[int, ...]] = {
    "batch": tuple(4**k for k in range(7)),
    "width": tuple(4**k for k in range(2, 7)),
    "depth": (1, 2, 4, 8, 16, 32, 64),
}
"""Where the points lie; 4096 is the widest and the largest batch."""
QUICK = {"batch": (1, 64), "width": (16, 64), "depth": (1, 4)}


def layers(axis: str, size: int) -> tuple[int, tuple[int, ...]]:
    """The batch and the sizes of the layers at a point of an axis."""
    if axis == "batch":
        return size, (64, 128, 128, 10)
    if axis == "width":
        return 64, (64, size, size, 10)
    return 64, (64, *[64] * size, 10)


_WEIGHT_PASSES, _PLACE_PASSES = 10, 6
"""Passes over a weight: the product and its gradient read it, the weight's gradient is written and read, the update
reads and writes the weight and two moments. Over the places of a layer: written and read forward, read by the weight's
gradient and by the mask, their gradient written and read."""


def traffic(batch: int, sizes: Sequence[int]) -> tuple[float, float]:
    """The bytes that a step moves, and those that it touches."""
    weights = 4.0 * sum(a * b + b for a, b in pairwise(sizes))
    places = 4.0 * batch * sum(sizes)
    return _WEIGHT_PASSES * weights + _PLACE_PASSES * places, 4 * weights + 2 * places


def work(point: dict[str, Any]) -> float:
    """The seconds that a point's work takes at the machine's rates."""
    rates = point["rates"]
    copy = rates["copy_4M" if point["touched"] <= last_cache() else "copy_32M"]
    return float(point["flops"] / rates["gflops"] + point["bytes"] / copy) / 1e9


def measure(axis: str, size: int) -> dict[str, Any]:
    """One point, and what the machine could do at the time."""
    before = roofline.measure(tj.get_num_threads())
    point = _step(axis, size)
    after = roofline.measure(tj.get_num_threads())
    return point | {"rates": {name: (before[name] + after[name]) / 2 for name in before}}


def _step(axis: str, size: int) -> dict[str, Any]:
    """A fresh model: its settled step, its work and its program."""
    batch, sizes = layers(axis, size)
    tj.manual_seed(0)
    model = define(tj)["mlp"](sizes)
    opt = tj.optim.Adam(model.parameters(), lr=1e-3)

    @tj.compile
    def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        opt.zero_grad()
        loss = tj.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = tj.randn(batch, sizes[0]), tj.randint(0, 10, (batch,))
    for _ in range(6):
        step(x, y)
    spent: list[float] = []
    begin = time.perf_counter()
    while len(spent) < STEPS or (time.perf_counter() - begin < SECONDS and len(spent) < 1000):
        start = time.perf_counter()
        step(x, y)
        spent.append(time.perf_counter() - start)
    account = tj.explain(step)
    products = [2.0 * batch * a * b for a, b in pairwise(sizes)]
    moved, touched = traffic(batch, sizes)
    return {
        "size": size,
        "seconds": statistics.median(spent),
        "flops": 3 * sum(products) - products[0],
        "bytes": moved,
        "touched": touched,
        "kernels": len(account.kernels),
        "launches": account.launches,
        "compile_seconds": account.compile_seconds,
    }


def rows(axis: str, points: Sequence[dict[str, Any]]) -> str:
    """A table of the points of an axis."""
    body = [
        [
            str(p["size"]),
            table.seconds(p["seconds"]),
            f"{work(p) / p['seconds']:.0%}",
            f"{p['rates']['gflops']:.0f}",
            str(p["kernels"]),
            str(p["launches"]),
            table.seconds(p["compile_seconds"]),
        ]
        for p in points
    ]
    return table.render([axis, "step", "of work", "GFLOP/s", "kernels", "launches", "compiling"], body)


def plot(result: dict[str, Any], file: Path) -> None:
    """Step times over the three axes beside the work at peak speed, and compile time over depth."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for panel, (axis, points) in zip(panels, result["points"].items(), strict=False):
        sizes = [p["size"] for p in points]
        panel.loglog(sizes, [p["seconds"] * 1e6 for p in points], "o-", label="step")
        panel.loglog(sizes, [work(p) * 1e6 for p in points], ":", label="its work")
        panel.set(xlabel=axis, title=f"{axis}: {'-'.join(map(str, layers(axis, 64)[1][:4]))}...")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("us")
    panels[0].legend()
    depth = result["points"]["depth"]
    panels[3].plot([p["size"] for p in depth], [p["compile_seconds"] for p in depth], "o-", label="seconds")
    panels[3].plot([p["size"] for p in depth], [p["kernels"] / 10 for p in depth], "s--", label="kernels / 10")
    panels[3].set(xlabel="depth", title="compiling", ylim=(0, None))
    panels[3].grid(alpha=0.3)
    panels[3].legend()
    figure.savefig(file)


def main() -> None:
    """Measure all points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="two points an axis")
    chosen = parser.parse_args()
    result: dict[str, Any] = {"machine": runner.machine(), "threads": tj.get_num_threads(), "points": {}}
    print(f"{tj.get_num_threads()} threads")
    for axis, sizes in (QUICK if chosen.quick else AXES).items():
        result["points"][axis] = [measure(axis, size) for size in sizes]
        print("\n" + rows(axis, result["points"][axis]), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.plot is not None:
        plot(result, chosen.plot)


if __name__ == "__main__":
    main()
