"""Functions and loops in LLVM code, for intrinsics that are more than a few instructions.

In: an LLVM builder, and what writes a body. Out: functions that the module's kernels share, loops over values.
Must not know: what is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from llvmlite.ir._utils import NameScope
from numba.extending import register_jitable

from tracejit.kernels.memory import LOOP
from tracejit.kernels.workspace import mark_called

I64 = ir.IntType(64)
SHARED: set[Callable[..., Any]] = set()
"""Functions that kernel text calls, where all others are written out in place of each call; see `shared`."""
OWN = "tracejit_own"
"""Attribute of a module: what is behind the names of functions that are the present kernel's alone."""
SHORT_LOOP = 4
"""How many times a short body of a loop is best done in each of its turns."""
part = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Makes a function callable from kernels, and from nowhere else."""


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has the kernels of a module share a function of int64s: it is compiled once, and called."""
    SHARED.add(function)
    return function


class _Numbered(NameScope):
    """The names of a function's values, each with a number: to look for one that is free takes five times as long."""

    def __init__(self, arguments: int) -> None:
        super().__init__()
        self._numbers = {"": arguments}

    def register(self, name: str, deduplicate: bool = False) -> str:
        if not deduplicate:
            return str(super().register(name))
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        return f"{name}.{number}"


def new_function(module: Any, kind: Any, name: str) -> Any:
    """A function of a module, to be written."""
    function = ir.Function(module, kind, name)
    function.scope = _Numbered(len(function.args))
    return function


@functools.cache
def integers(*numbers: int, bits: int = 32) -> Any:
    """A constant vector of integers, such as the order of a shuffle. Its text is written once: it is long."""
    return ir.Constant(ir.VectorType(ir.IntType(bits), len(numbers)), numbers)


class Splat(ir.Constant):
    """A constant vector of equal elements, whose text has the number once, not for each lane."""

    def __init__(self, vector: Any, number: Any) -> None:
        super().__init__(vector, ir.Undefined)
        self._lane = ir.Constant(vector.element, number)

    def _get_reference(self) -> str:
        return f"splat ({self._lane})"


def freeze(builder: Any, value: Any) -> Any:
    """The value, through which LLVM's selection of instructions does not look."""
    frozen = ir.Instruction(builder.block, value.type, "freeze", [value])
    builder._insert(frozen)
    return frozen


def own_name(module: Any, name: str) -> str:
    """The name of a function that is the present kernel's alone, where a module has several kernels."""
    return f"{name}{vars(module).get(OWN, '')}"


def internal_function(
    module: Any, name: str, arguments: int, body: Callable[[Any, tuple[Any, ...]], Any], result: Any = None
) -> Any:
    """The function `name` of `arguments` int64s in this module, made by `body` when it is asked for first.

    `result` is the type of what it gives, which is what `body` gives, and LLVM then chooses where to call it and where
    to copy it, for each kernel as if there were no other; without one it gives nothing, and is called.
    """
    if result is not None:
        name = own_name(module, name)
    existing = module.globals.get(name)
    if existing is not None:
        return existing
    kind = ir.FunctionType(ir.VoidType() if result is None else result, [I64] * arguments)
    function = new_function(module, kind, name)
    function.linkage = "internal"
    mark_called(function)
    function.attributes.add("nounwind")
    if result is None:
        function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    value = body(builder, function.args)
    if result is None:
        builder.ret_void()
    else:
        builder.ret(value)
    return function


def emit_loop(
    builder: Any,
    count: Any,
    carried: list[Any],
    body: Callable[[list[Any]], list[Any]],
    *,
    together: int = 1,
    rolled: bool = False,
) -> list[Any]:
    """Emits a loop that runs `body` `count` times on the carried values; gives their last state.

    `together`, a power of two, is how many times in each turn, which is good for short bodies; `rolled` says that LLVM
    shall not do more of them in a turn.
    """
    if together > 1:
        turns = builder.ashr(count, I64(together.bit_length() - 1))

        def several(state: list[Any]) -> list[Any]:
            for _ in range(together):
                state = body(state)
            return state

        carried = emit_loop(builder, turns, carried, several, rolled=rolled)
        count = builder.and_(count, I64(together - 1))
    before = builder.block
    head = builder.append_basic_block("head")
    inside = builder.append_basic_block("body")
    done = builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(count, before)
    phis = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    builder.cbranch(builder.icmp_signed(">", index, I64(0)), inside, done)
    builder.position_at_end(inside)
    results = body(phis)
    following = builder.sub(index, I64(1))
    last = builder.block
    back = builder.branch(head)
    if rolled:
        name_loop(back, ["llvm.loop.unroll.disable"])
    index.add_incoming(following, last)
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, last)
    builder.position_at_end(done)
    return phis


def name_loop(back: Any, *wishes: list[Any]) -> None:
    """Says what LLVM shall do with a loop, which is known by the jump back to its head."""
    module = back.module
    number = len(module.metadata)
    nodes = [module.add_metadata(wish) for wish in wishes]
    back.set_metadata("llvm.loop", module.add_metadata([f"{LOOP} {number}", *nodes]))


def leave_loop(back: Any) -> None:
    """Says that LLVM shall leave a loop of few turns as it is."""
    name_loop(back, ["llvm.loop.isvectorized", ir.IntType(32)(1)], ["llvm.loop.unroll.disable"])
