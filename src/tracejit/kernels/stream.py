"""Copies past the caches: memory that is written so is not read before, and takes no room from what is still needed.

In: addresses. Out: numba intrinsics. Must not know: what the memory is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.kernels.emit import I64, emit_loop, internal_function
from tracejit.kernels.memory import IS_X86
from tracejit.kernels.vectors import LINE_BYTES, TARGET

_WORD = ir.IntType(32)
_WORD_BYTES = 4
"""Lines of memory go past the caches whole: one that is written both ways is written to memory twice."""


def _add_stream(module: Any) -> Any:
    """Copies `count` words of four bytes from `source` to `target`: whole lines past the caches."""
    past = module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    words = LINE_BYTES // _WORD_BYTES

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        target, source, count = arguments

        def piece(size: int, align: int) -> Callable[[list[Any]], list[Any]]:
            kind = ir.VectorType(_WORD, size)

            def copy(state: list[Any]) -> list[Any]:
                to, at = (builder.inttoptr(address, kind.as_pointer()) for address in state)
                store = builder.store(builder.load(at, align=_WORD_BYTES), to, align=align)
                if align > _WORD_BYTES:
                    store.set_metadata("nontemporal", past)
                return [builder.add(address, I64(size * _WORD_BYTES)) for address in state]

            return copy

        def line(state: list[Any]) -> list[Any]:
            for _ in range(LINE_BYTES // TARGET.vector_bytes):
                state = piece(TARGET.vector_bytes // _WORD_BYTES, TARGET.vector_bytes)(state)
            return state

        def part(length: Any, state: list[Any]) -> list[Any]:
            # Less than a line: 8, 4, 2 and 1 words.
            def pieces(state: list[Any]) -> list[Any]:
                size = words // 2
                while size:
                    some = builder.and_(builder.udiv(length, I64(size)), I64(1))
                    state = emit_loop(builder, some, state, piece(size, _WORD_BYTES), rolled=True)
                    size //= 2
                return state

            # Rows of tiles are copied by themselves, and are whole lines in most cases.
            some = builder.zext(builder.icmp_unsigned("!=", length, I64(0)), I64)
            return emit_loop(builder, some, state, pieces, rolled=True)

        before = builder.lshr(builder.and_(builder.neg(target), I64(LINE_BYTES - 1)), I64(2))
        before = builder.select(builder.icmp_unsigned("<", before, count), before, count)
        left = builder.sub(count, before)
        lines = builder.udiv(left, I64(words))
        state = emit_loop(builder, lines, part(before, [target, source]), line, rolled=True)
        part(builder.and_(left, I64(words - 1)), state)

    return internal_function(module, "stream", 3, body)


@intrinsic
def stream(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copies `count` words of four bytes to `target`, which is a multiple of four; `end_streams` must follow.

    Cost: that of a line of memory for each 64 bytes, half of what a store costs that reads the line before.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_add_stream(builder.module), args)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def end_streams(typingctx: Any) -> Any:
    """Lets no store that comes later be seen before what was streamed."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if IS_X86:
            # Elsewhere such stores are in order with others.
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.sfence"), [])
        return context.get_dummy_value()

    return types.void(), codegen
