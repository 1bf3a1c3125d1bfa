"""Frames of Python functions that the machine runs, and how a call fills them."""

from __future__ import annotations

import builtins
import dis
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tracejit.trace.replay.symbols import Unproven


class _Null:
    """The empty place that CPython keeps beside a callable on its stack."""


NULL = _Null()
MAKES_GENERATOR = inspect.CO_GENERATOR
REFUSED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


@dataclass(slots=True)
class Instruction:
    """One instruction: its name, argument, meaning of the argument, and line."""

    name: str
    arg: int
    value: Any
    text: str
    offset: int
    line: int


@lru_cache(maxsize=4096)
def instructions(code: types.CodeType) -> tuple[tuple[Instruction, ...], dict[int, int]]:
    """The instructions of a function, and the place of each offset."""
    out: list[Instruction] = []
    line = code.co_firstlineno
    for i in dis.get_instructions(code):
        if i.positions is not None and i.positions.lineno is not None:
            line = i.positions.lineno
        if i.opname not in ("CACHE", "EXTENDED_ARG"):
            out.append(Instruction(i.opname, i.arg or 0, i.argval, i.argrepr, i.offset, line))
    places: dict[int, int] = {}
    at = 0
    for offset in range(0, (out[-1].offset if out else 0) + 2, 2):
        # A jump may lead to the prefix of an instruction.
        while out[at].offset < offset:
            at += 1
        places[offset] = at
    return tuple(out), places


class Frame:
    """A function that is being run: where it stands, its variables and its stack."""

    __slots__ = (
        "at",
        "builtins",
        "cells",
        "code",
        "globals",
        "instructions",
        "keywords",
        "locals",
        "places",
        "stack",
    )

    def __init__(self, function: types.FunctionType, variables: dict[str, Any]) -> None:
        self.code = function.__code__
        self.instructions, self.places = instructions(self.code)
        self.globals = function.__globals__
        found = self.globals.get("__builtins__", builtins)
        self.builtins = found if isinstance(found, dict) else vars(found)
        self.locals = variables
        self.cells: dict[str, Any] = dict(zip(self.code.co_freevars, function.__closure__ or (), strict=True))
        self.stack: list[Any] = []
        self.keywords: tuple[str, ...] = ()
        self.at = 0

    @property
    def line(self) -> int:
        """The line of the instruction that was begun last."""
        return self.instructions[self.at - 1].line if self.at else self.code.co_firstlineno

    def pop_many(self, count: int) -> list[Any]:
        """The topmost values, lowest first."""
        if not count:
            return []
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def jump(self, offset: int) -> None:
        """Go on at an offset."""
        self.at = self.places[offset]


class Generator:
    """A generator of the machine: a frame that stops at each yield."""

    __slots__ = ("done", "frame")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.done = False


class Iteration:
    """An iterator of the machine over values of the machine."""

    __slots__ = ("source",)

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source

    # CPython takes the first argument of a generator expression for an iterator without asking.
    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.source)


def bind(
    function: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The variables of a call, as Python binds them, and the containers made for the rest of the arguments.

    Raises: Unproven where Python would raise.
    """
    code = function.__code__
    names = code.co_varnames
    positional = code.co_argcount
    keyword_only = code.co_kwonlyargcount
    variables: dict[str, Any] = dict(zip(names[:positional], args, strict=False))
    at = positional + keyword_only
    collected: list[Any] = []
    if code.co_flags & inspect.CO_VARARGS:
        variables[names[at]] = args[positional:]
        collected.append(variables[names[at]])
        at += 1
    elif len(args) > positional:
        raise Unproven(f"TypeError: {function.__name__} gets too many arguments")
    extra: dict[str, Any] = {}
    allowed = names[code.co_posonlyargcount : positional + keyword_only]
    for name, value in kwargs.items():
        if name in allowed and name not in variables:
            variables[name] = value
        elif code.co_flags & inspect.CO_VARKEYWORDS and name not in allowed:
            extra[name] = value
        else:
            raise Unproven(f"TypeError: {function.__name__} gets an unexpected argument '{name}'")
    if code.co_flags & inspect.CO_VARKEYWORDS:
        variables[names[at]] = extra
        collected.append(extra)
    defaults = function.__defaults__ or ()
    for name, value in zip(names[positional - len(defaults) : positional], defaults, strict=True):
        variables.setdefault(name, value)
    for name in names[positional : positional + keyword_only]:
        if name not in variables and function.__kwdefaults__ and name in function.__kwdefaults__:
            variables[name] = function.__kwdefaults__[name]
    missing = [name for name in names[: positional + keyword_only] if name not in variables]
    if missing:
        raise Unproven(f"TypeError: {function.__name__} lacks the argument '{missing[0]}'")
    return variables, collected
