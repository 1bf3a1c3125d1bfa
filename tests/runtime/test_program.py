"""Programs: order, patching, errors, threads, and how stages are cut up."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tracejit.kernels.threads import FIRST_RENEWAL, RENEWAL, TRIAL_ALONE, TRIAL_PERIOD, TRIAL_RUNS, TRIAL_TIMES, TRIES
from tracejit.runtime.build import Kernel, build
from tracejit.runtime.program import LENT, Address, Arena, Program, ProgramBuilder, _Launch
from tracejit.runtime.shares import segment, sharing_threshold
from tracejit.runtime.team import get_num_threads, set_num_threads

NOTHING = np.zeros(0, np.int64)
HEAVY = 1e6

# y[i] = a * x[i] + y[i] in order: any change of order or a lost barrier changes the result.
STEP = """
def step(p, lo, hi):
    x = load_arg(p, 0)
    y = load_arg(p, 1)
    a = arg_f64(p, 2)
    n = load_arg(p, 3)
    for i in range(lo, hi):
        store_f64(y, i, load_f64(x, n - 1 - i) * a + 1.0)
    return 0
"""
FAIL = "def fail(p, lo, hi):\n    return load_arg(p, 0) if lo <= load_arg(p, 1) < hi else 0\n"
MARK = "def mark(p, lo, hi):\n    store_i64(load_arg(p, 0), load_arg(p, 1), 1)\n    return 0\n"
APPEND = """
def append(p, lo, hi):
    log = load_arg(p, 0)
    count = load_i64(log, 0)
    store_i64(log, 1 + count, load_arg(p, 1))
    store_i64(log, 0, count + 1)
    return 0
