"""On which CPUs the threads of a team run: on any that the user allows, but not on the one that hands out the work.

In: who the threads of a team are. Out: narrower affinities of the workers.

A system may place a thread that wakes up beside the one that woke it, and leave it there: the one that works does not
give up its CPU, and does all of the work before the other one has begun. On a virtual machine whose kernel packs
threads onto few CPUs, two threads took as long as one in nine of ten launches after the team had slept for 0.3 s.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.kernels.emit import part, shared
from tracejit.kernels.memory import load_i64, named_intrinsic, stack_i64, store_i64

MASK_WORDS = 64
"""64-bit words of a set of CPUs: 4096 of them. Where the system knows more it refuses, and threads stay as they are."""
_WORD_SHIFT, _LAST_IN_WORD = 6, 63

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _make_call(name: str, doc: str) -> Any:
    """A function of the C library without arguments that gives an int."""

    def call(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), name)
            return builder.sext(builder.call(function, []), _I64)

        return types.int64(), codegen

    return named_intrinsic(call, name, doc)


def _make_affinity(name: str, doc: str) -> Any:
    def affinity(typingctx: Any, thread: Any, cpus: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_I32, [_I32, _I64, _I64])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            code = builder.call(function, [builder.trunc(args[0], _I32), _I64(8 * MASK_WORDS), args[1]])
            return builder.sext(code, _I64)

        return types.int64(types.int64, types.int64), codegen

    return named_intrinsic(affinity, name, doc)


current_cpu = _make_call("sched_getcpu", "The CPU that the calling thread runs on, -1 if not known. Cost: some ns.")
thread_number = _make_call("gettid", "The calling thread's number in the system.")
yield_cpu = _make_call("sched_yield", "Lets another thread that waits for this CPU run first.")
get_affinity = _make_affinity("sched_getaffinity", "Writes the CPUs of a thread (0: the caller) to a set; 0 if ok.")
set_affinity = _make_affinity("sched_setaffinity", "Limits a thread (0: the calling one) to a set of CPUs; 0 if ok.")


@intrinsic
def count_ones(typingctx: Any, word: Any) -> Any:
    """How many bits of an int64 are set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


def _keep_off(who, stride, threads, cpu):  # type: ignore[no-untyped-def]
    """Lets threads 1 and up run wherever the calling thread may, but not on `cpu`; 0 if one is not known yet.

    Their numbers lie `stride` words apart; 0 is none. What the calling thread may is asked each time, as the user may
    have changed it. Threads that are more than those CPUs stay free.
    """
    allowed = stack_i64(MASK_WORDS)
    for k in range(MASK_WORDS):
        store_i64(allowed, k, 0)
    if get_affinity(0, allowed) != 0:
        return 1
    cpus = 0
    for k in range(MASK_WORDS):
        cpus += count_ones(load_i64(allowed, k))
    if cpus >= threads:
        k = cpu >> _WORD_SHIFT
        store_i64(allowed, k, load_i64(allowed, k) & ~(1 << (cpu & _LAST_IN_WORD)))
    for thread in range(1, threads):
        number = load_i64(who, thread * stride)
        # Zero would mean the calling thread.
        if number == 0:
            return 0
        set_affinity(number, allowed)
    return 1


keep_off = shared(part(_keep_off))
