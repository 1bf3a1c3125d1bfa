"""Changes in place of `.data`, as PyTorch's programs make them: replayed, with the same bits as eagerly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import arr
from tracejit.trace.compiled import region_of


def _average(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    for p, q in zip(target, source, strict=True):
        p.data.mul_(0.9).add_(q.data, alpha=0.1)


def _copy(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    for p, q in zip(target, source, strict=True):
        p.data.copy_(0.9 * p.data + 0.1 * q.data)


def _clip(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    for p in target:
        p.data.clamp_(-0.5, 0.5)


def _step(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    w, b = target
    (source[0] @ w + b).square().mean().backward()
    for p in target:
        p.data.sub_(0.1 * p.grad)
        p.grad = None


def _step_by_hand(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    w, b = target
    (source[0] @ w + b).square().mean().backward()
    for p in target:
        p.data -= 0.1 * p.grad.data
        p.grad.zero_()


def _set_again(target: list[tj.Tensor], source: list[tj.Tensor]) -> None:
    for p in target:
        shown = p.data
        shown *= 0.5
        p.data = shown


@pytest.mark.parametrize("change", [_average, _copy, _clip, _step, _step_by_hand, _set_again])
def test_changes_of_data_are_replayed(change: Callable[..., None]) -> None:
    def program(wrap: Callable[..., Any]) -> tuple[Any, list[Any]]:
        target = [arr(k, 4, 4).requires_grad_() for k in range(2)]
        source = [arr(k, 4, 4) for k in (2, 3)]
        step = wrap(lambda: change(target, source))
        seen = []
        for _ in range(9):
            step()
            seen.append([p.detach().clone() for p in target])
        return step, seen

    compiled, ours = program(tj.compile)
    _, eager = program(lambda f: f)
    assert all(tj.equal(a, b) for x, y in zip(ours, eager, strict=True) for a, b in zip(x, y, strict=True))
    assert region_of(compiled).calls.replayed >= 3


@pytest.mark.parametrize("text", ["p.data = q.data", "p.data = p.data * 2", "v = p[0]; v.data *= 2; r = v",
                                  "d = q.data; d *= 2; p.data = d; q.data = d", "p.data = p.data.data"])  # fmt: skip
def test_other_memory_is_taken_over(text: str) -> None:
    code = compile(text, text, "exec")

    def run(wrap: Callable[..., Any]) -> list[Any]:
        p, q = arr(0, 3, 4), arr(1, 3, 4)

        def f() -> Any:
            names = {"p": p, "q": q}
            exec(code, names)
            return names.get("r", p * 1)

        f = wrap(f)
        seen = []
        for _ in range(6):
            seen += [f().clone(), p.clone(), q.clone()]
            q.mul_(3)
            seen += [p.clone(), q.clone()]
        return seen

    assert all(tj.equal(a, b) for a, b in zip(run(tj.compile), run(lambda f: f), strict=True))


@pytest.mark.parametrize("part", [False, True])
def test_tapes_of_replays_hold_what_was_changed_and_is_dropped(part: bool) -> None:
    def run(wrap: Callable[..., Any]) -> tuple[Any, list[Any]]:
        w = arr(0, 4).requires_grad_()

        def f(x: tj.Tensor) -> tj.Tensor:
            y = (x * w).sin()
            y.mul_(2)
            z = y * y
            z.add_(1)
            if part:
                z[1:].mul_(3)
            return (z * y).sum()

        f = wrap(f)
        for k in range(12):
            (f(arr(k + 1, 4)) * 2).backward()
        return f, w.grad.tolist()

    compiled, ours = run(tj.compile)
    assert ours == run(lambda f: f)[1]
    assert part or region_of(compiled).calls.replayed >= 3


def test_a_program_does_not_give_what_was_changed_and_is_dropped() -> None:
    @tj.compile
    def f(x: tj.Tensor) -> tj.Tensor:
        y = x * 2
        y.add_(1)
        y.mul_(x)
        return y.sum()

    for k in range(6):
        x = arr(k, 3)
        assert tj.equal(f(x), ((x * 2 + 1) * x).sum())
    assert [len(e.outputs) for _, e in region_of(f).executables()] == [1]
