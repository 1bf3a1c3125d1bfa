"""The native side of the thread team and the program executor: pieces of work, the workers' loop, the task loop.

In: blocks of int64 words that runtime/team.py and runtime/program.py lay out. Out: error codes.
Every function here is a kernel by its signature or a part of one; none takes Python's lock.

A job is a launch, or the segments of a program. What all threads share at a time, a launch or a segment, is a *piece*:
each thread has a share of it, a few chunks, which it claims one by one; a thread that is through with its own claims
what is left of the others'. So a thread that the system gives no CPU holds up the others only if it is in the middle of
a chunk. Whoever does the last chunk of a piece *leads*: it does what comes next and is for one thread alone, makes the
next piece known, or ends the job.

Pieces have numbers that only grow, and a claim is an exchange of a word that holds the piece's number: a thread that
wakes up late claims nothing, and looks at nothing that belongs to a job before it has claimed a chunk of it.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.kernels.emit import part, shared
from tracejit.kernels.memory import (
    by_hand,
    call_kernel,
    compare_exchange,
    exchange,
    fetch_add,
    load_acquire,
    load_arg,
    load_i64,
    pause,
    store_i64,
    store_release,
    ticks,
)
from tracejit.kernels.placement import current_cpu, keep_off, thread_number, yield_cpu

# Words of a team's block; each that several threads write has a cache line of its own.
CURRENT = 0
SLEEPERS = 8
DONE = 16
LOCK = 24
FINISHED = 32
MAIN_ASLEEP = 40
FAILED = 41
# The CPU of the thread that began the last job, and the one that the workers keep off; each and one, 0 for none.
PLACE = 42
KEPT_OFF = 43
JOB = 48
JOB_KERNEL = 49
JOB_BLOCK = 50
JOB_UNITS = 51
SEGMENT = 52
TOTAL = 53
TEAM_THREADS = 54
SPINS = 55
# For each thread a line with the claims of its share, its first error and its number in the system.
SHARES = 64
LINE = 8
ERROR, WHO = 1, 2

# A share's word of claims: the piece's number, the next chunk, how many there are.
NUMBER_SHIFT = 24
NEXT_SHIFT = 12
CHUNK_MASK = (1 << NEXT_SHIFT) - 1
LAUNCH_CHUNKS = 2
"""Chunks in each thread's share of a single launch."""
ORDER_SHIFT = 32
"""Errors are kept with the place of their chunk above this bit: the first in the order of work counts."""

JOB_LAUNCH = 0
JOB_PROGRAM = 1
JOB_STOP = 2

# Words of a program's control block.
MUTEX = 0
BLOCK = 1
POINTER_PATCHES = 2
POINTER_TABLE = 3
SCALAR_PATCHES = 4
SCALAR_TABLE = 5
PROGRAM_THREADS = 6
SEGMENTS = 7
RANGES = 8
TASKS = 9
PARALLEL = 10
RELEASE = 11
# Where the beginning and the end of each task are noted, in ticks; 0 if nobody wants to know.
TIMES = 12
# Where each chunk begins among the tasks; RANGES says where each share begins among the chunks.
CHUNKS = 13
# What a short program learns about whether sharing is worth it; 0 if nobody asks.
TRIAL = 14
PROGRAM_WORDS = 15

# Words of a trial: runs since it began, whether one thread alone is faster, runs from it to the next (0 before the
# first), and what the tries took, in ticks.
TRIAL_RUNS = 0
TRIAL_ALONE = 1
TRIAL_PERIOD = 2
TRIAL_TIMES = 3
TRIES, UNCOUNTED = 24, 8
"""Runs that a trial shares, and then as many that one thread does; of both, how many only bring data to where it will
be."""
MOST_PAIRS = (TRIES - UNCOUNTED) ** 2 // 2
FIRST_RENEWAL, RENEWAL = 250, 2_000
"""Runs after which a trial is made anew: other programs may have wanted the CPUs, or want them by now. Of these runs a
hundredth is spent on the slower way. The first periods are shorter, each twice the one before: when a program is new,
so are others, and compilers are at work."""
TRIAL_WORDS = TRIAL_TIMES + 2 * TRIES

TASK_WORDS = 5
ERROR_SHIFT = 8
GRAIN = 64
"""Long ranges are cut at multiples of this, so that threads seldom write one cache line."""

