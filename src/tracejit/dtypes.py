"""Element types and PyTorch's promotion rules."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np


class dtype:
    """An element type, such as `float32`.

    >>> float32.itemsize, float32.is_floating_point
    (4, True)
    """

    __slots__ = ("category", "is_floating_point", "itemsize", "name", "np", "rank", "short", "type")

    def __init__(self, name: str, short: str, category: builtins.int, rank: builtins.int) -> None:
        self.name = name
        self.short = short
        self.np = np.dtype(name)
        self.type = self.np.type
        self.itemsize = self.np.itemsize
        self.category = category
        self.rank = rank
        self.is_floating_point = category == FLOAT

    @property
    def is_complex(self) -> builtins.bool:
        """Whether the type is complex: never, complex types do not exist here."""
        return False

    @property
    def is_signed(self) -> builtins.bool:
        """Whether negative values exist in the type."""
        return self.short not in ("b1", "u8")

    def __repr__(self) -> str:
        return f"tracejit.{self.name}"

    def __reduce__(self) -> str:
        return self.name

    def __copy__(self) -> dtype:
        return self

    def __deepcopy__(self, memo: dict[builtins.int, Any]) -> dtype:
        return self


BOOL, INT, FLOAT = 0, 1, 2

bool = dtype("bool", "b1", BOOL, 0)
uint8 = dtype("uint8", "u8", INT, 1)
int8 = dtype("int8", "i8", INT, 1)
int16 = dtype("int16", "i16", INT, 2)
int32 = dtype("int32", "i32", INT, 3)
int64 = dtype("int64", "i64", INT, 4)
float16 = dtype("float16", "f16", FLOAT, 2)
float32 = dtype("float32", "f32", FLOAT, 3)
float64 = dtype("float64", "f64", FLOAT, 4)

long, short, half, float, double = int64, int16, float16, float32, float64
int = int32

ALL: tuple[dtype, ...] = (bool, uint8, int8, int16, int32, int64, float16, float32, float64)
FROM_NUMPY: dict[Any, dtype] = {d.np: d for d in ALL}
BY_NAME: dict[str, dtype] = {d.name: d for d in ALL}

_default = float32


def get_default_dtype() -> dtype:
    """The type of new floating point tensors made from Python floats."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Set the type of new floating point tensors.

    Raises: TypeError for a type that is not floating point.
    """
    global _default
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise TypeError(f"only floating-point types are supported as the default type, got {d!r}")
    _default = d


def from_numpy(d: Any) -> dtype:
    """The element type of a NumPy dtype.

    Raises: TypeError for a NumPy dtype that has no counterpart.
    """
    try:
        return FROM_NUMPY[np.dtype(d)]
    except (KeyError, TypeError):
        raise TypeError(
            f"can't convert np.ndarray of type {d}. The only supported types are: "
            + ", ".join(t.name for t in ALL)
            + "."
        ) from None


def promote_types(a: dtype, b: dtype) -> dtype:
    """The smallest type that holds both, by PyTorch's lattice.

    >>> promote_types(uint8, int8), promote_types(int64, float16)
    (tracejit.int16, tracejit.float16)
    """
    if a is b:
        return a
    if a.category != b.category:
        return a if a.category > b.category else b
    if (a is uint8 and b is int8) or (a is int8 and b is uint8):
        return int16
    return a if a.rank > b.rank else b


def of_number(value: Any) -> dtype:
    """The type that a Python number stands for: bool, int64 or the default float type."""
    kind = type(value)
    if kind is _FLOAT:
        return _default
    if kind is _BOOL:
        return bool
    if kind is _INT:
        return int64
    if isinstance(value, np.generic):
        return from_numpy(value.dtype)
    if isinstance(value, _BOOL):
        return bool
    if isinstance(value, _INT):
        return int64
    if isinstance(value, _FLOAT):
        return _default
    raise TypeError(f"expected a number, but got {kind.__name__}")


_FLOAT, _INT, _BOOL = builtins.float, builtins.int, builtins.bool


def weak_result(strong: dtype, number: Any) -> dtype:
    """The type of an operation of a tensor of type `strong` and a Python number.

    A number changes the type only if its category is higher.

    >>> weak_result(int32, 1.5), weak_result(float16, 2)
    (tracejit.float32, tracejit.float16)
    """
    other = of_number(number)
    if other.category <= strong.category:
        return strong
    return other


class finfo:
    """Limits of a floating point type: `bits`, `eps`, `max`, `min`, `tiny`, `smallest_normal`, `resolution`."""

    def __init__(self, d: dtype | None = None) -> None:
        d = d or _default
        if not d.is_floating_point:
            raise TypeError(f"finfo is for floating point types, got {d!r}")
        info = np.finfo(d.np)
        self.dtype, self.bits = d.name, info.bits
        self.eps, self.max, self.min = _FLOAT(info.eps), _FLOAT(info.max), _FLOAT(info.min)
        self.tiny = self.smallest_normal = _FLOAT(info.tiny)
        self.resolution = _FLOAT(info.resolution)


class iinfo:
    """Limits of an integer type: `bits`, `max`, `min`."""

    def __init__(self, d: dtype) -> None:
        if d.category != INT:
            raise TypeError(f"iinfo is for integer types, got {d!r}")
        info = np.iinfo(d.np)
        self.dtype, self.bits, self.max, self.min = d.name, info.bits, _INT(info.max), _INT(info.min)
