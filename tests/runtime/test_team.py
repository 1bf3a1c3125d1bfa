"""Launches from Python: arguments, errors, the team's threads, forks and the end of the interpreter."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from tracejit.kernels import threads as native_side
from tracejit.kernels.threads import LAUNCH_CHUNKS
from tracejit.runtime import entry
from tracejit.runtime.build import build
from tracejit.runtime.entry import ENTRY, MAX_SLOTS
from tracejit.runtime.team import TEAM, address_of, get_num_threads, launch, set_num_threads

HEAVY = 1e6
"""Nanoseconds a unit that make every launch a heavy one."""

SCALE = """
def scale(p, lo, hi):
    x = load_arg(p, 0)
    y = load_arg(p, 1)
    factor = arg_f64(p, 2)
    for i in range(lo, hi):
        store_f64(y, i, load_f64(x, i) * factor + float64(i))
    return 0
"""
RANGE = "def parts(p, lo, hi):\n    store_i64(load_arg(p, 0), lo, hi)\n    return 0\n"
FAIL = "def fail(p, lo, hi):\n    return load_arg(p, 0) if lo <= load_arg(p, 1) < hi else 0\n"
# Takes a while and counts the calls that are inside at once.
INSIDE = """
def inside(p, lo, hi):
    words = load_arg(p, 0)
    fetch_add(words, 1)
    for i in range(load_arg(p, 1)):
        pause()
    fetch_add(words + 8, 1)
    return 0
