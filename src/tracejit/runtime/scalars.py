"""Scalars of kernel text as LLVM values: casts, arithmetic and comparisons by numba's rules.

In: values with their numba types. Out: LLVM instructions for them, or `Unsupported` where a rule is not among these.
Must not know: statements, functions, what text says.

The rules: integers are computed in 64 bits, unsigned only if both operands are. With a float beside it, an integer of
up to 16 bits or a bool takes the float's type, and a wider one makes the result float64. A literal is an int64 or a
float64. Division by zero gives 0 for integers, and what IEEE arithmetic says for floats.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir
from numba.core import types

from tracejit.kernels.lanes import Lanes
from tracejit.kernels.memory import ARGS

I1 = ir.IntType(1)
I64 = ir.IntType(64)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1
_SHORT = 16
"""Bits of the widest integer whose values every float32 holds exactly."""


class Unsupported(Exception):
    """Text that is outside of what is lowered directly; it says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """An LLVM value with its numba type; `literal` is the Python int of an integer literal."""

    kind: Any
    value: Any
    literal: int | None = None

    @property
    def argument_type(self) -> Any:
        """The type with which numba would look for a function that takes literals."""
        return self.kind if self.literal is None else _literal_type(self.literal)


@functools.lru_cache(maxsize=None, typed=True)
def _literal_type(number: int) -> Any:
    """The type of a literal; numba works out anew each time what type the number itself has."""
    return types.IntegerLiteral(number)


NOTHING = Value(types.none, None)
"""What a function gives that gives nothing."""


def constant(number: bool | int | float) -> Value:
    """A Python constant."""
    if isinstance(number, bool):
        return Value(types.boolean, I1(number))
    if isinstance(number, float):
        return Value(types.float64, _F64(number))
    if not _LEAST <= number <= _GREATEST:
        raise Unsupported(f"integer {number} beyond int64")
    return Value(types.int64, I64(number), number)


def llvm_type(kind: Any) -> Any:
    """The LLVM type of values of a numba type."""
    if is_integer(kind):
        return ir.IntType(kind.bitwidth)
    if kind == ARGS:
        return I64.as_pointer()
    if isinstance(kind, Lanes):
        return kind.llvm
    try:
        return {types.boolean: I1, types.float32: _F32, types.float64: _F64}[kind]
    except KeyError:
        raise Unsupported(f"values of type {kind}") from None


def is_integer(kind: Any) -> bool:
    """Whether a type is an integer, bool not among them."""
    return isinstance(kind, types.Integer)


def is_float(kind: Any) -> bool:
    """Whether a type is a float."""
    return kind in (types.float32, types.float64)


def cast(builder: Any, operand: Value, kind: Any) -> Any:
    """The LLVM value of an operand in another type."""
    source, value = operand.kind, operand.value
    if source == kind:
        return value
    if kind == types.boolean and is_integer(source):
        return builder.icmp_unsigned("!=", value, value.type(0))
    target = llvm_type(kind)
    if is_float(source) and is_float(kind):
        return builder.fpext(value, target) if kind == types.float64 else builder.fptrunc(value, target)
    if is_float(source) and is_integer(kind):
        return builder.fptosi(value, target) if kind.signed else builder.fptoui(value, target)
    if is_integer(source) and is_float(kind):
        return builder.sitofp(value, target) if source.signed else builder.uitofp(value, target)
    if source == types.boolean and is_float(kind):
        return builder.uitofp(value, target)
    if source == types.boolean and is_integer(kind):
        return builder.zext(value, target)
    if is_integer(source) and is_integer(kind):
        return _resize(builder, value, source, kind, target)
    raise Unsupported(f"a {source} as a {kind}")


def _resize(builder: Any, value: Any, source: Any, kind: Any, target: Any) -> Any:
    if kind.bitwidth == source.bitwidth:
        return value
    if kind.bitwidth < source.bitwidth:
        return builder.trunc(value, target)
    return builder.sext(value, target) if source.signed else builder.zext(value, target)


def _require_number(operand: Value) -> None:
    kind = operand.kind
    if not (is_integer(kind) or is_float(kind) or kind == types.boolean):
        raise Unsupported(f"arithmetic on a {kind}")


def _float_kind(left: Any, right: Any) -> Any:
    """The float type in which two operands meet."""
    for kind in (left, right):
        if kind == types.float64 or (is_integer(kind) and kind.bitwidth > _SHORT):
            return types.float64
    if types.uint16 in (left, right):
        raise Unsupported("a uint16 beside a float32")  # for numba it depends on which comes first
    return types.float32


def _is_unsigned(kind: Any) -> bool:
    return is_integer(kind) and not kind.signed


def _integer_kind(*kinds: Any) -> Any:
    """The integer type in which operands meet."""
    return types.uint64 if all(map(_is_unsigned, kinds)) else types.int64


_FLOAT_OPERATIONS = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
_INTEGER_OPERATIONS = {"+": "add", "-": "sub", "*": "mul", "&": "and_", "|": "or_", "^": "xor"}
_BIT_OPERATIONS = ("&", "|", "^")


