"""What is timed: names, data and initial values, as NumPy arrays that every framework starts from."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EVERYWHERE = ("eager", "compiled", "torch", "torch-compile", "jax")
BATCHES = 4
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    `data` makes the arrays that a step takes, one tuple a batch. `calls` is how often a step repeats the operation.
    `random` says that the step draws random numbers, so that frameworks agree only when built without them.
    """

    name: str
    about: str
    data: Callable[[], list[tuple[Array, ...]]]
    frameworks: tuple[str, ...] = EVERYWHERE
    calls: int = 1
    random: bool = False
    tolerance: float = 2e-4


@dataclass(frozen=True)
class Case:
    """A workload built in one framework.

    `step()` does one step to the end and returns its result; `value(result)` is that as an array;
    `state()` are gradients, parameters and optimizer state under the prefixes "grad.", "param." and "opt.".
    """

    step: Callable[[], Any]
    value: Callable[[Any], Array]
    state: Callable[[], dict[str, Array]] = dict
    counts: Callable[[], dict[str, int]] = dict


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def initial_value(name: str, shape: tuple[int, ...]) -> Array:
    """The initial value of a parameter, which depends on its name and shape alone."""
    if len(shape) == 1 and name.endswith("weight"):
        return np.ones(shape, np.float32)
    bound = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else shape[0])
    return _rng(name).uniform(-bound, bound, shape).astype(np.float32)


def classification(batch: int, shape: tuple[int, ...], classes: int) -> Callable[[], list[tuple[Array, ...]]]:
    """Batches of standard normal inputs with random classes."""

    def make() -> list[tuple[Array, ...]]:
        rng = _rng(f"{batch} {shape} {classes}")
        return [
            (rng.standard_normal((batch, *shape), np.float32), rng.integers(0, classes, batch, np.int64))
            for _ in range(BATCHES)
        ]

    return make


def arrays(*shapes: tuple[int, ...]) -> Callable[[], list[tuple[Array, ...]]]:
    """One batch of standard normal arrays."""

    def make() -> list[tuple[Array, ...]]:
        rng = _rng(str(shapes))
        return [tuple(rng.standard_normal(shape, np.float32) for shape in shapes)]

    return make


def endless(batches: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The batches, over and over."""
    return cycle(batches)


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("mlp-tiny", "MLP 4-64-64-2, batch 1, Adam step", classification(1, (4,), 2)),
        Workload("mlp-small", "MLP 64-128-128-10, batch 64, Adam step", classification(64, (64,), 10)),
        Workload("mlp-wide", "MLP 784-512-512-10, batch 128, Adam step", classification(128, (784,), 10)),
        Workload("cnn-demo", "the demo's CNN, batch 64, Adam step", classification(64, (64,), 10), random=True),
        Workload(
            "transformer-demo",
            "the demo's transformer, batch 64, Adam step",
            classification(64, (64,), 10),
            random=True,
        ),
        Workload("cnn-28", "CNN conv16-conv32-fc128, 64x1x28x28, Adam step", classification(64, (1, 28, 28), 10)),
        Workload(
            "add-8",
            "x + y on 8 elements that require gradients, recorded for backward",
            arrays((8,), (8,)),
            frameworks=("eager", "torch"),
            calls=100,
        ),
        Workload(
            "chain-4m", "exp(tanh(x*y+1)*sigmoid(x) - y/2), 4M elements", arrays((1 << 22,), (1 << 22,)), tolerance=1e-5
        ),
        Workload("softmax", "softmax of 4000x1000 over the last axis", arrays((4000, 1000)), tolerance=1e-5),
        Workload("layer-norm", "layer norm of 4000x1000 over the last axis", arrays((4000, 1000)), tolerance=1e-5),
    )
}
