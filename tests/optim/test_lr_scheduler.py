"""Schedules beside PyTorch's: equal numbers at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit as tj

# Each makes a schedule from a library's lr_scheduler and an optimizer.
SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "StepLR": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9], gamma=0.5),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "ConstantLR": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=4),
    "LinearLR": lambda s, o: s.LinearLR(o, start_factor=0.25, end_factor=0.9, total_iters=6),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 5, eta_min=0.01),
    "CosineAnnealingLR of one": lambda s, o: s.CosineAnnealingLR(o, 1),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=0.01),
    "CosineAnnealingWarmRestarts equal": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda epoch: 0.95**epoch),
    "LambdaLR each": lambda s, o: s.LambdaLR(o, [lambda epoch: 1 / (epoch + 1), lambda epoch: 0.5]),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, max_lr=[0.5, 1.0], total_steps=20),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(
        o, max_lr=0.5, epochs=4, steps_per_epoch=5, anneal_strategy="linear", three_phase=True, base_momentum=0.7
    ),
    "OneCycleLR without momentum": lambda s, o: s.OneCycleLR(o, max_lr=0.5, total_steps=20, cycle_momentum=False),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda epoch: 0.9 + 0.01 * epoch),
    "MultiplicativeLR each": lambda s, o: s.MultiplicativeLR(o, [lambda epoch: 0.5, lambda epoch: 1 / (epoch + 1)]),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, total_iters=7),
    "PolynomialLR of a power": lambda s, o: s.PolynomialLR(o, total_iters=30, power=2.5),
    "CyclicLR": lambda s, o: s.CyclicLR(o, base_lr=0.01, max_lr=[0.1, 0.2], step_size_up=3),
    "CyclicLR halved": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 3, 5, mode="triangular2", max_momentum=[0.9, 0.95]),
    "CyclicLR shrinking": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, step_size_up=4, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "CyclicLR by a function": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, 4, mode="own", scale_fn=lambda x: 1 / x, base_momentum=0.7
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, factor=0.1, total_iters=4), s.ExponentialLR(o, 0.9)], o
    ),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o,
        [s.LinearLR(o, start_factor=0.1, total_iters=4), s.CosineAnnealingLR(o, 6), s.ExponentialLR(o, 0.5)],
        [4, 10],
    ),
}


def optimizer(lib: Any, kind: str = "SGD") -> Any:
    params = [lib.nn.Parameter(lib.ones(1)) for _ in range(2)]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(lib.optim, kind)([{"params": params[:1]}, {"params": params[1:], "lr": 0.3}], lr=0.1, **options)


def reading(opt: Any) -> list[Any]:
    return [(group["lr"], group.get("momentum"), group.get("betas")) for group in opt.param_groups]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_rates_are_pytorchs(make: Callable[[Any, Any], Any], kind: str) -> None:
    mine, theirs = optimizer(tj, kind), optimizer(torch, kind)
    a, b = make(tj.optim.lr_scheduler, mine), make(torch.optim.lr_scheduler, theirs)
    for step in range(20):
        assert reading(mine) == reading(theirs), step
        assert a.get_last_lr() == b.get_last_lr(), step
        assert getattr(a, "last_epoch", None) == getattr(b, "last_epoch", None)
        for part in (mine, a, theirs, b):
            part.step()


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_going_on_from_saved_state(make: Callable[[Any, Any], Any], tmp_path: Any) -> None:
    first = optimizer(tj)
    a = make(tj.optim.lr_scheduler, first)
    for _ in range(7):
        first.step()
        a.step()
    tj.save({"optimizer": first.state_dict(), "schedule": a.state_dict()}, tmp_path / "state")
    state = tj.load(tmp_path / "state")
    second = optimizer(tj)
    b = make(tj.optim.lr_scheduler, second)
    b.load_state_dict(state["schedule"])
    second.load_state_dict(state["optimizer"])
    for _ in range(7):
        for part in (first, a, second, b):
            part.step()
        assert reading(first) == reading(second)
        assert a.get_last_lr() == b.get_last_lr()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.1},
        {"mode": "max"},
        {"threshold_mode": "abs", "cooldown": 2, "patience": 1},
        {"min_lr": [0.05, 0.2]},
    ],
)
def test_plateau(options: dict[str, Any]) -> None:
    mine, theirs = optimizer(tj), optimizer(torch)
    options = {"patience": 2, "factor": 0.5, **options}
    a = tj.optim.lr_scheduler.ReduceLROnPlateau(mine, **options)
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for step in range(30):
        metric = math.sin(step * 0.7) + step * 0.01 if step % 7 else math.nan
        a.step(tj.tensor(metric) if step % 2 else metric)
        b.step(torch.tensor(metric) if step % 2 else metric)
        assert reading(mine) == reading(theirs)
        assert a.num_bad_epochs == b.num_bad_epochs
        assert a.get_last_lr() == b.get_last_lr()
    c = tj.optim.lr_scheduler.ReduceLROnPlateau(mine)
    c.load_state_dict(a.state_dict())
    assert c.state_dict() == a.state_dict()


def test_restarts_at_fractions_of_an_epoch() -> None:
    mine, theirs = optimizer(tj), optimizer(torch)
    a = tj.optim.lr_scheduler.CosineAnnealingWarmRestarts(mine, 3, T_mult=2)
    b = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 3, T_mult=2)
    for epoch in (0.0, 0.5, 2.9, 3.25, 10.0, 8.0, 25.5):
        a.step(epoch)
        b.step(epoch)
        assert reading(mine) == reading(theirs)


@pytest.mark.parametrize(
    "name", ["StepLR", "MultiStepLR", "ExponentialLR", "ConstantLR", "LinearLR", "CosineAnnealingLR", "PolynomialLR"]
)
def test_a_given_epoch(name: str) -> None:
    mine, theirs = optimizer(tj), optimizer(torch)
    a, b = SCHEDULES[name](tj.optim.lr_scheduler, mine), SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    mine.step()
    theirs.step()
    for epoch in (3, 1, 8):
        with pytest.warns(UserWarning, match="epoch parameter"):
            a.step(epoch)
        with pytest.warns(UserWarning, match="epoch parameter"):
            b.step(epoch)
        assert reading(mine) == reading(theirs)


@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR", "LinearLR", "CosineAnnealingLR", "OneCycleLR"])
def test_resuming_by_last_epoch(name: str) -> None:
    results = []
    for lib in (tj, torch):
        opt = optimizer(lib)
        for group in opt.param_groups:
            group["initial_lr"] = group["lr"] * 2
            group.update(max_lr=1.0, min_lr=0.001, max_momentum=0.95, base_momentum=0.85)
        schedules = lib.optim.lr_scheduler
        schedule = {
            "StepLR": lambda s=schedules, o=opt: s.StepLR(o, 3, last_epoch=4),
            "ExponentialLR": lambda s=schedules, o=opt: s.ExponentialLR(o, 0.9, last_epoch=4),
            "LinearLR": lambda s=schedules, o=opt: s.LinearLR(o, total_iters=8, last_epoch=4),
            "CosineAnnealingLR": lambda s=schedules, o=opt: s.CosineAnnealingLR(o, 9, last_epoch=4),
            "OneCycleLR": lambda s=schedules, o=opt: s.OneCycleLR(o, 1.0, total_steps=9, last_epoch=4),
        }[name]()
        trail = [reading(opt)]
        for _ in range(3):
            opt.step()
            schedule.step()
            trail.append(reading(opt))
        results.append(trail)
    assert results[0] == results[1]


def test_the_order_of_steps_is_watched() -> None:
    for lib in (tj, torch):
        opt = optimizer(lib)
        schedule = lib.optim.lr_scheduler.StepLR(opt, 1)
        with pytest.warns(UserWarning, match="before `optimizer.step"):
            schedule.step()
        with pytest.warns(UserWarning, match="get_last_lr"):
            schedule.get_lr()


@pytest.mark.parametrize("lib", [tj, torch], ids=["tracejit", "torch"])
def test_wrong_options(lib: Any) -> None:
    s, opt = lib.optim.lr_scheduler, optimizer(lib)
    adagrad = lib.optim.Adagrad([lib.nn.Parameter(lib.ones(1))])
    other = s.StepLR(adagrad, 1)
    mine = s.StepLR(opt, 1)
    for make in (
        lambda: s.LambdaLR(opt, [lambda epoch: 1.0]),
        lambda: s.LinearLR(opt, start_factor=0.0),
        lambda: s.LinearLR(opt, end_factor=1.5),
        lambda: s.ConstantLR(opt, factor=1.5),
        lambda: s.CosineAnnealingWarmRestarts(opt, 0),
        lambda: s.CosineAnnealingWarmRestarts(opt, 3, T_mult=0),
        lambda: s.CosineAnnealingWarmRestarts(opt, 3).step(-1),
        lambda: s.OneCycleLR(opt, 1.0),
        lambda: s.OneCycleLR(opt, 1.0, total_steps=0),
        lambda: s.OneCycleLR(opt, 1.0, epochs=0, steps_per_epoch=1),
        lambda: s.OneCycleLR(opt, 1.0, total_steps=5, pct_start=2.0),
        lambda: s.OneCycleLR(opt, 1.0, total_steps=5, anneal_strategy="cubic"),
        lambda: s.OneCycleLR(opt, [1.0], total_steps=5),
        lambda: s.OneCycleLR(adagrad, 1.0, total_steps=5),
        lambda: s.ReduceLROnPlateau(opt, factor=1.0),
        lambda: s.ReduceLROnPlateau(opt, mode="least"),
        lambda: s.ReduceLROnPlateau(opt, threshold_mode="both"),
        lambda: s.ReduceLROnPlateau(opt, min_lr=[0.1]),
        lambda: s.MultiplicativeLR(opt, [lambda epoch: 1.0]),
        lambda: s.CyclicLR(opt, 0.1, [0.2]),
        lambda: s.CyclicLR(opt, 0.1, 0.2, mode="square"),
        lambda: s.CyclicLR(adagrad, 0.1, 0.2),
        lambda: s.ChainedScheduler([]),
        lambda: s.ChainedScheduler([mine, other]),
        lambda: s.ChainedScheduler([mine, s.ReduceLROnPlateau(opt)]),
        lambda: s.SequentialLR(opt, [], []),
        lambda: s.SequentialLR(opt, [mine], [1]),
        lambda: s.SequentialLR(opt, [mine, other], [1]),
        lambda: s.SequentialLR(opt, [s.ReduceLROnPlateau(opt)], []),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(TypeError):
        s.StepLR("optimizer", 1)
    with pytest.raises(TypeError):
        s.CyclicLR("optimizer", 0.1, 0.2)
    with pytest.raises(TypeError):
        s.MultiplicativeLR(opt, 0.5)
    with pytest.raises(TypeError):
        s.ChainedScheduler([3], opt)
    with pytest.raises(TypeError):
        s.SequentialLR(opt, [3], [])
    with pytest.raises(KeyError, match="initial_lr"):
        s.StepLR(optimizer(lib), 1, last_epoch=3)
    one = s.OneCycleLR(opt, 1.0, total_steps=2, pct_start=0.9)
    opt.step()
    for _ in range(2):
        one.step()
    with pytest.raises(ValueError, match="total steps"):
        one.step()


class Halving:
    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, x: float) -> float:
        return self.share**x


@pytest.mark.parametrize("lib", [tj, torch], ids=["tracejit", "torch"])
def test_state_of_a_callable_object(lib: Any) -> None:
    s = lib.optim.lr_scheduler
    for make in (
        lambda share: s.CyclicLR(optimizer(lib), 0.01, 0.1, 3, mode="own", scale_fn=Halving(share)),
        lambda share: s.MultiplicativeLR(optimizer(lib), Halving(share)),
    ):
        first, second = make(0.5), make(0.9)
        second.load_state_dict(first.state_dict())
        for schedule in (first, second):
            schedule.optimizer.step()
            schedule.step()
        assert first.get_last_lr() == second.get_last_lr()
