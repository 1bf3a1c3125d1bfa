"""Formulas over an LLVM builder: a value with operators, so that a function body reads like its mathematics.

Every operation is one IEEE-exact LLVM instruction without fast-math flags, so the same formula gives the same
bits as a scalar, in a vector lane, and on any target that has correctly rounded `fma`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from llvmlite import ir
from numba.core import cgutils

from tracejit.kernels.emit import Splat, integers
from tracejit.kernels.memory import OF_THIS_CPU
from tracejit.kernels.vectors import TARGET

Number = Union[int, float, "V"]

_INT_OF = {32: ir.IntType(32), 64: ir.IntType(64)}
_FLOAT_OF = {32: ir.FloatType(), 64: ir.DoubleType()}


def _element(ty: ir.Type) -> ir.Type:
    return ty.element if isinstance(ty, ir.VectorType) else ty


def _like(ty: ir.Type, element: ir.Type) -> ir.Type:
    """The type with the lanes of `ty` and another element."""
    return ir.VectorType(element, ty.count) if isinstance(ty, ir.VectorType) else element


class V:
    """A scalar or vector LLVM value with operators; Python numbers become constants of its type.

    Edge: comparisons are ordered (false on nan); integer `>>` is logical; integers wrap.

    >>> from llvmlite import ir
    >>> f = ir.Function(ir.Module(), ir.FunctionType(ir.FloatType(), [ir.FloatType()]), "f")
    >>> x = V(ir.IRBuilder(f.append_basic_block()), f.args[0])
    >>> (x * 2.0 + 1.0).value.opname
    'fadd'
    """

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def width(self) -> int:
        """Bits of one element."""
        element = _element(self.value.type)
        if isinstance(element, ir.FloatType):
            return 32
        if isinstance(element, ir.DoubleType):
            return 64
        return int(element.width)

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating point."""
        return isinstance(_element(self.value.type), (ir.FloatType, ir.DoubleType))

    def const(self, number: Number) -> V:
        """`number` as a value of this type (floats are rounded to it, integers taken modulo 2**width)."""
        if isinstance(number, V):
            return number
        if not self.is_float:
            number = int(number) & ((1 << self.width) - 1)
        ty = self.value.type
        return V(self.builder, (Splat if isinstance(ty, ir.VectorType) else ir.Constant)(ty, number))

    def _op(self, name: str, *others: Number) -> V:
        args = [self.const(other).value for other in others]
        return V(self.builder, getattr(self.builder, name)(self.value, *args))

    def _arith(self, name: str, other: Number) -> V:
        return self._op("f" + name if self.is_float else name, other)

    def __add__(self, other: Number) -> V:
        return self._arith("add", other)

    def __sub__(self, other: Number) -> V:
        return self._arith("sub", other)

    def __mul__(self, other: Number) -> V:
        return self._arith("mul", other)

    def __truediv__(self, other: Number) -> V:
        return self._op("fdiv", other)

    def __radd__(self, other: Number) -> V:
        return self.const(other) + self

    def __rsub__(self, other: Number) -> V:
        return self.const(other) - self

    def __rmul__(self, other: Number) -> V:
        return self.const(other) * self

    def __rtruediv__(self, other: Number) -> V:
        return self.const(other) / self

    def __neg__(self) -> V:
        return self._op("fneg") if self.is_float else self.const(0) - self

    def _compare(self, relation: str, other: Number) -> V:
        compare = self.builder.fcmp_ordered if self.is_float else self.builder.icmp_signed
        return V(self.builder, compare(relation, self.value, self.const(other).value))

    def __lt__(self, other: Number) -> V:
        return self._compare("<", other)

    def __le__(self, other: Number) -> V:
        return self._compare("<=", other)

    def __gt__(self, other: Number) -> V:
        return self._compare(">", other)

    def __ge__(self, other: Number) -> V:
        return self._compare(">=", other)

    def not_below(self, other: Number) -> V:
        """Whether it is not below; true on nan."""
        return V(self.builder, self.builder.fcmp_unordered(">=", self.value, self.const(other).value))

    def equals(self, other: Number) -> V:
        """Elementwise equality (`==` keeps Python's meaning)."""
        return self._compare("==", other)

    def __and__(self, other: Number) -> V:
        return self._op("and_", other)

    def __or__(self, other: Number) -> V:
        return self._op("or_", other)

    def __xor__(self, other: Number) -> V:
        return self._op("xor", other)

    def __invert__(self) -> V:
        return self._op("not_")

    def __lshift__(self, other: Number) -> V:
        return self._op("shl", other)

    def __rshift__(self, other: Number) -> V:
        return self._op("lshr", other)

    def where(self, yes: V, no: Number) -> V:
        """`yes` where this condition holds, `no` elsewhere."""
        return V(self.builder, self.builder.select(self.value, yes.value, yes.const(no).value))

    def choose(self, like: V, yes: Number, no: Number) -> V:
        """`where` for two numbers, taken as constants of the type of `like`."""
        return self.where(like.const(yes), no)

    def bits(self) -> V:
        """The bits of a float as an integer."""
        ty = self.value.type
        return V(self.builder, self.builder.bitcast(self.value, _like(ty, _INT_OF[self.width])))

    def from_bits(self) -> V:
        """The float that has these bits."""
        ty = self.value.type
        return V(self.builder, self.builder.bitcast(self.value, _like(ty, _FLOAT_OF[self.width])))

    def to_float(self) -> V:
        """A signed integer as a float of the same width."""
        return V(self.builder, self.builder.sitofp(self.value, _like(self.value.type, _FLOAT_OF[self.width])))

    def widen(self) -> V:
        """float32 to float64, exact; int32 to int64, zero extended."""
        if self.is_float:
            return V(self.builder, self.builder.fpext(self.value, _like(self.value.type, _FLOAT_OF[64])))
        return V(self.builder, self.builder.zext(self.value, _like(self.value.type, _INT_OF[64])))

    def narrow(self) -> V:
        """float64 to float32, rounded to nearest even; int64 to int32, the low half."""
        if self.is_float:
            return V(self.builder, self.builder.fptrunc(self.value, _like(self.value.type, _FLOAT_OF[32])))
        return V(self.builder, self.builder.trunc(self.value, _like(self.value.type, _INT_OF[32])))

    def _call(self, name: str, *others: Number) -> V:
        ty = self.value.type
        args = [self.value, *(self.const(other).value for other in others)]
        letter = "f" if self.is_float else "i"
        lanes = f"v{ty.count}" if isinstance(ty, ir.VectorType) else ""
        function_type = ir.FunctionType(ty, [ty] * len(args))
        full_name = f"llvm.{name}.{lanes}{letter}{self.width}"
        function = cgutils.get_or_insert_function(self.builder.module, function_type, full_name)
        return V(self.builder, self.builder.call(function, args))

    def fma(self, factor: Number, addend: Number) -> V:
        """self * factor + addend, rounded once."""
        return self._call("fma", factor, addend)

    def sqrt(self) -> V:
        """Correctly rounded square root."""
        return self._call("sqrt")

    def rint(self) -> V:
        """Nearest integer, ties to even, as a float."""
        return self._call("rint")

    def floor(self) -> V:
        """The next integer below, as a float."""
        return self._call("floor")

    def abs(self) -> V:
        """Absolute value: the sign bit cleared."""
        return self._call("fabs")

    def copysign(self, sign: V) -> V:
        """This magnitude with the sign of `sign`."""
        return self._call("copysign", sign)

    def with_sign(self, sign: V) -> V:
        """`copysign` for a magnitude that is not negative: an instruction less."""
        return (self.bits() | (sign.bits() & (1 << (self.width - 1)))).from_bits()

    def funnel_left(self, low: V, count: V) -> V:
        """High word of (self, low) shifted left by `count` modulo the width."""
        return self._call("fshl", low, count)

    def scaled(self, whole: V) -> V | None:
        """This times 2**whole where this CPU has an instruction for it: AVX-512 has, for vectors."""
        builder, kind = self.builder, self.value.type
        if not TARGET.free_masks or OF_THIS_CPU not in builder.module.namedmetadata:
            return None
        if isinstance(kind, ir.VectorType):
            return _scaled_vectors(self, whole)
        number, function = ir.IntType(32), cgutils.get_or_insert_function
        to_whole = function(builder.module, ir.FunctionType(number, [kind]), WHOLE.format(self.width))
        scale = function(builder.module, ir.FunctionType(kind, [kind, number]), SCALE.format(self.width))
        return V(builder, builder.call(scale, [self.value, builder.call(to_whole, [whole.value])]))


