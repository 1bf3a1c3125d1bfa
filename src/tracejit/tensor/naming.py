"""Other names that a parameter goes by, and lists given by keyword: NumPy's `axis` for `dim`, `size=(2, 3)` for `2, 3`.

In: a function. Out: the function under the same name, which also takes what users call its parameters elsewhere.
Must not know: what functions do.

PyTorch takes `axis` and `keepdims` wherever its own functions have a `dim` and a `keepdim`, those of its functions that
are written in Python apart. What stands in front of a function here has exactly its parameters, and looks at nothing
but whether there are others: 50 ns for a call that has none.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import CO_VARARGS
from types import FunctionType
from typing import Any

_NUMPY = {"axis": "dim", "keepdims": "keepdim"}


class _Missing:
    """What a parameter is that was not given and has no default."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING = _Missing()

_FRONT = """
def made(inner, MISSING, settled):
    def front({head}, **names):
        if names{missing}:
            return inner(*settled(({given},), names))
        return inner({given})
    return front
"""


@lru_cache(None)
def _front(head: str, missing: str, given: str) -> Any:
    """What makes the functions of these parameters. Cost: most of what importing a named function takes."""
    space: dict[str, Any] = {}
    exec(_FRONT.format(head=head, missing=missing, given=given), space)
    return space["made"]


class _Names:
    """The names that a function's parameters go by."""

    def __init__(
        self, name: str, parameters: tuple[str, ...], listed: str, defaults: dict[str, Any], others: dict[str, str]
    ) -> None:
        self.name, self.parameters, self.listed, self.defaults = name, parameters, listed, defaults
        self.others = {other: own for other, own in (_NUMPY | others).items() if own in parameters}

    def settled(self, values: tuple[Any, ...], names: dict[str, Any]) -> list[Any]:
        """The values of the parameters where some were given by another name.

        Raises: TypeError for a name that is none, a parameter given twice, and one that is missing.
        """
        found = dict(zip(self.parameters, values, strict=True))
        for name, value in names.items():
            own = self.others.get(name)
            if own is None:
                raise TypeError(f"{self.name}() got an unexpected keyword argument '{name}'")
            if found[own] is not self.defaults.get(own, MISSING):
                raise TypeError(f"{self.name}() got multiple values for argument '{own}'")
            found[own] = (value,) if own == self.listed else value
        for own, value in found.items():
            if value is MISSING:
                raise TypeError(f"{self.name}() missing 1 required positional argument: '{own}'")
        return list(found.values())


def named(function: Any = None, **others: str) -> Any:
    """Let a function's parameters go by other names as well: `axis` for `dim`, `keepdims` for `keepdim`, and `others`.

    A list of arguments, `*sizes`, may be given as one by the keyword `sizes`, or by another that `others` names.

    >>> @named(size="sizes")
    ... def area(*sizes, keepdim=False):
    ...     return sizes, keepdim
    >>> area(2, 3), area(size=(2, 3), keepdims=True)
    (((2, 3), False), (((2, 3),), True))
    """
    if function is None:
        return lambda f: named(f, **others)
    code = function.__code__
    places, count = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    before, keywords = code.co_varnames[:places], code.co_varnames[places:count]
    listed = code.co_varnames[count : count + 1] if code.co_flags & CO_VARARGS else ()
    parameters = (*before, *keywords, *listed)
    defaults = {
        **dict(zip(before[::-1], (function.__defaults__ or ())[::-1], strict=False)),
        **(function.__kwdefaults__ or {}),
        **dict.fromkeys(listed, ()),
    }
    names = _Names(function.__name__, parameters, "".join(listed), defaults, {**{n: n for n in listed}, **others})
    # From the first one that may be missing on, because another name gives it, all before it are positions.
    first = min((before.index(own) for own in names.others.values() if own in before), default=places)
    required = tuple(p for p in before[first:] if p not in defaults)
    head = [p if p not in required and p not in defaults else f"{p}=None" for p in before]
    head += [f"*{p}" for p in listed] or (["*"] if keywords else [])
    # All by position: what is written behind a star costs a look into a table for each call.
    flags = code.co_flags & ~CO_VARARGS
    inner = FunctionType(
        code.replace(co_argcount=count + len(listed), co_kwonlyargcount=0, co_flags=flags),
        function.__globals__, function.__name__, None, function.__closure__,
    )  # fmt: skip
    made = _front(
        ", ".join([*head, *(f"{p}=None" for p in keywords)]),
        "".join(f" or {p} is MISSING" for p in required),
        ", ".join(parameters),
    )(inner, MISSING, names.settled)
    front = FunctionType(
        made.__code__.replace(
            co_filename=code.co_filename, co_firstlineno=code.co_firstlineno, co_name=code.co_name,
            co_qualname=code.co_qualname,
        ),
        function.__globals__, function.__name__, None, made.__closure__,
    )  # fmt: skip
    front.__defaults__ = tuple(defaults.get(p, MISSING) for p in before if p in required or p in defaults) or None
    front.__kwdefaults__ = {p: defaults[p] for p in keywords} or None
    front.__doc__, front.__module__, front.__qualname__ = function.__doc__, function.__module__, function.__qualname__
    front.__annotations__ = function.__annotations__
    return front
