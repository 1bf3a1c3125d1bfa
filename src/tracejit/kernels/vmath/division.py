"""Whole quotients and remainders of floats, exact.

A step finds 47 bits of a quotient. What it leaves is a multiple of what its operands are multiples of, and less than
one of them, so that no step rounds it. float32 is computed in float64: |x / y| is below 2**277, which is six steps.
float64 takes as many as it needs, most often one.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from tracejit.kernels.emit import internal_function
from tracejit.kernels.vmath.expression import FORMATS, V, power_of_two

_STEP_BITS, _STEPS = 47, 6


def _step(rest: V, divisor: V, whole: V) -> V:
    """What is left of `rest` if it is about so many times the divisor."""
    rest = (-whole).fma(divisor, rest)
    return (rest < 0.0).where(rest + divisor, rest)


def _rest_32(x: V, y: V) -> V:
    """|x| modulo |y|, float64, of finite x and y other than 0."""
    rest, divisor = x.abs().widen(), y.abs().widen()
    inverse = 1.0 / divisor
    for step in reversed(range(_STEPS)):
        power = 2.0 ** (step * _STEP_BITS)
        rest = _step(rest, divisor * power, (rest * (inverse * (1.0 / power))).rint())
    return rest


def _exponent(x: V) -> V:
    """The exponent of a positive finite float64, as an integer."""
    normal = FORMATS[64].tiny
    exponent = (x < normal).where(x * 2.0**54, x).bits() >> 52
    return (x < normal).where(exponent - 54, exponent)


def _write_rest_64(builder: Any, arguments: tuple[Any, ...]) -> Any:
    """The function of the bits of two float64, not negative and finite, the second not 0: one modulo the other."""
    start, divisor = (V(builder, a).from_bits() for a in arguments)
    before, test, turn, done = builder.block, *(builder.append_basic_block(n) for n in ("test", "turn", "done"))
    builder.branch(test)
    builder.position_at_end(test)
    phi = builder.phi(ir.DoubleType())
    phi.add_incoming(start.value, before)
    rest = V(builder, phi)
    builder.cbranch((rest >= divisor).value, turn, done)
    builder.position_at_end(turn)
    power = _exponent(rest) - _exponent(divisor) - _STEP_BITS
    power = (power > 0).where(power, 0)
    # More than the range of exponents may lie between the two.
    quarter = power_of_two(power >> 2)
    scaled = divisor * quarter * quarter * quarter * power_of_two(power - (power >> 2) * 3)
    phi.add_incoming(_step(rest, scaled, (rest / scaled).rint()).value, turn)
    builder.branch(test)
    builder.position_at_end(done)
    return phi


def _rest_64(x: V, y: V) -> V:
    """|x| modulo |y|, or of stand-ins for operands that have no remainder."""
    magnitude, divisor = x.abs(), y.abs()
    given = [(magnitude < math.inf).where(magnitude, 0.0), ((divisor > 0.0) & (divisor < math.inf)).where(divisor, 1.0)]
    function = internal_function(x.builder.module, "rest_f64", 2, _write_rest_64, ir.DoubleType())
    return V(x.builder, x.builder.call(function, [g.bits().value for g in given]))


def float_fmod(x: V, y: V) -> V:
    """Exact remainder with the sign of the dividend."""
    magnitude = y.abs()
    rest = _rest_32(x, y).narrow() if x.width == 32 else _rest_64(x, y)
    rest = magnitude.equals(math.inf).where(x.abs(), rest)
    defined = (x.abs() < math.inf) & (magnitude > 0.0)
    return defined.where(rest.copysign(x), math.nan)


def float_remainder(x: V, y: V) -> V:
    """Remainder with the sign of the divisor; one of 0 keeps that of the dividend."""
    rest = float_fmod(x, y)
    other = (rest < 0.0) ^ (y < 0.0)
    return ((rest.abs() > 0.0) & other).where(rest + y, rest)


def float_floor_divide(x: V, y: V) -> V:
    """Quotient rounded towards minus infinity, found from the exact remainder."""
    rest = float_fmod(x, y)
    ratio = x / y
    quotient = (x - rest) / y
    beyond = (rest.abs() > 0.0) & ((rest < 0.0) ^ (y < 0.0))
    quotient = beyond.where(quotient - 1.0, quotient)
    down = quotient.floor()
    down = ((quotient - down) > 0.5).where(down + 1.0, down)
    whole = quotient.equals(0.0).where(quotient.const(0.0).copysign(ratio), down)
    return y.equals(0.0).where(ratio, whole)