def polynomial(x: V, coefficients: Sequence[float]) -> V:
    """c[0] + c[1] x + c[2] x**2 + ... by Horner's rule with fma."""
    result: V = x.const(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result.fma(x, coefficient)
    return result


def polynomial_in_pairs(x: V, coefficients: Sequence[float]) -> V:
    """The same by Estrin's first step, c[0] + c[1] x + (c[2] + c[3] x) x**2 + ...: half as long a chain, with a
    product more and more registers, so for what has few other values at hand (log and erf on AVX2 take 0.85 of the
    time, exp would take 1.08).
    """
    pairs = [x.const(low) for low in coefficients[::2]]
    for k, high in enumerate(coefficients[1::2]):
        pairs[k] = x.const(high).fma(x, pairs[k])
    result, square = pairs.pop(), x * x
    for pair in reversed(pairs):
        result = result.fma(square, pair)
    return result


def fast_two_sum(a: V, b: V) -> tuple[V, V]:
    """Rounded a + b and its rounding error, for |a| >= |b|."""
    total = a + b
    return total, b - (total - a)


def two_sum(a: V, b: V) -> tuple[V, V]:
    """Rounded a + b and its rounding error, for any a and b."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def two_product(a: V, b: Number) -> tuple[V, V]:
    """Rounded a * b and its rounding error."""
    product = a * b
    return product, a.fma(b, -product)


class Format:
    """The numbers that describe a binary float format."""

    __slots__ = ("bias", "halfway", "inf", "magic", "magic_bits", "mantissa", "nan", "one_bits", "tiny")

    def __init__(self, mantissa: int, bias: int, magic_bits: int) -> None:
        self.mantissa = mantissa
        self.bias = bias
        self.halfway = (bias + 1) // 2
        self.one_bits = bias << mantissa
        self.tiny = 2.0 ** (1 - bias)
        # 1.5 * 2**mantissa: adding it rounds to an integer, which then stands in the low bits
        self.magic = 1.5 * 2.0**mantissa
        self.magic_bits = magic_bits
        self.inf = float("inf")
        self.nan = float("nan")


FORMATS = {32: Format(23, 127, 0x4B400000), 64: Format(52, 1023, 0x4338000000000000)}


def nearest_integer(x: V, scale: float, offset: int = 0) -> tuple[V, V]:
    """n = round(x * scale) as a float, and n + offset as an integer, for |x * scale| < 2**(mantissa - 2).

    An offset here costs nothing: it is part of the number whose addition rounds.
    """
    form = FORMATS[x.width]
    shifted = x.fma(scale, form.magic + offset)
    return shifted - (form.magic + offset), shifted.bits() - form.magic_bits


def power_of_two(n: V) -> V:
    """2**n from the integer n, for exponents of normal numbers."""
    form = FORMATS[n.width]
    return ((n << form.mantissa) + form.one_bits).from_bits()


def power_of_biased(n: V) -> V:
    """2**(n - bias) from the integer n, which are the bits of the exponent."""
    return (n << FORMATS[n.width].mantissa).from_bits()


def scale_by_power(x: V, n: V) -> V:
    """x * 2**(n - 2 * bias) with one rounding, for n from 2 to 4 * bias + 1: results may be subnormal or overflow."""
    form = FORMATS[x.width]
    # The magic number's low bits are 0, so what is added here and taken away in `nearest_integer` costs nothing.
    half = ((n + form.magic_bits) >> 1) - (form.magic_bits >> 1)
    return x * power_of_biased(half) * power_of_biased(n - half)


SCALE, WHOLE = "llvm.ldexp.f{}.i32", "llvm.fptosi.sat.i32.f{}"
"""Multiplication by a power of two, and what makes its exponent of a float; `runtime.vectors` knows both."""


def scale_of_vectors(width: int, lanes: int) -> tuple[str, ir.FunctionType, list[ir.Constant]]:
    """The instruction x * 2**n of vectors of floats that AVX-512 has: its name, its type, what it wants behind x and n.

    >>> name, kind, more = scale_of_vectors(32, 8)
    >>> name, kind.args[0].count, str(more[1])
    ('llvm.x86.avx512.mask.scalef.ps.256', 8, 'i8 -1')
    """
    vector, mask = ir.VectorType(_FLOAT_OF[width], lanes), ir.IntType(max(8, lanes))
    more = [ir.Constant(vector, None), ir.Constant(mask, -1)]
    if width * lanes == 512:
        more.append(ir.Constant(ir.IntType(32), 4))  # the rounding that is set
    letter = "s" if width == 32 else "d"
    kind = ir.FunctionType(vector, [vector, vector, *(argument.type for argument in more)])
    return f"llvm.x86.avx512.mask.scalef.p{letter}.{width * lanes}", kind, more


def scale_by_whole(x: V, whole: V, n: V) -> V:
    """x * 2**whole with one rounding, where n is the same as for `scale_by_power`."""
    return x.scaled(whole) or scale_by_power(x, n)


def shrink_by_whole(x: V, whole: V, n: V) -> V:
    """The same for results that do not overflow, where n is as for `shrink_by_power`."""
    return x.scaled(whole) or shrink_by_power(x, n)


def _scaled_vectors(x: V, whole: V) -> V:
    """Vectors may be several of the machine's."""
    builder, kind = x.builder, x.value.type
    lanes = min(kind.count, TARGET.vector_bytes * 8 // x.width)
    name, function_type, more = scale_of_vectors(x.width, lanes)
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    if lanes == kind.count:
        return V(builder, builder.call(function, [x.value, whole.value, *more]))
    parts = []
    for first in range(0, kind.count, lanes):
        order = integers(*range(first, first + lanes))
        pieces = [builder.shuffle_vector(v.value, v.value, order) for v in (x, whole)]
        parts.append(builder.call(function, [*pieces, *more]))
    while len(parts) > 1:
        order = integers(*range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(*parts[k : k + 2], order) for k in range(0, len(parts), 2)]
    return V(builder, parts[0])


def shrink_by_power(x: V, n: V) -> V:
    """x * 2**(n - bias - halfway) for results that do not overflow: the first step goes to a number surely normal."""
    return x * power_of_biased(n) * 2.0 ** -FORMATS[x.width].halfway


def integer_to_float(n: V) -> V:
    """A small signed integer as a float of the same width, by the magic number (no 64-bit conversion needed)."""
    form = FORMATS[n.width]
    return (n + form.magic_bits).from_bits() - form.magic