"""


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("units", [0, 1, 2, 7, 4097, 100_003])
def test_any_number_of_threads_does_the_same(threads: int, units: int) -> None:
    set_num_threads(threads)
    x, y = np.linspace(-1.0, 1.0, units), np.full(units, np.nan)
    assert launch(build(SCALE, "scale").address, units, HEAVY, x, y, 0.1) == 0
    np.testing.assert_array_equal(y, x * 0.1 + np.arange(units))


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("units", [1, 2, 64, 1000, 50_000])
def test_the_parts_cover_the_range_once(threads: int, units: int) -> None:
    set_num_threads(threads)
    ends = np.full(units, -1, np.int64)
    assert launch(build(RANGE, "parts").address, units, HEAVY, ends) == 0
    at, parts = 0, 0
    while at < units:
        assert ends[at] > at
        at, parts = int(ends[at]), parts + 1
    assert at == units
    assert parts == np.count_nonzero(ends >= 0) == min(threads * LAUNCH_CHUNKS, units)


@pytest.mark.parametrize("unit_cost", [0.0, HEAVY])
@pytest.mark.parametrize("where", [0, 50, 99])
def test_an_error_code_comes_back(unit_cost: float, where: int) -> None:
    set_num_threads(3)
    assert launch(build(FAIL, "fail").address, 100, unit_cost, 7, where) == 7
    assert launch(build(FAIL, "fail").address, 100, unit_cost, 7, 100) == 0


class Derived(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (5, 5),
        (-(2**63), -(2**63)),
        (True, 1),
        (np.int32(-3), -3),
        (1.5, int(np.float64(1.5).view(np.int64))),
        (np.float64(-0.0), -(2**63)),
    ],
)
def test_slots_hold_integers_and_the_bits_of_floats(value: object, bits: int) -> None:
    out = np.zeros(1, np.int64)
    text = "def keep(p, lo, hi):\n    store_i64(load_arg(p, 0), 0, load_arg(p, 1))\n    return 0\n"
    assert launch(build(text, "keep").address, 1, 0.0, out, value) == 0
    assert out[0] == bits


def test_slots_hold_addresses_of_arrays() -> None:
    arrays = [np.zeros(3), np.arange(12.0)[5:], np.zeros((0, 3)), np.zeros(3).view(Derived), np.zeros(())]
    out = np.zeros(1, np.int64)
    text = "def keep(p, lo, hi):\n    store_i64(load_arg(p, 0), 0, load_arg(p, 1))\n    return 0\n"
    for array in arrays:
        assert address_of(array) == array.ctypes.data
        assert launch(build(text, "keep").address, 1, 0.0, out, array) == 0
        assert out[0] == array.ctypes.data


def test_wrong_arguments_are_refused() -> None:
    address = build(RANGE, "parts").address
    for arguments in [("text",), (Fraction(1, 2),), (None,), (np.float32(1),), (0,) * (MAX_SLOTS + 1)]:
        with pytest.raises(TypeError):
            launch(address, 1, 0.0, *arguments)
    with pytest.raises(TypeError):
        launch(address, 1)
    with pytest.raises(TypeError):
        launch(address, 1.5, 0.0)
    with pytest.raises(OverflowError):
        launch(address, 1, 0.0, 1 << 63)
    with pytest.raises(TypeError, match="expected an array"):
        address_of([1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        set_num_threads(0)


def test_python_threads_launch_at_once() -> None:
    set_num_threads(2)
    failures: list[str] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(10_000)
        for step in range(200):
            y = np.zeros_like(x)
            launch(build(SCALE, "scale").address, x.size, HEAVY, x, y, float(step))
            if not np.array_equal(y, x * step + np.arange(x.size)):
                failures.append(f"thread {seed}, step {step}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_the_number_of_threads_changes_while_another_thread_launches() -> None:
    stop, counts = threading.Event(), []
    words = np.zeros(2, np.int64)

    def work() -> None:
        while not stop.is_set():
            launch(build(RANGE, "parts").address, 1000, HEAVY, np.full(1000, -1, np.int64))
            launch(build(INSIDE, "inside").address, 8, HEAVY, words, 10)
            counts.append(1)

    worker = threading.Thread(target=work)
    worker.start()
    for k in range(60):
        set_num_threads(1 + k % 3)
        time.sleep(0.001)
    stop.set()
    worker.join()
    assert counts
    assert words[0] == words[1]


def test_a_sleeping_team_costs_nothing_and_wakes() -> None:
    set_num_threads(2)
    ends = np.full(1000, -1, np.int64)
    for _ in range(5):
        launch(build(RANGE, "parts").address, 1000, HEAVY, ends)
        before = time.process_time()
        time.sleep(0.05)
        assert time.process_time() - before < 0.02
    assert np.count_nonzero(ends >= 0) == 2 * LAUNCH_CHUNKS


def run_python(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert not done.stderr
    return done.stdout


PRELUDE = f"""
import os, threading
import numpy as np
from tracejit.kernels import threads as native_side
from tracejit.kernels.threads import LAUNCH_CHUNKS
from tracejit.runtime import entry
from tracejit.runtime.build import build
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.team import TEAM, launch, set_num_threads
set_num_threads(2)
kernel = build({RANGE!r}, "parts").address
def parts():
    ends = np.full(100, -1, np.int64)
    assert launch(kernel, 100, 1e6, ends) == 0
    return np.count_nonzero(ends >= 0)
"""


def test_a_forked_child_makes_its_own_team() -> None:
    script = """
assert parts() == 2 * LAUNCH_CHUNKS and TEAM.started
for _ in range(5):
    child = os.fork()
    if child == 0:
        fresh = not TEAM.started
        os._exit(0 if fresh and parts() == 2 * LAUNCH_CHUNKS and TEAM.started else 1)
    assert parts() == 2 * LAUNCH_CHUNKS
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    assert run_python(PRELUDE + script) == "done\n"


def test_a_fork_while_another_thread_computes() -> None:
    script = """
stop = threading.Event()
def work():
    while not stop.is_set():
        parts()
worker = threading.Thread(target=work)
worker.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if parts() == 2 * LAUNCH_CHUNKS else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
print("done")
"""
    assert run_python(PRELUDE + script) == "done\n"


def test_the_interpreter_ends_with_a_team_and_threads_that_launch() -> None:
    script = """
def work():
    while True:
        parts()
threading.Thread(target=work, daemon=True).start()
for _ in range(100):
    parts()
print("done")
"""
    for _ in range(3):
        assert run_python(PRELUDE + script) == "done\n"


