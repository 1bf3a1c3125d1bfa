"""What is timed: names, data and initial values, as NumPy arrays that every framework starts from."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
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
    `random` says that the step draws random numbers, so that frameworks agree only when built without them. `work` is
    what a step must at least do; `target` how many times faster than the best peer it is to be. One that is `aside` is
    run where it is named, and not with all.
    """

    name: str
    about: str
    data: Callable[[], list[tuple[Array, ...]]]
    frameworks: tuple[str, ...] = EVERYWHERE
    calls: int = 1
    random: bool = False
    tolerance: float = 2e-4
    work: Work | None = None
    target: float | None = None
    aside: bool = False


@dataclass(frozen=True)
class Work:
    """Floating point operations of products and convolutions, and bytes that must come from memory or go there.

    `way` is what they are compared with: a copy reads one array and writes one, a triad reads two.
    """

    flops: float
    nbytes: float
    way: str = "copy"


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


def characters(batch: int, length: int, kinds: int) -> Callable[[], list[tuple[Array, ...]]]:
    """Batches of texts, each with the characters that follow, in one row."""

    def make() -> list[tuple[Array, ...]]:
        rng = _rng(f"{batch} {length} {kinds}")
        texts = [rng.integers(0, kinds, (batch, length + 1), np.int64) for _ in range(BATCHES)]
        return [(np.ascontiguousarray(text[:, :-1]), text[:, 1:].reshape(-1)) for text in texts]

    return make


def tensors(count: int, *shape: int) -> Callable[[], list[tuple[Array, ...]]]:
    """Two batches of equal arrays: parameters, and their gradients."""

    def make() -> list[tuple[Array, ...]]:
        rng = _rng(f"{count} {shape}")
        return [tuple(rng.standard_normal(shape, np.float32) for _ in range(count)) for _ in range(2)]

    return make


def _trained(flops: float, first: float, parameters: int) -> Work:
    """A training step: as much again for the gradients of weights, and of inputs but for those of the `first` layer.

    Adam reads a parameter and its two moments and writes them and the gradient.
    """
    return Work(3 * flops - first, 7 * 4.0 * parameters)


def _perceptron(batch: int, *sizes: int) -> Work:
    layers = [2.0 * batch * a * b for a, b in pairwise(sizes)]
    return _trained(sum(layers), layers[0], sum((a + 1) * b for a, b in pairwise(sizes)))


def _convolutions(batch: int, *layers: tuple[int, int, int, int], rest: Sequence[int] = ()) -> Work:
    """Layers are (side of the result, channels in, channels out, taps); `rest` are the sizes of linear layers."""
    costs = [2.0 * batch * side**2 * a * b * taps for side, a, b, taps in layers]
    linear = [2.0 * batch * a * b for a, b in pairwise(rest)]
    weights = sum(a * b * taps for _, a, b, taps in layers) + sum(a * b for a, b in pairwise(rest))
    return _trained(sum(costs) + sum(linear), costs[0], weights)


def _decoder(batch: int, length: int, width: int, layers: int, vocabulary: int) -> Work:
    tokens = batch * length
    weights = layers * 12 * width**2 + vocabulary * width
    mixing = layers * 4.0 * tokens * length * width
    return _trained(2.0 * tokens * weights + mixing, 0.0, weights)


def _recurrent(batch: int, steps: int, width: int) -> Work:
    half = 2.0 * batch * steps * 4 * width**2
    return _trained(2 * half, half, 8 * width**2)


def _moved(arrays: float, elements: int, flops: float = 0.0) -> Work:
    return Work(flops, arrays * 4.0 * elements, "triad" if arrays == 3 else "copy")


