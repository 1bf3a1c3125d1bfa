"""tj.profile: the kernels that a call really ran, and nothing left behind."""

from __future__ import annotations

import pytest

import tracejit as tj
from tracejit.runtime.program import Program
from tracejit.trace.compiled import region_of


def trained() -> tuple[object, tj.Tensor]:
    model = tj.nn.Linear(8, 4)
    opt = tj.optim.SGD(model.parameters(), lr=0.1)

    @tj.compile
    def step(x: tj.Tensor) -> tj.Tensor:
        opt.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    x = tj.ones(16, 8)
    for _ in range(6):
        step(x)
    return step, x


def programs(step: object) -> list[Program]:
    return [e.compiled.program for _, e in region_of(step).executables()]


def test_every_launch_is_counted() -> None:
    step, x = trained()
    shot = tj.profile(step, x, calls=4)
    assert sum(k.launches for k in shot.kernels) == tj.explain(step).launches
    assert {k.kernel for k in shot.kernels} == {name for p in programs(step) for name in p.launches}
    assert all(k.seconds > 0 for k in shot.kernels)
    assert 0 < sum(k.seconds for k in shot.kernels) < shot.threads * shot.seconds
    assert 0 < shot.python < shot.seconds
    assert shot.kernels[0].kernel in str(shot)


def test_a_profiled_step_trains_as_ever() -> None:
    tj.manual_seed(3)
    step, x = trained()
    tj.manual_seed(3)
    twin, _ = trained()
    tj.profile(step, x, calls=3)
    for _ in range(3):
        twin(x)
    assert step(x).item() == twin(x).item()


def test_a_segment_that_leaves_nothing_behind_is_passed_over() -> None:
    @tj.compile
    def total(x: tj.Tensor) -> tj.Tensor:
        x = x.detach().requires_grad_()
        x.requires_grad_(False)
        return (x * x).sum()

    for _ in range(6):
        total(tj.ones(3))
    assert any(e.compiled.launches == 0 for _, e in region_of(total).executables())
    assert tj.profile(total, tj.ones(3), calls=2).kernels


def test_measuring_ends_with_the_profile() -> None:
    step, x = trained()
    tj.profile(step, x, calls=2)
    step(x)
    assert all(p.timeline() == [] for p in programs(step))


def test_measuring_ends_when_the_function_raises() -> None:
    step, x = trained()
    with pytest.raises(RuntimeError):
        tj.profile(step, tj.ones(3, 3), calls=2)
    step(x)
    assert all(p.timeline() == [] for p in programs(step))


def test_threads_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tj.get_num_threads()
    try:
        f = tj.compile(lambda x: (x * 2).exp().sum())
        x = tj.ones(1 << 18)
        for threads in (1, 2):
            tj.set_num_threads(threads)
            for _ in range(4):
                f(x)
            shot = tj.profile(f, x, calls=2)
            assert shot.threads == threads
            assert shot.kernels[0].seconds > 0
    finally:
        tj.set_num_threads(before)


def test_what_was_not_compiled_is_refused() -> None:
    with pytest.raises(TypeError):
        tj.profile(lambda x: x, tj.ones(1))
    with pytest.raises(ValueError, match="at least one call"):
        tj.profile(tj.compile(lambda x: x + 1), tj.ones(1), calls=0)
