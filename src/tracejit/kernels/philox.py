"""Philox4x32-10, the counter-based random number generator, as numba intrinsics without state or branches.

Key: the seed (low word, high word). Counter: the element's index (low, high), then the offset (low, high), which
numbers the operation in the program. So a value depends on (seed, offset, index) alone, never on the order or the
thread in which it is computed.

Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba.core import types
from numba.extending import intrinsic

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()
_ROUNDS = 10
_MULTIPLIER_0 = 0xD2511F53
_MULTIPLIER_1 = 0xCD9E8D57
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85


def _word(builder: Any, value: Any) -> Any:
    """A word without what is above it."""
    return builder.and_(value, _I64(0xFFFFFFFF))


def _high(builder: Any, value: Any) -> Any:
    return builder.lshr(value, _I64(32))


def _philox(builder: Any, seed: Any, offset: Any, index: Any) -> tuple[Any, Any, Any, Any]:
    """Emits the four words of the block; LLVM drops what of them is not used.

    A word is the lower half of 64 bits, for a product takes such and gives such: vectors of shorter words would be made
    longer and short again in each round.
    """
    key_0, key_1 = seed, _high(builder, seed)
    c0, c1 = index, _high(builder, index)
    c2, c3 = offset, _high(builder, offset)
    for turn in range(_ROUNDS):
        product_0 = builder.mul(_word(builder, c0), _I64(_MULTIPLIER_0))
        product_1 = builder.mul(_word(builder, c2), _I64(_MULTIPLIER_1))
        round_0 = builder.add(key_0, _I64(turn * _WEYL_0 & 0xFFFFFFFF))
        round_1 = builder.add(key_1, _I64(turn * _WEYL_1 & 0xFFFFFFFF))
        c0, c1, c2, c3 = (
            builder.xor(builder.xor(_high(builder, product_1), c1), round_0),
            product_1,
            builder.xor(builder.xor(_high(builder, product_0), c3), round_1),
            product_0,
        )
    return c0, c1, c2, c3


def _word_64(builder: Any, low: Any, high: Any) -> Any:
    return builder.or_(_word(builder, low), builder.shl(high, _I64(32)))


def _make(name: str, doc: str, result: Any, finish: Callable[[Any, Any, Any], Any]) -> Any:
    """The intrinsic (seed, offset, index) -> `finish(builder, word 0, word 1)`."""

    def draw(typingctx: Any, seed: Any, offset: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            words = _philox(builder, *args)
            return finish(builder, words[0], words[1])

        return result(types.int64, types.int64, types.int64), codegen

    draw.__name__ = draw.__qualname__ = name
    draw.__doc__ = doc
    return intrinsic(draw)


def _scaled(builder: Any, word: Any, bits: int, kind: Any) -> Any:
    """The upper `bits` of a word as a fraction in [0, 1): exact, since the type's significand holds them."""
    kept = builder.lshr(word, word.type(word.type.width - bits))
    return builder.fmul(builder.sitofp(kept, kind), kind(2.0**-bits))


philox_u32 = _make(
    "philox_u32",
    "Word 0 of block (seed, offset, index), in [0, 2**32).",
    types.int64,
    lambda builder, w0, w1: _word(builder, w0),
)
philox_u64 = _make(
    "philox_u64",
    "Words 0 (low) and 1 (high) of block (seed, offset, index) as the bits of an int64.",
    types.int64,
    _word_64,
)
uniform_f32 = _make(
    "uniform_f32",
    "A float32 in [0, 1): the upper 24 bits of word 0, times 2**-24.",
    types.float32,
    lambda builder, w0, w1: _scaled(builder, builder.trunc(w0, _I32), 24, _F32),
)
uniform_f64 = _make(
    "uniform_f64",
    "A float64 in [0, 1): the upper 53 bits of words 0 (low) and 1 (high), times 2**-53.",
    types.float64,
    lambda builder, w0, w1: _scaled(builder, _word_64(builder, w0, w1), 53, _F64),
)
