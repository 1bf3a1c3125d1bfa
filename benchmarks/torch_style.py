"""The workloads in PyTorch's way of writing, for PyTorch and for tracejit: only the import differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.workloads import LEARNING_RATE, WORKLOADS, Array, Case, Workload, endless, initial_value


@dataclass(frozen=True)
class Suite:
    """What builds the workloads in a framework: PyTorch's module or tracejit's, and how it compiles.

    `counts` tells what a compiled function consists of.
    """

    torch: Any
    compile: Callable[[Any], Any]
    counts: Callable[[Any], dict[str, int]] = lambda function: {}

    def build(self, name: str, compiled: bool, deterministic: bool) -> Case:
        """The named workload, freshly initialised."""
        workload = WORKLOADS[name]
        change = self.compile if compiled else lambda function: function
        functions = models.functions(self.torch)
        self.torch.manual_seed(0)
        if name == "add-8":
            return self._additions(workload)
        if name in functions:
            return self._function(workload, change(functions[name]))
        if name == "adam-100":
            return self._updates(workload, change)
        model = self._initialised(models.define(self.torch)[name](0.0 if deterministic else 0.1))
        return self._inference(workload, model, change) if name == "policy" else self._training(workload, model, change)

    def _initialised(self, model: Any) -> Any:
        with self.torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.torch.from_numpy(initial_value(name, tuple(parameter.shape))))
        return model

    def _tensors(self, workload: Workload) -> list[tuple[Any, ...]]:
        # In memory of the framework's own: a NumPy array may begin anywhere in a line of the cache.
        return [tuple(self.torch.tensor(a) for a in batch) for batch in workload.data()]

    def _training(self, workload: Workload, model: Any, change: Callable[[Any], Any]) -> Case:
        opt = self.torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        batches = endless(self._tensors(workload))
        cross_entropy = self.torch.nn.functional.cross_entropy

        def train(x: Any, y: Any) -> Any:
            opt.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        step = change(train)
        return Case(lambda: step(*next(batches)), _value, lambda: _state(model, opt), lambda: self.counts(step))

    def _updates(self, workload: Workload, change: Callable[[Any], Any]) -> Case:
        """Updates of many parameters whose gradients are there."""
        torch = self.torch
        holder = torch.nn.Module()
        holder.tensors = torch.nn.ParameterList([torch.nn.Parameter(a) for a in self._tensors(workload)[0]])
        for parameter, gradient in zip(holder.tensors, self._tensors(workload)[1], strict=True):
            parameter.grad = gradient
        opt = torch.optim.Adam(holder.parameters(), lr=LEARNING_RATE)
        last = holder.tensors[len(holder.tensors) - 1]
        step = change(opt.step)

        def update() -> Any:
            step()
            return last

        return Case(update, _value, lambda: _state(holder, opt), lambda: self.counts(step))

    def _inference(self, workload: Workload, model: Any, change: Callable[[Any], Any]) -> Case:
        softmax, no_grad = self.torch.softmax, self.torch.no_grad
        batches = endless(self._tensors(workload))
        policy = change(lambda x: softmax(model(x), -1))

        def step() -> Any:
            with no_grad():
                return policy(next(batches)[0])

        return Case(step, _value, counts=lambda: self.counts(policy))

    def _function(self, workload: Workload, function: Callable[..., Any]) -> Case:
        inputs = self._tensors(workload)[0]
        no_grad = self.torch.no_grad

        def step() -> Any:
            with no_grad():
                return function(*inputs)

        return Case(step, _value, counts=lambda: self.counts(function))

    def _additions(self, workload: Workload) -> Case:
        x, y = (a.requires_grad_() for a in self._tensors(workload)[0])
        repeats = range(workload.calls)

        def step() -> Any:
            for _ in repeats:
                z = x + y
            return z

        return Case(step, _value)


def _state(model: Any, opt: Any) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, parameter in model.named_parameters():
        found[f"param.{name}"] = _value(parameter)
        if parameter.grad is not None:
            found[f"grad.{name}"] = _value(parameter.grad)
    for name, buffer in model.named_buffers():
        found[f"buffer.{name}"] = _value(buffer)
    for index, slots in opt.state_dict()["state"].items():
        for slot, value in slots.items():
            found[f"opt.{index}.{slot}"] = np.asarray(value) if isinstance(value, int | float) else _value(value)
    return found


def _value(result: Any) -> Array:
    return result.detach().numpy().copy()
