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

from tracejit.kernels.emit import I64, Splat, emit_loop, internal_function
from tracejit.kernels.vectors import F32, F64, Lane, VectorBuilder

Step = Callable[[Any, Any, list[Any]], tuple[Any, Any]]
"""From a builder, what is carried and the operands at a place: the result, and what is carried on."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A scan: its step, what it carries before the first one, and operands that leave that as it is.

    `texts` are the step as text over `sofar` and operands: the result `out`, and what is carried on.
    """

    step: Step
    start: float
    neutral: tuple[float, ...]
    texts: tuple[str, str]


def _sum(builder: Any, sofar: Any, operands: list[Any]) -> tuple[Any, Any]:
    result = builder.fadd(sofar, operands[0])
    return result, result


def _product(builder: Any, sofar: Any, operands: list[Any]) -> tuple[Any, Any]:
    result = builder.fmul(sofar, operands[0])
    return result, result


# -0.0 is the identity of a sum: x + -0.0 has the bits of x, also for x = -0.0.
CHAINS = {
    "cumsum": Chain(_sum, -0.0, (-0.0,), ("{sofar} + {x}", "{out}")),
    "cumprod": Chain(_product, 1.0, (1.0,), ("{sofar} * {x}", "{out}")),
}
_FEW = 3
"""Rows of which one after another takes no longer than turning them."""


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

    return internal_function(module, name, len(chain.neutral) + 3, body)


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
        neutral = [Splat(lane.vector, number) for number in chain.neutral]

        def block(carried: Any, at: Any, mask: Any = None) -> Any:
            columns = []
            for places, other in zip(operands, neutral, strict=True):
                if mask is None:
                    loaded = [v.load(place, at) for place in places]
                else:
                    loaded = [v.load_masked(place, mask, at, other) for place in places]
                columns.append(v.transposed(loaded))
            results: list[Any] = [None] * v.width
            for k in reversed(range(v.width)) if back else range(v.width):
                results[k], carried = chain.step(builder, carried, [column[k] for column in columns])
            for value, place in zip(v.transposed(results), target, strict=True):
                if mask is None:
                    v.store(value, place, at)
                else:
                    v.store_masked(value, place, mask, at)
            return carried

        whole = builder.sdiv(count, I64(v.width))
        left = builder.sub(count, builder.mul(whole, I64(v.width)))
        step = I64(v.width * lane.size * (-1 if back else 1))
        # What is left of whole vectors is at the end of the row, wherever the chain begins.
        edge = v.bytes(builder.mul(whole, I64(v.width)))
        first = builder.add(edge, step) if back else I64(0)

        def rest() -> None:
            with builder.if_then(builder.icmp_signed(">", left, I64(0))):
                v.store(block(v.load(sofar), edge, v.mask(left)), sofar)

        def turn(state: list[Any]) -> list[Any]:
            return [block(state[0], state[1]), builder.add(state[1], step)]

        if back:
            rest()
        carried, _ = emit_loop(builder, whole, [v.load(sofar), first], turn, rolled=True)
        v.store(carried, sofar)
        if not back:
            rest()

    return internal_function(module, f"{_name(what, lane, back)}_several", len(chain.neutral) + 5, body)


def _add_run(module: Any, lane: Lane, what: str, back: bool) -> Any:
    """Chains along rows. Arguments: as of `_add_several`, but that elements are counted from row to row."""
    chain = CHAINS[what]

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        *memory, sofar, pitch, rows, count = arguments
        one, several = _add_one(module, lane, what, back), _add_several(module, lane, what, back)
        size = I64(lane.size)
        step = builder.mul(pitch, size)

        def turn(state: list[Any]) -> list[Any]:
            left, *at = state
            few = builder.icmp_signed("<=", left, I64(_FEW))
            with builder.if_else(few) as (then, otherwise):
                with then:
                    builder.call(one, [*at, count])
                with otherwise:
                    builder.call(several, [*at, step, left, count])
            done = builder.select(few, I64(1), I64(lane.count))
            further = builder.mul(done, step)
            carried = builder.add(at[-1], builder.mul(done, size))
            return [builder.sub(left, done), *[builder.add(place, further) for place in at[:-1]], carried]

        head = builder.append_basic_block("rows")
        inside, done = builder.append_basic_block("some"), builder.append_basic_block("done")
        before = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        begin = [rows, *memory, sofar]
        phis = [builder.phi(I64) for _ in begin]
        builder.cbranch(builder.icmp_signed(">", phis[0], I64(0)), inside, done)
        builder.position_at_end(inside)
        following = turn(phis)
        for phi, value, further in zip(phis, begin, following, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(further, builder.block)
        builder.branch(head)
        builder.position_at_end(done)

    return internal_function(module, _name(what, lane, back), len(chain.neutral) + 5, body)


def _define(what: str, lane: Lane, back: bool) -> Any:
    count = len(CHAINS[what].neutral) + 5

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_add_run(builder.module, lane, what, back), args)
        return context.get_dummy_value()

    if len(CHAINS[what].neutral) == 1:

        def run(typingctx: Any, x: Any, out: Any, sofar: Any, pitch: Any, rows: Any, n: Any) -> Any:
            return types.void(*[types.int64] * count), emit

    name = _name(what, lane, back)
    run.__name__ = run.__qualname__ = name
    run.__doc__ = (
        f"The {what} of `rows` rows of `n` {lane.name}, `pitch` elements apart{', from the end' if back else ''}; goes "
        "on from what is carried for each row, which is at `sofar`, in whole vectors of memory."
    )
    return intrinsic(run)


cumsum_rows_f32, cumsum_rows_f64 = _define("cumsum", F32, False), _define("cumsum", F64, False)
cumsum_rows_back_f32, cumsum_rows_back_f64 = _define("cumsum", F32, True), _define("cumsum", F64, True)
cumprod_rows_f32, cumprod_rows_f64 = _define("cumprod", F32, False), _define("cumprod", F64, False)
cumprod_rows_back_f32, cumprod_rows_back_f64 = _define("cumprod", F32, True), _define("cumprod", F64, True)
