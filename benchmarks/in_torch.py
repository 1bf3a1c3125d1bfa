"""The workloads in PyTorch, eager or through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_models
from benchmarks.workloads import LEARNING_RATE, WORKLOADS, Case, Workload, endless, initial_value

MODELS: dict[str, Callable[[float], nn.Module]] = {
    "mlp-tiny": lambda dropout: torch_models.Mlp(4, 64, 64, 2),
    "mlp-small": lambda dropout: torch_models.Mlp(64, 128, 128, 10),
    "mlp-wide": lambda dropout: torch_models.Mlp(784, 512, 512, 10),
    "cnn-demo": lambda dropout: torch_models.Cnn(8, 64, dropout),
    "transformer-demo": torch_models.Transformer,
    "cnn-28": lambda dropout: torch_models.Cnn(28, 128, 0.0),
}

FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "chain-4m": lambda x, y: torch.exp(torch.tanh(x * y + 1) * torch.sigmoid(x) - y / 2),
    "softmax": lambda x: torch.softmax(x, -1),
    "layer-norm": lambda x: F.layer_norm(x, (1000,)),
}


def set_threads(count: int) -> None:
    """Compute with `count` threads."""
    torch.set_num_threads(count)


def versions() -> dict[str, str]:
    """What is timed."""
    return {"torch": torch.__version__}


def build(name: str, compiled: bool, deterministic: bool) -> Case:
    """The named workload, freshly initialised."""
    workload = WORKLOADS[name]
    change = torch.compile if compiled else lambda function: function
    if name == "add-8":
        return _additions(workload)
    if name in FUNCTIONS:
        return _function(workload, change(FUNCTIONS[name]))
    torch.manual_seed(0)
    return _training(workload, MODELS[name](0.0 if deterministic else 0.1), change)


def _training(workload: Workload, model: nn.Module, change: Callable[..., Any]) -> Case:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(initial_value(name, tuple(parameter.shape))))
    opt = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    batches = endless([tuple(torch.from_numpy(a) for a in batch) for batch in workload.data()])

    def train(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    train = change(train)

    def state() -> dict[str, Any]:
        found = {}
        for name, parameter in model.named_parameters():
            found[f"param.{name}"] = parameter.detach().numpy().copy()
            if parameter.grad is not None:
                found[f"grad.{name}"] = parameter.grad.numpy().copy()
        return found

    return Case(lambda: train(*next(batches)), lambda loss: loss.detach().numpy().copy(), state)


def _function(workload: Workload, function: Callable[..., torch.Tensor]) -> Case:
    inputs = tuple(torch.from_numpy(a) for a in workload.data()[0])

    def step() -> torch.Tensor:
        with torch.no_grad():
            return function(*inputs)

    return Case(step, lambda out: out.numpy().copy())


def _additions(workload: Workload) -> Case:
    x, y = (torch.from_numpy(a).requires_grad_() for a in workload.data()[0])
    repeats = range(workload.calls)

    def step() -> torch.Tensor:
        for _ in repeats:
            z = x + y
        return z

    return Case(step, lambda out: out.detach().numpy().copy())
