"""Sizes that stay open: whole numbers that know how they follow from a few symbols, and what was decided by them.

In: plain Python that calculates with sizes. Out: the same calculation for other sizes, and a test whether all that was
decided on the way would be decided alike.
Must not know: what the sizes are of.

A `Size` is no `int`: whatever needs a real one (an index, a range, a text) gets it, and the size is then fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Monomial = tuple[int, ...]
"""Numbers of atoms, ascending; an atom is a symbol or the quotient or remainder of two sizes."""
Terms = dict[Monomial, int]


class Trail:
    """The symbols of a calculation, and what was decided by their values.

    An equality that does not hold is no condition: where sizes are equal, code that is right for unequal ones is
    right too, since it does less. The exceptions are 0 and 1, which mean another thing (nothing, and broadcasting).
    """

    def __init__(self) -> None:
        self.values: list[int] = []
        self.atoms: list[str] = []
        self.known: dict[Any, int] = {}
        self.conditions: dict[str, None] = {}

    def symbol(self, value: int) -> Size:
        """A new symbol with its present value."""
        self.values.append(value)
        self.atoms.append("")
        return Size(self, {(len(self.values) - 1,): 1}, value)

    def atom(self, sign: str, a: Size | int, b: Size | int, value: int) -> Size:
        """The quotient or remainder of two sizes."""
        key = (sign, _key(a), _key(b))
        at = self.known.get(key)
        if at is None:
            at = self.known[key] = len(self.values)
            self.values.append(value)
            self.atoms.append(f"({text(a)}) {sign} ({text(b)})")
        return Size(self, {(at,): 1}, value)

    def require(self, condition: str) -> None:
        """Note a condition on the symbols."""
        self.conditions[condition] = None

    @property
    def symbols(self) -> int:
        """How many symbols there are."""
        return sum(not a for a in self.atoms)

    def beginning(self, unconditional: bool = False) -> list[str]:
        """The lines with which a function begins that takes the symbols' values and gives None if a condition does not
        hold.
        """
        symbols = [i for i, a in enumerate(self.atoms) if not a]
        lines = [f"({', '.join(f's{i}' for i in symbols)},) = given"] if symbols else []
        lines += [f"s{i} = {a}" for i, a in enumerate(self.atoms) if a]
        return lines + [f"if not ({c}): return None" for c in self.conditions if not unconditional]

    def function(
        self, wanted: Sequence[Any], unconditional: bool = False
    ) -> Callable[[Sequence[int]], list[Any] | None]:
        """A function of the symbols' values that gives what `wanted` is for them, None if a condition does not hold."""
        lines = [*self.beginning(unconditional), "return [", *[f"    {text(w)}," for w in wanted], "]"]
        scope: dict[str, Any] = {}
        body = "\n".join([f"    {line}" for line in lines])
        exec(compile(f"def function(given):\n{body}", "<sizes>", "exec"), scope)
        return scope["function"]  # type: ignore[no-any-return]


class Places(NamedTuple):
    """Where in a list of sizes those are that may differ: together where they always agree, one list for each symbol;
    all others must be as they were.
    """

    symbols: list[list[int]]
    fixed: list[tuple[int, Any]]

    def values(self, sizes: Sequence[Any]) -> list[Any] | None:
        """What the symbols stand for in such a list; None if they have no one value, or if others differ.

        >>> places = Places([[0, 2], [3]], [(1, 3)])
        >>> places.values([6, 3, 6, 1]), places.values([6, 3, 5, 1]), places.values([6, 2, 6, 1])
        ([6, 1], None, None)
        """
        for place, size in self.fixed:
            if sizes[place] != size:
                return None
        return values_at(self.symbols, sizes)


def opened_list(seen: Sequence[Sequence[Any]], trail: Trail) -> tuple[list[Any], Places]:
    """The last of some lists of sizes, with symbols where they differ.

    >>> opened_list([[2, 3, 2], [4, 3, 4]], Trail())
    ([<s0>, 3, <s0>], Places(symbols=[[0, 2]], fixed=[(1, 3)]))
    """
    values = list(seen[-1])
    symbols = opened(seen, trail)
    for found, symbol in symbols:
        for place in found:
            values[place] = symbol
    fixed = [(place, value) for place, value in enumerate(values) if type(value) is not Size]
    return values, Places([found for found, _ in symbols], fixed)


class Sightings:
    """Lists of sizes that were met and have no plan yet; the last of them tell which sizes belong together.

    >>> met = Sightings()
    >>> [met.note(sizes) for sizes in ([2, 3], [4, 3], [4, 3])]
    [1, 2, 2]
    >>> met.plan(Trail())
    ([<s0>, 3], Places(symbols=[[0]], fixed=[(1, 3)]))
    """

    _TOLD = 4

    def __init__(self) -> None:
        self._met: dict[tuple[Any, ...], None] | None = {}

    def note(self, sizes: Iterable[Any]) -> int:
        """Note a list. How many are there; 0 where there will be no plan."""
        # Another thread may set it.
        met = self._met
        if met is None:
            return 0
        key = tuple(sizes)
        # The last one is the present one.
        met.pop(key, None)
        met[key] = None
        return len(met)

    def plan(self, trail: Trail) -> tuple[list[Any], Places]:
        """The last list, with symbols where the last ones differ."""
        return opened_list(list(self._met or ())[-self._TOLD :], trail)

    def begin_again(self, more: bool) -> None:
        """They have a plan, or cannot have one; with `more` others may get one, too."""
        self._met = {} if more else None


