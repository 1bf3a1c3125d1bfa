"""Scalar primitives that kernel texts call: selection, rounding, exact functions, casts.

Each is an intrinsic that emits one or two LLVM instructions, so a loop over them vectorises.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.kernels.memory import bfloat16_bits

FLOATS = {"f32": types.float32, "f64": types.float64}
INTEGERS = {"i8": types.int8, "i16": types.int16, "i32": types.int32, "i64": types.int64, "u8": types.uint8}
LLVM_FLOAT = {types.float32: ("f32", ir.FloatType()), types.float64: ("f64", ir.DoubleType())}


def _bit(builder: Any, value: Any) -> Any:
    return value if value.type.width == 1 else builder.trunc(value, ir.IntType(1))


@intrinsic
def select(typingctx, cond, x, y):  # type: ignore[no-untyped-def]
    """`x` if the condition holds, else `y`, without a branch; a literal takes the other operand's type."""
    x, y = types.unliteral(x), types.unliteral(y)
    out = x if x in FLOATS.values() else y if y in FLOATS.values() else x

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        c, a, b = args
        return builder.select(_bit(builder, c), a, b)

    return out(types.boolean, out, out), codegen


@intrinsic
def not_b1(typingctx, x):  # type: ignore[no-untyped-def]
    """The negation of a bool."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.not_(args[0])

    return types.boolean(types.boolean), codegen


def _unary(llvm_name: str, kind: Any) -> Any:
    """An intrinsic for the LLVM function `llvm_name` on one floating point type."""
    suffix, llvm_type = LLVM_FLOAT[kind]

    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            callee = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(llvm_type, [llvm_type]), f"llvm.{llvm_name}.{suffix}"
            )
            return builder.call(callee, [args[0]])

        return kind(kind), codegen

    return function


abs_f32, abs_f64 = (_unary("fabs", k) for k in FLOATS.values())
sqrt_f32, sqrt_f64 = (_unary("sqrt", k) for k in FLOATS.values())
floor_f32, floor_f64 = (_unary("floor", k) for k in FLOATS.values())
ceil_f32, ceil_f64 = (_unary("ceil", k) for k in FLOATS.values())
trunc_f32, trunc_f64 = (_unary("trunc", k) for k in FLOATS.values())
rint_f32, rint_f64 = (_unary("rint", k) for k in FLOATS.values())


def _flush_denormal(kind: Any) -> Any:
    # By the bits of the exponent: floating point instructions are slow on the numbers in question.
    llvm_type = LLVM_FLOAT[kind][1]
    bits, exponent = (32, 0xFF << 23) if kind is types.float32 else (64, 0x7FF << 52)

    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            word = builder.bitcast(args[0], ir.IntType(bits))
            small = builder.icmp_unsigned("==", builder.and_(word, word.type(exponent)), word.type(0))
            return builder.select(small, llvm_type(0.0), args[0])

        return kind(kind), codegen

    return function


def _integer_abs(kind: Any) -> Any:
    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            x = args[0]
            if not kind.signed:
                return x
            negative = builder.icmp_signed("<", x, x.type(0))
            return builder.select(negative, builder.neg(x), x)

        return kind(kind), codegen

    return function


def _sign(kind: Any) -> Any:
    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            x = args[0]
            zero, one = x.type(0), x.type(1)
            if kind in LLVM_FLOAT:
                above = builder.fcmp_ordered(">", x, zero)
                below = builder.fcmp_ordered("<", x, zero)
                minus = x.type(-1.0)
            elif kind.signed:
                above, below, minus = builder.icmp_signed(">", x, zero), builder.icmp_signed("<", x, zero), x.type(-1)
            else:
                return builder.select(builder.icmp_unsigned(">", x, zero), one, zero)
            return builder.select(above, one, builder.select(below, minus, zero))

        return kind(kind), codegen

    return function


def _floored(kind: Any, *, rest: bool) -> Any:
    """Quotient or remainder of a division rounded towards minus infinity; 0 for a divisor of 0."""

    @intrinsic
    def function(typingctx, x, y):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            x, y = args
            zero, one = x.type(0), x.type(1)
            nothing = builder.icmp_unsigned("==", y, zero)
            if not kind.signed:
                divisor = builder.select(nothing, one, y)
                made = builder.urem(x, divisor) if rest else builder.udiv(x, divisor)
                return builder.select(nothing, zero, made)
            # The least number by -1 has no quotient, which stops the processor as a division by 0 does.
            minus = builder.icmp_signed("==", y, x.type(-1))
            divisor = builder.select(builder.or_(nothing, minus), one, y)
            quotient = builder.sdiv(x, divisor)
            left = builder.sub(x, builder.mul(quotient, divisor))
            apart = builder.icmp_signed("<", builder.xor(left, divisor), zero)
            below = builder.and_(builder.icmp_signed("!=", left, zero), apart)
            if rest:
                made, turned = builder.add(left, builder.select(below, divisor, zero)), zero
            else:
                made, turned = builder.sub(quotient, builder.zext(below, x.type)), builder.neg(x)
            return builder.select(nothing, zero, builder.select(minus, turned, made))

        return kind(kind, kind), codegen

    return function


floor_quotient_i8, floor_quotient_i16, floor_quotient_i32, floor_quotient_i64, floor_quotient_u8 = (
    _floored(k, rest=False) for k in INTEGERS.values()
)
floor_rest_i8, floor_rest_i16, floor_rest_i32, floor_rest_i64, floor_rest_u8 = (
    _floored(k, rest=True) for k in INTEGERS.values()
)
flush_denormal_f32, flush_denormal_f64 = (_flush_denormal(k) for k in FLOATS.values())
abs_i8, abs_i16, abs_i32, abs_i64, abs_u8 = (_integer_abs(k) for k in INTEGERS.values())
sign_i8, sign_i16, sign_i32, sign_i64, sign_u8 = (_sign(k) for k in INTEGERS.values())
sign_f32, sign_f64 = (_sign(k) for k in FLOATS.values())


@intrinsic
def round_bf16(typingctx, x):  # type: ignore[no-untyped-def]
    """A float32 rounded to bfloat16, ties to even."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(bfloat16_bits(builder, args[0]), LLVM_FLOAT[types.float32][1])

    return types.float32(types.float32), codegen


def _half_round(kind: Any) -> Any:
    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            half = builder.fptrunc(args[0], ir.HalfType())
            return builder.fpext(half, LLVM_FLOAT[kind][1])

        return kind(kind), codegen

    return function


round_f16 = _half_round(types.float32)


f32, f64 = types.float32, types.float64
i8, i16, i32, i64, u8 = types.int8, types.int16, types.int32, types.int64, types.uint8
b1 = types.boolean
