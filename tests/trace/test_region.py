"""Compiled functions do what the undecorated ones do: values, mutations, gradients, effects, exceptions."""

from __future__ import annotations

import gc
import sys
import weakref

import numpy as np
import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.nn import functional as F
from tracejit.trace.compiled import compile, region_of
from tracejit.trace.region import Region

region_module = sys.modules[Region.__module__]


def compare(make, calls=8, **options):
    """Run `make()` -> (function, arguments of call i, state) eagerly and compiled, side by side."""
    f, args, state = make()
    g, args2, state2 = make()
    compiled = compile(g, **options)
    for i in range(calls):
        outcomes = []
        for function, given in ((f, args), (compiled, args2)):
            try:
                outcomes.append(("value", bits(function(*given(i)))))
            except Exception as e:
                outcomes.append((type(e), str(e)))
        assert outcomes[0] == outcomes[1], f"call {i}"
        assert bits(state()) == bits(state2()), f"state after call {i}"
    return region_of(compiled)


def test_elementwise_chain_is_one_program():
    def make():
        return lambda x, y: (x * y + 1.0).tanh().sum(), lambda i: (arr(i, 3, 4), arr(i + 50, 3, 4)), list

    region = compare(make)
    assert region.calls.followed + region.calls.replayed == 6
    assert region.runs + region.calls.replayed == 6
    assert region.calls.side_exits == 0


def test_changing_number_becomes_run_time_number():
    def make():
        return lambda x, s: x * s + s, lambda i: (arr(1, 5), 0.5 + i), list

    region = compare(make)
    assert region.compiles <= 2


def test_training_step_in_place_updates():
    def make():
        w = arr(0, 4, 3).requires_grad_()
        b = tj.zeros(3, requires_grad=True)

        def step(x, y):
            w.grad = b.grad = None
            loss = ((x @ w + b - y) ** 2).mean()
            loss.backward()
            with tj.no_grad():
                w.add_(w.grad, alpha=-0.1)
                b.add_(b.grad, alpha=-0.1)
            return loss

        return step, lambda i: (arr(i, 6, 4), arr(i + 9, 6, 3)), lambda: [w, b, w.grad, b.grad]

    region = compare(make)
    assert region.runs + region.calls.replayed == 6


def test_gradient_accumulation():
    def make():
        w = arr(0, 4, 3).requires_grad_()

        def step(x, i):
            if i % 3 == 0:
                w.grad = None
            (x @ w).tanh().sum().backward()

        return step, lambda i: (arr(i, 6, 4), i), lambda: [w, w.grad]

    compare(make, calls=12)


def test_branch_on_python_value():
    def make():
        def f(x, flag):
            return x.exp() if flag else x.sin() * 2

        return f, lambda i: (arr(i, 3), i % 2 == 0), list

    region = compare(make, calls=10)
    assert region.calls.side_exits == 1


def test_branch_on_tensor_value():
    def make():
        log = []

        def f(x):
            s = x.sum()
            if s > 0:
                log.append(float(s))
                return x * 2
            return x - s

        return f, lambda i: (arr(i, 3),), lambda: log

    compare(make, calls=16)


def test_reads_in_the_middle_and_appends():
    def make():
        history = []

        def f(x):
            y = x * 2 + 1
            history.append(y.sum().item())
            z = y.exp()
            history.append(z)
            return z.mean()

        return f, lambda i: (arr(i, 3),), lambda: history

    compare(make)


def test_forward_compiled_backward_outside():
    def make():
        w = arr(0, 4, 3).requires_grad_()
        inner = lambda x: (x @ w).tanh().sum()  # noqa: E731
        return inner, lambda i: (arr(i, 2, 4),), lambda: [w, w.grad]

    f, args, state = make()
    g, args2, state2 = make()
    compiled = compile(g)
    for i in range(6):
        a, b = f(*args(i)), compiled(*args2(i))
        a.backward()
        b.backward()
        assert bits(a) == bits(b)
        assert bits(state()) == bits(state2())
        with pytest.raises(RuntimeError, match="second time"):
            b.backward()
    region = region_of(compiled)
    assert region.runs + region.calls.replayed == 4


@pytest.mark.parametrize("also", [False, True])
def test_released_steps_of_an_earlier_segment_lead_to_chosen_inputs(also):
    def make():
        leaf, log = arr(0, 3).requires_grad_(), []

        def f():
            x = leaf.exp()
            x.sum().backward()
            log.append(leaf.grad.sum().item())
            try:
                found = tj.autograd.grad((x + leaf if also else x * 0.5).sum(), [leaf], allow_unused=True)
                log.append(found[0])
            except RuntimeError as e:
                log.append(str(e))

        return f, lambda i: (), lambda: log

    compare(make)


def test_views_returned_and_kept():
    def make():
        kept = []

        def f(x):
            y = x * 2
            v = y.T
            kept.append(v[0] if False else v.reshape(-1))
            return v, x.T

        return f, lambda i: (arr(i, 3, 2),), lambda: kept

    compare(make)


