"""Replays that are one native call: what they do by themselves, and what they leave to the text."""

from __future__ import annotations

import gc
import math
import sys
import threading
import weakref

import numpy as np
import pytest

import tracejit as tj
from tests.garbage import small_heap
from tests.trace.replaying import net
from tests.trace.values import arr, bits
from tracejit import devices, optim
from tracejit.kernels import looks
from tracejit.nn import functional as F
from tracejit.trace.compiled import region_of
from tracejit.trace.matcher import MISS
from tracejit.trace.replay import arrivals
from tracejit.trace.replay.arithmetic import Arithmetic

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


@WORDS_TELL
def test_changes_in_place_need_no_text(monkeypatch):
    bias, plain = arr(3, 4), arr(3, 4)

    def writes(x, bias):
        bias.add_(x)
        return x + bias

    compiled = tj.compile(lambda x: writes(x, bias))
    for i in range(20):
        if i == 10:
            by_text = text_calls(compiled, monkeypatch)
        assert bits(compiled(arr(i, 4))) == bits(writes(arr(i, 4), plain))
        assert (bits(bias), bias._version) == (bits(plain), plain._version)
    assert not by_text


def test_calls_that_do_more_are_left_to_the_text():
    count = [0]

    def counts(x):
        count[0] += 1
        return x * 2

    bias, box = arr(3, 4), {"scale": 2.0}
    for function in (counts, lambda x: (x * 2, x + 1), lambda x: x * box["scale"], lambda: bias * 2):
        compiled = tj.compile(function)
        args = () if function.__code__.co_argcount == 0 else (arr(2, 4),)
        for i in range(12):
            box["scale"] = float(i)
            compiled(*args)
        for replay in region_of(compiled).prover.replays:
            assert replay.straight is None
        assert region_of(compiled).straight is None


def train(model, opt, x, y):
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    return loss


class Training:
    """A step of an MLP with an optimizer, as a program and, beside it, eagerly with the same numbers."""

    def __init__(self, optimizer=optim.Adam, **options):
        self.model, self.plain = net(4, 8, 2), net(4, 8, 2)
        self.opt, self.plain_opt = (optimizer(m.parameters(), lr=1e-2, **options) for m in (self.model, self.plain))
        model, opt = self.model, self.opt
        self.step = tj.compile(lambda x, y: train(model, opt, x, y))
        self.count = 0

    def check(self, steps=12, *, gradients=True):
        """Steps of both have the same bits, with what they change; who looks at gradients has calls look at them."""
        for _ in range(steps):
            self.count += 1
            x, y = arr(self.count, 3, 4), tj.tensor([0, 1, 1])
            found, expected = self.step(x, y), train(self.plain, self.plain_opt, x, y)
            assert bits(found) == bits(expected)
            assert found.grad_fn.name() == expected.grad_fn.name()
            assert state_of(self.model, self.opt, gradients) == state_of(self.plain, self.plain_opt, gradients)

    @property
    def is_straight(self):
        """Whether calls are one native one."""
        return region_of(self.step).straight is not None


def state_of(model, opt, gradients):
    """Parameters, with their gradients, versions, and what an optimizer keeps."""
    parameters = list(model.parameters())
    tensors = [(bits(p), p._version, bits(p.grad) if gradients else None) for p in parameters]
    kept = [{k: v if not isinstance(v, tj.Tensor) else (bits(v), v._version) for k, v in opt.state[p].items()}
            for p in parameters]  # fmt: skip
    return tensors, kept


OPTIMIZERS = {
    "SGD": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "Adam": (optim.Adam, {}),
    "largest": (optim.Adam, {"amsgrad": True}),
    "AdamW": (optim.AdamW, {}),
    "Adamax": (optim.Adamax, {}),
}


@WORDS_TELL
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_step_needs_no_text(name, monkeypatch):
    optimizer, options = OPTIMIZERS[name]
    training = Training(optimizer, **options)
    training.check()
    assert training.is_straight
    training.check(1, gradients=False)
    by_text, replayed = text_calls(training.step, monkeypatch), region_of(training.step).calls.replayed
    training.check(20, gradients=False)
    assert not by_text
    assert region_of(training.step).calls.replayed == replayed + 20


