"""Threads, forks, signals, and many calls."""

from __future__ import annotations

import functools
import gc
import math
import os
import pickle
import signal
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tracejit as tj
from harness import arr
from tests.interrupts import alarms
from tracejit import nn, optim
from tracejit.tensor.state import state
from tracejit.trace.compiled import region_of

W = arr(0, 4, 3)


@tj.compile
def at_module_level(x):
    """A compiled function that pickle finds by its name."""
    return (x @ W).tanh().sum()


def trainer(compiled=True):
    tj.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    opt = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, lr):
        opt.param_groups[0]["lr"] = lr
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return tj.compile(step) if compiled else step, model


def in_threads(jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result(timeout=60) for f in [pool.submit(job) for job in jobs]]


def test_several_threads_call_one_function():
    f = tj.compile(lambda x: (x @ W).exp().sum(0) * 2)
    expected = {i: ((arr(i, 5, 4) @ W).exp().sum(0) * 2).tolist() for i in range(40)}

    def work(k):
        return all(f(arr(i, 5, 4)).tolist() == expected[i] for _ in range(5) for i in range(k, 40, 4))

    assert all(in_threads([lambda k=k: work(k) for k in range(4)]))
    assert region_of(f).calls.followed > 0


def test_several_threads_call_functions_of_their_own():
    def work(k):
        f = tj.compile(lambda x: (x * k).sum() + (x @ W).sum())
        return all(
            f(arr(i, 2, 4)).item() == ((arr(i, 2, 4) * k).sum() + (arr(i, 2, 4) @ W).sum()).item() for i in range(30)
        )

    assert all(in_threads([lambda k=k: work(k) for k in range(4)]))


def test_a_thread_trains_while_another_one_does():
    alone = []
    for k in range(2):
        step, _ = trainer(compiled=False)
        alone.append([step(arr(100 * k + i, 5, 4), 1e-3).item() for i in range(30)])

    steps = [trainer()[0] for _ in range(2)]

    def work(k):
        return [steps[k](arr(100 * k + i, 5, 4), 1e-3).item() for i in range(30)]

    assert in_threads([lambda: work(0), lambda: work(1)]) == alone


def test_grad_mode_belongs_to_its_thread():
    w = arr(0, 3).requires_grad_()
    f = tj.compile(lambda x: w * x)
    for i in range(5):
        f(arr(i, 3))

    def work():
        with tj.no_grad():
            return f(arr(9, 3)).requires_grad

    assert in_threads([work]) == [False]
    assert f(arr(9, 3)).requires_grad


@pytest.mark.parametrize(
    "use",
    [
        lambda y: y.tolist(),
        lambda y: (y == 0).tolist(),
        lambda y: y.reshape(1, 3).tolist(),
        lambda y: (y @ y).item(),
        lambda y: y.softmax(0).tolist(),
        lambda y: tj.cat([y, y]).tolist(),
        lambda y: y.add_(1).tolist(),
        lambda y: y.detach().clone().tolist(),
    ],
)
def test_a_thread_started_inside_gets_values_or_a_clear_error(use):
    def f(x):
        y = x * 2
        return in_threads([lambda: (x + 1).tolist(), lambda: use(y)])

    compiled = tj.compile(f)
    for i in range(2):
        assert compiled(arr(i, 3)) == f(arr(i, 3))
    with pytest.raises(RuntimeError, match="pending in a compiled region that another thread is running"):
        compiled(arr(2, 3))
    assert state.session is None


def test_child_process_after_a_fork_computes_the_same():
    step, _ = trainer()
    for i in range(5):
        step(arr(i, 5, 4), 1e-3)
    at_module_level(arr(0, 3, 4))
    twin, _ = trainer(compiled=False)
    for i in range(5):
        twin(arr(i, 5, 4), 1e-3)
    expected = [twin(arr(i, 5, 4), 1e-3).item() for i in range(5, 15)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking with threads
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if [step(arr(i, 5, 4), 1e-3).item() for i in range(5, 15)] == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [step(arr(i, 5, 4), 1e-3).item() for i in range(5, 15)] == expected


def test_compiled_function_pickles_by_name():
    for i in range(4):
        at_module_level(arr(i, 3, 4))
    assert at_module_level.__reduce__() == "at_module_level"
    model = tj.compile(nn.Linear(3, 2))
    for i in range(4):
        model(arr(i, 2, 3))
    twin = pickle.loads(pickle.dumps(model))
    assert twin(arr(9, 2, 3)).tolist() == model(arr(9, 2, 3)).tolist()


# An interrupt that meets the callback of a weak reference is reported and lost, whoever's callback it is.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_a_working_function():
    step, model = trainer()
    for i in range(4):
        step(arr(i, 5, 4), 1e-3)
    rng = np.random.default_rng(0)
    hit = 0

    def fifty(i):
        for k in range(50):
            step(arr(i + k, 5, 4), 1e-3)

    with alarms() as hits:
        for i in range(120):
            hit += hits(float(rng.uniform(1e-5, 4e-4)), functools.partial(fifty, i))
    assert hit > 50
    assert state.session is None
    assert all(math.isfinite(v) for p in model.parameters() for v in p.flatten().tolist())
    _, other = trainer(compiled=False)
    other.load_state_dict(model.state_dict())
    x = arr(7, 5, 4)
    assert step(x, 1e-3).item() == other(x).pow(2).mean().item()


def test_ten_thousand_calls_do_not_grow():
    step, _ = trainer()
    x = arr(0, 5, 4)

    def many(count):
        for i in range(count):
            step(x, 1e-3 / (1 + i % 7))
        gc.collect()

    many(500)
    tracemalloc.start()
    try:
        many(200)
        before = tracemalloc.get_traced_memory()[0]
        many(2_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    many(7_300)
    assert grown < 20_000
    assert region_of(step).calls.side_exits == 0
    assert len(region_of(step).notes) < 20


def test_recorded_calls_do_not_keep_their_tensors():
    import weakref

    refs = []

    def f(x):
        y = x.exp()
        refs.append(weakref.ref(y))
        return (y * 2).sum()

    g = tj.compile(f)
    for i in range(3):
        g(arr(i, 1000))
    gc.collect()
    assert [r() for r in refs] == [None] * 3
