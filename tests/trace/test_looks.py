"""Looks at values in the middle of a step: the gradient leads out of its segment, by the short way from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.trace.compiled import region_of
from tracejit.trace.tree import path

F = tj.nn.functional


def accuracy_first(net: Any, log: list[Any], x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
    out = net(x)
    loss = F.cross_entropy(out, y)
    log.append((out.argmax(1) == y).float().mean().item())
    loss.backward()
    return loss


def guarded(net: Any, log: list[Any], x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
    loss = F.cross_entropy(net(x), y)
    if not tj.isnan(loss):
        loss.backward()
    return loss


def hidden_kept(net: Any, log: list[Any], x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
    hidden = net[0](x).relu()
    loss = F.cross_entropy(net[2](hidden), y)
    log.append(loss.item())
    (loss + (hidden * hidden).mean()).backward()
    return loss


@pytest.mark.parametrize("program", [accuracy_first, guarded, hidden_kept])
def test_gradients_behind_a_look_take_the_short_way(program: Callable[..., tj.Tensor]) -> None:
    def run(wrap: Callable[..., Any]) -> tuple[Any, list[Any]]:
        net = tj.nn.Sequential(tj.nn.Linear(8, 16), tj.nn.ReLU(), tj.nn.Linear(16, 4))
        for k, p in enumerate(net.parameters()):
            p.data.copy_(arr(k, *p.shape))
        opt = tj.optim.Adam(net.parameters())
        log: list[Any] = []

        def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
            opt.zero_grad()
            loss = program(net, log, x, y)
            opt.step()
            return loss.detach()

        step = wrap(step)
        for k in range(30):
            log.append(bits(step(arr(10 + k, 6, 8), tj.tensor([0, 1, 2, 3, 1, 0]))))
        return step, [*log, *(bits(p.detach()) for p in net.parameters())]

    compiled, ours = run(tj.compile)
    assert ours == run(lambda f: f)[1]
    events = [event for stop, _ in region_of(compiled).executables() for event in path(stop.last)]
    (crossing,) = {id(e.crossing): e.crossing for e in events if e.crossing is not None}.values()
    assert 1 <= crossing.made <= 2
