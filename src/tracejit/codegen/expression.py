"""Scalar text: one operation on scalars as an expression of the kernel language.

In: a record, the texts of its operands and their types. Out: an expression of the result's computing type.
Must not know: loops, memory.

float16 and bfloat16 are computed in float32 and rounded after every operation, as NumPy does; integers are wrapped
into their type, since numba widens them.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from tracejit import dtypes
from tracejit.dtypes import dtype
from tracejit.ops import Op

NUMBA = {
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
}
_SHORT = (dtypes.int8, dtypes.int16, dtypes.uint8)
_ARITHMETIC = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_CONVERSION = re.compile(rf"\b({'|'.join(NUMBA)})\(")


def computing(kind: dtype) -> str:
    """The short name of the type that elements of a dtype are computed in."""
    return dtypes.widened(kind).short


def folding(kind: dtype) -> str:
    """The short name of the type that elements of a dtype are folded in."""
    return "u8" if kind is dtypes.bool else computing(kind)


def number(slot: int, is_float: bool, kind: dtype, block: str = "p") -> str:
    """A number of the argument block as an element of a type, rounded once (to bfloat16 by way of float32)."""
    text = f"arg_f64({block}, {slot})" if is_float else f"load_arg({block}, {slot})"
    if kind is dtypes.bool:
        return f"{text} != 0"
    if kind is dtypes.float16:
        return f"half_f64({text})" if is_float else f"half_f64(float64({text}))"
    if kind is dtypes.bfloat16:
        return f"round_bf16(float32({text}))"
    if kind is dtypes.float64 and is_float:
        return text
    return f"{NUMBA[kind.short]}({text})"


def cast(text: str, source: dtype, target: dtype) -> str:
    """An element in another type."""
    if source is target:
        return text
    if target is dtypes.bool:
        return f"{text} != 0"
    if target is dtypes.float16:
        if source is dtypes.float64:
            return f"half_f64({text})"
        return f"round_f16({text if computing(source) == 'f32' else f'float32({text})'})"
    if target is dtypes.bfloat16:
        return f"round_bf16({text if computing(source) == 'f32' else f'float32({text})'})"
    if source.is_floating_point and target in _SHORT:
        # As C does it, whose narrower conversions are of 32 bits: what those do with a float out of range depends on
        # the instructions that there are.
        text = f"int32({text})"
    return f"{NUMBA[target.short]}({text})"


def rounded(text: str, kind: dtype) -> str:
    """What a floating-point type's computing type holds, rounded to it."""
    return f"round_{kind.short}({text})" if kind in dtypes.HALVES else text


def shortened(text: str, kind: dtype) -> str:
    """A number in [0, 1) of a computing type without the digits that the type does not hold: it stays below 1."""
    if kind not in dtypes.HALVES:
        return text
    steps = 2.0 ** dtypes.significand(kind)
    return f"floor_f32({text} * float32({steps})) * float32({1 / steps})"


def apply(op: Op, operands: list[tuple[str, dtype]], result: dtype, attrs: tuple[Any, ...]) -> str:
    """One elementwise operation."""
    if op.expr == "cast":
        return cast(operands[0][0], operands[0][1], attrs[0])
    kind = operands[-1][1]
    template = op.expr["bif"[kind.category]] if isinstance(op.expr, dict) else op.expr
    assert template is not None
    texts = {name: text for name, (text, _) in zip(op.params, operands, strict=True)}
    text = _CONVERSION.sub(lambda m: NUMBA[m.group(1)] + "(", template.format(**texts, t=computing(kind)))
    return f"{NUMBA[result.short]}({text})" if result.category == dtypes.INT else rounded(text, result)


def in_lanes(op: Op, operands: list[str], kind: dtype) -> str | None:
    """An operation on all lanes of a fold at once, whose operands are variables; None if it is more than arithmetic."""
    template = op.expr["bif"[kind.category]] if isinstance(op.expr, dict) else op.expr
    assert template is not None
    tree = ast.parse(template.format(**dict(zip(op.params, operands, strict=True)), t=kind.short), mode="eval").body
    match tree:
        case ast.BinOp(left=ast.Name(id=x), op=operator, right=ast.Name(id=y)) if type(operator) in _ARITHMETIC:
            return f"{_ARITHMETIC[type(operator)]}_lanes_{kind.short}({x}, {y})"
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=x)):
            return f"neg_lanes_{kind.short}({x})"
        case ast.Name(id=x) if x in operands:
            return x
    return None