@WORDS_TELL
def test_steps_that_differ_are_left_to_the_text(monkeypatch):
    """Counts that are changed, gradients that somebody has, another rate: each has the bits of eager, and once more."""
    training = Training()
    training.check()
    by_text = text_calls(training.step, monkeypatch)
    held = []

    def count_of_one(value):
        def change(model, opt):
            first, *_ = model.parameters()
            opt.state[first]["step"] = value

        return change

    def counts_of_all(value):
        def change(model, opt):
            for p in model.parameters():
                opt.state[p]["step"] = value

        return change

    def hold_a_gradient(model, opt):
        held.append(next(iter(model.parameters())).grad)

    def drop_gradients(model, opt):
        for p in model.parameters():
            p.grad = None

    changes = [count_of_one(3), counts_of_all(12345), counts_of_all(6800), counts_of_all(2.0), counts_of_all(1 << 53)]
    changes += [counts_of_all(True), counts_of_all(40), hold_a_gradient, drop_gradients]
    for change in changes:
        before = [bits(g) for g in held]
        for model, opt in ((training.model, training.opt), (training.plain, training.plain_opt)):
            change(model, opt)
        training.check(6)
        assert [bits(g) for g in held][: len(before)] == before
    assert by_text
    training.check(12, gradients=False)
    by_text.clear()
    training.check(12, gradients=False)
    assert training.is_straight
    assert not by_text
    for opt in (training.opt, training.plain_opt):
        opt.param_groups[0]["lr"] *= 0.5
    training.check(20)


@WORDS_TELL
def test_powers_that_vanish_are_as_pythons(monkeypatch):
    """0.9 ** 6800 is subnormal, 0.9 ** 8000 is 0: such steps are native calls, too."""
    training = Training()
    training.check()
    for model, opt in ((training.model, training.opt), (training.plain, training.plain_opt)):
        for p in model.parameters():
            opt.state[p]["step"] = 6790
    training.check(1, gradients=False)
    by_text = text_calls(training.step, monkeypatch)
    training.check(20, gradients=False)
    for model, opt in ((training.model, training.opt), (training.plain, training.plain_opt)):
        for p in model.parameters():
            opt.state[p]["step"] = 8000
    training.check(1, gradients=False)
    by_text.clear()
    training.check(20, gradients=False)
    assert not by_text


@WORDS_TELL
def test_a_training_step_keeps_and_loses_nothing():
    training = Training()
    training.check()
    assert training.is_straight
    x, y = arr(1, 3, 4), tj.tensor([0, 1, 1])
    shared = (None, False, x, y, x.numpy())
    training.step(x, y)
    gc.collect()
    counts = [sys.getrefcount(s) for s in shared]
    objects = len(gc.get_objects())
    for _ in range(1000):
        training.step(x, y)
    gc.collect()
    assert len(gc.get_objects()) - objects < 50
    assert all(abs(sys.getrefcount(s) - count) < 500 for s, count in zip(shared, counts, strict=True))
    first, *_ = training.model.parameters()
    # Four parameters have one object as their count, and a look at it takes one more.
    holders = sys.getrefcount(training.opt.state[first]["step"])
    assert holders == 4 + 1
    losses = [weakref.ref(training.step(x, y)) for _ in range(3)]
    assert all(loss() is None for loss in losses)


@WORDS_TELL
@small_heap()
def test_a_collection_in_the_middle_of_a_training_step():
    """Making the loss and its step of the tape may collect garbage, whose `__del__` trains or changes a weight."""
    training = Training()
    training.check()
    assert training.is_straight
    x, y = arr(7, 3, 4), tj.tensor([0, 1, 1])
    sides = ((training.model, training.opt), (training.plain, training.plain_opt))

    def train_again():
        training.step(x, y)
        train(*sides[1], x, y)

    def change():
        for model, _ in sides:
            model[0].weight.data = model[0].weight.detach() * 0.5

    before = gc.get_threshold()
    try:
        for call in (train_again, change):
            for _ in range(20):
                Falling(call)
                gc.set_threshold(1, 1, 1)
                found = training.step(x, y)
                gc.set_threshold(*before)
                gc.collect()
                assert np.isfinite(found.item())
    finally:
        gc.set_threshold(*before)
    for (p, _), (q, _) in zip(*(list(model.named_parameters()) for model, _ in sides), strict=True):
        assert p == q


@pytest.mark.parametrize(
    ("line", "is_done"),
    [
        ("v2 = 0.5 * v1", True),
        ("v2 = v0 - 1e-05", True),
        ("v2 = v0 - 1", False),
        ("v2 = v0 ** v1", False),
        ("v2 = v0 % 2.0", False),
        ("v2 = K1(v1)", True),
        ("v2 = K2(v1)", False),
        ("v2 = K3 * v1", True),
        ("v2 = K4 * v1", False),
        ("v2 = 0.5 * v7", False),
        ("v2 = 9007199254740993 * 0.5", False),
    ],
)
def test_arithmetic_that_native_code_does(line, is_done):
    steps = Arithmetic({"K1": math.sqrt, "K2": math.sin, "K3": 2.0, "K4": np.float64(2)})
    steps.counted("v0", "v1")
    assert steps.add(line) is is_done
