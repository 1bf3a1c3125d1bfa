"""Running sums and products along rows in memory, several rows side by side: each is a chain that waits for itself.

A vector holds an element of each of its rows, which are turned on their way in and out. Every chain goes through its
row one by one, whatever the width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba.core import types
from numba.extending import intrinsic

from tracejit.kernels.emit import I64, emit_loop, internal_function
from tracejit.kernels.vectors import F32, F64, Lane, VectorBuilder

Step = Callable[[Any, Any, list[Any]], tuple[Any, Any]]
"""From a builder, what is carried and the operands at a place: the result, and what is carried on."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A scan: its step over so many operands, and what it carries before the first one.

    `texts` are the step as text over `sofar` and operands: the result `out`, and what is carried on.
    """

    step: Step
    operands: int
    start: float
    texts: tuple[str, str]


def _sum(builder: Any, sofar: Any, operands: list[Any]) -> tuple[Any, Any]:
    result = builder.fadd(sofar, operands[0])
    return result, result


def _product(builder: Any, sofar: Any, operands: list[Any]) -> tuple[Any, Any]:
    result = builder.fmul(sofar, operands[0])
    return result, result


def _recurrence(builder: Any, sofar: Any, operands: list[Any]) -> tuple[Any, Any]:
    result = builder.fadd(operands[0], sofar)
    return result, builder.fmul(result, operands[1])


# -0.0 is the identity of a sum: x + -0.0 has the bits of x, also for x = -0.0.
CHAINS = {
    "cumsum": Chain(_sum, 1, -0.0, ("{sofar} + {x}", "{out}")),
    "cumprod": Chain(_product, 1, 1.0, ("{sofar} * {x}", "{out}")),
    "linear_recurrence": Chain(_recurrence, 2, -0.0, ("{x} + {sofar}", "{out} * {decay}")),
}
_FEW = 3
"""Rows of which one after another takes no longer than turning them, if they are the last ones."""


def _name(what: str, lane: Lane, back: bool) -> str:
    return f"{what}_rows_{'back_' if back else ''}{lane.name}"


def _add_one(module: Any, lane: Lane, what: str, back: bool) -> Any:
    """A chain along one row. Arguments: the operands, the result, what is carried, how many places."""
    chain = CHAINS[what]
    name, step = f"{_name(what, lane, back)}_one", -lane.size if back else lane.size

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        *places, target, sofar, count = arguments
        v = VectorBuilder(builder, lane)
        end = builder.mul(builder.sub(count, I64(1)), I64(lane.size)) if back else I64(0)
        first = [builder.add(place, end) for place in (*places, target)]

        def turn(state: list[Any]) -> list[Any]:
            carried, *at = state
            loaded = [builder.load(builder.inttoptr(a, lane.kind.as_pointer())) for a in at[:-1]]
            result, carried = chain.step(builder, carried, loaded)
            builder.store(result, builder.inttoptr(at[-1], lane.kind.as_pointer()))
            return [carried, *[builder.add(a, I64(step)) for a in at]]

        carried = v.pointer(sofar, lane.kind)
        last = emit_loop(builder, count, [builder.load(carried), *first], turn, together=4)
        builder.store(last[0], carried)

    return internal_function(module, name, chain.operands + 3, body)


def _add_several(module: Any, lane: Lane, what: str, back: bool) -> Any:
    """Chains along as many rows as a vector has elements; those past `rows` are the last one again, and give the same.

    Arguments: addresses of the operands, of the result and of what is carried, bytes from row to row, rows, places.
    """
    chain = CHAINS[what]

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        *memory, sofar, pitch, rows, count = arguments
        v = VectorBuilder(builder, lane)
        last = builder.sub(rows, I64(1))
        offsets = [builder.mul(v.minimum(I64(k), last), pitch) for k in range(v.width)]
        *operands, target = [[builder.add(place, offset) for offset in offsets] for place in memory]

        def turn(state: list[Any]) -> list[Any]:
            carried, at = state
            columns = [v.transposed([v.load(place, at) for place in places]) for places in operands]
            results: list[Any] = [None] * v.width
            for k in reversed(range(v.width)) if back else range(v.width):
                results[k], carried = chain.step(builder, carried, [column[k] for column in columns])
            for value, place in zip(v.transposed(results), target, strict=True):
                v.store(value, place, at)
            return [carried, builder.add(at, step)]

        # The last block may go past the end of the chain, where what is carried is not asked for any more.
        blocks = builder.sdiv(builder.add(count, I64(v.width - 1)), I64(v.width))
        first = v.bytes(builder.sub(count, I64(v.width))) if back else I64(0)
        step = I64(v.width * lane.size * (-1 if back else 1))
        carried, _ = emit_loop(builder, blocks, [v.load(sofar), first], turn, rolled=True)
        v.store(carried, sofar)

    return internal_function(module, f"{_name(what, lane, back)}_several", chain.operands + 5, body)


def _add_run(module: Any, lane: Lane, what: str, back: bool) -> Any:
    """Chains along rows. Arguments: as of `_add_several`, but that elements are counted from row to row."""
    chain = CHAINS[what]

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        *memory, sofar, pitch, rows, count = arguments
        one, several = _add_one(module, lane, what, back), _add_several(module, lane, what, back)
        step = builder.mul(pitch, I64(lane.size))

        def behind(state: list[Any], done: int) -> list[Any]:
            left, *places, carried = state
            places = [builder.add(place, builder.mul(step, I64(done))) for place in places]
            return [builder.sub(left, I64(done)), *places, builder.add(carried, I64(done * lane.size))]

        def next_rows(state: list[Any]) -> list[Any]:
            left, *at = state
            builder.call(several, [*at, step, left, count])
            return behind(state, lane.count)

        def next_row(state: list[Any]) -> list[Any]:
            builder.call(one, [*state[1:], count])
            return behind(state, 1)

        sets = builder.sdiv(builder.add(rows, I64(lane.count - 1 - _FEW)), I64(lane.count))
        state = emit_loop(builder, sets, [rows, *memory, sofar], next_rows, rolled=True)
        emit_loop(builder, state[0], state, next_row, rolled=True)

    return internal_function(module, _name(what, lane, back), chain.operands + 5, body)


def _of_one(kind: Any, emit: Callable[..., Any]) -> Any:
    def run(typingctx: Any, x: Any, out: Any, sofar: Any, pitch: Any, rows: Any, n: Any) -> Any:
        return kind, emit

    return run


def _of_two(kind: Any, emit: Callable[..., Any]) -> Any:
    def run(typingctx: Any, x: Any, y: Any, out: Any, sofar: Any, pitch: Any, rows: Any, n: Any) -> Any:
        return kind, emit

    return run


def _define(what: str, lane: Lane, back: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_add_run(builder.module, lane, what, back), args)
        return context.get_dummy_value()

    operands = CHAINS[what].operands
    run = (_of_one if operands == 1 else _of_two)(types.void(*[types.int64] * (operands + 5)), emit)
    name = _name(what, lane, back)
    run.__name__ = run.__qualname__ = name
    run.__doc__ = (
        f"The {what} of `rows` rows of `n` {lane.name}, `pitch` elements apart{', from the end' if back else ''}; goes "
        "on from what is carried for each row, which is at `sofar`. All of it is in whole vectors of memory: there is "
        "room before the first place and behind the last one."
    )
    return intrinsic(run)


cumsum_rows_f32, cumsum_rows_f64 = _define("cumsum", F32, False), _define("cumsum", F64, False)
cumsum_rows_back_f32, cumsum_rows_back_f64 = _define("cumsum", F32, True), _define("cumsum", F64, True)
cumprod_rows_f32, cumprod_rows_f64 = _define("cumprod", F32, False), _define("cumprod", F64, False)
cumprod_rows_back_f32, cumprod_rows_back_f64 = _define("cumprod", F32, True), _define("cumprod", F64, True)
linear_recurrence_rows_f32 = _define("linear_recurrence", F32, False)
linear_recurrence_rows_f64 = _define("linear_recurrence", F64, False)
linear_recurrence_rows_back_f32 = _define("linear_recurrence", F32, True)
linear_recurrence_rows_back_f64 = _define("linear_recurrence", F64, True)
