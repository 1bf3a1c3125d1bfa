"""Backward passes as one program: every bit, error and order of hooks is that of a walk step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit as tj
from tests.programs import same_bits
from tests.tensor.fusing import COMPOSITES, TYPES, bits, built, operands
from tracejit.nn import functional as F
from tracejit.tensor import whole_tape


@contextmanager
def priced(seconds: float) -> Iterator[list[Any]]:
    """Programs are built where walks took as long; the passes that ran by one are noted."""
    ran: list[Any] = []
    run = whole_tape.Pass.run

    def noted(self: whole_tape.Pass) -> Any:
        found = run(self)
        if found is not None:
            ran.append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_tape, "_PRICE", seconds)
        patch.setattr(whole_tape, "_STEP_PRICE", 0.0)
        patch.setattr(whole_tape, "_HEAVY", 1e9)
        patch.setattr(whole_tape._Tape, "note_run", lambda *_: None)
        patch.setattr(whole_tape, "_TRIES", 1)
        if seconds < 0:
            patch.setattr(whole_tape._Tape, "is_worth_a_program", lambda *_: True)
        patch.setattr(whole_tape.Pass, "run", noted)
        whole_tape.clear()
        yield ran
    whole_tape.clear()


def both(function: Callable[[], list[Any]]) -> int:
    """Compares what a function gives with walks and with programs; how many passes ran by one."""
    with priced(inf):
        expected = function()
    with priced(-1.0) as ran:
        found = function()
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert same_bits(f, e) if isinstance(f, np.ndarray) else f == e
    return len(ran)


@pytest.mark.parametrize("work", [inf, -1], ids=["operations", "programs"])
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("name", COMPOSITES)
def test_bits_of_composites(name: str, kind: Any, work: float) -> None:
    def trained() -> list[Any]:
        with built(work):
            x, w, b, t = operands(kind, 5, True)
            read = x * 1.0
            out = COMPOSITES[name](read, w, b, t)
            ct = tj.tensor(np.random.default_rng(6).standard_normal(out.shape), dtype=kind)
            ((out * ct).sum() + (read * 2.0).sum()).backward()
            return [bits(leaf.grad) for leaf in (x, w, b) if leaf.grad is not None]

    assert both(trained)


STEPS: dict[str, Callable[[Any, Any, int], Any]] = {
    "add": lambda x, y, k: x + y,
    "mul": lambda x, y, k: x * y,
    "sub": lambda x, y, k: x - y,
    "div": lambda x, y, k: x / (y * y + 1.0),
    "exp": lambda x, y, k: (x * 0.1).exp(),
    "tanh": lambda x, y, k: x.tanh(),
    "relu": lambda x, y, k: F.relu(x),
    "softmax": lambda x, y, k: F.softmax(x, k % 2),
    "norm": lambda x, y, k: F.layer_norm(x, (4,)),
    "matmul": lambda x, y, k: x @ y,
    "slice": lambda x, y, k: tj.cat([x[: k % 4], x[k % 4 :]]),
    "row": lambda x, y, k: x + y[k % 4],
    "pick": lambda x, y, k: x[tj.tensor([0, -1, k % 4, 1])],
    "turn": lambda x, y, k: x.T,
    "cat": lambda x, y, k: tj.cat([x, y])[::2],
    "sum": lambda x, y, k: x + y.sum(k % 2, keepdim=True),
    "mean": lambda x, y, k: x * y.mean(),
    "number": lambda x, y, k: x * [0.0, -0.0, 2.0, -1.5, 3, 0.1][k],
    "where": lambda x, y, k: tj.where(x > 0, x, y * k),
    "expand": lambda x, y, k: x[:1].expand(4, 4) - y,
    "detach": lambda x, y, k: x.detach() * y,
    "max": lambda x, y, k: x.maximum(y),
    "reshape": lambda x, y, k: x.reshape(2, 8).flip(0).reshape(4, 4),
    "again": lambda x, y, k: x + x,
    "linear": lambda x, y, k: F.linear(x, y, x[0]),
    "changed": lambda x, y, k: (x * 1.0).mul_(0.5),
    "view": lambda x, y, k: (x * 1.0)[k % 3 :].tanh_().sum() + y,
}
programs = st.lists(
    st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)),
    min_size=1,
    max_size=14,
)


def made(program: list[Any], seed: int) -> tuple[list[tj.Tensor], Any]:
    """The leaves and the result of a program over square matrices."""
    rng = np.random.default_rng(seed)
    leaves = [tj.tensor(rng.standard_normal((4, 4)), dtype=tj.float32, requires_grad=True) for _ in range(3)]
    pool: list[Any] = [*leaves]
    for name, i, j, k in program:
        pool.append(STEPS[name](pool[i % len(pool)], pool[j % len(pool)], k))
    return leaves, pool[-1]


def note(order: list[int], leaves: list[tj.Tensor], leaf: tj.Tensor) -> None:
    order.append(next(k for k, other in enumerate(leaves) if other is leaf))


@settings(max_examples=150, deadline=None)
@given(programs, st.sampled_from([inf, -1]), st.integers(0, 99))
def test_random_programs(program: list[Any], work: float, seed: int) -> None:
    def trained() -> list[Any]:
        with built(work):
            found = []
            for round_ in range(2):
                leaves, out = made(program, seed + round_)
                if not out.requires_grad:
                    return []
                order: list[int] = []
                for leaf in leaves:
                    leaf.register_post_accumulate_grad_hook(partial(note, order, leaves))
                out.sum().backward(retain_graph=True)
                (out.sum() * 3.0 if round_ else out.sum()).backward()
                found += [*order, *[bits(leaf.grad) for leaf in leaves if leaf.grad is not None]]
            return found

    both(trained)


def loss_of(scale: Any = 0.5, rows: int = 4) -> tuple[list[tj.Tensor], tj.Tensor]:
    leaves = [tj.full((rows, 4), 0.3, requires_grad=True), tj.full((4, 4), 0.7, requires_grad=True)]
    return leaves, ((leaves[0] @ leaves[1]).tanh() * scale).sum()


def test_walks_that_build_kernels_do_not_count() -> None:
    tape = whole_tape._Tape()
    tape.note_walk(10.0)
    found = []
    for _ in range(500):
        found.append(tape.is_worth_a_program(10))
        tape.note_walk(1e-3)
    assert found.index(True) == 120
    assert tape.may_pay


def test_programs_run_from_their_price_on() -> None:
    with priced(1e-9) as ran:
        for _ in range(5):
            loss_of()[1].backward()
    assert len(ran) == 4


@pytest.mark.parametrize("scales", [(0.0, -0.0), (1, 1.0), (2.0, 3.0)], ids=str)
def test_numbers_tell_tapes_from_one_another(scales: Any) -> None:
    assert both(lambda: [bits(leaf.grad) for s in scales for leaf in walked(*loss_of(s))]) == 2


def walked(leaves: list[tj.Tensor], loss: tj.Tensor) -> list[tj.Tensor]:
    loss.backward()
    return leaves


def test_gradients_are_added_to_those_that_are_there() -> None:
    def twice() -> list[Any]:
        leaves, loss = loss_of()
        loss.backward(retain_graph=True)
        first = leaves[0].grad
        loss.backward()
        return [bits(leaf.grad) for leaf in leaves] + [first is leaves[0].grad]

    assert both(twice) == 2


def test_gradients_are_in_memory_of_their_own() -> None:
    with priced(-1.0) as ran:
        a, b = tj.ones(3, requires_grad=True), tj.ones(3, requires_grad=True)
        given = tj.ones(3)
        (a + b).backward(given)
        assert len(ran) == 1
        a.grad.mul_(2.0)
    assert (b.grad.tolist(), given.tolist(), a.grad.tolist()) == ([1.0] * 3, [1.0] * 3, [2.0] * 3)


def test_several_roots_and_gradients_that_are_given() -> None:
    def several() -> list[Any]:
        x, w = tj.ones(3, 4, requires_grad=True), tj.full((4,), 2.0, requires_grad=True)
        y = x * w
        tj.autograd.backward([y, y.sum(), y.T], [tj.full((3, 4), 0.5), None, tj.arange(12.0).reshape(4, 3)])
        return [bits(x.grad), bits(w.grad)]

    assert both(several) == 1


def test_hooks_of_leaves_run_in_the_order_of_a_walk() -> None:
    def hooked() -> list[Any]:
        leaves, loss = loss_of()
        seen: list[Any] = []
        leaves[1].register_hook(lambda g: (seen.append(("weight", g.shape)), g * 2.0)[1])
        leaves[0].register_hook(lambda g: seen.append(("input", g.shape)))
        leaves[0].register_post_accumulate_grad_hook(lambda t: seen.append(("after", t.grad is not None)))
        loss.backward()
        return [*seen, *[bits(leaf.grad) for leaf in leaves]]

    assert both(hooked) == 1


@pytest.mark.parametrize("what", ["hook", "retain", "create_graph", "inputs", "custom", "leaf", "gpu", "autocast"])
def test_what_is_walked_step_by_step(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps of a GPU's are told by no array of theirs.
    monkeypatch.setattr(whole_tape.DeviceArray, "used", what == "gpu")

    class Double(tj.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tj.Tensor) -> tj.Tensor:
            return x * 2.0

        @staticmethod
        def backward(ctx: Any, g: tj.Tensor) -> tj.Tensor:
            return g * 2.0

    def trained() -> list[Any]:
        seen: list[Any] = []
        x = tj.full((3,), 0.5, requires_grad=True)
        y = Double.apply(x) if what == "custom" else x * 2.0
        if what == "hook":
            y.register_hook(lambda g: seen.append(bits(g)))
        if what == "retain":
            y.retain_grad()
        out = x if what == "leaf" else y.exp().sum()
        given = tj.ones(3) if what == "leaf" else None
        with tj.autocast("cpu", enabled=what == "autocast"):
            out.backward(given, create_graph=what == "create_graph", inputs=[x] if what == "inputs" else None)
        return [*seen, bits(x.grad), bits(y.grad) if what == "retain" else None]

    assert both(trained) == 0


def test_a_second_pass_over_what_was_released_is_refused() -> None:
    with priced(-1.0) as ran:
        _, loss = loss_of()
        loss.backward()
        assert len(ran) == 1
        with pytest.raises(RuntimeError, match="a second time"):
            loss.backward()


def test_what_was_changed_in_place_is_refused() -> None:
    with priced(-1.0) as ran:
        x = tj.ones(3, requires_grad=True)
        y = x.exp()
        out = y.sin().sum() + y.sum()
        y.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()
        assert not ran
        assert x.grad is None


def test_what_takes_longer_than_walks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    note = whole_tape._Tape.note_run
    with priced(1e-9) as ran:
        monkeypatch.setattr(whole_tape, "_TRIES", 3)
        monkeypatch.setattr(whole_tape._Tape, "note_run", lambda self, _: note(self, 10.0))
        for _ in range(9):
            loss_of()[1].backward()
    assert len(ran) == 3


def test_kernels_that_take_the_time_are_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with priced(1e-9) as ran:
        monkeypatch.setattr(whole_tape, "_HEAVY", 0.0)
        for _ in range(4):
            loss_of()[1].backward()
    assert not ran


def test_a_rule_that_cannot_be_taken_down_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfit(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(whole_tape, "ArrayProgram", unfit)
    assert both(lambda: [bits(leaf.grad) for _ in range(3) for leaf in walked(*loss_of())]) == 0


def test_tapes_that_never_come_again_are_seldom_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    meet = whole_tape.Pass.meet
    monkeypatch.setattr(whole_tape.Pass, "meet", lambda self: (looked.append(1), meet(self))[1])
    with priced(inf):
        for rows in range(1, 130):
            loss_of(rows=rows)[1].backward()
    assert 32 <= len(looked) < 50


def test_a_number_of_the_run_that_was_saved() -> None:
    """A region that reads between the two passes leaves steps with numbers that change."""

    def trained() -> list[Any]:
        @tj.compile
        def step(x: tj.Tensor, scale: float) -> tj.Tensor:
            return ((x * scale).exp() * scale).sum()

        found = []
        for k in range(6):
            x = tj.full((3,), 0.25, requires_grad=True)
            step(x, 0.5 + k).backward()
            found.append(bits(x.grad))
        return found

    both(trained)


def test_threads_share_programs() -> None:
    def gradients(found: list[Any]) -> None:
        for k in range(20):
            found.append([bits(leaf.grad) for leaf in walked(*loss_of(0.5 + k % 3))])

    with priced(inf):
        gradients(expected := [])
    with priced(-1.0) as ran:
        results: list[list[Any]] = [[] for _ in range(4)]
        threads = [threading.Thread(target=gradients, args=(r,)) for r in results]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(ran) == 80
    for found in results:
        assert all(same_bits(f, e) for fs, es in zip(found, expected, strict=True) for f, e in zip(fs, es, strict=True))
