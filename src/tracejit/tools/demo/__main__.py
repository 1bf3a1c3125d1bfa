"""`python -m tracejit.tools.demo`: train, compare, print the table, save the plot.

Each training run has a process of its own, which starts without kernels, so that cold times are cold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tracejit as tj
from tracejit.tools.demo import digits, report
from tracejit.tools.demo.isolation import in_own_process
from tracejit.tools.demo.models import MODELS
from tracejit.tools.demo.training import BATCH, RECIPES, Run, same_bits


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m tracejit.tools.demo", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which models to train")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: each model's own)")
    parser.add_argument("--threads", type=int, help="threads of a kernel (default: all that this process may use)")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the plot")
    parser.add_argument("--warm", action="store_true", help="use the kernels on disk instead of starting without any")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    chosen = parser.parse_args(argv)
    for name in ("epochs", "threads"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if every compiled curve equals the eager one bit for bit, else 1."""
    chosen = arguments(argv)
    threads = chosen.threads or tj.get_num_threads()
    runs: dict[str, tuple[Run, Run]] = {}
    for name in chosen.models:
        recipe = RECIPES[name] if chosen.epochs is None else replace(RECIPES[name], epochs=chosen.epochs)
        eager, compiled = (
            in_own_process(name, recipe, way, threads, chosen.quiet, chosen.warm) for way in (False, True)
        )
        runs[name] = eager, compiled
    print(f"\nUCI digits, {digits.TRAIN} training images, batch {BATCH}, Adam, {threads} threads\n")
    print(report.text(runs))
    chosen.out.mkdir(parents=True, exist_ok=True)
    picture = chosen.out / "curves.png"
    report.plot(runs, picture)
    print(f"\nplot: {picture}")
    different = [name for name, pair in runs.items() if not same_bits(*pair)]
    if different:
        print(f"compiled differs from eager: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