def binary(builder: Any, sign: str, left: Value, right: Value) -> Value:
    """`left sign right`, where `sign` is one of Python's arithmetic operators."""
    _require_number(left)
    _require_number(right)
    if is_float(left.kind) or is_float(right.kind):
        return _binary_float(builder, sign, left, right, _float_kind(left.kind, right.kind))
    if sign == "/":
        return _binary_float(builder, sign, left, right, types.float64)
    if sign in _BIT_OPERATIONS and left.kind == right.kind == types.boolean:
        return Value(types.boolean, getattr(builder, _INTEGER_OPERATIONS[sign])(left.value, right.value))
    if sign in ("<<", ">>"):
        return _shift(builder, sign, left, right)
    kind = _integer_kind(left.kind, right.kind)
    x, y = (_widened(builder, operand) for operand in (left, right))
    if sign in ("//", "%"):
        return Value(kind, _divide(builder, sign, kind, x, y, right.literal))
    if sign not in _INTEGER_OPERATIONS:
        raise Unsupported(f"{left.kind} {sign} {right.kind}")
    return Value(kind, getattr(builder, _INTEGER_OPERATIONS[sign])(x, y))


def _binary_float(builder: Any, sign: str, left: Value, right: Value, kind: Any) -> Value:
    if sign not in _FLOAT_OPERATIONS:
        raise Unsupported(f"{left.kind} {sign} {right.kind}")
    operation = getattr(builder, _FLOAT_OPERATIONS[sign])
    return Value(kind, operation(cast(builder, left, kind), cast(builder, right, kind)))


def _widened(builder: Any, operand: Value) -> Any:
    """An integer or bool in 64 bits, with its own sign."""
    return cast(builder, operand, _integer_kind(operand.kind))


def _shift(builder: Any, sign: str, left: Value, right: Value) -> Value:
    if left.kind == types.boolean or right.kind == types.boolean:
        raise Unsupported("a shift of bools")
    kind = _integer_kind(left.kind)
    x, count = _widened(builder, left), _widened(builder, right)
    if sign == "<<":
        return Value(kind, builder.shl(x, count))
    return Value(kind, builder.ashr(x, count) if kind.signed else builder.lshr(x, count))


def _divide(builder: Any, sign: str, kind: Any, x: Any, y: Any, literal: int | None) -> Any:
    """Quotient or remainder towards minus infinity; 0 where there is none."""
    if not kind.signed:
        raise Unsupported("a quotient of unsigned integers")
    if literal is not None and literal > 0 and literal & (literal - 1) == 0:
        # LLVM does not see that a quotient towards minus infinity is a shift.
        return builder.ashr(x, I64(literal.bit_length() - 1)) if sign == "//" else builder.and_(x, I64(literal - 1))
    if literal is None or literal in (0, -1):
        overflows = builder.and_(builder.icmp_signed("==", x, I64(_LEAST)), builder.icmp_signed("==", y, I64(-1)))
        undefined = builder.or_(builder.icmp_signed("==", y, I64(0)), overflows)
        divisor = builder.select(undefined, I64(1), y)
    else:
        undefined, divisor = None, y
    rest = builder.srem(x, divisor)
    crosses = builder.icmp_signed("<", builder.xor(rest, divisor), I64(0))
    below = builder.and_(builder.icmp_signed("!=", rest, I64(0)), crosses)
    if sign == "//":
        result = builder.sub(builder.sdiv(x, divisor), builder.zext(below, I64))
    else:
        result = builder.select(below, builder.add(rest, divisor), rest)
    return result if undefined is None else builder.select(undefined, I64(0), result)


def compare(builder: Any, sign: str, left: Value, right: Value) -> Value:
    """`left sign right`, where `sign` is one of Python's comparisons: what holds of the numbers."""
    _require_number(left)
    _require_number(right)
    if is_float(left.kind) or is_float(right.kind):
        kind = _float_kind(left.kind, right.kind)
        test = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        return Value(types.boolean, test(sign, cast(builder, left, kind), cast(builder, right, kind)))
    x, y = (_widened(builder, operand) for operand in (left, right))
    if types.uint64 not in (left.kind, right.kind):
        return Value(types.boolean, builder.icmp_signed(sign, x, y))
    if _integer_kind(left.kind, right.kind).signed:
        raise Unsupported(f"{left.kind} {sign} {right.kind}")
    return Value(types.boolean, builder.icmp_unsigned(sign, x, y))


def unary(builder: Any, sign: str, operand: Value) -> Value:
    """`sign operand`, where `sign` is one of `-`, `~` and `not`."""
    _require_number(operand)
    if sign == "not":
        return Value(types.boolean, builder.not_(truth(builder, operand)))
    if operand.kind == types.boolean:
        raise Unsupported(f"{sign} of a bool")
    if is_float(operand.kind):
        if sign != "-":
            raise Unsupported(f"{sign} of a {operand.kind}")
        return Value(operand.kind, builder.fsub(ir.Constant(operand.value.type, -0.0), operand.value))
    kind, x = _integer_kind(operand.kind), _widened(builder, operand)
    if sign == "-":
        return Value(kind, builder.neg(x))
    if sign == "~":
        return Value(kind, builder.not_(x))
    raise Unsupported(f"{sign} of a {operand.kind}")


def truth(builder: Any, operand: Value) -> Any:
    """Whether an operand is true, as one bit."""
    if operand.kind == types.boolean or is_integer(operand.kind):
        return cast(builder, operand, types.boolean)
    raise Unsupported(f"the truth of a {operand.kind}")


def extreme(builder: Any, sign: str, operands: list[Value]) -> Value:
    """The least (`<`) or greatest (`>`) of int64 operands."""
    if len(operands) < 2 or any(operand.kind != types.int64 for operand in operands):
        raise Unsupported("min or max of other than int64")
    best = operands[0].value
    for operand in operands[1:]:
        wins = builder.icmp_signed(sign, operand.value, best)
        best = builder.select(wins, operand.value, best)
    return Value(types.int64, best)