_SYSTEM_CALLS = {"x86_64": 202, "aarch64": 98, "arm64": 98}
_FUTEX_WAIT_PRIVATE = 128
_FUTEX_WAKE_PRIVATE = 129
_EVERYBODY = 0x7FFFFFFF
_SPINS_A_YIELD = 63
"""One less than the power of two of spins after which a waiting thread lets others have its CPU."""

def _shared(function):  # type: ignore[no-untyped-def]
    """A long part that is called in several places, and whose call costs next to nothing beside what it does."""
    return shared(part(function))


def _futex(context: Any, builder: Any, address: Any, operation: int, value: Any) -> Any:
    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word], var_arg=True)
    function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
    number = _SYSTEM_CALLS[llvm.get_process_triple().split("-")[0]]
    builder.call(function, [word(number), address, word(operation), value, word(0), word(0), word(0)])
    return context.get_dummy_value()


@intrinsic
def futex_wait(typingctx: Any, address: Any, expected: Any) -> Any:
    """Sleeps until woken, unless the low 32 bits at `address` differ from `expected`; may return early."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _futex(context, builder, args[0], _FUTEX_WAIT_PRIVATE, args[1])

    return types.void(types.int64, types.int64), codegen


@intrinsic
def futex_wake(typingctx: Any, address: Any, count: Any) -> Any:
    """Wakes up to `count` threads that sleep on `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _futex(context, builder, args[0], _FUTEX_WAKE_PRIVATE, args[1])

    return types.void(types.int64, types.int64), codegen


@part
def _wait_for_change(word, sleepers, old, spins):  # type: ignore[no-untyped-def]
    """The value at `word` as soon as it is not `old`: spins first, then sleeps."""
    for turn in range(spins):
        value = load_acquire(word)
        if value != old:
            return value
        if turn & _SPINS_A_YIELD == _SPINS_A_YIELD:
            # The thread that is waited for may be waiting for this very CPU.
            yield_cpu()
        pause()
    while load_acquire(word) == old:
        fetch_add(sleepers, 1)
        futex_wait(word, old)
        fetch_add(sleepers, -1)
    return load_acquire(word)


@part
def _advance(word, sleepers):  # type: ignore[no-untyped-def]
    fetch_add(word, 1)
    # A read-modify-write, so that it cannot be ordered before the one above: a thread that has counted itself
    # among the sleepers either sees the new value or is seen here.
    if fetch_add(sleepers, 0) > 0:
        futex_wake(word, _EVERYBODY)


@_shared
def _run_tasks(tasks, begin, end, times):  # type: ignore[no-untyped-def]
    """Runs tasks until one fails; gives (launch << ERROR_SHIFT | code) of that one, or 0."""
    for task in range(begin, end):
        at = tasks + 8 * TASK_WORDS * task
        if times != 0:
            store_i64(times, 2 * task, ticks())
        code = call_kernel(load_i64(at, 0), load_i64(at, 1), load_i64(at, 2), load_i64(at, 3))
        if times != 0:
            store_i64(times, 2 * task + 1, ticks())
        if code != 0:
            return load_i64(at, 4) << ERROR_SHIFT | (code & 255)
    return 0


@part
def _claim(share, number):  # type: ignore[no-untyped-def]
    """The next chunk of a share of piece `number`; -1 if none is left, or the piece is no more."""
    while True:
        word = load_acquire(share)
        chunk = (word >> NEXT_SHIFT) & CHUNK_MASK
        if word >> NUMBER_SHIFT != number or chunk >= word & CHUNK_MASK:
            return -1
        if compare_exchange(share, word, word + (1 << NEXT_SHIFT)) != 0:
            return chunk


@part
def _note_error(team, thread, place, error):  # type: ignore[no-untyped-def]
    at = SHARES + LINE * thread + ERROR
    known = load_i64(team, at)
    noted = place << ORDER_SHIFT | error
    if known == 0 or noted < known:
        store_i64(team, at, noted)
    store_release(team + 8 * FAILED, 1)


@part
def _run_chunks(team, program, thread, begin, end):  # type: ignore[no-untyped-def]
    """The tasks of some chunks of a program, up to the first that fails."""
    chunks = load_i64(program, CHUNKS)
    first, last = load_i64(chunks, begin), load_i64(chunks, end)
    error = _run_tasks(load_i64(program, TASKS), first, last, load_i64(program, TIMES))
    if error != 0:
        _note_error(team, thread, begin, error)
    return error


@part
def _run_claimed(team, thread, owner, chunk):  # type: ignore[no-untyped-def]
    """A chunk of `owner`'s share of the current piece."""
    threads = load_i64(team, TEAM_THREADS)
    block = load_i64(team, JOB_BLOCK)
    if load_i64(team, JOB) == JOB_PROGRAM:
        at = load_i64(load_i64(block, RANGES), load_i64(team, SEGMENT) * threads + owner) + chunk
        _run_chunks(team, block, thread, at, at + 1)
        return
    units = load_i64(team, JOB_UNITS)
    pieces = threads * LAUNCH_CHUNKS
    place = owner * LAUNCH_CHUNKS + chunk
    low = units * place // pieces
    high = units * (place + 1) // pieces
    if units >= GRAIN * GRAIN * pieces:
        low -= low % GRAIN
        if place + 1 < pieces:
            high -= high % GRAIN
    if low < high:
        error = call_kernel(load_i64(team, JOB_KERNEL), block, low, high)
        if error != 0:
            _note_error(team, thread, place, error)


@part
def _make_known(team):  # type: ignore[no-untyped-def]
    """Lets threads claim chunks of the piece whose shares have been set, with the number after the present one."""
    store_i64(team, DONE, 0)
    _advance(team + 8 * CURRENT, team + 8 * SLEEPERS)


@part
def _share_segment(team, ranges, segment):  # type: ignore[no-untyped-def]
    threads = load_i64(team, TEAM_THREADS)
    number = load_i64(team, CURRENT) + 1
    at = segment * threads
    store_i64(team, SEGMENT, segment)
    store_i64(team, TOTAL, load_i64(ranges, at + threads) - load_i64(ranges, at))
    for thread in range(threads):
        chunks = load_i64(ranges, at + thread + 1) - load_i64(ranges, at + thread)
        store_release(team + 8 * (SHARES + LINE * thread), number << NUMBER_SHIFT | chunks)
    _make_known(team)


@part
def _share_launch(team):  # type: ignore[no-untyped-def]
    threads = load_i64(team, TEAM_THREADS)
    number = load_i64(team, CURRENT) + 1
    store_i64(team, TOTAL, threads * LAUNCH_CHUNKS)
    for thread in range(threads):
        store_release(team + 8 * (SHARES + LINE * thread), number << NUMBER_SHIFT | LAUNCH_CHUNKS)
    _make_known(team)


@part
def _finish(team):  # type: ignore[no-untyped-def]
    store_release(team + 8 * FINISHED, 1)
    # A read-modify-write, as in `_advance`: either the main thread is seen asleep, or it sees that the job is finished.
    if fetch_add(team + 8 * MAIN_ASLEEP, 0) > 0:
        _advance(team + 8 * CURRENT, team + 8 * SLEEPERS)


@_shared
def _lead(team, thread, segment):  # type: ignore[no-untyped-def]
    """Goes on with a job from a segment on, up to the next piece for all threads or to the end."""
    if load_i64(team, JOB) == JOB_PROGRAM:
        threads = load_i64(team, TEAM_THREADS)
        program = load_i64(team, JOB_BLOCK)
        ranges = load_i64(program, RANGES)
        segments = load_i64(program, SEGMENTS)
        while segment < segments and load_acquire(team + 8 * FAILED) == 0:
            first = load_i64(ranges, segment * threads)
            last = load_i64(ranges, segment * threads + threads)
            if load_i64(ranges, segment * threads + 1) != last:
                _share_segment(team, ranges, segment)
                return
            _run_chunks(team, program, thread, first, last)
            segment += 1
    _finish(team)


@_shared
def _take_part(team, thread, number):  # type: ignore[no-untyped-def]
    """Does chunks of piece `number` as long as there are any: a thread's own first, then those of the others."""
    threads = load_i64(team, TEAM_THREADS)
    for turn in range(threads):
        owner = (thread + turn) % threads
        share = team + 8 * (SHARES + LINE * owner)
        while True:
            chunk = _claim(share, number)
            if chunk < 0:
                break
            # The piece cannot end before this chunk is done, and once it has ended another one may be set up.
            total = load_i64(team, TOTAL)
            segment = load_i64(team, SEGMENT)
            _run_claimed(team, thread, owner, chunk)
            if fetch_add(team + 8 * DONE, 1) == total - 1:
                _lead(team, thread, segment + 1)
                return


@part
def _wait_for_work(team, number):  # type: ignore[no-untyped-def]
    """The main thread's wait: until there is another piece than `number`, or the job is finished."""
    current, finished = team + 8 * CURRENT, team + 8 * FINISHED
    for turn in range(load_i64(team, SPINS)):
        if load_acquire(current) != number or load_acquire(finished) != 0:
            return
        if turn & _SPINS_A_YIELD == _SPINS_A_YIELD:
            yield_cpu()
        pause()
    fetch_add(team + 8 * MAIN_ASLEEP, 1)
    while load_acquire(current) == number and load_acquire(finished) == 0:
        fetch_add(team + 8 * SLEEPERS, 1)
        futex_wait(current, number)
        fetch_add(team + 8 * SLEEPERS, -1)
    fetch_add(team + 8 * MAIN_ASLEEP, -1)


@_shared
def _see_through(team):  # type: ignore[no-untyped-def]
    """The main thread's part of a job whose first piece is known, or which is finished; gives the first error."""
    while load_acquire(team + 8 * FINISHED) == 0:
        number = load_acquire(team + 8 * CURRENT)
        _take_part(team, 0, number)
        _wait_for_work(team, number)
    first = 0
    for thread in range(load_i64(team, TEAM_THREADS)):
        noted = load_i64(team, SHARES + LINE * thread + ERROR)
        if noted != 0:
            store_i64(team, SHARES + LINE * thread + ERROR, 0)
            if first == 0 or noted < first:
                first = noted
    return first & ((1 << ORDER_SHIFT) - 1)


@part
def _take_place(team):  # type: ignore[no-untyped-def]
    """Has the workers keep off the CPU of the thread that begins a job, if it is another one than before."""
    place = current_cpu() + 1
    if place == load_i64(team, KEPT_OFF) or place == 0:
        return
    before = load_i64(team, PLACE)
    store_i64(team, PLACE, place)
    # Where several threads of the user begin jobs in turn, workers that are awake are not sent to and fro.
    if place == before or load_acquire(team + 8 * SLEEPERS) > 0:
        if keep_off(team + 8 * (SHARES + WHO), LINE, load_i64(team, TEAM_THREADS), place - 1) != 0:
            store_i64(team, KEPT_OFF, place)


@part
def _begin_job(team, job):  # type: ignore[no-untyped-def]
    store_i64(team, FINISHED, 0)
    store_i64(team, FAILED, 0)
    store_i64(team, SEGMENT, 0)
    store_i64(team, JOB, job)
    _take_place(team)


def worker(p, lo, hi):  # type: ignore[no-untyped-def]
    """The life of a worker thread. Slots: this kernel's address, the team's block, the thread's number."""
    by_hand()
    team = load_arg(p, 1)
    thread = load_arg(p, 2)
    store_release(team + 8 * (SHARES + LINE * thread + WHO), thread_number())
    number = 0
    while True:
        number = _wait_for_change(team + 8 * CURRENT, team + 8 * SLEEPERS, number, load_i64(team, SPINS))
        if load_i64(team, JOB) == JOB_STOP:
            break
        _take_part(team, thread, number)
    return 0


def launch_on_team(p, lo, hi):  # type: ignore[no-untyped-def]
    """Runs one kernel on the team, or alone if the team is busy. Slots: team, kernel, its block, units."""
    by_hand()
    team = load_arg(p, 0)
    if team == 0 or exchange(team + 8 * LOCK, 1) != 0:
        return call_kernel(load_arg(p, 1), load_arg(p, 2), 0, load_arg(p, 3))
    _begin_job(team, JOB_LAUNCH)
    store_i64(team, JOB_KERNEL, load_arg(p, 1))
    store_i64(team, JOB_BLOCK, load_arg(p, 2))
    store_i64(team, JOB_UNITS, load_arg(p, 3))
    _share_launch(team)
    error = _see_through(team)
    store_release(team + 8 * LOCK, 0)
    return error


def stop_team(p, lo, hi):  # type: ignore[no-untyped-def]
    """Makes the workers of a team return; its lock stays taken for ever. Slots: team."""
    team = load_arg(p, 0)
    while exchange(team + 8 * LOCK, 1) != 0:
        pause()
    store_i64(team, JOB, JOB_STOP)
    _advance(team + 8 * CURRENT, team + 8 * SLEEPERS)
    return 0


def spin(p, lo, hi):  # type: ignore[no-untyped-def]
    """Does what a waiting thread does, hi - lo times: its duration is what the number of spins is made of."""
    by_hand()
    word = load_arg(p, 0)
    for turn in range(lo, hi):
        if load_acquire(word) != 0:
            return 1
        if turn & _SPINS_A_YIELD == _SPINS_A_YIELD:
            yield_cpu()
        pause()
    return 0


def read_ticks(p, lo, hi):  # type: ignore[no-untyped-def]
    """Reads the CPU's counter. Slots: where to."""
    store_i64(load_arg(p, 0), 0, ticks())
    return 0


@part
def _patch(program, pointers, scalars):  # type: ignore[no-untyped-def]
    """Writes the call's pointers and scalars into the argument slots that hold them."""
    block = load_i64(program, BLOCK)
    table = load_i64(program, POINTER_TABLE)
    for k in range(load_i64(program, POINTER_PATCHES)):
        at = table + 24 * k
        store_i64(block, load_i64(at, 0), load_i64(pointers, load_i64(at, 1)) + load_i64(at, 2))
    table = load_i64(program, SCALAR_TABLE)
    for k in range(load_i64(program, SCALAR_PATCHES)):
        at = table + 16 * k
        store_i64(block, load_i64(at, 0), load_i64(scalars, load_i64(at, 1)))


@part
def _acquire(word):  # type: ignore[no-untyped-def]
    if exchange(word, 1) != 0:
        while exchange(word, 2) != 0:
            futex_wait(word, 2)


@part
def _release(word):  # type: ignore[no-untyped-def]
    if exchange(word, 0) == 2:
        futex_wake(word, 1)


@part
def _is_worth_sharing(trial):  # type: ignore[no-untyped-def]
    run = load_i64(trial, TRIAL_RUNS)
    return run < TRIES or (run >= 2 * TRIES and load_i64(trial, TRIAL_ALONE) == 0)


@part
def _note_run(trial, spent):  # type: ignore[no-untyped-def]
    """Counts a run; the last try decides. Pairs of tries are compared, so that a few that were disturbed do no harm."""
    run = load_i64(trial, TRIAL_RUNS)
    if run < 2 * TRIES:
        store_i64(trial, TRIAL_TIMES + run, spent)
    if run == 2 * TRIES - 1:
        wins = 0
        for shared in range(UNCOUNTED, TRIES):
            for alone in range(TRIES + UNCOUNTED, 2 * TRIES):
                wins += load_i64(trial, TRIAL_TIMES + alone) < load_i64(trial, TRIAL_TIMES + shared)
        store_i64(trial, TRIAL_ALONE, wins > MOST_PAIRS)
    period = load_i64(trial, TRIAL_PERIOD)
    if period == 0:
        period = FIRST_RENEWAL
    if run + 1 < period:
        store_i64(trial, TRIAL_RUNS, run + 1)
    else:
        store_i64(trial, TRIAL_RUNS, 0)
        period = min(2 * period, RENEWAL)
    store_i64(trial, TRIAL_PERIOD, period)


def run_program(p, lo, hi):  # type: ignore[no-untyped-def]
    """Runs a program. Slots: team, the program's control block, the call's pointers, the call's scalars."""
    by_hand()
    team = load_arg(p, 0)
    program = load_arg(p, 1)
    _acquire(load_i64(program, MUTEX))
    _patch(program, load_arg(p, 2), load_arg(p, 3))
    threads = load_i64(program, PROGRAM_THREADS)
    trial = load_i64(program, TRIAL)
    wanted = load_i64(program, PARALLEL) != 0 and team != 0
    worth = trial == 0 or _is_worth_sharing(trial)
    begin = 0
    if trial != 0:
        begin = ticks()
    is_shared = False
    if wanted and worth and load_i64(team, TEAM_THREADS) == threads:
        is_shared = exchange(team + 8 * LOCK, 1) == 0
    if is_shared:
        _begin_job(team, JOB_PROGRAM)
        store_i64(team, JOB_BLOCK, program)
        _lead(team, 0, 0)
        error = _see_through(team)
        store_release(team + 8 * LOCK, 0)
    else:
        chunks = load_i64(load_i64(program, RANGES), load_i64(program, SEGMENTS) * threads)
        last = load_i64(load_i64(program, CHUNKS), chunks)
        # Tasks lie in the order of segments, and of threads in a segment: all of them in that order is the program.
        error = _run_tasks(load_i64(program, TASKS), 0, last, load_i64(program, TIMES))
    if trial != 0 and wanted and is_shared == worth:
        _note_run(trial, ticks() - begin)
    _release(load_i64(program, MUTEX))
    return error


KERNELS = (launch_on_team, run_program, worker, stop_team, spin)
"""What every process needs that computes with a team."""