def test_the_team_starts_when_first_needed() -> None:
    TEAM.stop()
    set_num_threads(2)
    ends = np.full(100, -1, np.int64)
    launch(build(RANGE, "parts").address, 100, 0.0, ends)
    assert not TEAM.started
    launch(build(RANGE, "parts").address, 100, HEAVY, ends)
    assert TEAM.started


# The chunk that begins in the middle waits for the three others, one of which lies in the same thread's share.
HELPED = """
def helped(p, lo, hi):
    words = load_arg(p, 0)
    if lo == load_arg(p, 1):
        for i in range(load_arg(p, 2)):
            if load_acquire(words) == 3:
                return 0
            yield_cpu()
            pause()
        return 1
    fetch_add(words, 1)
    return 0
"""


def test_a_thread_that_falls_behind_is_helped() -> None:
    set_num_threads(2)
    assert LAUNCH_CHUNKS == 2
    for _ in range(50):
        words = np.zeros(1, np.int64)
        assert launch(build(HELPED, "helped").address, 8, HEAVY, words, 4, 50_000_000) == 0
        assert words[0] == 3


def test_the_first_error_in_the_order_of_work_comes_back() -> None:
    text = "def fail_from(p, lo, hi):\n    return 1 + lo if hi > load_arg(p, 0) else 0\n"
    for threads in (1, 2, 3):
        set_num_threads(threads)
        chunks = threads * LAUNCH_CHUNKS
        for _ in range(50):
            # Everything fails but the first chunk: the second one's error is it, whoever finishes first.
            expected = 1 + 8 if threads > 1 else 1
            assert launch(build(text, "fail_from").address, 8 * chunks, HEAVY, 8) == expected


def test_every_launch_may_be_shared() -> None:
    """The launches that a team is calibrated and stopped with must not ask for a team."""
    script = "import os\nos.environ['TRACEJIT_PARALLEL_US'] = '0'\n" + PRELUDE
    script += "set_num_threads(2)\nTEAM.start()\nassert TEAM.started\nTEAM.stop()\nassert not TEAM.started\n"
    run_python(script)


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="threads have no choice of CPUs"
)


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


def launch_until_kept_off() -> tuple[int, set[int]]:
    """The CPU that the workers keep off after some launches in a row, and where the first of them may run."""
    words, kernel = np.zeros(2, np.int64), build(INSIDE, "inside").address
    assert launch(kernel, 2, HEAVY, words, 1) == 0
    lines = native_side.SHARES + native_side.LINE * get_num_threads()
    block = (ctypes.c_int64 * lines).from_address(int(ENTRY.state[entry.TEAM]))
    workers = [native_side.SHARES + native_side.LINE * k + native_side.WHO for k in range(1, get_num_threads())]
    end = time.monotonic() + 30
    # A launch may be over before a thread that has just been made has begun.
    while not all(block[at] for at in workers):
        assert time.monotonic() < end
        time.sleep(0.001)
    for _ in range(3):
        assert launch(kernel, 2, HEAVY, words, 1) == 0
    return block[native_side.KEPT_OFF] - 1, os.sched_getaffinity(block[workers[0]])


@needs_affinity
def test_workers_keep_off_the_cpu_of_the_thread_that_launches(allowed: set[int]) -> None:
    """Woken beside it, one did nothing before the launch was over: it took as long as with one thread."""
    set_num_threads(2)
    launch_until_kept_off()
    for cpu in sorted(allowed)[:2]:
        os.sched_setaffinity(0, {cpu})
        os.sched_setaffinity(0, allowed)
        # The system may have moved this thread since.
        for _ in range(50):
            kept_off, free = launch_until_kept_off()
            if kept_off == ctypes.CDLL(None).sched_getcpu():
                break
        assert free == allowed - {kept_off}


@needs_affinity
def test_workers_have_no_cpus_but_those_of_the_thread_that_launches(allowed: set[int]) -> None:
    set_num_threads(3)
    one = {min(allowed)}
    os.sched_setaffinity(0, one)
    TEAM.stop()
    _, free = launch_until_kept_off()
    # Three threads on one CPU: there is nothing to keep off.
    assert free == one
