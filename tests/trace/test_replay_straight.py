"""Replays that are one native call: what they do by themselves, and what they leave to the text."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import tracejit as tj
from tests.garbage import small_heap
from tests.trace.replaying import net
from tests.trace.values import arr, bits
from tracejit import devices
from tracejit.kernels import looks
from tracejit.trace.matcher import MISS
from tracejit.trace.region import region_of
from tracejit.trace.replay import arrivals

WORDS_TELL = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Python looks at the attributes of objects there, so the text replays"
)


@pytest.fixture(autouse=True)
def _usual_devices(monkeypatch):
    """No default device was chosen, as other tests of this process may have: a replay would look at it in each call."""
    monkeypatch.setattr(devices, "_changed", False)


def inference(calls=12):
    """A small model, its compiled inference, which is one native call by now, and what tells how that is called."""
    model = net(4, 8, 2)
    compiled = tj.compile(lambda x: tj.softmax(model(x), -1))
    with tj.no_grad():
        for i in range(calls):
            compiled(arr(i, 1, 4))
    (replay,) = region_of(compiled).prover.replays
    assert replay.straight is not None
    assert region_of(compiled).straight is not None
    return model, compiled


def text_calls(compiled, monkeypatch):
    """What notes each run that the text of the first replay starts."""
    scope = region_of(compiled).prover.replays[0].scope
    calls, run = [], scope["run"]
    monkeypatch.setitem(scope, "run", lambda *args: calls.append(1) or run(*args))
    return calls


@WORDS_TELL
def test_the_kernel_that_looks_has_to_be_earned(monkeypatch):
    monkeypatch.setattr(arrivals, "EARNED", 10)
    model, compiled = inference()
    by_text = text_calls(compiled, monkeypatch)
    with tj.no_grad():
        for i in range(20):
            assert bits(compiled(arr(i, 1, 4))) == bits(tj.softmax(model(arr(i, 1, 4)), -1))
    replays = region_of(compiled).calls.replayed
    assert 0 < len(by_text) < 10 < 20 < replays
    assert region_of(compiled).prover.replays[0].look.table[looks.KERNEL] != 0


@WORDS_TELL
def test_calls_that_are_as_before_need_no_text(monkeypatch):
    model, compiled = inference()
    by_text = text_calls(compiled, monkeypatch)
    replayed = region_of(compiled).calls.replayed
    results = []
    with tj.no_grad():
        for i in range(20):
            x = arr(100 + i, 1, 4)
            results.append((x, compiled(x)))
    for x, found in results:
        expected = tj.softmax(model(x).detach(), -1)
        assert bits(found) == bits(expected)
        assert found.requires_grad is False
        assert found.is_leaf
    assert region_of(compiled).calls.replayed == replayed + 20
    assert not by_text


def test_several_arguments_and_tensors_that_are_one(monkeypatch):
    w = arr(9, 4)
    compiled = tj.compile(lambda x, y: x * w + y)
    for i in range(8):
        compiled(arr(i, 4), arr(i + 1, 4))
    assert region_of(compiled).prover.replays[0].straight is not None
    by_text = text_calls(compiled, monkeypatch)
    x, y = arr(20, 4), arr(21, 4)
    assert bits(compiled(x, y)) == bits(x * w + y)
    assert bits(compiled(y, x)) == bits(y * w + x)
    assert not by_text
    for one, other in ((x, x), (w, x), (x, w), (x[:], x), (arr(1, 8)[::2], y)):
        assert bits(compiled(one, other)) == bits(one * w + other)


def test_what_changed_is_seen():
    """Weights, modes, arguments of other kinds: each compared with eager, and then again as before."""
    model, compiled = inference()

    def eager(x):
        return tj.softmax(model(x), -1)

    def check(x):
        expected, found = eager(x), compiled(x)
        assert bits(found) == bits(expected)
        assert (found.dtype, found.requires_grad) == (expected.dtype, expected.requires_grad)

    x = arr(30, 1, 4)
    other = tj.nn.Parameter(arr(31, 8, 4))
    for change in (
        lambda: model[0].weight.copy_(arr(32, 8, 4)),
        lambda: setattr(model[0], "weight", other),
        lambda: setattr(other, "data", arr(33, 8, 4)),
        lambda: model.__setitem__(1, tj.nn.Tanh()),
        lambda: model.eval(),
        lambda: model[0].register_forward_hook(lambda module, args, out: out * 2),
    ):
        with tj.no_grad():
            change()
            for _ in range(4):
                check(x)
        check(x)
        with tj.no_grad():
            for odd in (arr(1, 2, 4), arr(2, 1, 8)[:, ::2], x.double().float(), tj.nn.Parameter(arr(3, 1, 4)), x):
                check(odd)
            with tj.enable_grad():
                check(x)
            with tj.autocast("cpu", dtype=tj.float16):
                check(x)


@WORDS_TELL
def test_a_change_that_is_taken_back_costs_nothing_later():
    model, compiled = inference()
    x, region = arr(30, 1, 4), region_of(compiled)
    with tj.no_grad():
        for _ in range(3):
            model[0].weight.requires_grad_(False)
            assert region.straight((x,), {}) is MISS
            assert bits(compiled(x)) == bits(tj.softmax(model(x), -1))
            model[0].weight.requires_grad_(True)
            first = next(r for r in region.prover.replays if r.straight is not None)
            assert bits(compiled(x)) == bits(tj.softmax(model(x), -1))
            assert region.prover.replays[0] is first
            assert region.straight((x,), {}) is not MISS


def test_wrong_calls_fail_as_without_a_replay():
    model, compiled = inference()
    with tj.no_grad():
        for args, kwargs, error in (
            ((), {}, TypeError),
            ((arr(0, 1, 4), 1), {}, TypeError),
            ((arr(0, 1, 4),), {"y": 1}, TypeError),
            ((arr(0, 1, 5),), {}, Exception),
        ):
            with pytest.raises(error):
                compiled(*args, **kwargs)
        x = arr(5, 1, 4)
        assert bits(compiled(x)) == bits(tj.softmax(model(x), -1))
        assert bits(compiled(x=x)) == bits(tj.softmax(model(x), -1))
    run = region_of(compiled).straight
    for args in ((), ((x,),), ((x,), {}, 1), (3, {}), ((x,), 3)):
        with pytest.raises((TypeError, SystemError)):
            run(*args)


@WORDS_TELL
def test_another_number_of_threads(monkeypatch):
    model, compiled = inference()
    x, before = arr(6, 1, 4), tj.get_num_threads()
    try:
        with tj.no_grad():
            expected = bits(tj.softmax(model(x), -1))
            for threads in (1, 3, 2, 1):
                tj.set_num_threads(threads)
                assert bits(compiled(x)) == expected
                by_text = text_calls(compiled, monkeypatch)
                assert bits(compiled(x)) == expected
                assert not by_text
    finally:
        tj.set_num_threads(before)


def test_several_python_threads():
    """Half of the arguments are strided, which the text replays: both ways write into the program's pointers."""
    model, compiled = inference()
    wrong, barrier = [], threading.Barrier(4)

    def work(k):
        with tj.no_grad():
            xs = [arr(50 + 10 * k + i, 1, 4) if i % 2 else arr(50 + 10 * k + i, 1, 8)[:, ::2] for i in range(6)]
            expected = [bits(tj.softmax(model(x), -1)) for x in xs]
            barrier.wait()
            for i in range(1500):
                if bits(compiled(xs[i % 6])) != expected[i % 6]:
                    wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


