"""What PTX's instructions without memory or control compute, on arrays over threads."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any

import numpy as np

Read = Callable[[str, str], np.ndarray]
_RAW = {"f16": "f2", "f32": "f4", "f64": "f8", "pred": "?"}
_REGISTERS = {"%rd": "u8", "%rs": "u2", "%r": "u4", "%p": "?"}


class UnknownInstruction(Exception):
    """An instruction that the machine has not learned."""


def raw_type(kind: str) -> str:
    """NumPy's name of a PTX type; bits are unsigned."""
    if kind in _RAW:
        return _RAW[kind]
    letter = "i" if kind[0] == "s" else "u"
    return f"{letter}{int(kind[1:]) // 8}"


def written(name: str, result: np.ndarray) -> np.ndarray:
    """A result as the bits of the register that it goes to; signed integers are extended by their sign."""
    width = next(kind for prefix, kind in _REGISTERS.items() if name.startswith(prefix))
    if width == "?":
        return result.astype(bool, copy=False)
    if result.dtype.kind == "f":
        result = result.view(f"u{result.itemsize}")
    return result.astype(width, copy=False)


def fused(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x y + z rounded once, of float32."""
    product = x.astype(np.float64) * y.astype(np.float64)
    other = z.astype(np.float64)
    total = product + other
    # What the sum lost decides where it lies between two float32: the last bit of the float64 is set if it lost any.
    back = total - product
    lost = (product - (total - back)) + (other - back)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (lost != 0) & (bits & 1 == 0)
    toward = np.where((lost > 0) == (total > 0), 1, -1)
    odd: np.ndarray = np.where(inexact, bits + toward, bits).view(np.float64)
    return odd.astype(np.float32)


_fma = ctypes.CDLL(ctypes.util.find_library("m")).fma
_fma.argtypes, _fma.restype = [ctypes.c_double] * 3, ctypes.c_double


def fused_double(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x y + z rounded once, of float64, by the C library."""
    return np.array([_fma(a, b, c) for a, b, c in zip(x.tolist(), y.tolist(), z.tolist(), strict=True)])


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_BITS: dict[str, Callable[[Any, Any], Any]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
_ROUND: dict[str, Callable[[Any], Any]] = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}


def _compare(how: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray
    if x.dtype.kind == "f":
        nan = np.isnan(x) | np.isnan(y)
        if how in ("num", "nan"):
            return nan if how == "nan" else ~nan
        if how.endswith("u") and how[:-1] in _COMPARE:
            found = _COMPARE[how[:-1]](x, y) | nan
            return found
        found = _COMPARE[how](x, y) & ~nan
        return found
    found = _COMPARE[how](x, y)
    return found


def _quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rounded toward zero; what a division by zero gives is of no use."""
    safe = np.where(y == 0, 1, y).astype(y.dtype)
    if x.dtype.kind == "u":
        whole: np.ndarray = x // safe
        return whole
    down = x // safe
    rest = x - down * safe
    return (down + ((rest != 0) & ((rest < 0) != (x < 0)))).astype(x.dtype)


def _shift(name: str, x: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = 8 * x.itemsize
    count = np.minimum(by.astype(np.int64), bits)
    beyond = count == bits
    count = np.where(beyond, bits - 1, count).astype(x.dtype)
    if name == "shl":
        return np.where(beyond, x.dtype.type(0), x << count)
    if x.dtype.kind == "i":
        return x >> count
    return np.where(beyond, x.dtype.type(0), x >> count)


def _convert(parts: list[str], x: np.ndarray, target: str) -> np.ndarray:
    kind = np.dtype(raw_type(target))
    if x.dtype.kind == "f":
        for part in parts:
            if part in _ROUND:
                x = _ROUND[part](x)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            wide = np.where(np.isnan(x), 0, x).astype(np.float64)
            high = wide >= float(info.max)
            low = wide <= float(info.min)
            inside = np.where(high | low, 0, wide).astype(kind)
            return np.where(high, info.max, np.where(low, info.min, inside)).astype(kind)
    return x.astype(kind)


def _arithmetic(name: str, parts: list[str], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray
    if name in ("add", "sub"):
        found = x + y if name == "add" else x - y
        return found
    if name == "mul":
        if "wide" in parts:
            found = x.astype(f"{x.dtype.kind}{2 * x.itemsize}") * y.astype(f"{x.dtype.kind}{2 * x.itemsize}")
            return found
        if "hi" in parts:
            if x.itemsize == 4:
                wide = f"{x.dtype.kind}8"
                found = (x.astype(wide) * y.astype(wide) >> 32).astype(x.dtype)
                return found
            products = [int(a) * int(b) >> 8 * x.itemsize for a, b in zip(x, y, strict=True)]
            return np.array(products, object).astype(x.dtype)
        found = x * y
        return found
    if name == "div":
        found = x / y if x.dtype.kind == "f" else _quotient(x, y)
        return found
    if name == "rem":
        found = x - _quotient(x, y) * y
        return found
    found = np.minimum(x, y) if name == "min" else np.maximum(x, y)
    if x.dtype.kind == "f":
        found = np.where(np.isnan(x), y, np.where(np.isnan(y), x, found))
    return found


def compute(parts: list[str], operands: list[str], read: Read) -> np.ndarray:
    """The result of an instruction whose name has these parts.

    Raises: UnknownInstruction.
    """
    name, kind = parts[0], parts[-1]
    if kind == "f16x2":
        return _packed(parts, operands, read)
    if {"approx", "ftz", "full"} & set(parts):
        raise UnknownInstruction(f"{'.'.join(parts)} is not exact")
    if name in ("add", "sub", "mul", "div", "rem", "min", "max"):
        x, y = (read(o, kind) for o in operands)
        if x.dtype.kind == "f" and name in ("add", "sub", "mul", "div") and "rn" not in parts:
            # PTX lets assemblers fuse these.
            raise UnknownInstruction(f"{'.'.join(parts)} may be fused")
        return _arithmetic(name, parts, x, y)
    if name in ("fma", "mad"):
        if name == "mad":
            x, y = (read(o, kind) for o in operands[:2])
            wide = f"{kind[0]}{2 * int(kind[1:])}" if "wide" in parts else kind
            found: np.ndarray = _arithmetic("mul", parts, x, y) + read(operands[2], wide)
            return found
        x, y, z = (read(o, kind) for o in operands)
        return fused(x, y, z) if kind == "f32" else fused_double(x, y, z)
    if name in ("sqrt", "rcp", "neg", "abs", "not"):
        return _unary(name, parts, read(operands[0], kind))
    if name in _BITS:
        bits: np.ndarray = _BITS[name](*(read(o, kind) for o in operands))
        return bits
    if name in ("shl", "shr"):
        return _shift(name, read(operands[0], kind), read(operands[1], "u32"))
    if name == "shf":
        low, high = (read(o, "b32").astype(np.uint64) for o in operands[:2])
        count = read(operands[2], "u32").astype(np.uint64) & np.uint64(31)
        whole = high << np.uint64(32) | low
        moved = whole << count >> np.uint64(32) if parts[1] == "l" else whole >> count
        return moved.astype(np.uint32)
    if name == "setp":
        return _compare(parts[1], *(read(o, kind) for o in operands))
    if name == "selp":
        return np.where(read(operands[2], "pred"), read(operands[0], kind), read(operands[1], kind))
    if name == "copysign":
        return np.copysign(read(operands[1], kind), read(operands[0], kind))
    if name == "cvt" and "f16x2" in parts:
        first, second = (read(o, kind).astype(np.float16) for o in operands)
        return _join(second, first)
    if name == "cvt":
        return _convert(parts, read(operands[0], kind), parts[-2])
    if name in ("mov", "cvta"):
        return read(operands[0], kind)
    if name == "prmt":
        return _permute(*(read(o, "b32") for o in operands))
    if name == "bfe":
        x, start, count = read(operands[0], kind), read(operands[1], "u32"), read(operands[2], "u32")
        left = (8 * x.itemsize - (start + count)).astype(x.dtype)
        return x << left >> (left + start.astype(x.dtype))
    raise UnknownInstruction(".".join(parts))


def _join(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two halves in one register."""
    return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << np.uint32(16)


def _packed(parts: list[str], operands: list[str], read: Read) -> np.ndarray:
    """An instruction on two halves; a comparison gives both results, the first in bit 0."""
    halves = []
    for shift in (0, 16):

        def half(operand: str, kind: str, shift: int = shift) -> np.ndarray:
            return (read(operand, "b32") >> np.uint32(shift)).astype(np.uint16).view(np.float16)

        halves.append(compute([*parts[:-1], "f16"], operands, half))
    if parts[0] == "setp":
        return halves[0].astype(np.uint8) | halves[1].astype(np.uint8) << 1
    return _join(*halves)


def _permute(low: np.ndarray, high: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Four bytes out of eight; a choice of 8 or more spreads the byte's sign."""
    both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    result = np.zeros_like(low)
    for k in range(4):
        pick = choice >> np.uint32(4 * k) & np.uint32(15)
        byte = (both >> (np.uint64(8) * (pick & np.uint32(7)).astype(np.uint64))).astype(np.uint8)
        byte = np.where(pick > 7, np.where(byte > 127, 255, 0), byte)
        result |= byte.astype(np.uint32) << np.uint32(8 * k)
    return result


def _unary(name: str, parts: list[str], x: np.ndarray) -> np.ndarray:
    found: np.ndarray
    if name in ("sqrt", "rcp"):
        if "rn" not in parts:
            raise UnknownInstruction(f"{'.'.join(parts)} is not rounded to nearest")
        found = np.sqrt(x) if name == "sqrt" else x.dtype.type(1) / x
    elif name == "not":
        found = ~x
    elif x.dtype.kind == "u" and name == "neg":
        found = x.dtype.type(0) - x
    else:
        found = -x if name == "neg" else np.abs(x)
    return found
