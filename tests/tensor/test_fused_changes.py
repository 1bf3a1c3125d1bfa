"""Composites that change tensors in place and run as one program: optimizers, running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import same_bits
from tests.tensor.fusing import SIZE, bits, both, built, operands, step
from tracejit.nn import functional as F
from tracejit.tensor import fused
from tracejit.tensor.fused_step import FusedStep

OPTIMIZERS: dict[str, Callable[[Any], tj.optim.Optimizer]] = {
    "Adam": lambda p: tj.optim.Adam(p, lr=1e-2),
    "AdamW": lambda p: tj.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "SGD": lambda p: tj.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: tj.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: tj.optim.Adagrad(p, lr=0.01),
}


def unit_of(name: str) -> Any:
    """The programs of the only composite with a name that was met."""
    found = {unit for (composite, *_), unit in fused._units.items() if composite.function.__name__ == name}
    return found.pop() if len(found) == 1 else None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training(name: str) -> None:
    def run() -> list[Any]:
        tj.manual_seed(0)
        layers = [tj.nn.Linear(8, 16), tj.nn.BatchNorm1d(16), tj.nn.ReLU(), tj.nn.LayerNorm(16), tj.nn.Linear(16, 4)]
        model = tj.nn.Sequential(*layers)
        optimizer = OPTIMIZERS[name](model.parameters())
        schedule = tj.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        x, t = tj.randn(32, 8), tj.arange(32) % 4
        found: list[Any] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), t)
            loss.backward()
            found.append(bits(tj.nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
            optimizer.step()
            schedule.step()
            found.append(bits(loss))
        found += [bits(p) for p in (*model.parameters(), *model.buffers())]
        return [found, [p._version for p in (*model.parameters(), *model.buffers())]]

    (one, versions), (other, same_versions) = both(run)
    assert all(map(same_bits, one, other))
    assert versions == same_versions


def test_a_changed_number_is_no_other_program() -> None:
    w = tj.nn.Parameter(tj.ones(4))
    optimizer = tj.optim.Adam([w], lr=1.0)
    with built(-1):
        for lr in (1.0, 0.5, 0.25):
            w.grad = tj.ones(4)
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        assert unit_of("adam_update").bumps
    assert w.tolist() == pytest.approx([1.0 - 1.75] * 4)


def test_statistics_that_move() -> None:
    def run() -> list[Any]:
        x, w, b, _ = operands(tj.float32, 3)
        mean, variance = tj.zeros(SIZE), tj.ones(SIZE)
        for _ in range(3):
            out = F.batch_norm(x * 1.0, mean, variance, w, b, training=True, momentum=0.2)
            (out * out).sum().backward()
        return [bits(out), bits(mean), bits(variance), *[bits(t.grad) for t in (x, w, b)], (mean._version,)]

    one, other = both(run)
    assert one.pop() == other.pop()
    assert all(map(same_bits, one, other))
    with built(-1):
        x, w, b, _ = operands(tj.float32, 3)
        assert step(F.batch_norm(x, tj.zeros(SIZE), tj.ones(SIZE), w, b, training=True)) is FusedStep


@pytest.mark.parametrize("how", ["same", "overlapping", "view", "read_only", "gradient"])
def test_memory_that_is_changed_and_shared(how: str) -> None:
    def run() -> Any:
        memory = np.arange(12, dtype=np.float32)
        both = [tj.from_numpy(memory[:8]), tj.from_numpy(memory[4:])]
        grads = [tj.full((8,), 0.5), tj.full((8,), -0.5)]
        if how == "same":
            both[1] = both[0]
        elif how == "view":
            whole = tj.from_numpy(memory)
            both = [whole[:6], whole[6:]]
            grads = [tj.full((6,), 0.5), tj.full((6,), -0.5)]
        elif how == "read_only":
            both = [tj.ones(8), tj.ones(1).expand(8)]
        elif how == "gradient":
            both, grads = both[:1], both[1:]
        params = [tj.nn.Parameter(p) if how not in ("view", "read_only") else p for p in both]
        buffers = [tj.zeros(p.shape) for p in params]
        options = {"decays": False, "has_momentum": True, "first": False, "nesterov": False, "maximize": False}
        for p in params:
            p.detach()
        with tj.no_grad():
            try:
                for _ in range(3):
                    tj.optim.sgd.sgd_update(
                        params, grads, buffers, lr=0.1, weight_decay=0.0, momentum=0.9, fresh_share=1.0, **options
                    )
            except RuntimeError as e:
                return str(e)
        return [bits(p) for p in (*params, *buffers)]

    one, other = both(run)
    assert one == other if isinstance(one, str) else all(map(same_bits, one, other))
    assert isinstance(one, str) is (how == "read_only")
