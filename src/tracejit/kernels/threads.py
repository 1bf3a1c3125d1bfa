"""The native side of the thread team and the program executor: barriers, the workers' loop, the task loop.

In: blocks of int64 words that runtime/team.py and runtime/program.py lay out. Out: error codes.
Every function here is a kernel by its signature or a part of one; none takes Python's lock.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from tracejit.kernels.memory import (
    call_kernel,
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

# Words of a team's block; each that several threads write has a cache line of its own.
EPOCH = 0
EPOCH_SLEEPERS = 8
ARRIVED = 16
PHASE = 24
PHASE_SLEEPERS = 32
LOCK = 40
JOB = 48
JOB_KERNEL = 49
JOB_BLOCK = 50
JOB_UNITS = 51
TEAM_THREADS = 52
SPINS = 53
# Where the last failure was: the number of the job and, in the low SEGMENT_BITS, of its segment.
FAILED = 56
ERRORS = 64
LINE = 8

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
PROGRAM_WORDS = 13

TASK_WORDS = 5
ERROR_SHIFT = 8
SEGMENT_BITS = 24
GRAIN = 64
"""Long ranges are cut at multiples of this, so that threads seldom write one cache line."""

_SYSTEM_CALLS = {"x86_64": 202, "aarch64": 98, "arm64": 98}
_FUTEX_WAIT_PRIVATE = 128
_FUTEX_WAKE_PRIVATE = 129
_EVERYBODY = 0x7FFFFFFF
_SPINS_A_YIELD = 63
"""One less than the power of two of spins after which a waiting thread lets others have its CPU."""

_part = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Makes a function callable from kernels, and from nowhere else."""


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


@intrinsic
def yield_cpu(typingctx: Any) -> Any:
    """Lets another thread that waits for this CPU run first."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@_part
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


@_part
def _advance(word, sleepers):  # type: ignore[no-untyped-def]
    fetch_add(word, 1)
    # A read-modify-write, so that it cannot be ordered before the one above: a thread that has counted itself
    # among the sleepers either sees the new value or is seen here.
    if fetch_add(sleepers, 0) > 0:
        futex_wake(word, _EVERYBODY)


@_part
def _meet(team):  # type: ignore[no-untyped-def]
    """The barrier: returns when all threads of the team have called it."""
    phase = load_acquire(team + 8 * PHASE)
    if fetch_add(team + 8 * ARRIVED, 1) == load_i64(team, TEAM_THREADS) - 1:
        store_release(team + 8 * ARRIVED, 0)
        _advance(team + 8 * PHASE, team + 8 * PHASE_SLEEPERS)
    else:
        _wait_for_change(team + 8 * PHASE, team + 8 * PHASE_SLEEPERS, phase, load_i64(team, SPINS))


@_part
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


@_part
def _run_part(team, program, thread, epoch):  # type: ignore[no-untyped-def]
    """What one thread of the team does of a program: its tasks of each segment, then the barrier."""
    threads = load_i64(team, TEAM_THREADS)
    tasks = load_i64(program, TASKS)
    ranges = load_i64(program, RANGES)
    times = load_i64(program, TIMES)
    for segment in range(load_i64(program, SEGMENTS)):
        at = segment * threads + thread
        error = _run_tasks(tasks, load_i64(ranges, at), load_i64(ranges, at + 1), times)
        if error != 0:
            store_i64(team, ERRORS + LINE * thread, error)
            store_release(team + 8 * FAILED, (epoch << SEGMENT_BITS) + segment)
        _meet(team)
        # All threads of this job must come to the same decision here, but a slow one may look when the others are
        # further: in the next segment, whose failure is none of its business yet, or, if this was the job's last
        # barrier, in the next job. So the mark says where the failure was and is never taken back.
        mark = load_acquire(team + 8 * FAILED)
        if mark >> SEGMENT_BITS > epoch or (
            mark >> SEGMENT_BITS == epoch and mark <= (epoch << SEGMENT_BITS) + segment
        ):
            break


@_part
def _launch_part(team, thread):  # type: ignore[no-untyped-def]
    threads = load_i64(team, TEAM_THREADS)
    units = load_i64(team, JOB_UNITS)
    low = units * thread // threads
    high = units * (thread + 1) // threads
    if units >= GRAIN * GRAIN * threads:
        low -= low % GRAIN
        if thread + 1 < threads:
            high -= high % GRAIN
    if low < high:
        error = call_kernel(load_i64(team, JOB_KERNEL), load_i64(team, JOB_BLOCK), low, high)
        if error != 0:
            store_i64(team, ERRORS + LINE * thread, error)
    _meet(team)


@_part
def _first_error(team):  # type: ignore[no-untyped-def]
    """The error of the first thread that has one, and forgets all: threads have their parts in the order of work."""
    first = 0
    for thread in range(load_i64(team, TEAM_THREADS)):
        error = load_i64(team, ERRORS + LINE * thread)
        if error != 0:
            store_i64(team, ERRORS + LINE * thread, 0)
            if first == 0:
                first = error
    return first


def worker(p, lo, hi):  # type: ignore[no-untyped-def]
    """The life of a worker thread. Slots: this kernel's address, the team's block, the thread's number."""
    team = load_arg(p, 1)
    thread = load_arg(p, 2)
    epoch = 0
    while True:
        epoch = _wait_for_change(team + 8 * EPOCH, team + 8 * EPOCH_SLEEPERS, epoch, load_i64(team, SPINS))
        job = load_i64(team, JOB)
        if job == JOB_STOP:
            break
        if job == JOB_PROGRAM:
            _run_part(team, load_i64(team, JOB_BLOCK), thread, epoch)
        else:
            _launch_part(team, thread)
    return 0


