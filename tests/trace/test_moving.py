"""Subscripts by numbers that change from call to call: equal in every bit, and neither a branch nor a program each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.trace.replaying import both
from tests.trace.test_random_views import CHANGES, OTHERS, RESULTS, VIEWS, Program, assert_equal
from tests.trace.values import arr, bits
from tracejit.ops import ops
from tracejit.trace import pace
from tracejit.trace.compiled import region_of

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300"))
ROWS = 7


# --- programs that are replayed ---------------------------------------------------------------------------------------

Step = Callable[[tj.Tensor, int], Any]


def put_row(x: tj.Tensor, i: int) -> Any:
    x[i] = x.mean(0)


def put_part(x: tj.Tensor, i: int) -> Any:
    x[i : i + 2, 1] = i * 0.5
    x[i + 1] += x[i]
    return x.sum(0)


def put_element(x: tj.Tensor, i: int) -> Any:
    x[i, i % 3] = 2.5
    x[i, :2] *= 3
    return x[2, i % 3] + 1


def change_view(x: tj.Tensor, i: int) -> Any:
    row = x[i]
    row += 1
    row[:2].mul_(2)
    x[i].sub_(0.5)
    return x * 2


def far_and_near(x: tj.Tensor, i: int) -> Any:
    return x[i] * 2, x[-1 - i] + 1, x[-2] - x[0], x[i, None, ..., i % 2], x[i : i + 3 : 2, 1:]


def in_rounds(x: tj.Tensor, i: int) -> Any:
    h = x[0] * 0
    for t in range(3):
        h = (h + x[t + i]).tanh()
        x[i + t, 0] = h[0]
    return h


def counted_from_there(x: tj.Tensor, i: int) -> Any:
    h = x[0] * 0
    for t in range(i, i + 3):
        h = (h + x[t]).tanh()
    for t in range(i + 3, i, -2):
        h = h * x[t] + t
    return h, [x[t] for t in range(i, i + 2)]


STEPS: dict[str, Step] = {
    "row": lambda x, i: x[i] * 2,
    "row from behind": lambda x, i: x[-1 - i] * 2,
    "part": lambda x, i: x[i : i + 2].sum(0),
    "part from behind": lambda x, i: x[-3 - i : -1 - i].sum(0),
    "every other": lambda x, i: x[i : i + 3 : 2] + 1,
    "column": lambda x, i: x[:, i % 3] + 1,
    "element": lambda x, i: x[i, i % 3] * 3,
    "block": lambda x, i: x[i : i + 2, i % 2 : i % 2 + 2] * 2,
    "whole number of a dtype's": lambda x, i: x[i].long() + 1,
    "narrow": lambda x, i: x.narrow(0, i, 2).sum(0),
    "narrow from behind": lambda x, i: tj.narrow(x, 0, i - 6, 2).sum(0),
    "select": lambda x, i: x.select(0, i) * x.select(1, -1 - i % 3).sum(),
    "put row": put_row,
    "put part": put_part,
    "put element": put_element,
    "changed view": change_view,
    "far and near": far_and_near,
    "in rounds": in_rounds,
    "counted from there": counted_from_there,
}


@pytest.mark.parametrize("step", STEPS)
def test_what_moves_is_replayed(step: str) -> None:
    def make():
        x = arr(1, ROWS, 3)
        return lambda i: STEPS[step](x, i), lambda k: ((3 * k + 1) % (ROWS - 3),), lambda: x

    least = 0 if step in ("part from behind", "narrow from behind") else 10
    region = both(make, 24, least)
    assert region.calls.side_exits == 0
    assert region.compiles <= 6


def trained(loss: Callable[[tj.Tensor, int], tj.Tensor]):
    def make():
        w = arr(2, ROWS, 3).requires_grad_()

        def f(i):
            w.grad = None
            found = loss(w, i)
            found.backward()
            with tj.no_grad():
                w.sub_(w.grad, alpha=0.1)
            return found

        return f, lambda k: ((3 * k + 1) % (ROWS - 3),), lambda: (w, w.grad)

    return make


def changed_with_history(w: tj.Tensor, i: int) -> tj.Tensor:
    out = tj.zeros(ROWS, 3)
    h = w[1]
    for t in range(2):
        out[i + t] = h
        h = (h * w[i]).tanh()
        out[i] += h
    row = out[i]
    row *= 2
    return (out * out).sum() + (row * w[i + 1 : i + 2]).sum()


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, i: (w[i] * w[i + 1]).sum(),
        lambda w, i: (w[i : i + 2, 1:].exp() * w[0, i % 3]).mean(),
        lambda w, i: tj.stack([w[i], w[-1 - i]]).square().sum(),
        changed_with_history,
    ],
)
def test_gradients_of_what_moves(loss: Callable[[tj.Tensor, int], tj.Tensor]) -> None:
    assert both(trained(loss), 24, 10).calls.side_exits == 0


# --- what comes out, and what stays out -------------------------------------------------------------------------------


def test_a_view_that_moves_is_a_view() -> None:
    plain, traced = arr(1, ROWS, 3), arr(1, ROWS, 3)
    row = tj.compile(lambda x, i: (x[i], x[i : i + 2, 1:]))
    for k in range(14):
        i = 3 * k % (ROWS - 1)
        for view, part in ((plain[i], plain[i : i + 2, 1:]), row(traced, i)):
            view += k
            part[0] *= 2
        assert bits(plain) == bits(traced)
        assert row(traced, i)[0]._base is traced


@pytest.mark.parametrize("retain", [False, True])
def test_the_tape_of_a_call_goes_to_where_it_was(retain: bool) -> None:
    w = [arr(1, ROWS, 3).requires_grad_() for _ in range(2)]

    def f(w, i):
        out = w * 2
        out[i] = w[i + 1] * w[0]
        return out[i : i + 2].exp(), out[i]

    compiled, kept = tj.compile(f), []
    for k in range(12):
        i = 3 * k % (ROWS - 1)
        kept.append([f(w[0], i), compiled(w[1], i)])
        if k % 3 == 2:
            # Several calls, each with its own place.
            for found in kept:
                for a, b in found:
                    ((a * a).sum() + b.prod()).backward(retain_graph=retain)
            assert bits(w[0].grad) == bits(w[1].grad)
            kept.clear()


def test_places_that_do_not_exist() -> None:
    x = arr(1, ROWS, 3)

    def f(i):
        y = x * 1
        y[i] = 2.0
        return y[i - 1], y[i : i + 2]

    compiled = tj.compile(f)
    for i in (0, 1, 2, 3, 4, 5, 6, 7, -7, -8, 2, 100, 3, -3, 6, 1 << 70):
        found = []
        for g in (f, compiled):
            try:
                found.append(bits(g(i)))
            except IndexError as e:
                found.append(str(e))
        assert found[0] == found[1]


@pytest.mark.parametrize("other", [2.0, np.int64(2), np.float32(2), True, None, "2", tj.tensor(2), [2, 1], slice(1, 3)])
def test_places_of_other_types(other: Any) -> None:
    x = arr(1, ROWS, 3)
    compiled = tj.compile(lambda i: x[i] * 2)
    for i in (0, 1, 2, 3, 2, 1, 0, other, 1, other, 2):
        found = []
        for g in (lambda i: x[i] * 2, compiled):
            try:
                found.append(bits(g(i)))
            except (IndexError, TypeError) as e:
                found.append(type(e).__name__)
        assert found[0] == found[1]


def test_sizes_change_beside_places() -> None:
    def f(x, i):
        return x[i] * 2, x[x.shape[0] - 1], x[len(x) // 2 :].sum(0)

    compiled = tj.compile(f)
    for k in range(40):
        x = arr(k, 3 + k * 7 % 5, 3)
        assert bits(compiled(x, k % len(x))) == bits(f(x, k % len(x)))


def test_a_row_of_each_round_stays_where_it_is() -> None:
    x = arr(1, 12, 3)

    def f(n):
        h = x[0]
        for t in range(n):
            h = (h * 0.5 + x[t]).tanh()
        return h

    compiled = tj.compile(f)
    for n in (3, 3, 3, 5, 4, 5, 9, 3, 12):
        assert bits(compiled(n)) == bits(f(n))
    assert not any("start" in note.reason for note in region_of(compiled).notes)


def test_a_buffer_that_goes_round() -> None:
    class Buffer:
        def __init__(self):
            self.states, self.actions = tj.zeros(5, 4), tj.zeros(5, dtype=tj.int64)
            self.position, self.full = 0, False

        def add(self, state, action):
            self.states[self.position] = state
            self.actions[self.position] = action
            self.position += 1
            if self.position == 5:
                self.position, self.full = 0, True
            return self.states.mean()

    def make():
        buffer = Buffer()
        state = lambda: (buffer.states, buffer.actions, buffer.position, buffer.full)  # noqa: E731
        return buffer.add, lambda k: (arr(k, 4), k % 3), state

    region = both(make, 60, 30)
    assert region.calls.side_exits <= 2


class Keys:
    """Keeps and gives what it is subscripted by, as `numpy.s_` does."""

    def __init__(self):
        self.last = None

    def __getitem__(self, key):
        self.last = key
        return key

    def __setitem__(self, key, value):
        self.last = key, value


@pytest.mark.parametrize("kept", [lambda k, i: k[i : i + 2], lambda k, i: k[i : i + 2, 1:], lambda k, i: k[i]])
def test_a_subscript_that_an_object_keeps(kept: Callable[[Keys, int], Any]) -> None:
    def make():
        keys, x = Keys(), arr(1, ROWS, 3)

        def f(i):
            key = kept(keys, i)
            keys[i : i + 3] = 1.5
            return x[key] * 2, key

        return f, lambda k: ((k // 6) % 4,), lambda: repr(keys.last)

    # No proof says which object a slice is.
    both(make, 30, 0)


def test_a_subscript_that_an_object_hands_on() -> None:
    class Rows:
        def __init__(self):
            self.x = arr(1, ROWS, 3)

        def __getitem__(self, key):
            return self.x[key] * 2

        def __setitem__(self, key, value):
            self.x[key] = value

    def make():
        rows = Rows()

        def f(i):
            rows[i : i + 2, 1:] = rows[i + 1 : i + 3, 1:]
            return rows[i] + rows[i : i + 2]

        return f, lambda k: (3 * k % 4,), lambda: rows.x

    both(make, 30, 15)


def test_the_start_of_what_moves_is_a_number_of_the_run() -> None:
    x = arr(1, 500, 3)
    compiled = tj.compile(lambda i: x[i] * 2)
    for i in range(500):
        assert bits(compiled(i)) == bits(x[i] * 2)
    region = region_of(compiled)
    assert region.compiles == 1
    assert any("start of a part changed from [1] to [2]" in note.reason for note in region.notes)


def test_checked_against_eager_now_and_then() -> None:
    x = arr(1, ROWS, 3)
    compiled = tj.compile(lambda i: x[i] * 2, verify=3)
    for k in range(20):
        i = 3 * k % ROWS
        assert bits(compiled(i)) == bits(x[i] * 2)


# --- random programs --------------------------------------------------------------------------------------------------

MOVING_VIEWS = {
    "row": lambda x, k: x[k % len(x)] if x.ndim and len(x) else None,
    "part": lambda x, k: x[k % (len(x) - 1) :][:2] if x.ndim and len(x) > 2 else None,
    "window": lambda x, k: x[k % (len(x) - 1) : k % (len(x) - 1) + 2] if x.ndim and len(x) > 2 else None,
    "column": lambda x, k: x[..., k % x.shape[-1]] if x.ndim and x.shape[-1] else None,
    "narrow": lambda x, k: x.narrow(0, k % (len(x) - 1), 2) if x.ndim and len(x) > 2 else None,
    "block": lambda x, k: x[k % len(x), k % x.shape[-1] :] if x.ndim == 2 and x.numel() else None,
}
MOVING_CHANGES = {
    "put": lambda x, y, k: x.__setitem__(k % max(len(x), 1), y if k % 3 else -1.5),
    "put column": lambda x, y, k: x.__setitem__((..., k % max(x.shape[-1], 1)), 0.25),
    "add": lambda x, y, k: x[k % max(len(x), 1)].add_(y),
}


class Moving(Program):
    """A program in which some subscripts say another place in each call."""

    shift = 0

    def _step(self, name: str, x: tj.Tensor, y: tj.Tensor, k: int) -> tj.Tensor | None:
        if name in MOVING_VIEWS:
            return MOVING_VIEWS[name](x, k + self.shift)
        if name in MOVING_CHANGES:
            MOVING_CHANGES[name](x, y, k + self.shift)
            return None
        return super()._step(name, x, y, k)


def drawn(seed: int) -> tuple[list[tuple[str, int, int, int]], int]:
    rng = random.Random(seed)
    kinds = (MOVING_VIEWS, MOVING_CHANGES, VIEWS, CHANGES, RESULTS, OTHERS)
    chosen = rng.choices(kinds, [28, 20, 10, 15, 17, 6], k=rng.randrange(3, 11))
    return [(rng.choice(list(kind)), *(rng.randrange(100) for _ in range(3))) for kind in chosen], rng.randrange(4)


@pytest.mark.parametrize("first", range(0, COUNT, 50))
def test_random_programs_that_move(first: int, request: pytest.FixtureRequest) -> None:
    first += int(request.config.getoption("--hypothesis-seed") or 0)
    for seed in range(first, first + 50):
        compare(seed)


def test_random_programs_that_soon_go_on_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second call that brings something new leaves the tree for good, some in the middle of an operation."""
    for name, value in (("FIRST", 0), ("_TRIED", 1), ("_SETTLING", 0)):
        monkeypatch.setattr(pace, name, value)
    for seed in range(120):
        compare(seed)


@pytest.mark.parametrize("seed", [771565, 772518, 772639])
def test_programs_that_once_differed(seed: int) -> None:
    compare(seed)


def compare(seed: int) -> None:
    """A program, called several times eagerly and compiled, each time with other places."""
    instructions, mask = drawn(seed)
    calls = [{"shift": shift} for shift in (0, 0, 1, 3, 2, 5, 3)]
    assert_equal(seed, mask, Moving(instructions), Moving(instructions), 5, calls)


def test_a_subscript_that_moves_has_an_operation() -> None:
    x = arr(1, ROWS, 3)
    compiled = tj.compile(lambda i: x[i] * 2)
    for i in range(5):
        compiled(i)
    root = region_of(compiled).root.root
    assert ops.dynamic_slice in {event.function for event in root.events}
