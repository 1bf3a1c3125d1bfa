"""What the programs share: numbers that depend on a seed alone, and the step of a training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[[], Any]
Program = Callable[[Any], tuple[Any, Step]]
"""Given a framework: what has all parameters, and a step."""
Batch = Callable[[int], tuple[Any, ...]]
Changing = Callable[[Any], tuple[Any, Callable[..., Any], Batch]]
"""The same for a step that is given the arguments of its k-th call, which a third function makes."""


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def whole(seed: int, high: int, *shape: int) -> np.ndarray:
    """Whole numbers from 0 up to, but not including, `high`."""
    return np.random.default_rng(seed).integers(0, high, shape)


def training(optimizer: Any, loss: Callable[..., Any], clip: Callable[[], Any] | None = None) -> Step:
    """A step of an optimizer for the loss of what the step is given; gradients may be clipped before."""

    def step(*given: Any) -> Any:
        optimizer.zero_grad()
        found = loss(*given)
        found.backward()
        if clip is not None:
            clip()
        optimizer.step()
        return found

    return step
