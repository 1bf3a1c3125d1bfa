"""One training run of the demo: the same step, eager or compiled, with everything the table needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import tracejit as tj
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.optim import Adam, Optimizer
from tracejit.tools.counting import counts
from tracejit.tools.demo.digits import Digits
from tracejit.tools.timing import cold_seconds, steady

BATCH = 64
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model learns."""

    epochs: int
    lr: float


RECIPES = {"mlp": Recipe(20, 1e-3), "cnn": Recipe(25, 2e-3), "transformer": Recipe(15, 1e-3)}
"""The recipe of each model of `models.MODELS`, by the same name."""


@dataclass
class Run:
    """What one training run left behind: its losses, the seconds of each step, its final state and accuracy."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    state: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    accuracy: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """The median step after the warm-up."""
        return steady(self.seconds)

    @property
    def cold_seconds(self) -> float:
        """What the first steps took beyond their steady time: building and loading kernels, tracing, compiling."""
        return cold_seconds(self.seconds)


def make_step(model: nn.Module, opt: Optimizer) -> Callable[[tj.Tensor, tj.Tensor], tj.Tensor]:
    """The whole training step that the demo runs as it stands or hands to `tj.compile`."""

    def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of the test images that the model names right."""
    model.eval()
    with tj.no_grad():
        guesses = model(tj.from_numpy(digits.test_x)).argmax(1).numpy()
    model.train()
    return float(np.mean(guesses == digits.test_y))


def final_state(model: nn.Module, opt: Optimizer) -> dict[str, npt.NDArray[Any]]:
    """Copies of all parameters and buffers, and of the optimizer's state under names that begin with "opt."."""
    found = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    for index, slots in opt.state_dict()["state"].items():
        found |= {f"opt.{index}.{slot}": tj.as_tensor(value).numpy().copy() for slot, value in slots.items()}
    return found


def train(
    build: Callable[[], nn.Module],
    recipe: Recipe,
    digits: Digits,
    *,
    compiled: bool,
    title: str = "",
    quiet: bool = False,
    steps: int | None = None,
) -> Run:
    """Train one model from the demo's seed, for all its epochs or the first `steps`; what happened."""
    tj.manual_seed(SEED)
    model = build()
    opt = Adam(model.parameters(), lr=recipe.lr)
    step = make_step(model, opt)
    if compiled:
        step = tj.compile(step)
    run = Run()
    batches = islice(digits.batches(recipe.epochs, BATCH, SEED), steps)
    total = min(digits.steps(recipe.epochs, BATCH), steps or sys.maxsize)
    with tqdm(batches, title, total=total, disable=quiet, ncols=100) as bar:
        for x, y in bar:
            inputs, targets = tj.from_numpy(x), tj.from_numpy(y)
            start = time.perf_counter()
            loss = step(inputs, targets).item()
            run.seconds.append(time.perf_counter() - start)
            run.losses.append(loss)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
    run.state = final_state(model, opt)
    run.accuracy = accuracy(model, digits)
    if compiled:
        run.counts = counts(step)
    return run


def same_bits(a: Run, b: Run) -> bool:
    """Whether two runs have the same losses and the same final state, bit for bit.

    >>> same_bits(Run(losses=[0.0]), Run(losses=[-0.0]))
    False
    """
    losses = np.array_equal(np.array(a.losses).view(np.int64), np.array(b.losses).view(np.int64))
    states = a.state.keys() == b.state.keys() and all(
        value.dtype == b.state[name].dtype and value.tobytes() == b.state[name].tobytes()
        for name, value in a.state.items()
    )
    return bool(losses and states)
