"""The workloads in PyTorch, eager or through torch.compile."""

from __future__ import annotations

import torch

from benchmarks.torch_style import Suite


def set_threads(count: int) -> None:
    """Compute with `count` threads."""
    torch.set_num_threads(count)


def versions() -> dict[str, str]:
    """What is timed."""
    return {"torch": torch.__version__}


build = Suite(torch, torch.compile).build
