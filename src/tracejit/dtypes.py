"""Element types and PyTorch's promotion rules."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

_TITLES = {
    "bool": "Bool",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "float32": "Float",
    "float64": "Double",
}


class dtype:
    """An element type, such as `float32`.

    >>> float32.itemsize, float32.is_floating_point
    (4, True)
    """

    __slots__ = ("category", "is_floating_point", "itemsize", "name", "np", "rank", "short", "type")

    def __init__(
        self, name: str, short: str, category: builtins.int, rank: builtins.int, itemsize: builtins.int
    ) -> None:
        self.name = name
        self.short = short
        self.itemsize = itemsize
        self.category = category
        self.rank = rank
        self.is_floating_point = category == FLOAT
        self._find()

    def _find(self) -> None:
        self.np: Any = np.dtype(self.name)
        self.type: Any = self.np.type

    @property
    def is_complex(self) -> builtins.bool:
        """Whether the type is complex: never, complex types do not exist here."""
        return False

    @property
    def is_signed(self) -> builtins.bool:
        """Whether negative values exist in the type."""
        return self.short not in ("b1", "u8")

    @property
    def title(self) -> str:
        """What PyTorch calls the type in its messages."""
        return _TITLES[self.name]

    def __repr__(self) -> str:
        return f"tracejit.{self.name}"

    def __reduce__(self) -> str:
        return self.name

    def __copy__(self) -> dtype:
        return self

    def __deepcopy__(self, memo: dict[builtins.int, Any]) -> dtype:
        return self


class _Bfloat16(dtype):
    """The upper half of a float32: a type that NumPy gets from `ml_dtypes`, which is imported when it is first used."""

    __slots__ = ("loaded", "on_load")

    def _find(self) -> None:
        self.loaded = False
        self.on_load: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        # Only a slot that is not set comes here.
        if name not in ("np", "type"):
            raise AttributeError(f"'dtype' object has no attribute '{name}'")
        with _loading:
            if not self.loaded:
                from ml_dtypes import bfloat16 as element

                found = np.dtype(element)
                FROM_NUMPY[found] = self
                BY_NUM.extend([None] * (found.num + 1 - len(BY_NUM)))  # type: ignore[list-item]
                BY_NUM[found.num] = self
                for function in self.on_load:
                    function()
                self.np, self.type = found, element
                self.loaded = True
        return getattr(self, name)


_loading = threading.RLock()
BOOL, INT, FLOAT = 0, 1, 2

bool = dtype("bool", "b1", BOOL, 0, 1)
uint8 = dtype("uint8", "u8", INT, 1, 1)
int8 = dtype("int8", "i8", INT, 1, 1)
int16 = dtype("int16", "i16", INT, 2, 2)
int32 = dtype("int32", "i32", INT, 3, 4)
int64 = dtype("int64", "i64", INT, 4, 8)
float16 = dtype("float16", "f16", FLOAT, 2, 2)
bfloat16 = _Bfloat16("bfloat16", "bf16", FLOAT, 2, 2)
float32 = dtype("float32", "f32", FLOAT, 3, 4)
float64 = dtype("float64", "f64", FLOAT, 4, 8)

long, short, half, float, double = int64, int16, float16, float32, float64
int = int32

ALL: tuple[dtype, ...] = (bool, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64)
HALVES = frozenset((float16, bfloat16))
"""The types of 16 bits whose elements are computed in float32."""
FROM_NUMPY: dict[Any, dtype] = {d.np: d for d in ALL if d is not bfloat16}
BY_NUM: list[dtype] = [None] * 64  # type: ignore[list-item]
"""Element types by NumPy's type number: quicker than hashing a NumPy dtype."""
for _d in FROM_NUMPY.values():
    BY_NUM[_d.np.num] = _d
BY_NUM[np.dtype(np.longlong).num] = int64
BY_NAME: dict[str, dtype] = {d.name: d for d in ALL}


def significand(d: dtype) -> builtins.int:
    """How many binary digits the numbers of a floating point type have."""
    return {"bf16": 8, "f16": 11, "f32": 24, "f64": 53}[d.short]


def widened(d: dtype) -> dtype:
    """The type that elements are computed and added up in: float32 for the types of 16 bits, else the type itself."""
    return float32 if d in HALVES else d

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
        kind = np.dtype(d)
        return bfloat16 if kind.name == "bfloat16" and bfloat16.np == kind else FROM_NUMPY[kind]
    except (KeyError, TypeError):
        raise TypeError(
            f"can't convert np.ndarray of type {d}. The only supported types are: "
            + ", ".join(t.name for t in ALL if t is not bfloat16)
            + "."
        ) from None


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest type that holds both, by PyTorch's lattice.

    >>> promote_types(uint8, int8), promote_types(int64, float16)
    (tracejit.int16, tracejit.float16)
    """
    a, b = type1, type2
    if a is b:
        return a
    if a.category != b.category:
        return a if a.category > b.category else b
    if (a is uint8 and b is int8) or (a is int8 and b is uint8):
        return int16
    if a in HALVES and b in HALVES:
        return float32
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
        if d is bfloat16:
            self.dtype, self.bits, self.eps, self.resolution = d.name, 16, 2.0**-7, 0.01
            self.max, self.min = (2 - 2.0**-7) * 2.0**127, -(2 - 2.0**-7) * 2.0**127
            self.tiny = self.smallest_normal = 2.0**-126
            return
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