def endless(batches: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The batches, over and over."""
    return cycle(batches)


DEEP = {f"mlp-deep-{depth}": (64, *[64] * depth, 10) for depth in (4, 16, 64)}
"""Sizes of MLPs with many layers alike, for the time that each more layer takes to compile."""
MILLIONS = 1 << 22
"""Elements of the large arrays, 16 MiB each."""

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "mlp-tiny",
            "MLP 4-64-64-2, batch 1, Adam step",
            classification(1, (4,), 2),
            work=_perceptron(1, 4, 64, 64, 2),
            target=8.0,
        ),
        Workload(
            "mlp-small",
            "MLP 64-128-128-10, batch 64, Adam step",
            classification(64, (64,), 10),
            work=_perceptron(64, 64, 128, 128, 10),
            target=3.0,
        ),
        Workload(
            "mlp-wide",
            "MLP 784-512-512-10, batch 128, Adam step",
            classification(128, (784,), 10),
            work=_perceptron(128, 784, 512, 512, 10),
            target=1.5,
        ),
        Workload("cnn-demo", "the demo's CNN, batch 64, Adam step", classification(64, (64,), 10), random=True),
        Workload(
            "transformer-demo",
            "the demo's transformer, batch 64, Adam step",
            classification(64, (64,), 10),
            random=True,
        ),
        Workload(
            "cnn-28",
            "CNN conv16-conv32-fc128, 64x1x28x28, Adam step",
            classification(64, (1, 28, 28), 10),
            work=_convolutions(64, (28, 1, 16, 9), (14, 16, 32, 9), rest=(1568, 128, 10)),
            target=2.0,
        ),
        Workload(
            "resnet",
            "ResNet blocks 32 and 64, batch norm, 16x3x32x32, Adam step",
            classification(16, (3, 32, 32), 10),
            work=_convolutions(
                16, (32, 3, 32, 9), (32, 32, 32, 9), (32, 32, 32, 9), (16, 32, 64, 9), (16, 64, 64, 9), (16, 32, 64, 1)
            ),
            target=1.3,
        ),
        Workload(
            "lstm",
            "LSTM as a loop, batch 32, 32 steps, width 128, Adam step",
            classification(32, (32, 128), 10),
            work=_recurrent(32, 32, 128),
            target=2.5,
        ),
        Workload(
            "gpt",
            "GPT of 4 layers, width 128, batch 12, 64 characters, Adam step",
            characters(12, 64, 65),
            work=_decoder(12, 64, 128, 4, 65),
            target=1.7,
        ),
        Workload(
            "adam-100",
            "Adam over 100 tensors of 64x64",
            tensors(100, 64, 64),
            work=_moved(7, 100 * 64 * 64),
            target=3.0,
        ),
        Workload(
            "policy", "inference of an MLP 4-64-64-2 with softmax, batch 1", classification(1, (4,), 2), target=4.0
        ),
        Workload(
            "add-8",
            "x + y on 8 elements that require gradients, recorded for backward",
            arrays((8,), (8,)),
            frameworks=("eager", "torch"),
            calls=100,
        ),
        Workload(
            "chain-4m",
            "exp(tanh(x*y+1)*sigmoid(x) - y/2), 4M elements",
            arrays((MILLIONS,), (MILLIONS,)),
            tolerance=1e-5,
            work=_moved(3, MILLIONS),
            target=1.3,
        ),
        Workload(
            "gelu-4m",
            "GELU written by hand with tanh, 4M elements",
            arrays((MILLIONS,)),
            tolerance=1e-5,
            work=_moved(2, MILLIONS),
            target=1.1,
        ),
        Workload(
            "softmax",
            "softmax of 4000x1000 over the last axis",
            arrays((4000, 1000)),
            tolerance=1e-5,
            work=_moved(2, 4_000_000),
            target=1.0,
        ),
        Workload(
            "layer-norm",
            "layer norm of 4000x1000 over the last axis",
            arrays((4000, 1000)),
            tolerance=1e-5,
            work=_moved(2, 4_000_000),
            target=1.0,
        ),
        Workload(
            "sum-squares",
            "sum of squares, 4M elements",
            arrays((MILLIONS,)),
            tolerance=1e-5,
            work=_moved(1, MILLIONS),
            target=1.0,
        ),
        Workload(
            "column-sums",
            "sums of the columns of 2048x2048",
            arrays((2048, 2048)),
            tolerance=1e-4,
            work=_moved(1, MILLIONS),
            target=1.0,
        ),
        Workload(
            "axpy",
            "1.5 x + y, 4M elements",
            arrays((MILLIONS,), (MILLIONS,)),
            tolerance=1e-6,
            work=_moved(3, MILLIONS),
            target=1.0,
        ),
        Workload(
            "symmetrize",
            "(a + a.T) / 2, 2048x2048",
            arrays((2048, 2048)),
            tolerance=1e-6,
            work=_moved(2, MILLIONS),
            target=1.0,
        ),
        Workload(
            "matmul-1024",
            "product of 1024x1024 matrices",
            arrays((1024, 1024), (1024, 1024)),
            tolerance=1e-4,
            work=_moved(3, 1024**2, 2.0 * 1024**3),
            target=1.0,
        ),
        Workload(
            "matmul-512-bias-relu",
            "product of 512x512 matrices with bias and ReLU",
            arrays((512, 512), (512, 512), (512,)),
            tolerance=1e-4,
            work=_moved(3, 512**2, 2.0 * 512**3),
            target=1.0,
        ),
        *(
            Workload(
                name,
                f"MLP of {len(sizes) - 2} layers of width 64, batch 64, Adam step",
                classification(64, (64,), 10),
                work=_perceptron(64, *sizes),
                aside=True,
            )
            for name, sizes in DEEP.items()
        ),
        Workload(
            "matmul-32",
            "32x128 times 128x512",
            arrays((32, 128), (128, 512)),
            tolerance=1e-4,
            work=_moved(1, 32 * 128 + 128 * 512 + 32 * 512, 2.0 * 32 * 128 * 512),
            target=1.0,
        ),
    )
}
