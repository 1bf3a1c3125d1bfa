"""GradScaler beside PyTorch's: scales, skipped steps, growth, state, errors, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj

torch = pytest.importorskip("torch")

OPTIONS = {"init_scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2}
FACTORS = [1.0, 1.0, 1e38, 2.0, 1.0, float("nan"), 0.5, 1.0, 1.0, 1.0]
"""What a loss is multiplied by in each step: some overflow."""


def train(t: Any, clip: bool, wrap: Callable[[Any], Any] = lambda f: f, steps: int = 10) -> list[Any]:
    w = t.nn.Parameter(t.tensor([1.0, -2.0, 3.0]))
    v = t.nn.Parameter(t.tensor([[0.5, 0.25, 1.0]]))
    optimizer = t.optim.SGD([w, v], lr=0.125, momentum=0.5)
    scaler = t.amp.GradScaler("cpu", **OPTIONS)

    def step(factor: Any) -> Any:
        optimizer.zero_grad()
        with t.autocast("cpu"):
            loss = (v @ w).sum() * factor
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            t.nn.utils.clip_grad_value_([w, v], 0.75)
        scaler.step(optimizer)
        scaler.update()
        return loss

    run, seen = wrap(step), []
    for k in range(steps):
        loss = run(t.tensor(FACTORS[k % len(FACTORS)]))
        seen.append((loss.item(), scaler.get_scale(), scaler.state_dict()["_growth_tracker"], w.tolist(), v.tolist()))
    return seen


@pytest.mark.parametrize("clip", [False, True])
def test_scales_and_parameters_are_those_of_torch(clip: bool) -> None:
    found, expected = train(tj, clip), train(torch, clip)
    assert len({scale for _, scale, *_ in found}) > 3
    for (loss, *ours), (their_loss, *theirs) in zip(found, expected, strict=True):
        np.testing.assert_allclose(loss, their_loss, rtol=1e-2)
        assert ours[:2] == theirs[:2]
        for a, b in zip(ours[2:], theirs[2:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2)


@pytest.mark.parametrize("clip", [False, True])
def test_compiled_has_the_bits_of_eager(clip: bool) -> None:
    assert str(train(tj, clip, tj.compile, 40)) == str(train(tj, clip, steps=40))


def test_state_and_settings() -> None:
    states = []
    for t in (torch, tj):
        scaler = t.amp.GradScaler("cpu", **OPTIONS)
        assert scaler.is_enabled()
        scaler.scale(t.ones(1))
        scaler.update(32.0)
        scaler.set_growth_factor(4.0)
        scaler.set_backoff_factor(0.5)
        scaler.set_growth_interval(7)
        assert (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()) == (4.0, 0.5, 7)
        again = t.amp.GradScaler("cpu")
        again.load_state_dict(scaler.state_dict())
        states.append(again.state_dict())
        assert scaler.scale([t.ones(1), (t.ones(1),)])[1][0].item() == again.get_scale()
        off = t.amp.GradScaler("cpu", enabled=False)
        assert (off.get_scale(), off.state_dict(), off.scale(3)) == (1.0, {}, 3)
        with pytest.raises(RuntimeError, match="source state dict is empty"):
            again.load_state_dict({})
    assert states[0] == states[1]


def test_wrong_orders_are_refused() -> None:
    for t in (torch, tj):
        w = t.nn.Parameter(t.ones(2))
        optimizer, scaler = t.optim.SGD([w], lr=0.1), t.amp.GradScaler("cpu")
        scaler.scale(w.sum()).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="already been called on this optimizer since the last update"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="already been called since the last update"):
            scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="being called after step"):
            scaler.unscale_(optimizer)
        scaler.update()
        with pytest.raises(AssertionError, match="No inf checks"):
            scaler.update()
        with pytest.raises(RuntimeError, match="Closure use"):
            scaler.step(optimizer, closure=lambda: None)
        with pytest.raises(AssertionError, match="growth factor"):
            t.amp.GradScaler("cpu", growth_factor=1.0)
        half = t.nn.Parameter(t.ones(2, dtype=t.float16))
        other = t.optim.SGD([half], lr=0.1)
        scaler.scale(half.sum()).backward()
        with pytest.raises(ValueError, match="unscale FP16"):
            scaler.unscale_(other)


def test_several_optimizers_share_the_scale() -> None:
    found = []
    for t in (torch, tj):
        params = [t.nn.Parameter(t.ones(1)) for _ in range(2)]
        optimizers = [t.optim.SGD([p], lr=0.5) for p in params]
        scaler = t.amp.GradScaler("cpu", init_scale=2.0**100)
        scaler.scale(params[0].sum() + params[1].sum() * 2.0**40).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        found.append(([p.item() for p in params], scaler.get_scale()))
    assert found[0] == found[1] == ([0.5, 1.0], 2.0**99)
