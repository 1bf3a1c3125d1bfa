"""Nothing of a training step that looks at values is left to run eagerly, and nothing of it is kept."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

import test_reads_in_loops
import test_reads_in_training
import tracejit as tj
from harness import arr, labels, perceptron
from tracejit import optim
from tracejit.nn import functional as F
from tracejit.ops.record import Op
from tracejit.tensor import dispatch
from tracejit.tools.explain import explain
from tracejit.trace.compiled import region_of

PROGRAMS = {**test_reads_in_training.topic.programs, **test_reads_in_loops.topic.programs}


def test_nothing_of_a_call_is_kept_after_it():
    m = perceptron(4, 6, 3)
    opt = optim.Adam(m.parameters(), lr=0.01)
    alive: list[weakref.ref[Any]] = []

    @tj.compile
    def step(x, y):
        h = m[0](x)
        loss = F.cross_entropy(m[2](h.tanh()), y)
        loss.item()
        d = h.detach()
        opt.zero_grad()
        loss.backward()
        opt.step()
        alive[:] = map(weakref.ref, (h, d, loss, loss.grad_fn))
        return (d.sum() + (h * 2).sum()).item()

    for i in range(20):
        x = arr(i, 5, 4)
        step(x, labels(i, 5, 3))
        alive.append(weakref.ref(x))
        del x
    assert region_of(step).eager_segments == 0
    assert [r() for r in alive] == [None] * 5


def test_a_hook_that_was_removed_leaves_nothing_eager():
    m = perceptron(4, 6, 3)

    @tj.compile(mode="follow")
    def step(x, y):
        loss = F.cross_entropy(m(x), y)
        loss.item()
        for p in m.parameters():
            p.grad = None
        loss.backward()

    def run(calls: range) -> int:
        before = region_of(step).runs
        for i in calls:
            step(arr(i, 5, 4), labels(i, 5, 3))
        return region_of(step).runs - before

    run(range(5))
    assert run(range(5, 8)) == 6
    handle = m[0].weight.register_hook(lambda g: g * 2)
    run(range(8, 12))
    handle.remove()
    assert run(range(12, 15)) == 6


NOT_STEADY = {
    # They raise, or take an eager way by design: hooks and released graphs.
    *("second_backward_across_a_read_raises", "second_backward_across_a_read_is_caught"),
    *("saved_value_changed_behind_a_read", "hook_registered_behind_a_read_now_and_then"),
    *("hook_on_a_leaf_added_later_across_a_read", "hook_on_a_leaf_added_later", "backward_in_an_exception_handler"),
}


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in NOT_STEADY])
def test_nothing_is_left_eager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tj.manual_seed(20)
    program = PROGRAMS[name]
    case = program.make()
    f = tj.compile(case.function, mode="follow")
    region = region_of(f)

    def call(i: int) -> None:
        given = case.args(i)
        f(*given) if type(given) is tuple else f(given)

    for i in range(program.calls):
        call(i)
    ran: list[str] = []
    run_op = dispatch.run_op

    def counted(op: Op, arrays: Any, attrs: Any) -> Any:
        if op.family != "view":
            ran.append(op.name)
        return run_op(op, arrays, attrs)

    before = (region.eager_segments, region.calls.side_exits, region.runs)
    monkeypatch.setattr(dispatch, "run_op", counted)
    for i in range(program.calls - 2, program.calls):
        call(i)
    assert ran == []
    assert (region.eager_segments, region.calls.side_exits) == before[:2]
    assert region.runs >= before[2] + 2
    assert region.eager_units == {}
    assert explain(f).eager == []
