"""Values of an abstract run that are not the same at every call, and the text that computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from tracejit.tensor.scalar import Scalar
from tracejit.trace.expected import Form


class Unproven(Exception):
    """A call cannot be replayed: something in it is not known to be the same next time, or to have no other effect."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix

    def alone(self) -> Unproven:
        """Itself without the frames that it went through, which hold what the call was given, and itself."""
        self.__context__ = None
        return self.with_traceback(None)


class Midway(Unproven):
    """A call reads values in its middle, or decides on one: it may be proven as a whole, if it is recorded so."""


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(self: Any, *others: Any) -> NoReturn:
        raise Unproven(self.complaint, self.fix)

    refuse.__name__ = name
    return refuse


_OPERATIONS = (
    *("__bool__", "__int__", "__float__", "__index__", "__complex__", "__hash__", "__len__", "__reduce__", "__iter__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__neg__", "__abs__", "__round__", "__str__"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__repr__"),
    *("__floordiv__", "__rfloordiv__", "__mod__", "__rmod__", "__pow__", "__rpow__", "__format__", "__getitem__"),
    "__contains__",
)


class Sym:
    """A Python number that each call finds anew: its value in this call, and the text of the expression."""

    __slots__ = ("text", "value")

    complaint = "a number that changes from call to call is used where it decides the structure"
    fix = "keep the number out of containers' keys, formatted text and functions that are not tracejit's"

    def __init__(self, value: Any, text: str) -> None:
        self.value = value
        self.text = text


class Later:
    """A Python number that is read from a computed tensor, or made of such numbers: it is there after the program ran.

    It may be returned, stored, converted, added, multiplied and divided; what else Python does with it depends on a
    value. Where a whole call is proven its `form`, if it has one, says what a program has to look at for Python to
    decide on it.
    Its `kind` is that of a number that is read ("f", "i" or "b"), of one that is made of such ("?"), or "array" for an
    array or a list, which may be returned and stored.
    """

    __slots__ = ("form", "kind", "text")

    complaint = "Python computes with a value that it reads from a tensor"
    fix = "keep the value a tensor, or only return it; mode='follow' runs the Python that looks at it"

    def __init__(self, text: str, form: Form | None = None, kind: str = "?") -> None:
        self.text = text
        self.form = form
        self.kind = kind


for _cls in (Sym, Later):
    for _name in _OPERATIONS:
        setattr(_cls, _name, _refuse(_name))


class Source:
    """What a `Scalar` of the abstract run stands for: the text of a number, which a use as structure makes a guard."""

    __slots__ = ("listing", "text")

    # What the operations of the tensor package ask of a number of the tree.
    kind = "abstract"

    def __init__(self, listing: Listing, text: str) -> None:
        self.listing = listing
        self.text = text

    def fix(self, value: Any) -> None:
        """The number became part of the structure."""
        self.listing.require_number(self.text, value)

    def avoid(self, special: tuple[float, ...], value: Any) -> None:
        """That the number is none of some became part of the structure."""
        self.listing.require(f"{self.text} not in {special!r}")

    def place(self, value: int, size: int) -> Any:
        """The place that the number is among so many, counted from the front."""
        if value >= 0:
            self.listing.require(f"0 <= {self.text} < {size}")
            return Scalar(value, self)
        self.listing.require(f"-{size} <= {self.text} < 0")
        return Scalar(value + size, Source(self.listing, self.listing.let(f"{self.text} + {size}")))

    def ahead(self, value: int, stop: Scalar, size: int) -> bool:
        """That another number is so much greater, and both are places among so many, became part of the structure."""
        if not 0 <= value <= stop.value <= size:
            return False
        end = stop.source.text
        self.listing.require(f"0 <= {self.text} and {end} - {self.text} == {stop.value - value} and {end} <= {size}")
        return True


class Listing:
    """Straight-line text: loads, arithmetic and conditions that come before a replayed program.

    Everything in it reads the world as it is before the call, so equal expressions are one.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._constants: dict[int, str] = {}
        self._required: set[str] = set()
        self.symbols: list[tuple[str, Any]] = []

    def constant(self, value: Any) -> str:
        """A name for an object."""
        if value is None or value is True or value is False:
            return repr(value)
        if type(value) is int and abs(value) < 1 << 62:
            return repr(value) if value >= 0 else f"({value!r})"
        name = self._constants.get(id(value))
        if name is None:
            name = self._constants[id(value)] = f"K{len(self.scope)}"
            self.scope[name] = value
        return name

    def let(self, expression: str) -> str:
        """A local name for an expression without effects."""
        name = self._names.get(expression)
        if name is None:
            name = self._names[expression] = f"v{len(self._names)}"
            self.lines.append(f"{name} = {expression}")
        return name

    def make(self, expression: str) -> str:
        """A local name for what an expression makes, which is another object each time that it stands in the text."""
        name = f"v{len(self._names)}"
        self._names[f"{name} = {expression}"] = name
        self.lines.append(f"{name} = {expression}")
        return name

    def unpack(self, sequence: str, count: int) -> list[str]:
        """Local names for the entries of a tuple; a tuple of another length raises ValueError."""
        names = [self._names.setdefault(f"{sequence}[{k}]", f"v{len(self._names)}") for k in range(count)]
        if names:
            self.lines.append(f"{', '.join(names)}, = {sequence}")
        else:
            self.require(f"not {sequence}")
        return names

    def definition(self, name: str) -> str:
        """The expression that a local name stands for."""
        return next((e for e, n in self._names.items() if n == name), name)

    def symbol(self, value: Any, text: str) -> Sym:
        """A number that the text computes; what it computes now is noted, to be compared."""
        self.symbols.append((text, value))
        return Sym(value, text)

    def require(self, condition: str) -> None:
        """Only go on if the condition holds."""
        if condition not in self._required:
            self._required.add(condition)
            self.lines.append(f"if not ({condition}): return MISS")

    def require_number(self, text: str, value: Any) -> None:
        """Only go on if a number has the type and the bits it had."""
        kind = type(value)
        if kind is bool:
            self.require(f"{text} is {value}")
        elif kind is int:
            self.require(f"type({text}) is int and {text} == {value}")
        elif value == value and value not in (0.0, float("inf"), float("-inf")):
            self.require(f"type({text}) is float and {text} == {value!r}")
        else:
            self.require(f"same_number({text}, {self.constant(value)})")


def number_like(x: Any) -> bool:
    """Whether a value is a number of a kind that may vary."""
    return type(x) in (int, float)