"""


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def kernel(text: str) -> Kernel:
    return build(text, text.split("def ", 1)[1].split("(", 1)[0])


def addresses(*arrays: np.ndarray) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.int64)


def chain(units: int, stages: int, unit_cost: float, arena: Arena | None = None) -> Program:
    """Two buffers, each made of the other in turn; every element depends on the far end of the stage before."""
    builder = ProgramBuilder()
    source, target = builder.external(), builder.external()
    middle = builder.arena(128, 8 * units)
    factor = builder.scalar()
    buffers = [source, *[middle if k % 2 == 0 else target for k in range(stages)]]
    for k in range(stages):
        slots = [Address(buffers[k]), Address(buffers[k + 1]), factor, units]
        builder.add_launch(kernel(STEP), slots, units=units, unit_cost=unit_cost, stage=k)
    return builder.build(arena)


def chain_expected(x: np.ndarray, stages: int, factor: float) -> np.ndarray:
    for _ in range(stages):
        x = x[::-1] * factor + 1.0
    return x


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("units", "stages", "unit_cost"), [(5, 400, HEAVY), (5000, 40, 10.0), (5000, 6, 0.001)])
def test_any_number_of_threads_gives_the_same(threads: int, units: int, stages: int, unit_cost: float) -> None:
    set_num_threads(threads)
    program = chain(units, stages, unit_cost)
    x, y = np.linspace(0.0, 1.0, units), np.zeros(units)
    for factor in (0.5, -0.25):
        assert program.run(addresses(x, y), np.array([factor])) == 0
        np.testing.assert_array_equal(y, chain_expected(x, stages, factor))


def test_pointers_scalars_and_threads_may_change_between_calls() -> None:
    program = chain(1000, 4, 100.0)
    for call in range(20):
        set_num_threads(1 + call % 4)
        x, y = np.full(1000, float(call)), np.zeros(1000)
        assert program.run(addresses(x, y), np.array([float(call)])) == 0
        np.testing.assert_array_equal(y, chain_expected(x, 4, float(call)))


def test_a_run_may_bring_the_memory_for_intermediate_values() -> None:
    program = chain(500, 4, 100.0, LENT)
    for call in range(3):
        x, y, memory = np.full(500, float(call)), np.zeros(500), np.full(16 + 500, -1.0)
        assert program.run(addresses(x, y, memory), np.array([0.5])) == 0
        np.testing.assert_array_equal(y, chain_expected(x, 4, 0.5))
        # From byte 128 on.
        np.testing.assert_array_equal(memory[:16], np.full(16, -1.0))
        np.testing.assert_array_equal(memory[16:], chain_expected(x, 3, 0.5))


@pytest.mark.parametrize("threads", [2, 3])
def test_a_short_program_runs_alone_where_sharing_takes_longer(threads: int) -> None:
    set_num_threads(threads)
    # Almost nothing to do in many stages, which are said to be worth sharing: the threads only wait for each other.
    program = chain(8, 90, 1_250.0)
    assert len(program.segments) == 90
    x, y = np.linspace(0.0, 1.0, 8), np.zeros(8)
    for run in range(2 * TRIES + 5):
        assert program.stays_alone is (run >= 2 * TRIES)
        y[:] = 0
        assert program.run(addresses(x, y), np.array([0.5])) == 0
        np.testing.assert_array_equal(y, chain_expected(x, 90, 0.5))


def test_trials_are_made_anew_and_judged_by_most_of_their_tries() -> None:
    set_num_threads(2)
    program = chain(8, 2, 10_000.0)
    trial = program.trial
    x, y = np.zeros(8), np.zeros(8)
    for alone_is_faster in (True, False):
        # The last try of a trial whose others are known; a third of them were disturbed.
        trial[TRIAL_RUNS] = 2 * TRIES - 1
        trial[TRIAL_ALONE] = not alone_is_faster
        shared, alone = trial[TRIAL_TIMES : TRIAL_TIMES + TRIES], trial[TRIAL_TIMES + TRIES : TRIAL_TIMES + 2 * TRIES]
        (shared if alone_is_faster else alone)[:] = 2 << 40
        (alone if alone_is_faster else shared)[:] = 1 << 40
        (alone if alone_is_faster else shared)[::3] = 3 << 40
        assert program.run(addresses(x, y), np.array([0.5])) == 0
        assert program.stays_alone is alone_is_faster
        assert trial[TRIAL_RUNS] == 2 * TRIES
    periods = []
    while len(periods) < 2 or periods[-1] != periods[-2]:
        periods.append(int(trial[TRIAL_PERIOD]))
        trial[TRIAL_RUNS] = periods[-1] - 2
        for runs in (periods[-1] - 1, 0):
            assert program.run(addresses(x, y), np.array([0.5])) == 0
            assert trial[TRIAL_RUNS] == runs
    assert (periods[0], periods[1], periods[-1]) == (FIRST_RENEWAL, 2 * FIRST_RENEWAL, RENEWAL)


def test_long_programs_and_those_of_one_thread_try_nothing() -> None:
    set_num_threads(2)
    for program in (chain(8, 90, 10.0), chain(8, 2, 1_000_000.0)):
        for _ in range(3):
            assert program.run(addresses(np.zeros(8), np.zeros(8)), np.array([0.5])) == 0
        assert program.trial[TRIAL_RUNS] == 0


def test_slots_of_every_kind() -> None:
    builder = ProgramBuilder()
    pinned = np.arange(4.0)
    out = builder.external()
    slots = [Address(out, 8), Address(builder.pinned(pinned), 16), Address(builder.arena(64, 8)), 2.5, -7]
    slots += [builder.scalar(), builder.scalar()]
    text = "def copy(p, lo, hi):\n    for k in range(lo, hi):\n"
    text += "        store_i64(load_arg(p, 0), k, load_arg(p, k))\n    return 0\n"
    builder.add_launch(kernel(text), slots, units=7, unit_cost=1.0, stage=0)
    program = builder.build()
    got = np.zeros(8, np.int64)
    scalars = np.array([1.25, 0.0])
    scalars.view(np.int64)[1] = 99
    assert program.run(addresses(got), scalars) == 0
    bits = np.array([2.5, 1.25]).view(np.int64)
    arena = program.arena.ctypes.data
    assert arena % 64 == 0
    assert got.tolist() == [0, got.ctypes.data + 8, pinned.ctypes.data + 16, arena + 64, bits[0], -7, bits[1], 99]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("unit_cost", [1.0, HEAVY])
@pytest.mark.parametrize("where", [0, 42, 99])
def test_the_first_failing_launch_ends_the_program(threads: int, unit_cost: float, where: int) -> None:
    set_num_threads(threads)
    builder = ProgramBuilder()
    marks = builder.external()
    builder.add_launch(kernel(MARK), [Address(marks), 0], units=1, unit_cost=1.0, stage=0)
    builder.add_launch(kernel(FAIL), [0, 0], units=100, unit_cost=unit_cost, stage=1)
    builder.add_launch(kernel(FAIL), [3, where], units=100, unit_cost=unit_cost, stage=1, fails=True)
    builder.add_launch(kernel(FAIL), [4, where], units=100, unit_cost=unit_cost, stage=1, fails=True)
    builder.add_launch(kernel(MARK), [Address(marks), 1], units=1, unit_cost=1.0, stage=2)
    program = builder.build()
    for _ in range(3):
        done = np.zeros(2, np.int64)
        result = program.run(addresses(done), NOTHING)
        assert program.failure(result) == (2, "fail", 3)
        assert done.tolist() == [1, 0]


def test_stages_run_in_ascending_order_whatever_the_order_of_adding() -> None:
    builder = ProgramBuilder()
    log = builder.external()
    for name, stage in enumerate([5, -1, 3, 5, 0]):
        builder.add_launch(kernel(APPEND), [Address(log), name], units=1, unit_cost=1.0, stage=stage)
    words = np.zeros(8, np.int64)
    assert builder.build().run(addresses(words), NOTHING) == 0
    assert words[:6].tolist() == [5, 1, 4, 2, 0, 3]


def test_launches_without_units_and_programs_without_launches() -> None:
    builder = ProgramBuilder()
    assert builder.build().run(NOTHING, NOTHING) == 0
    builder.add_launch(kernel(FAIL), [1, 0], units=0, unit_cost=HEAVY, stage=0)
    program = builder.build()
    assert program.run(NOTHING, NOTHING) == 0
    assert program.segments == []


def strand(parts: int, units: int, stages: int, cost: float) -> Program:
    """x[i] * a + 1 again and again, then all of it backwards."""
    builder = ProgramBuilder()
    source, target = builder.external(), builder.external()
    middle, factor = builder.arena(0, 8 * units), builder.scalar()
    same = "def same(p, lo, hi):\n    for i in range(lo, hi):\n        x = load_f64(load_arg(p, 0), i)\n"
    same += "        store_f64(load_arg(p, 1), i, x * arg_f64(p, 2) + 1.0)\n    return 0\n"
    for stage in range(stages):
        slots = [Address(middle if stage else source), Address(middle), factor]
        builder.add_launch(
            kernel(same), slots, units=units, unit_cost=cost, stage=stage, strand=1, parts=parts
        )
    slots = [Address(middle), Address(target), factor, units]
    builder.add_launch(kernel(STEP), slots, units=units, unit_cost=cost, stage=stages)
    return builder.build()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("parts", "units"), [(2, 32), (6, 600), (64, 64), (5, 4000)])
def test_threads_go_through_a_strand_by_themselves(threads: int, parts: int, units: int) -> None:
    set_num_threads(threads)
    program = strand(parts, units, 20, 2e5 / units)
    whole = threads > 1 and (parts % threads == 0 or parts >= 4 * threads)
    assert len(program.segments) == (2 if whole else 1 if threads == 1 else 21)
    x, y = np.linspace(0.0, 1.0, units), np.zeros(units)
    for factor in (0.5, -0.25):
        assert program.run(addresses(x, y), np.array([factor])) == 0
        expected = x
        for _ in range(20):
            expected = expected * factor + 1.0
        np.testing.assert_array_equal(y, expected[::-1] * factor + 1.0)


def test_a_light_strand_is_no_reason_to_wake_a_thread() -> None:
    set_num_threads(2)
    (alone,) = strand(4, 32, 5, 1.0).segments
    assert not any(alone[1:])


def test_what_does_not_exist_is_refused() -> None:
    builder = ProgramBuilder()
    with pytest.raises(ValueError, match="no buffer 0"):
        builder.add_launch(kernel(FAIL), [Address(0)], units=1, unit_cost=1.0, stage=0)
    with pytest.raises(ValueError, match="no scalar"):
        builder.add_launch(kernel(FAIL), [type(builder.scalar())(1)], units=1, unit_cost=1.0, stage=0)
    with pytest.raises(ValueError, match="multiple of 64"):
        builder.arena(8, 8)
    with pytest.raises(ValueError, match="that 2 parts divide, got 3"):
        builder.add_launch(kernel(FAIL), [0, 0], units=3, unit_cost=1.0, stage=0, strand=1, parts=2)
    with pytest.raises(TypeError, match="three arrays"):
        builder.build().run([0], NOTHING)  # type: ignore[arg-type]


def test_python_threads_take_turns_with_a_program() -> None:
    set_num_threads(2)
    units, stages = 2000, 20
    program = chain(units, stages, 50.0)
    failures: list[int] = []

    def work(seed: int) -> None:
        x, y = np.random.default_rng(seed).standard_normal(units), np.zeros(units)
        expected = chain_expected(x, stages, 0.5)
        for _ in range(100):
            program.run(addresses(x, y), np.array([0.5]))
            if not np.array_equal(y, expected):
                failures.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_runs_the_program() -> None:
    set_num_threads(2)
    program = chain(1000, 10, 100.0)
    x, y = np.linspace(0.0, 1.0, 1000), np.zeros(1000)
    expected = chain_expected(x, 10, 0.5)
    assert program.run(addresses(x, y), np.array([0.5])) == 0
    child = os.fork()
    if child == 0:
        y[:] = 0
        same = program.run(addresses(x, y), np.array([0.5])) == 0 and np.array_equal(y, expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


LAUNCHES = st.lists(
    st.tuples(st.integers(0, 20_000), st.floats(0.0, 3000.0), st.integers(0, 3)), min_size=1, max_size=12
)


@hypothesis.given(LAUNCHES, st.integers(1, 9), st.floats(0.0, 50_000.0))
def test_segments_hold_every_unit_once_and_in_order(
    sizes: list[tuple[int, float, int]], threads: int, threshold: float
) -> None:
    launches = [_Launch(kernel(FAIL), (), units, cost, stage) for units, cost, stage in sizes]
    segments = segment(launches, threads, threshold)
    tasks = [task for shares in segments for share in shares for chunk in share for task in chunk]
    order = sorted(range(len(launches)), key=lambda k: launches[k].stage)
    at = dict.fromkeys(order, 0)
    for task in tasks:
        assert at[task.launch] == task.low < task.high
        at[task.launch] = task.high
    assert at == {k: launches[k].units for k in order}
    assert [t.launch for t in tasks] == sorted((t.launch for t in tasks), key=order.index)
    for shares in segments:
        assert len(shares) == threads
        assert all(chunk for share in shares for chunk in share)
        stages = {launches[task.launch].stage for share in shares for chunk in share for task in chunk}
        # Only what the first thread does alone may join stages.
        assert len(stages) == 1 or not any(shares[1:])
    assert segments == segment(launches, threads, threshold)


@hypothesis.given(
    st.integers(1, 40), st.integers(1, 50), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 9)
)
def test_blocks_hold_every_part_of_each_launch_in_the_order_of_stages(
    parts: int, block: int, units: list[int], threads: int
) -> None:
    launches = [
        _Launch(kernel(FAIL), (), parts * each, 100.0, stage, False, 1, parts, block=block)
        for stage, each in enumerate(units)
    ]
    segments = segment(launches, threads, 0.0)
    tasks = [task for shares in segments for share in shares for chunk in share for task in chunk]
    for k, each in enumerate(units):
        mine = [task for task in tasks if task.launch == k]
        assert [unit for task in mine for unit in range(task.low, task.high)] == list(range(parts * each))
    if parts % threads and parts < 4 * threads:
        # Threads would not have equally many.
        return
    (shares,) = segments
    assert len(shares) == threads
    for chunk in itertools.chain.from_iterable(shares):
        assert [task.launch for task in chunk][: len(units)] == list(range(len(units)))
        ranges = [(task.low // each, task.high // each) for task, each in zip(chunk, itertools.cycle(units))]
        assert all(high - low <= block for low, high in ranges)


def test_shares_are_even() -> None:
    launches = [_Launch(kernel(FAIL), (), units, cost, 0) for units, cost in [(1000, 50.0), (7, 9000.0), (100, 370.0)]]
    (shares,) = segment(launches, 3, 10_000.0)
    costs = [
        sum((task.high - task.low) * launches[task.launch].unit_cost for chunk in share for task in chunk)
        for share in shares
    ]
    assert max(costs) - min(costs) <= 2 * 9000.0
    assert sum(costs) == sum(launch.cost for launch in launches)


def test_few_long_units_are_shared_evenly_beside_a_little_more() -> None:
    launches = [_Launch(kernel(FAIL), (), units, cost, 0) for units, cost in [(64, 1.0), (4, 3000.0)]]
    (shares,) = segment(launches, 2, 10_000.0)
    assert [sum(t.high - t.low for c in share for t in c if t.launch == 1) for share in shares] == [2, 2]


@pytest.mark.parametrize("cost", [20e3, 70e3, 400e3, 9e6])
def test_chunks_become_smaller_towards_the_end_of_a_share(cost: float) -> None:
    unit_cost = 2 * cost / 1_000_000
    # Long launches are cut at multiples of 64 units.
    off = 64 * unit_cost
    (shares,) = segment([_Launch(kernel(FAIL), (), 1_000_000, unit_cost, 0)], 2, 10_000.0)
    for share in shares:
        costs = [sum(task.high - task.low for task in chunk) * unit_cost for chunk in share]
        assert sum(costs) == pytest.approx(cost, abs=off)
        assert costs[0] <= max(40e3, cost / 8) + off
        assert all(after <= before + off for before, after in itertools.pairwise(costs))
        assert 5_000.0 - off <= costs[-1] <= 10_000.0 + off
        assert len(costs) <= 8 + np.log2(max(1.0, cost / 8 / 5_000.0))


@pytest.mark.parametrize(("grain", "sizes"), [(1, [2, 2, 2, 2, 2, 2, 2, 1, 1]), (4, [4] * 4), (8, [4] * 4)])
def test_units_that_share_what_is_prepared_stay_together(grain: int, sizes: list[int]) -> None:
    (shares,) = segment([_Launch(kernel(FAIL), (), 32, 400e3, 0, grain=grain)], 2, 10_000.0)
    for share in shares:
        assert [sum(task.high - task.low for task in chunk) for chunk in share] == sizes


@pytest.mark.parametrize(
    ("costs", "threshold"),
    [
        ([5_000.0] * 4, 4_000.0),  # threads that are awake share what a launch by itself would not wake them for
        ([3_000.0] * 40, 10_000.0),
        ([11_000.0, 3_000.0], 10_000.0),
        ([25_000.0], 4_000.0),
        ([], 10_000.0),
    ],
)
def test_stages_are_shared_from_less_on_where_threads_are_awake(costs: list[float], threshold: float) -> None:
    launches = [_Launch(kernel(FAIL), (), 10, each / 10, stage) for stage, each in enumerate(costs)]
    assert sharing_threshold(launches, 10_000.0) == threshold


def test_stages_are_always_shared_without_a_threshold() -> None:
    assert sharing_threshold([_Launch(kernel(FAIL), (), 10, 1.0, 0)], 0.0) == 0.0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [2, 29, 40])
def test_running_on_arrays(threads: int, count: int) -> None:
    """The addresses of arrays are the pointers, in their order, whatever layouts there are."""
    builder = ProgramBuilder()
    first, factor = builder.external(count), builder.scalar()
    for k in range(1, count):
        slots = [Address(first + k - 1), Address(first + k), factor, 3]
        builder.add_launch(kernel(STEP), slots, units=3, unit_cost=HEAVY, stage=k)
    program = builder.build()
    seen = []
    for run in (lambda a, s: program.run(addresses(*a), s), lambda a, s: program.run_on(s, *a)):
        arrays = [np.arange(3.0) + k for k in range(count)]
        set_num_threads(2)
        assert run(arrays, np.array([0.5])) == 0
        set_num_threads(threads)
        assert run(arrays, np.array([0.25])) == 0
        seen.append([a.tolist() for a in arrays])
    assert seen[0] == seen[1]