def test_result_that_is_view_of_input_shares_memory():
    f = compile(lambda x: x.T)
    for i in range(5):
        x = arr(i, 2, 3)
        y = f(x)
        x.add_(1)
        assert np.array_equal(y.numpy(), x.numpy().T)


def test_in_place_on_argument_and_alias():
    def make():
        def f(x):
            v = x.reshape(-1)
            x.mul_(2)
            return v + 1

        return f, lambda i: (arr(i, 3, 2),), list

    compare(make)


def test_same_tensor_twice_and_then_two():
    def make():
        def f(a, b):
            a.add_(1)
            return a * b

        def args(i):
            x = arr(i, 3)
            return (x, x) if i % 3 == 2 else (x, arr(i + 1, 3))

        return f, args, list

    compare(make, calls=12)


def test_overlapping_views_mutated():
    def make():
        def f(a, b):
            a.mul_(3.0)
            return (b + a).sum()

        def args(i):
            base = np.arange(10, dtype=np.float32)
            return tj.from_numpy(base[:6]), tj.from_numpy(base[2:8] if i % 2 else np.ones(6, np.float32))

        return f, args, list

    compare(make, calls=10)


def test_exception_in_the_middle_leaves_what_eager_leaves():
    def make():
        w = tj.zeros(3)
        seen = []

        def f(x, i):
            w.add_(x)
            seen.append(w.sum())
            if i % 4 == 3:
                raise ValueError("stop")
            w.mul_(2)
            return w.sum()

        return f, lambda i: (arr(i, 3), i), lambda: [w, seen]

    compare(make, calls=12)


def test_shape_change_and_back():
    def make():
        return lambda x: (x * 2).sum(0), lambda i: (arr(i, 4 if i % 3 else 7, 2),), list

    region = compare(make, calls=12)
    assert region.calls.side_exits == 0
    assert region.calls.resized == 1


def test_second_order_gradient():
    def make():
        w = arr(0, 4, 1).requires_grad_()

        def step(x):
            w.grad = None
            x = x.detach().requires_grad_()
            y = (x @ w).tanh().sum()
            (g,) = tj.autograd.grad(y, x, create_graph=True)
            penalty = ((g * g).sum(1) - 1).pow(2).mean()
            penalty.backward()
            return penalty, g.detach()

        return step, lambda i: (arr(i, 5, 4),), lambda: [w, w.grad]

    compare(make)


def test_hidden_state_on_an_object():
    def make():
        class Cell:
            h = None

        cell = Cell()

        def f(x):
            h = tj.zeros(3) if cell.h is None else cell.h
            cell.h = (h + x).tanh()
            return cell.h.sum()

        return f, lambda i: (arr(i, 3),), lambda: cell.h

    compare(make, calls=10)


def test_nonzero_and_masks_cut():
    def make():
        return lambda x: (x[x > 0] * 2).sum(), lambda i: (arr(i, 8),), list

    compare(make, calls=8)


def test_random_numbers_are_those_of_eager():
    def make():
        gen = tj.Generator().manual_seed(3)

        def f(x):
            noise = tj.rand(5, generator=gen)
            return x + noise, tj.randn(3, generator=gen)

        return f, lambda i: (arr(i, 5),), lambda: gen.get_state()

    region = compare(make)
    assert region.runs + region.calls.replayed >= 6


def test_old_results_are_never_overwritten():
    f = compile(lambda x: x * 2)
    kept = [(i, f(tj.full((3,), float(i)))) for i in range(8)]
    for i, y in kept:
        assert y.tolist() == [2.0 * i] * 3


def test_index_out_of_range_raises_where_eager_raises():
    def make():
        w = arr(0, 5, 3).requires_grad_()
        log = []

        def step(index):
            rows = F.embedding(index, w)
            log.append("after")
            w.grad = None
            rows.sum().backward()
            with tj.no_grad():
                w.sub_(w.grad)
            return rows

        return step, lambda i: (tj.tensor([0, 4, 2] if i % 4 != 3 else [1, 7, 0]),), lambda: [w, log]

    compare(make, calls=12)


def test_computed_index_out_of_range_changes_nothing():
    w = tj.zeros(5)

    @tj.compile
    def step(x):
        index = (x * 2).long()
        w.add_(1)
        return tj.ones(5).index_select(0, index)

    for _ in range(5):
        step(tj.tensor([0.5, 1.0]))
    assert w.tolist() == [5.0] * 5
    with pytest.raises(IndexError, match=r"out of bounds|out of range"):
        step(tj.tensor([0.5, 9.0]))
    assert step(tj.tensor([0.0, 1.5])).tolist() == [1.0, 1.0]


def test_an_index_from_outside_is_checked_at_its_first_uses_and_later():
    for call in (0, 40):
        step = tj.compile(lambda w, index: w.index_select(0, index) * 2)
        for _ in range(call + 4):
            assert step(tj.arange(5.0), tj.tensor([0, 4])).tolist() == [0.0, 8.0]
        for index in ([0, 5], [-1, 2]):
            with pytest.raises(IndexError, match=r"out of bounds|out of range"):
                step(tj.arange(5.0), tj.tensor(index))


