"""Numbers that a compiled region takes at run time."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np

from tracejit.tensor.tensor import Tensor


class Scalar:
    """A number argument of a composite while a region is recorded.

    Used directly as an operand it becomes a run-time number of the program. Anything else that is done with it
    (arithmetic, comparison, conversion) makes it part of the structure: `source` is told to fix it, and the tracer
    then guards its value.
    """

    __slots__ = ("source", "value")

    def __init__(self, value: float | int, source: Any) -> None:
        self.value = value
        self.source = source

    def take(self) -> Any:
        """The number, as part of the structure."""
        self.source.fix(self.value)
        return self.value

    def place(self, size: int) -> Any:
        """The place that a whole number is among so many, counted from the front, if possible as a run-time number."""
        return self.source.place(self.value, size)

    def leads(self, stop: Scalar, size: int) -> bool:
        """Whether it may stay a run-time number as the start of a part that ends before another one."""
        return bool(self.source.ahead(self.value, stop, size))

    def __float__(self) -> float:
        return float(self.take())

    def __int__(self) -> int:
        return int(self.take())

    def __index__(self) -> int:
        return self.take().__index__()  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return bool(self.take())

    def __hash__(self) -> int:
        return hash(self.take())

    def __repr__(self) -> str:
        return repr(self.take())


def _forward(name: str) -> Any:
    def function(self: Scalar, *others: Any) -> Any:
        plain = [o.take() if isinstance(o, Scalar) else o for o in others]
        if any(isinstance(o, Tensor) for o in plain):
            return NotImplemented
        return getattr(self.take(), name)(*plain)

    function.__name__ = name
    return function


for _name in (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__"),
    *("__floordiv__", "__rfloordiv__", "__mod__", "__rmod__", "__pow__", "__rpow__", "__neg__", "__pos__", "__abs__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__round__", "__trunc__", "__floor__", "__ceil__"),
):
    setattr(Scalar, _name, _forward(_name))

Number.register(Scalar)
NUMBERS = (bool, int, float, np.bool_, np.number, Scalar)


def plain(x: Any) -> Any:
    """The Python number that a NumPy number or a run-time number stands for, which then is part of the structure."""
    if isinstance(x, Scalar):
        return x.take()
    return _converted(x)


def settled(attrs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Attributes with run-time numbers as the numbers they are, which then are part of the structure."""
    return tuple([a.take() if type(a) is Scalar else settled(a) if type(a) is tuple else a for a in attrs])


def alike(x: Any) -> Any:
    """A Python number of a number's type, which decides promotion; its value must decide nothing."""
    return x.value if isinstance(x, Scalar) else _converted(x)


def is_one_of(x: Any, special: tuple[float, ...]) -> bool:
    """Whether a number is one of some; a run-time number that is none of them stays one."""
    found = alike(x) in special
    if isinstance(x, Scalar):
        if found:
            x.take()
        else:
            x.source.avoid(special, x.value)
    return found


def _converted(x: Any) -> Any:
    if isinstance(x, np.generic):
        return x.item()
    # NumPy takes a number of a subclass of `float` for an array.
    if type(x) not in (bool, int, float):
        return float(x) if isinstance(x, float) else int(x) if isinstance(x, int) else x
    return x


def returned(out: Any) -> Any:
    """What a composite returned, with run-time numbers as the numbers they are."""
    if type(out) is Scalar:
        return out.value
    if type(out) in (list, tuple):
        return type(out)(map(returned, out))
    return out
