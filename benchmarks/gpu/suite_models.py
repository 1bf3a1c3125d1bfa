"""Whole training steps on a GPU: equal to the CPU's losses, and timed beside PyTorch's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import tracejit as tj
from benchmarks import models
from benchmarks.workloads import LEARNING_RATE, WORKLOADS, endless, initial_value

KINDS: tuple[tuple[str, str], ...] = (
    ("mlp-wide", ""), ("cnn-28", ""), ("gpt", ""), ("gpt", "TF32"), ("gpt", "bf16"), ("mlp-small", ""), ("resnet", ""),
    ("mlp-tiny", ""), ("cnn-demo", ""), ("transformer-demo", ""), ("lstm", ""),
)  # fmt: skip
"""Models, and what their products may be beside float32; the most important first."""
_TINY = (("mlp-tiny", ""),)
_STEPS, _ROUNDS, _WARM = 40, 5, 6
_COMPARED = 4
"""Steps whose losses are compared."""
_ALLOWED = {"": 2e-3, "TF32": 1e-2, "bf16": 5e-2}
"""How far losses may be apart, of their size: sums are in another order, and perhaps of shorter numbers."""


class Notes(Protocol):
    """What keeps figures."""

    tiny: bool

    @property
    def left(self) -> float:
        """Seconds that are left."""

    def note(self, name: str, value: Any) -> None:
        """Keeps a figure."""

    def part(self, name: str) -> Any:
        """A part that may fail."""


class Training:
    """A model with its optimizer and data, in PyTorch or in tracejit, on a device."""

    def __init__(
        self, torch: Any, name: str, device: str, compiled: Callable[[Any], Any], whole: bool, kind: str = ""
    ) -> None:
        self._torch = torch
        self._tf32 = kind == "TF32"
        model = models.define(torch)[name](0.0)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(initial_value(parameter_name, tuple(parameter.shape))))
        model = model.to(device)
        more = {"fused": True} if torch is not tj and device != "cpu" else {}
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, **more)
        data = [tuple(torch.from_numpy(a).to(device) for a in batch) for batch in WORKLOADS[name].data()]
        self._batches = endless(data)
        cross_entropy = torch.nn.functional.cross_entropy

        def loss_of(x: Any, y: Any) -> Any:
            if kind != "bf16":
                return cross_entropy(model(x), y)
            with torch.autocast(device, dtype=torch.bfloat16):
                return cross_entropy(model(x), y)

        forward = loss_of if whole else compiled(loss_of)

        def train(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = forward(x, y)
            loss.backward()
            optimizer.step()
            return loss

        self._step = compiled(train) if whole else train

    def step(self) -> Any:
        """One step; gives the loss."""
        self._torch.backends.cuda.matmul.allow_tf32 = self._tf32
        return self._step(*next(self._batches))

    def losses(self) -> np.ndarray:
        """The losses of the first steps."""
        return np.array([float(self.step().item()) for _ in range(_COMPARED)])

    def microseconds(self, steps: int) -> float:
        """Median of a step, many in a row, until the device is done."""
        wait = self._torch.cuda.synchronize
        for _ in range(_WARM):
            self.step()
        times = []
        for _ in range(_ROUNDS):
            wait()
            begin = time.perf_counter()
            for _ in range(steps):
                self.step()
            wait()
            times.append((time.perf_counter() - begin) * 1e6 / steps)
        return statistics.median(times)


def _as_is(function: Any) -> Any:
    return function


def run_models(session: Notes, torch: Any) -> None:
    """Checks and times the models; PyTorch's compiled steps come last, since compiling them takes longest."""
    if not tj.cuda.is_available():
        session.note("tensors on a GPU", {"wrong": "tj.cuda.is_available() is False"} if not session.tiny else "none")
        return
    steps = 2 if session.tiny else _STEPS
    kinds = _TINY if session.tiny else KINDS
    for name, kind in kinds:
        title = f"{name} {kind}".strip()
        if session.left < 10:
            session.note("models", "not all of them, for want of time")
            break
        with session.part(title):
            wanted = Training(tj, name, "cpu", _as_is, True).losses()
            eager, compiled = (Training(tj, name, "cuda", change, True, kind) for change in (_as_is, tj.compile))
            for label, training in (("eager", eager), ("compiled", compiled)):
                losses = training.losses()
                off = float(np.max(np.abs(losses - wanted) / np.abs(wanted)))
                wrong = {"wrong": f"{label} losses {losses.tolist()}, {wanted.tolist()}"}
                session.note(title, {f"{label} off": off} | ({} if off <= _ALLOWED[kind] else wrong))
            session.note(title, {"us": compiled.microseconds(steps)})
            session.note(title, {"eager us": eager.microseconds(max(steps // 4, 1))})
        if torch is not None:
            with session.part(f"{title}, torch"):
                session.note(title, {"torch": Training(torch, name, "cuda", _as_is, False, kind).microseconds(steps)})
    for name, kind in kinds if torch is not None else ():
        title = f"{name} {kind}".strip()
        if session.left < 45:
            session.note("torch reduce-overhead", "not all of it, for want of time")
            return
        with session.part(f"{title}, torch reduce-overhead"):
            change = _reduced(torch)
            us = Training(torch, name, "cuda", change, False, kind).microseconds(steps)
            session.note(title, {"torch reduce-overhead": us})
            torch.compiler.reset()


def _reduced(torch: Any) -> Callable[[Any], Any]:
    return lambda function: torch.compile(function, mode="reduce-overhead")
