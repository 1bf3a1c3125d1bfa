"""The workloads in tracejit, eager or through tj.compile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import tracejit as tj
from benchmarks.workloads import LEARNING_RATE, WORKLOADS, Array, Case, Workload, endless, initial_value
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.tools.counting import counts
from tracejit.tools.demo.models import Cnn, Transformer


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last:
                x = F.relu(x)
        return x


class Cnn28(nn.Module):
    """Two 3x3 convolutions with 16 and 32 channels, each with ReLU and 2x2 max pooling, then 128 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


MODELS: dict[str, Callable[[float], nn.Module]] = {
    "mlp-tiny": lambda dropout: Mlp(4, 64, 64, 2),
    "mlp-small": lambda dropout: Mlp(64, 128, 128, 10),
    "mlp-wide": lambda dropout: Mlp(784, 512, 512, 10),
    "cnn-demo": lambda dropout: Cnn(dropout=dropout),
    "transformer-demo": lambda dropout: Transformer(dropout=dropout),
    "cnn-28": lambda dropout: Cnn28(),
}

FUNCTIONS: dict[str, Callable[..., tj.Tensor]] = {
    "chain-4m": lambda x, y: tj.exp(tj.tanh(x * y + 1) * tj.sigmoid(x) - y / 2),
    "softmax": lambda x: tj.softmax(x, -1),
    "layer-norm": lambda x: F.layer_norm(x, (1000,)),
}


def set_threads(count: int) -> None:
    """Compute with `count` threads."""
    tj.set_num_threads(count)


def versions() -> dict[str, str]:
    """What is timed."""
    return {"tracejit": tj.__version__}


def build(name: str, compiled: bool, deterministic: bool) -> Case:
    """The named workload, freshly initialised."""
    workload = WORKLOADS[name]
    if name == "add-8":
        return _additions(workload)
    if name in FUNCTIONS:
        return _function(workload, FUNCTIONS[name], compiled)
    tj.manual_seed(0)
    return _training(workload, MODELS[name](0.0 if deterministic else 0.1), compiled)


def _training(workload: Workload, model: nn.Module, compiled: bool) -> Case:
    with tj.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tj.from_numpy(initial_value(name, tuple(parameter.shape))))
    opt = tj.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    batches = endless([tuple(tj.from_numpy(a) for a in batch) for batch in workload.data()])

    def train(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    step = tj.compile(train) if compiled else train

    def state() -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, parameter in model.named_parameters():
            found[f"param.{name}"] = parameter.detach().numpy().copy()
            if parameter.grad is not None:
                found[f"grad.{name}"] = parameter.grad.numpy().copy()
        for index, slots in opt.state_dict()["state"].items():
            for slot, value in slots.items():
                found[f"opt.{index}.{slot}"] = _array(value)
        return found

    return Case(lambda: step(*next(batches)), _value, state, lambda: counts(step))


def _function(workload: Workload, plain: Callable[..., tj.Tensor], compiled: bool) -> Case:
    inputs = tuple(tj.from_numpy(a) for a in workload.data()[0])
    function = tj.compile(plain) if compiled else plain

    def step() -> tj.Tensor:
        with tj.no_grad():
            return function(*inputs)

    return Case(step, _value, counts=lambda: counts(function))


def _additions(workload: Workload) -> Case:
    x, y = (tj.from_numpy(a).requires_grad_() for a in workload.data()[0])
    repeats = range(workload.calls)

    def step() -> tj.Tensor:
        for _ in repeats:
            z = x + y
        return z

    return Case(step, _value)


def _value(result: tj.Tensor) -> Array:
    return result.detach().numpy().copy()


def _array(value: Any) -> Array:
    return _value(tj.as_tensor(value))
