"""A formula over a strip of memory: a function of the module, which loops in one kernel share.

In: a formula, an element type. Out: LLVM code that replaces adjacent elements by its results.
Must not know: which formula, or what the strip is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tracejit.kernels.emit import I64, emit_loop, internal_function
from tracejit.kernels.vectors import TARGET
from tracejit.kernels.vmath.expression import V

_TOGETHER = 4
"""Vectors side by side, a power of two: one alone waits for the end of its polynomials."""


def replace_by(formula: Callable[[V], V], name: str, kind: Any, size: int, builder: Any, arguments: Any) -> None:
    """Calls the function that replaces `count` elements from `address` on, and what is beside them in a vector.

    LLVM cuts wide vectors into those of the machine, so that it has one copy of the formula to work on, not several.
    """

    def write(inner: Any, arguments: tuple[Any, ...]) -> None:
        address, count = arguments
        lanes = TARGET.vector_bytes // size

        def turn(vector: Any) -> Callable[[list[Any]], list[Any]]:
            def replace(state: list[Any]) -> list[Any]:
                place = inner.inttoptr(state[0], vector.as_pointer())
                inner.store(formula(V(inner, inner.load(place, align=size))).value, place, align=size)
                return [inner.add(state[0], I64(vector.count * size))]

            return replace

        groups = inner.sdiv(count, I64(lanes * _TOGETHER))
        rest = inner.sub(count, inner.mul(groups, I64(lanes * _TOGETHER)))
        state = emit_loop(inner, groups, [address], turn(ir.VectorType(kind, lanes * _TOGETHER)), rolled=True)
        vectors = inner.sdiv(inner.add(rest, I64(lanes - 1)), I64(lanes))
        emit_loop(inner, vectors, state, turn(ir.VectorType(kind, lanes)), rolled=True)

    builder.call(internal_function(builder.module, name, 2, write), arguments)