def opened(seen: Sequence[Sequence[Any]], trail: Trail, rest: Container[int] = ()) -> list[tuple[list[int], Size]]:
    """The places of some lists of sizes, but for the `rest`, at which these differ: together where they always agree,
    with a symbol that has the value of the last list.

    >>> opened([[2, 3, 2, 9], [4, 3, 4, 8]], Trail())
    [([0, 2], <s0>), ([3], <s1>)]
    """
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, column in enumerate(zip(*seen, strict=True)):
        if place not in rest and any(value != column[0] for value in column):
            places.setdefault(column, []).append(place)
    return [(found, trail.symbol(column[-1])) for column, found in places.items()]


def values_at(places: Iterable[Sequence[int]], sizes: Sequence[Any]) -> list[Any] | None:
    """What the symbols of these places stand for in a list of sizes; None where these do not agree.

    >>> values_at([[0, 2], [3]], [6, 3, 6, 1]), values_at([[0, 2], [3]], [6, 3, 5, 1])
    ([6, 1], None)
    """
    values = []
    for first, *others in places:
        value = sizes[first]
        for place in others:
            if sizes[place] != value:
                return None
        values.append(value)
    return values


def _terms(x: Size | int) -> Terms:
    if isinstance(x, Size):
        return x.terms
    return {(): x} if x else {}


def _key(x: Size | int) -> Any:
    return x.key if isinstance(x, Size) else x


def text(x: Any) -> str:
    """A size, a cost or a number as an expression of the symbols."""
    if isinstance(x, Cost):
        return " + ".join([repr(x.constant), *(f"{factor!r} * ({text(size)})" for factor, size in x.parts)])
    if not isinstance(x, Size):
        return repr(x)
    return _text(x.terms)


def _text(terms: Terms) -> str:
    parts = []
    for monomial, factor in terms.items():
        names = [f"s{i}" for i in monomial]
        parts.append(" * ".join(names if factor == 1 and names else [repr(factor), *names]))
    return " + ".join(parts) or "0"


