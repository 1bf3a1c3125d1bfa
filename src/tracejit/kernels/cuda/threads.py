"""The place of a thread in its block, the block's barrier, shuffles, and promises about numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from tracejit.kernels.memory import named_intrinsic, require_integers, require_literal

WARP = 32
"""Threads that go together."""
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_EVERY = _I32(-1)
"""The mask of all threads of a warp."""


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Calls one of LLVM's intrinsics."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


@intrinsic
def thread(typingctx: Any) -> Any:
    """The number of the thread in its block."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(call(builder, "llvm.nvvm.read.ptx.sreg.tid.x", _I32), _I64)

    return types.int64(), codegen


@intrinsic
def barrier(typingctx: Any) -> Any:
    """Waits for all threads of the block, which must all come here; they see what was stored before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call(builder, "llvm.nvvm.barrier.cta.sync.aligned.all", ir.VoidType(), _I32(0))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def ballot(typingctx: Any, said: Any) -> Any:
    """A bit for each thread of the warp, all of which must come here: whether its number is not 0."""
    require_integers("ballot", said)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        said = builder.icmp_signed("!=", args[0], _I64(0))
        return builder.zext(call(builder, "llvm.nvvm.vote.ballot.sync", _I32, _EVERY, said), _I64)

    return types.int64(types.int64), codegen


def _words(builder: Any, value: Any) -> list[Any]:
    """The bits of a scalar as words of 32 bits, the low one first."""
    kind = value.type
    if isinstance(kind, ir.FloatType):
        return [builder.bitcast(value, _I32)]
    if isinstance(kind, ir.DoubleType):
        value = builder.bitcast(value, _I64)
    if value.type == _I64:
        return [builder.trunc(value, _I32), builder.trunc(builder.lshr(value, _I64(32)), _I32)]
    return [value if value.type == _I32 else builder.zext(value, _I32)]


def _from_words(builder: Any, words: list[Any], kind: Any) -> Any:
    if len(words) == 2:
        high = builder.shl(builder.zext(words[1], _I64), _I64(32))
        whole = builder.or_(builder.zext(words[0], _I64), high)
        return whole if kind == _I64 else builder.bitcast(whole, kind)
    if isinstance(kind, ir.FloatType):
        return builder.bitcast(words[0], kind)
    return words[0] if kind == _I32 else builder.trunc(words[0], kind)


def shuffle(builder: Any, value: Any, how: str, number: int) -> Any:
    """The value of another thread of the warp: "down" by `number` threads, that of thread `number` ("idx"), or that of
    the thread whose number differs in the bits of `number` ("bfly").

    Edge: of a thread beyond the last it is the thread's own. All threads of the warp must come here.
    """
    name = f"llvm.nvvm.shfl.sync.{how}.i32"
    words = [call(builder, name, _I32, _EVERY, word, _I32(number), _I32(WARP - 1)) for word in _words(builder, value)]
    return _from_words(builder, words, value.type)


@intrinsic(prefer_literal=True)
def multiple(typingctx: Any, number: Any, of: Any) -> Any:
    """The number, which is a multiple of `of`, a literal power of two; so LLVM may join the accesses beside it.

    Edge: if it is none, a kernel may read and write what it must not; launches say what their kernels count on.
    """
    require_integers("multiple", number)
    power = require_literal("multiple", of)
    if power < 1 or power & (power - 1):
        raise TypingError(f"multiple: expected a power of two, got {power}")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rest = builder.and_(args[0], _I64(power - 1))
        call(builder, "llvm.assume", ir.VoidType(), builder.icmp_unsigned("==", rest, _I64(0)))
        return args[0]

    return types.int64(types.int64, of), codegen


_TYPES = {
    "f32": types.float32, "f64": types.float64, "i8": types.int8, "i16": types.int16, "i32": types.int32,
    "i64": types.int64, "u8": types.uint8,
}  # fmt: skip


def _make_shuffle(word: str, mode: str, short: str, doc: str) -> Any:
    name = f"{word}_{short}"
    kind: Any = _TYPES[short]

    def shuffled(typingctx: Any, value: Any, number: Any) -> Any:
        by = require_literal(name, number)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return shuffle(builder, args[0], mode, by)

        return kind(kind, number), codegen

    return named_intrinsic(shuffled, name, f"The {short} of {doc}")


def _make_down(short: str) -> Any:
    doc = "the thread that is `number` (a literal) further in the warp, all of which must come here."
    return _make_shuffle("down", "down", short, doc)


def _make_first(short: str, kind: Any) -> Any:
    def first(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return shuffle(builder, args[0], "idx", 0)

        return kind(kind), codegen

    doc = f"The {short} of the warp's first thread, for all its threads, which must come here."
    return named_intrinsic(first, f"first_{short}", doc)


def _make_across(short: str) -> Any:
    doc = "the thread whose own number in the warp has other bits where `number` (a literal) has any; all come here."
    return _make_shuffle("across", "bfly", short, doc)


across_f32, across_f64 = map(_make_across, ("f32", "f64"))
down_f32, down_f64, down_i8, down_i16, down_i32, down_i64, down_u8 = map(_make_down, _TYPES)
first_f32, first_f64, first_i8, first_i16, first_i32, first_i64, first_u8 = (
    _make_first(short, kind) for short, kind in _TYPES.items()
)