def test_no_cycles_are_searched_while_a_program_is_made(monkeypatch):
    found = []
    made = region_module.build

    def build(*args):
        found.append(gc.isenabled())
        return made(*args)

    monkeypatch.setattr(region_module, "build", build)
    step = tj.compile(lambda x: x * 2 + 1)
    for _ in range(4):
        step(tj.ones(3))
    assert found
    assert not any(found)
    assert gc.isenabled()


def test_all_objects_are_searched_seldom_while_a_call_is_recorded():
    before, found = gc.get_threshold(), []

    @tj.compile(mode="follow")
    def step(x):
        found.append(gc.get_threshold()[2])
        return x * 2

    for _ in range(4):
        step(tj.ones(3))
    assert found == [before[2], 10 * before[2], before[2], before[2]]
    assert gc.get_threshold() == before


def test_a_function_that_never_settles_runs_eagerly():
    f = tj.compile(lambda x, i: tj.cat([x] * (i + 2)))
    for i in range(100):
        x = arr(i, 3)
        assert bits(f(x, i)) == bits(tj.cat([x] * (i + 2)))
    assert any("not recorded" in n.reason for n in region_of(f).notes)


def test_double_backward_outside_of_a_compiled_forward():
    def run(compiled):
        w = arr(0, 4, 3).requires_grad_()
        forward = lambda x: ((x @ w).tanh() * (x @ w)).sum()  # noqa: E731
        f = tj.compile(forward) if compiled else forward
        out = []
        for i in range(5):
            w.grad = None
            x = arr(i, 5, 4).requires_grad_()
            (g,) = tj.autograd.grad(f(x), x, create_graph=True)
            (g * g).sum().backward()
            out.append((bits(g), bits(w.grad), bits(x.grad)))
        return out

    assert run(True) == run(False)


def test_saved_view_of_a_dead_tensor_is_changed_in_place():
    def make():
        w = arr(0, 4, 3).requires_grad_()

        def f():
            top = w.amax(0, keepdim=True)
            top.reshape(-1).add_(1.5)
            return top

        return f, lambda i: (), lambda: w

    compare(make)


def test_history_of_a_tensor_from_outside_that_is_changed_in_place():
    def make():
        w = arr(0, 3).requires_grad_()

        def f(x):
            h = (w * x).exp()
            tj.manual_seed(3)
            h.add_(w)
            h.sum().backward()
            return h

        return f, lambda i: (arr(i, 3),), lambda: [w, w.grad]

    compare(make)


def test_a_saved_view_inside_of_a_composite_goes_stale():
    def make():
        w = arr(0, 4, 3)

        def f(x):
            h = (x * 2).exp()
            y = F.linear(w, h)
            with tj.no_grad():
                h.copy_(w)
            try:
                y.sum().backward()
            except RuntimeError as e:
                return str(e)
            return y

        return f, lambda i: (arr(i, 4, 3).requires_grad_(),), list

    compare(make)


def test_recording_keeps_nothing_longer_than_the_function_does():
    alive = []

    def f(x):
        y = x + 1.0
        kept = weakref.ref(y)
        y = y * 2.0
        alive.append(kept() is not None)
        return y

    compiled = compile(f)
    for _ in range(2):
        compiled(arr(0, 3))
    assert alive == [False, False]


def test_values_where_others_were_while_recording_are_not_taken_for_them():
    def make():
        def f(x):
            total = x * 0.0
            for k in range(40):
                # Each of these is gone before the next one is made, often in its place.
                total = total + (x + float(k)).sum() * 0.5
                total = total - (x.T * 2.0).T
            return total, [x.sum() + float(k) for k in range(3)]

        return f, lambda i: (arr(i, 3, 4),), list

    region = compare(make)
    assert region.calls.side_exits == 0
    assert region.runs + region.calls.replayed == 6


def test_a_tensor_that_a_matcher_tried_in_vain_is_free_for_the_next_event():
    p, q = tj.ones(3), tj.ones(3)

    def f(x, first):
        a, b = p * 2, q * 3
        return x + (a if first else b)

    compiled = compile(f, mode="follow")
    region = region_of(compiled)
    for i in range(24):
        x = tj.full((3,), float(i))
        assert bits(compiled(x, i % 2 == 0)) == bits(f(x, i % 2 == 0))
    assert region.calls.side_exits == 1


def test_draws_behind_an_exception_have_not_happened():
    other = tj.Generator().manual_seed(3)

    def f(x):
        noise = tj.rand(2)
        drawn = tj.multinomial(x * 2, 1)
        return F.dropout(x, 0.5) + tj.rand(1, generator=other) + noise.sum() + drawn, F.dropout(x, 0.25)

    def run(function):
        tj.manual_seed(1)
        other.manual_seed(3)
        log = []
        for i in range(12):
            x = arr(i, 3).abs()
            if i % 5 == 4:
                x[1] = -1.0
            try:
                log.append([bits(t) for t in function(x)])
            except RuntimeError as e:
                log.append(str(e))
            log.append((tj.get_rng_state().tolist(), other.get_state().tolist()))
        return log

    assert run(tj.compile(f)) == run(f)