class Size:
    """A whole number that follows from symbols: a sum of products, with its present value.

    >>> trail = Trail()
    >>> n = trail.symbol(6)
    >>> m = (n * 4 + 8) // 4
    >>> m == n + 2, bool(m > 3), (n * 4) % 2
    (True, True, 0)
    >>> trail.function([m * n])([10]), trail.function([m])([1])
    ([120], None)
    """

    __slots__ = ("key", "terms", "trail", "value")

    def __init__(self, trail: Trail, terms: Terms, value: int) -> None:
        self.trail = trail
        self.terms = terms
        self.value = value
        self.key = (id(trail), frozenset(terms.items()))

    def _made(self, terms: Terms, value: int) -> Any:
        terms = {m: c for m, c in terms.items() if c}
        if not terms:
            return 0
        if len(terms) == 1 and () in terms:
            return terms[()]
        return Size(self.trail, terms, value)

    # --- arithmetic ---------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, (Size, int)):
            terms = dict(self.terms)
            for m, c in _terms(other).items():
                terms[m] = terms.get(m, 0) + c
            return self._made(terms, self.value + _value(other))
        if isinstance(other, float):
            return Cost(other, ((1.0, self),))
        return NotImplemented

    __radd__ = __add__

    def __neg__(self) -> Any:
        return self._made({m: -c for m, c in self.terms.items()}, -self.value)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return -self if self < 0 else self

    def __sub__(self, other: Any) -> Any:
        return self + -other if isinstance(other, (Size, int, float)) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (Size, int)):
            terms: Terms = {}
            for m, c in self.terms.items():
                for n, d in _terms(other).items():
                    product = tuple(sorted(m + n))
                    terms[product] = terms.get(product, 0) + c * d
            return self._made(terms, self.value * _value(other))
        if isinstance(other, float):
            return Cost(0.0, ((other, self),))
        return NotImplemented

    __rmul__ = __mul__

    def _divided(self, other: Size | int) -> Any:
        """The quotient where it is sure that nothing is left, else None."""
        by = _terms(other)
        if len(by) != 1:
            return None
        ((below, d),) = by.items()
        terms: Terms = {}
        for m, c in self.terms.items():
            if c % d:
                return None
            rest = list(m)
            for atom in below:
                if atom not in rest:
                    return None
                rest.remove(atom)
            terms[tuple(rest)] = c // d
        if below:
            assert isinstance(other, Size)
            other._decide("!=", 0, True)
        return self._made(terms, self.value // _value(other))

    def __floordiv__(self, other: Any) -> Any:
        if not isinstance(other, (Size, int)):
            return NotImplemented
        exact = self._divided(other)
        return self.trail.atom("//", self, other, self.value // _value(other)) if exact is None else exact

    def __rfloordiv__(self, other: int) -> Any:
        self._decide("!=", 0, True)
        return self.trail.atom("//", other, self, other // self.value)

    def __mod__(self, other: Any) -> Any:
        if not isinstance(other, (Size, int)):
            return NotImplemented
        if self._divided(other) is not None:
            return 0
        return self.trail.atom("%", self, other, self.value % _value(other))

    def __rmod__(self, other: int) -> Any:
        self._decide("!=", 0, True)
        return self.trail.atom("%", other, self, other % self.value)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _decide(self, sign: str, other: Any, holds: bool) -> bool:
        difference = self - other
        if isinstance(difference, Size):
            condition = f"{_text(difference.terms)} {sign} 0"
            self.trail.require(condition if holds else f"not {condition}")
        return holds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Size, int)) or isinstance(other, bool):
            return NotImplemented
        if isinstance(other, Size) and self.key == other.key:
            return True
        holds = self.value == _value(other)
        if holds or (type(other) is int and other in (0, 1)):
            self._decide("==", other, holds)
        return holds

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __lt__(self, other: Any) -> bool:
        return self._decide("<", other, self.value < _value(other))

    def __le__(self, other: Any) -> bool:
        return self._decide("<=", other, self.value <= _value(other))

    def __gt__(self, other: Any) -> bool:
        return self._decide(">", other, self.value > _value(other))

    def __ge__(self, other: Any) -> bool:
        return self._decide(">=", other, self.value >= _value(other))

    def __bool__(self) -> bool:
        return self._decide("!=", 0, self.value != 0)

    def __hash__(self) -> int:
        return hash(self.key)

    # --- where only a number will do ----------------------------------------------------------------------------------

    def fix(self) -> int:
        """The present value, which every other calculation must then have too."""
        self._decide("==", self.value, True)
        return self.value

    __index__ = __int__ = fix

    def __float__(self) -> float:
        return float(self.fix())

    def __str__(self) -> str:
        return str(self.fix())

    def __format__(self, spec: str) -> str:
        return format(self.fix(), spec)

    def __repr__(self) -> str:
        return f"<{text(self)}>"


class Cost:
    """An estimate: a float plus multiples of sizes. Nothing may be decided by it."""

    __slots__ = ("constant", "parts")

    def __init__(self, constant: float, parts: tuple[tuple[float, Size], ...]) -> None:
        self.constant = constant
        self.parts = parts

    def __add__(self, other: Any) -> Cost:
        if isinstance(other, Cost):
            return Cost(self.constant + other.constant, self.parts + other.parts)
        if isinstance(other, Size):
            return Cost(self.constant, (*self.parts, (1.0, other)))
        return Cost(self.constant + other, self.parts)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.constant * factor, tuple((f * factor, s) for f, s in self.parts))

    __rmul__ = __mul__


def _value(x: Size | int) -> int:
    return x.value if isinstance(x, Size) else x


def is_open(x: Any) -> bool:
    """Whether a value is a size that stays open, of which nothing may be asked without need."""
    return type(x) is Size


def present(x: Any) -> Any:
    """A size's present value, without any decision; tuples of them too, and whatever is no size as it is."""
    if isinstance(x, Size):
        return x.value
    if type(x) is tuple:
        return tuple(map(present, x))
    return x


def sizes_in(x: Any) -> Iterator[Any]:
    """The sizes in a value that may be a tuple of tuples."""
    if isinstance(x, (Size, Cost)):
        yield x
    elif isinstance(x, tuple):
        for item in x:
            yield from sizes_in(item)


@dataclass(frozen=True, slots=True)
class At:
    """Stands for a value of the list that `Wanted` makes."""

    index: int


class Wanted:
    """What is worked out anew for each sizes: each different expression once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """The values as expressions of the symbols."""
        return list(self._known)

    def __call__(self, x: Any) -> Any:
        """Where the value will be found, or the value itself if it depends on no symbol; tuples of them too."""
        if isinstance(x, tuple):
            return tuple(map(self, x))
        if not isinstance(x, (Size, Cost)):
            return x
        name = text(x)
        at = self._known.get(name)
        if at is None:
            at = self._known[name] = len(self.values)
            self.values.append(x)
        return At(at)


def fill(x: Any, found: Sequence[Any]) -> Any:
    """What `Wanted` left, with the values that were found."""
    if type(x) is At:
        return found[x.index]
    return tuple([fill(item, found) for item in x]) if type(x) is tuple else x


class Real:
    """A size by another one as a float, where a calculation has it as an operand alone."""

    __slots__ = ("by", "size")

    def __init__(self, size: Any, by: Any = 1) -> None:
        self.size, self.by = size, by

    @property
    def value(self) -> float:
        """What it is at present."""
        return float(present(self.size) / present(self.by))


def real(n: Any, by: Any = 1) -> Any:
    """A whole number by another one as a float, sizes as a number that stays open.

    >>> real(3), real(3, 2)
    (3.0, 1.5)
    """
    return Real(n, by) if is_open(n) or is_open(by) else n / by
