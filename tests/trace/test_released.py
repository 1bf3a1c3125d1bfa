"""Steps of the tape that a region leaves released: where they lead decides which gradients are refused."""

from __future__ import annotations

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.tensor.tape import TapeNode
from tracejit.trace.compiled import region_of
from tracejit.trace.deferred import Deferred


def refused(*ways):
    """For each way from a result to inputs: whether its gradients are None, or why it is refused."""
    log = []
    for out, inputs in ways:
        try:
            log.append([g is None for g in tj.autograd.grad(out, inputs, allow_unused=True)])
        except RuntimeError as e:
            log.append(str(e))
    return log


def both(run, *args):
    """What a program logs, the same eagerly and compiled."""
    found = run(lambda f: f, *args)
    assert found == run(tj.compile, *args)
    return found


def through_a_tensor_that_lives(kind, looks):
    w, v, other = (arr(i, 3).requires_grad_() for i in range(3))
    log = []

    @kind
    def f(x):
        middle = (w * x).exp() + v
        loss = (middle * middle).sum()
        loss.backward()
        if looks:
            log.append(loss.item())
        return loss, middle

    for i in range(6):
        loss, middle = f(arr(10 + i, 3))
        again = (middle * 2).sum()
        log += refused(*((loss * 2, [t]) for t in (w, v, other, middle)), (again, [w]), (again, [v]))
    return log


@pytest.mark.parametrize("looks", [False, True])
def test_they_lead_to_leaves_and_to_tensors_that_live(looks):
    found = both(through_a_tensor_that_lives, looks)
    assert len({str(way) for way in found[-6:]}) == 3


def to_a_step_from_outside(kind):
    w, log = arr(0, 3).requires_grad_(), []
    f = kind(lambda x: (loss := x.exp().sum()).backward() or loss)
    for i in range(6):
        before = w * i
        loss = f(before)
        log += refused((loss * 2, [before]), (loss * 2, [w]))
    return log


def test_they_lead_to_steps_from_outside():
    both(to_a_step_from_outside)


def of_a_leaf_that_is_stepped(kind):
    w, log = arr(0, 3).requires_grad_(), []
    optimizer = tj.optim.SGD([w], lr=0.1)

    @kind
    def f(x):
        optimizer.zero_grad()
        loss = (w * x).exp().sum()
        loss.backward()
        optimizer.step()
        return loss

    for i in range(6):
        loss = f(arr(i, 3))
        log += refused((loss * 2, [w]))
    return log


def test_they_lead_to_a_leaf_that_an_optimizer_steps():
    assert "a second time" in both(of_a_leaf_that_is_stepped)[-1]


def of_a_leaf_given_to_the_call(kind):
    log = []

    @kind
    def f(w):
        loss = w.exp().sum()
        loss.backward()
        return loss

    for i in range(6):
        w, other = arr(i, 3).requires_grad_(), arr(i, 3).requires_grad_()
        loss = f(w)
        log += refused((loss * 2, [w]), (loss * 2, [other]))
    return log


def test_they_lead_to_a_leaf_that_each_call_is_given():
    assert "a second time" in both(of_a_leaf_given_to_the_call)[-2]


def test_a_hook_below_one_does_not_keep_a_region_from_its_program():
    w = arr(0, 3).requires_grad_()
    seen = []

    @tj.compile
    def f(x):
        h = w * x
        h.register_hook(lambda grad: seen.append(grad.shape))
        loss = h.exp().sum()
        loss.backward()
        return loss

    for i in range(5):
        loss = f(arr(i, 3))
        assert "a second time" in refused((loss * 2, [w]))[0]
    assert seen == [(3,)] * 5


def test_one_at_the_end_of_a_deep_tape_leads_to_its_first_leaf():
    leaves = [arr(i, 2).requires_grad_() for i in range(40)]

    @tj.compile
    def f(x):
        outs = []
        for i in range(400):
            x = (x * leaves[i % 40]).tanh()
            outs.append(x.sum())
        sum(outs).backward()
        return outs

    for _ in range(4):
        outs = f(arr(0, 2))
    assert "a second time" in refused((outs[-1] * 2, [leaves[0]]))[0]
    assert refused((outs[0] * 2, [leaves[1]])) == [[True]]


def of_a_mean(kind):
    w, log = arr(0, 3).requires_grad_(), []

    @kind
    def f(x):
        loss = ((w * x - 1) ** 2).mean()
        loss.backward()
        return loss, x + w

    for i in range(6):
        loss, still_open = f(arr(i, 3))
        again = loss + still_open.sum()
        log += [loss.grad_fn.name(), *refused((again, [w]), (still_open.sum(), [w]))]
        log.append(tj.autograd.grad(still_open.sum(), [w])[0].tolist())
    return log


def test_what_saves_nothing_behind_them_is_refused_too():
    assert "a second time" in both(of_a_mean)[-3]


def test_steps_that_hold_nothing_are_there_at_once():
    w = arr(0, 3).requires_grad_()

    @tj.compile
    def f(x):
        loss = ((w * x - 1) ** 2).mean()
        loss.backward()
        return loss

    for i in range(6):
        step = f(arr(i, 3)).grad_fn
    assert isinstance(step, TapeNode)
    assert not isinstance(step, Deferred)


def detached(kind):
    w, log = arr(0, 3).requires_grad_(), []

    @kind
    def f(x):
        loss = ((w * x).exp() + w).sum()
        loss.backward()
        one, two = (w * 2).detach(), x * 3
        part = two.detach()[1:]
        return loss.detach(), one, one.detach(), two.detach(), part, loss.detach().reshape(1)

    for i in range(6):
        found = f(arr(i, 3))
        found[1].add_(1)
        found[3].mul_(2)
        log += [bits(t) for t in found] + [(t.requires_grad, t._version, t._base is None) for t in found]
    return log


def test_a_detached_tensor_takes_the_place_of_one_that_is_gone():
    both(detached)


def test_a_result_that_is_detached_is_made_at_once():
    w = arr(0, 3).requires_grad_()

    def f(x):
        loss = ((w * x) ** 2).mean()
        loss.backward()
        return loss.detach()

    compiled = tj.compile(f)
    for i in range(6):
        compiled(arr(i, 3))
    (replay,) = region_of(compiled).prover.replays
    assert "me.land" not in replay.text


def of_a_number(kind):
    w, log = arr(0, 3).requires_grad_(), []

    @kind
    def f(x, a):
        loss = (w * x).exp().sum() * a - 0.5 * (w * w).sum()
        loss.backward()
        return loss

    for i in range(8):
        loss = f(arr(i, 3), 0.1 + i)
        log += refused((loss * 2, [w]))
        log.append([float(e[0]) for e in loss.grad_fn.edges[0][0].saved if e is not None and e[0] is not None])
    return log


def test_numbers_above_released_steps_are_those_of_the_call():
    found = both(of_a_number)
    assert found[-1] == [7.1]


def test_a_replay_has_a_program_without_the_locals_of_the_function():
    w = arr(0, 4, 3).requires_grad_()

    def f(x):
        hidden = (x @ w).tanh()
        part = hidden[:, 1:]
        out = part.exp()
        loss = (out * out).mean()
        loss.backward()
        return loss.item()

    compiled = tj.compile(f)
    expected = []
    for i in range(8):
        w.grad = None
        expected.append(f(arr(i, 2, 4)))
        w.grad = None
        assert compiled(arr(i, 2, 4)) == expected[-1]
    (replay,) = region_of(compiled).prover.replays
    assert "me.land" not in replay.text
    # The loss and the gradient.
    assert len(replay.executable.outputs) == 2