@WORDS_TELL
def test_nothing_enters_a_region_that_somebody_is_in():
    _, compiled = inference()
    region, x = region_of(compiled), arr(4, 1, 4)
    with tj.no_grad():
        assert region.straight((x,), {}) is not MISS
        replayed, permit = region.calls.replayed, region.free.pop()
        pointers = region.prover.replays[0].executable.pointers.tolist()
        assert region.straight((x,), {}) is MISS
        assert pointers == region.prover.replays[0].executable.pointers.tolist()
        region.free.append(permit)
        assert region.straight((x,), {}) is not MISS
        assert region.calls.replayed == replayed + 1


@pytest.mark.parametrize("through", ["region", "method", "module"])
def test_other_ways_to_a_region(through):
    model, x = net(4, 8, 2), arr(3, 1, 4)

    class Policy:
        @tj.compile
        def act(self, x):
            return model(x)

    def function(x):
        return model(x)

    with tj.no_grad():
        expected = bits(model(x))
        policy = Policy()
        compiled = {"region": tj.compile(function), "method": policy.act, "module": tj.compile(net(4, 8, 2))}[through]
        for _ in range(12):
            assert bits(compiled(x)) == expected
        region = region_of(compiled)
        assert region.straight is not None
        replayed = region.calls.replayed
        assert bits((region if through == "region" else compiled)(x)) == expected
    assert region.calls.replayed == replayed + 1