def launch_on_team(p, lo, hi):  # type: ignore[no-untyped-def]
    """Runs one kernel on the team, or alone if the team is busy. Slots: team, kernel, its block, units."""
    team = load_arg(p, 0)
    if team == 0 or exchange(team + 8 * LOCK, 1) != 0:
        return call_kernel(load_arg(p, 1), load_arg(p, 2), 0, load_arg(p, 3))
    store_i64(team, JOB, JOB_LAUNCH)
    store_i64(team, JOB_KERNEL, load_arg(p, 1))
    store_i64(team, JOB_BLOCK, load_arg(p, 2))
    store_i64(team, JOB_UNITS, load_arg(p, 3))
    _advance(team + 8 * EPOCH, team + 8 * EPOCH_SLEEPERS)
    _launch_part(team, 0)
    error = _first_error(team)
    store_release(team + 8 * LOCK, 0)
    return error


def stop_team(p, lo, hi):  # type: ignore[no-untyped-def]
    """Makes the workers of a team return; its lock stays taken for ever. Slots: team."""
    team = load_arg(p, 0)
    while exchange(team + 8 * LOCK, 1) != 0:
        pause()
    store_i64(team, JOB, JOB_STOP)
    _advance(team + 8 * EPOCH, team + 8 * EPOCH_SLEEPERS)
    return 0


def spin(p, lo, hi):  # type: ignore[no-untyped-def]
    """Does what a waiting thread does, hi - lo times: its duration is what the number of spins is made of."""
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


@_part
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


@_part
def _acquire(word):  # type: ignore[no-untyped-def]
    if exchange(word, 1) != 0:
        while exchange(word, 2) != 0:
            futex_wait(word, 2)


@_part
def _release(word):  # type: ignore[no-untyped-def]
    if exchange(word, 0) == 2:
        futex_wake(word, 1)


def run_program(p, lo, hi):  # type: ignore[no-untyped-def]
    """Runs a program. Slots: team, the program's control block, the call's pointers, the call's scalars."""
    team = load_arg(p, 0)
    program = load_arg(p, 1)
    _acquire(load_i64(program, MUTEX))
    _patch(program, load_arg(p, 2), load_arg(p, 3))
    threads = load_i64(program, PROGRAM_THREADS)
    wanted = load_i64(program, PARALLEL) != 0 and team != 0
    if wanted and load_i64(team, TEAM_THREADS) == threads and exchange(team + 8 * LOCK, 1) == 0:
        store_i64(team, JOB, JOB_PROGRAM)
        store_i64(team, JOB_BLOCK, program)
        _advance(team + 8 * EPOCH, team + 8 * EPOCH_SLEEPERS)
        _run_part(team, program, 0, load_acquire(team + 8 * EPOCH))
        error = _first_error(team)
        store_release(team + 8 * LOCK, 0)
    else:
        last = load_i64(load_i64(program, RANGES), load_i64(program, SEGMENTS) * threads)
        # Tasks lie in the order of segments, and of threads in a segment: all of them in that order is the program.
        error = _run_tasks(load_i64(program, TASKS), 0, last, load_i64(program, TIMES))
    _release(load_i64(program, MUTEX))
    return error
