"""Guards: what an abstract run found in the world, to be found there again before its result is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any

from tracejit.trace.tree import same_number


class _Absent:
    """What a place without a value holds."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


def unchanged(now: Any, then: Any) -> bool:
    """Whether a value is the one it was: the same object, or a plain value of the same type and bits."""
    if now is then:
        return True
    kind = type(then)
    if type(now) is not kind:
        return False
    if kind in (int, float, bool):
        return same_number(now, then)
    return kind in (str, bytes) and bool(now == then)


def find_in_class(cls: type, name: str) -> Any:
    """The attribute of a class or its bases, as its `__dict__` has it."""
    for c in cls.__mro__:
        found = c.__dict__.get(name, ABSENT)
        if found is not ABSENT:
            return found
    return ABSENT


def content(container: Any) -> tuple[Any, ...]:
    """What a list, tuple or set holds, or the keys of a dict."""
    return tuple(container)


def same_content(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    """Whether two contents hold the same, place by place."""
    return (len(now) == len(then) and all(map(is_, now, then))) or (
        len(now) == len(then) and all(map(unchanged, now, then))
    )


def _slot(container: Any, name: str) -> Any:
    return getattr(container, name, ABSENT)


def _cell(container: Any, _: Any) -> Any:
    try:
        return container.cell_contents
    except ValueError:
        return ABSENT


READERS: dict[str, Callable[[Any, Any], Any]] = {
    "item": lambda d, key: d.get(key, ABSENT),
    "slot": _slot,
    "cell": _cell,
    "type": lambda o, _: type(o),
    "class": find_in_class,
    "filled": lambda d, _: bool(d),
}
"""How to look at a place, by its kind."""


@dataclass(eq=False, slots=True)
class Guard:
    """One place of the world and what it held: an item of a dict, a slot, a cell, an object's type, a class attribute,
    whether a container has content.

    The kinds "list", "set" and "keys" are about the whole content of a container.
    """

    kind: str
    container: Any
    key: Any
    expected: Any
    line: str = ""

    def now(self) -> Any:
        """What the place holds now."""
        reader = READERS.get(self.kind)
        return content(self.container) if reader is None else reader(self.container, self.key)

    def holds(self) -> bool:
        """Whether the place holds what it held."""
        now = self.now()
        if self.kind in READERS:
            return unchanged(now, self.expected)
        if self.kind == "set":
            return len(now) == len(self.expected) and set(now) == set(self.expected)
        return same_content(now, self.expected)

    def describe(self) -> str:
        """What is guarded, in words."""
        name = getattr(self.container, "__name__", None) or type(self.container).__name__
        if self.kind == "item":
            return f"'{self.key}'" if isinstance(self.key, str) else f"the entry of a {type(self.key).__name__}"
        if self.kind in ("slot", "class"):
            return f"{name}.{str(self.key).lstrip('_')}"
        if self.kind == "type":
            return f"the type of a {self.expected.__name__}"
        if self.kind == "cell":
            return "a variable of an enclosing function"
        return f"the content of a {type(self.container).__name__}"