class Falling:
    """Calls something when it is collected."""

    def __init__(self, call):
        self.call, self.me = call, self

    def __del__(self):
        self.call()


@small_heap()
def test_a_collection_in_the_middle_of_a_call():
    """Making the result may collect garbage, whose `__del__` calls the function again or changes a weight."""
    model, compiled = inference()
    x, y = arr(7, 1, 4), arr(8, 1, 4)
    inner = []

    def call_again():
        with tj.no_grad():
            inner.append(bits(compiled(y)))

    def change():
        with tj.no_grad():
            model[0].weight.data = model[0].weight * 0.5

    before = gc.get_threshold()
    try:
        for call in (call_again, change, call_again):
            with tj.no_grad():
                compiled(x)
                for _ in range(30):
                    Falling(call)
                    gc.set_threshold(1, 1, 1)
                    found = compiled(x)
                    gc.set_threshold(*before)
                    gc.collect()
                    if call is call_again:
                        assert bits(found) == bits(tj.softmax(model(x), -1))
                        assert inner[-1] == bits(tj.softmax(model(y), -1))
            assert len(inner) >= 30
    finally:
        gc.set_threshold(*before)


def test_nothing_is_kept_or_lost():
    _, compiled = inference()
    x = arr(9, 1, 4)
    shared = (None, False, np.dtype(np.float32), x, x.numpy())
    with tj.no_grad():
        compiled(x)
        counts = [sys.getrefcount(s) for s in shared]
        for _ in range(1000):
            compiled(x)
        refused = arr(9, 1, 8)[:, ::2]
        for _ in range(1000):
            compiled(refused)
    assert all(abs(sys.getrefcount(s) - count) < 500 for s, count in zip(shared, counts, strict=True))


def test_a_region_that_nobody_has_goes():
    _, compiled = inference()
    gone = weakref.ref(region_of(compiled))
    del compiled
    gc.collect()
    assert gone() is None


def test_inside_of_another_region():
    model, compiled = inference()
    outer = tj.compile(lambda x: compiled(x * 2) + 1)
    with tj.no_grad():
        for i in range(8):
            x = arr(i, 1, 4)
            assert bits(outer(x)) == bits(tj.softmax(model(x * 2), -1) + 1)
            assert bits(compiled(x)) == bits(tj.softmax(model(x), -1))


def test_calls_that_do_more_are_left_to_the_text():
    count = [0]

    def counts(x):
        count[0] += 1
        return x * 2

    bias, box = arr(3, 4), {"scale": 2.0}

    def writes(x):
        bias.add_(x)
        return x + bias

    for function in (counts, writes, lambda x: (x * 2, x + 1), lambda x: x * box["scale"], lambda: bias * 2):
        compiled = tj.compile(function)
        args = () if function.__code__.co_argcount == 0 else (arr(2, 4),)
        for i in range(12):
            box["scale"] = float(i)
            compiled(*args)
        for replay in region_of(compiled).prover.replays:
            assert replay.straight is None
        assert region_of(compiled).straight is None
