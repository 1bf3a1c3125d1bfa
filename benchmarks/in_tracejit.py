"""The workloads in tracejit, eager or through tj.compile."""

from __future__ import annotations

import tracejit as tj
from benchmarks.torch_style import Suite
from tracejit.tools.counting import counts


def set_threads(count: int) -> None:
    """Compute with `count` threads."""
    tj.set_num_threads(count)


def versions() -> dict[str, str]:
    """What is timed."""
    return {"tracejit": tj.__version__}


build = Suite(tj, tj.compile, counts).build
