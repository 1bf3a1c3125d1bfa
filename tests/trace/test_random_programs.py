"""Random programs run eagerly and compiled from the same state: everything must be equal, bit for bit."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tracejit as tj
from programs import Machine, interrupted_programs, programs, quiet
from tracejit import compiler
from tracejit.trace import background, region
from tracejit.trace.background import Worker
from tracejit.trace.replay import prover

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300"))
CALLS = 8


def bits(x: Any) -> Any:
    """A value in a form that compares bit for bit; NaNs are equal to each other."""
    if isinstance(x, tj.Tensor):
        a = np.array(x.detach()._data())
        if x.dtype.is_floating_point:
            a[np.isnan(a)] = np.nan
        grad = None if x.grad is None or not x.is_leaf else bits(x.grad)
        return a.shape, x.dtype, a.tobytes(), x.requires_grad, x.is_leaf, x.stride(), grad, x.device
    if isinstance(x, (list, tuple)):
        return [bits(e) for e in x]
    if isinstance(x, float) and x != x:
        return "nan"
    return x


def compare(program: Any, calls: int = CALLS, **options: Any) -> None:
    """Run a program eagerly and compiled, call by call."""
    if program[2] % 2:
        position = tj.get_rng_state()
        program = quiet(program)
        tj.set_rng_state(position)
    run_both(Machine(program), Machine(program), calls, **options)


def run_both(eager: Machine, traced: Machine, calls: int, **options: Any) -> Any:
    """Run one of two equal machines eagerly and the other compiled, call by call; the compiled function."""
    compiled = tj.compile(traced.run, **options)
    position = tj.get_rng_state()
    for call in range(calls):
        given_eager, given_traced = eager.arguments(call), traced.arguments(call)
        tj.set_rng_state(position)
        a = (bits(eager.run(*given_eager)), bits(given_eager), bits(eager.state()))
        tj.set_rng_state(position)
        b = (bits(compiled(*given_traced)), bits(given_traced), bits(traced.state()))
        assert a == b, f"call {call}"
    return compiled


@settings(max_examples=COUNT, suppress_health_check=list(HealthCheck))
@given(programs)
def test_compiled_equals_eager(program: Any) -> None:
    compare(program)


@settings(max_examples=COUNT, suppress_health_check=list(HealthCheck))
@given(interrupted_programs)
def test_whole_calls_equal_eager(program: Any) -> None:
    """Those that read values in their middle are replayed as soon as they can be."""
    with mock.patch.object(prover, "JOINED_FROM", 1):
        compare(quiet(program), 2 * CALLS)


class Slow(Worker):
    """Asked for every program, also for those on disk; it does its jobs in this process, at every third look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.looks = self.jobs = 0
        self.done: set[str] = set()
        recall = compiler._recall
        monkeypatch.setattr(compiler, "_recall", lambda key: recall(key) if key in self.done else None)
        for module in (background, region):
            monkeypatch.setattr(module, "WORKER", self)

    def _look(self) -> None:
        self.looks += 1
        if self.looks % 3:
            return
        for job in self._queue:
            if job.kind == background.GRAPH:
                self.done.add(job.key)
                compiler.compile_text(job.key, job.content)
            else:
                compiler.compile_kernels(*job.content)
            job.end()
            self.jobs += 1
        self._queue = []


def test_compiled_in_the_background_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)

    @settings(max_examples=COUNT // 2, suppress_health_check=list(HealthCheck))
    @given(programs)
    def run(program: Any) -> None:
        slow.done.clear()
        compare(program, background=True)

    run()
    assert slow.jobs > COUNT // 4
