"""Replays that are one native call: those that look, compute some numbers, run their program and make one tensor.

In: the text of a replay and what it names. Out: a built-in function that does the same, or nothing.
Must not know: what the text was written from.

Inference of a small model is such a call, and so is its training step with an optimizer. Of what they cost most would
be Python that goes from one native function to the next.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.runtime import replay_text as words
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.objects import slot_offset, slot_place
from tracejit.trace.replay.arithmetic import Arithmetic

_STATE = ("session", "grad_enabled", "autocast")

# The lines of such a text, one after another; `ENTRY.replay` does the same, but for what depends on conditions: where
# these do not hold, it misses and the text runs.
_HEAD = re.compile(
    r"""def replay\(args, kwargs\):
    here = state\.__dict__
    if here\['session'\] is not None or here\['grad_enabled'\] is not (?P<grad>True|False)"""
    r""" or here\['autocast'\] is not None: return MISS
    if hold\(words\[0\]\) and not me\.renew\(\): return MISS
    if looks and not looks\[0\]\(\) and not me\.renew\(\): return MISS
    try:
(?P<kept>        kept = not hold\(kept_as\[0\]\) or grads\.adopt\(\)
(?:        if not kept:
(?:            .*
)+)?)?        (?P<found>v\d+(?:, v\d+)*), = args
        if not \(not kwargs\): return MISS
"""
)
_COUNT = re.compile(
    r"""        (?P<before>v\d+) = (?P<dict>K\d+)\.get\('(?P<key>\w+)', MISS\)
        if not \(type\((?P=before)\) is int\): return MISS
        (?P<after>v\d+) = (?P=before) \+ (?P<by>\d+)
(?:        if not alike\((?P<others>K\d+), '(?P=key)', (?P=before)\):
(?:            .*
)+)?"""
)
_LINE = re.compile(r"        (v\d+ = .*)\n")
_LOOK = re.compile(
    r"""        pass
    except \([\w, ]+\):
        return MISS
    if look\(expected, (?P<found>[v\d, ]+)\) and not me\.admits\((?P=found)\): return MISS
"""
)
_PUT = re.compile(r"    S\[(\d+)\] = (\S+)\n")
_RENEW = re.compile(r"    if not kept: grads\.renew\(\)\n")
_RUN = re.compile(
    r"""    (?P<made>t\d+) = make\((?P<like>\w+), (?P<table>\w+), pointers\)
    if run\(C\[0\], pointers, scalars\) and me\.again\(\): return MISS
"""
)
_NODE = re.compile(
    r"""    (?P<node>n\d+) = make_object\((?P<cls>K\d+)\)
    (?P=node)\.seq = next_position\(\)
    (?P<made>t\d+)\._node = (?P=node)
"""
)
_ADVANCE = re.compile(r"    advance\((K\d+)\)\n")
_GIVE = re.compile(r"    if not kept: grads\.give\(\)\n")
_ENTER = re.compile(r"    enter\((?P<dicts>K\d+), '(?P<key>\w+)', (?P<after>v\d+)\)\n")
_WATCH = re.compile(r"    if not kept: grads\.watch\(\)\n")
_RETURN = re.compile(r"    return (t\d+)")


class _Other(Exception):
    """The text does something else."""


class _Reader:
    """Reads a text from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def may(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What stands here, if it is that."""
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def must(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """What stands here. Raises: _Other."""
        found = self.may(pattern)
        if found is None:
            raise _Other
        return found

    def all_is_read(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._text)


def _require(condition: bool) -> None:
    if not condition:
        raise _Other


@dataclass(slots=True)
class _Count:
    """A count that dicts have under a key: its names before and after, and what is added to it."""

    dicts: tuple[dict[str, Any], ...]
    key: str
    after: str
    by: int


class _Parts:
    """What a text does. Raises: _Other."""

    def __init__(self, text: str, scope: dict[str, Any]) -> None:
        reader = _Reader(text)
        head = reader.must(_HEAD)
        self.grad = head["grad"] == "True"
        self.arguments = head["found"].count("v")
        _require(self.arguments <= words.MAX_ARGUMENTS)
        self.gives = head["kept"] is not None
        self.arithmetic = Arithmetic(scope)
        self.count = self._count(reader.may(_COUNT), scope)
        while line := reader.may(_LINE):
            _require(self.arithmetic.add(line[1]))
        _require(reader.must(_LOOK)["found"] == head["found"])
        while put := reader.may(_PUT):
            _require(self.arithmetic.put(int(put[1]), put[2]))
        _require((reader.may(_RENEW) is not None) is self.gives)
        run = reader.must(_RUN)
        self.like, self.table = scope[run["like"]], scope[run["table"]]
        node = reader.may(_NODE)
        self.node = None if node is None else scope[node["cls"]]
        kind: Any = type(self.like)
        self.node_at = slot_offset(kind, "_node") or 0
        _require(node is None or (node["made"] == run["made"] and self.node_at > 0))
        advance = reader.may(_ADVANCE)
        self.versions = None if advance is None else scope[advance[1]]
        _require((reader.may(_GIVE) is not None) is self.gives)
        self._enters(reader.may(_ENTER), scope)
        _require((reader.may(_WATCH) is not None) is self.gives)
        _require(reader.must(_RETURN)[1] == run["made"])
        _require(reader.all_is_read())

    def _count(self, found: re.Match[str] | None, scope: dict[str, Any]) -> _Count | None:
        if found is None:
            return None
        self.arithmetic.counted(found["before"], found["after"])
        others = scope[found["others"]] if found["others"] else ()
        dicts = (scope[found["dict"]], *others)
        _require(all(type(d) is dict for d in dicts))
        # Dicts find it by its address.
        return _Count(dicts, sys.intern(found["key"]), found["after"], int(found["by"]))

    def _enters(self, found: re.Match[str] | None, scope: dict[str, Any]) -> None:
        """What is counted goes back to where it was found."""
        _require((found is not None) is (self.count is not None))
        if found is not None and self.count is not None:
            dicts = scope[found["dicts"]]
            _require((found["key"], found["after"]) == (self.count.key, self.count.after))
            _require({id(d) for d in dicts} == {id(d) for d in self.count.dicts})


class Straight:
    """A native replay with its table. It misses until it is told what holds."""

    def __init__(self, parts: _Parts, scope: dict[str, Any]) -> None:
        self._scope = scope
        self._parts = parts
        self._words: list[np.ndarray] = scope["words"]
        self._looks: list[Any] = scope["looks"]
        self._held: np.ndarray | None = None
        self._names = ("__dict__", *_STATE, "seq")
        self._steps, self._numbers = parts.arithmetic.table(), parts.arithmetic.numbers()
        wanted = None, parts.grad, None
        keys = [id(x) for pair in zip(_STATE, wanted, strict=True) for x in pair]
        self._table = table = np.zeros(words.REPLAY_WORDS, np.int64)
        table[words.STATE] = ENTRY.state.ctypes.data
        table[words.THREAD], table[words.DICT] = id(scope["state"]), id(self._names[0])
        table[words.KEYS : words.KEYS + len(keys)] = keys
        table[words.LOOK] = scope["expected"].ctypes.data
        table[words.ARGUMENTS] = parts.arguments
        table[words.TEMPLATE], table[words.TEMPLATE_TABLE] = id(parts.like), parts.table.ctypes.data
        table[words.CONTROL] = id(scope["C"])
        table[words.POINTERS], table[words.SCALARS] = (scope[name].ctypes.data for name in ("pointers", "scalars"))
        table[words.MISS] = id(scope["MISS"])
        table[words.STEPS], table[words.NUMBERS] = self._steps.ctypes.data, self._numbers.ctypes.data
        if parts.gives:
            table[words.KEPT] = id(scope["kept_as"])
        if parts.count is not None:
            table[words.DICTS], table[words.COUNT_KEY] = id(parts.count.dicts), id(parts.count.key)
            table[words.COUNT_BY] = parts.count.by
        if parts.node is not None:
            table[words.NODE], table[words.NODE_AT] = id(parts.node), parts.node_at
            table[words.POSITION], table[words.NEXT_POSITION] = id(self._names[-1]), id(scope["next_position"])
        if parts.versions is not None:
            table[words.VERSIONS] = parts.versions.ctypes.data

    def run(self, free: list[None], calls: Any) -> Callable[[Any, Any], Any]:
        """The function of a call's arguments and named arguments: its result, counted among the calls, or `MISS`.

        It misses while the list is empty, and is no part of the region's own call, which empties it.
        """
        self._table[words.FREE] = id(free)
        self._table[words.COUNT] = id(calls) + slot_place(type(calls), "replayed")
        # The table has the addresses of what these keep.
        kept = self._scope, self._parts, self._names, self._steps, self._numbers
        return ENTRY.replay(self._table, *kept, free, calls)

    def admit(self) -> None:
        """The words of memory are those of now; what Python has to look at is left to the text."""
        self._held = self._words[0]
        self._table[words.HELD] = self._held.ctypes.data
        self._table[words.READY] = not self._looks


def straight(text: str, scope: dict[str, Any]) -> Straight | None:
    """The native replay of a text with its names, None where the text does more."""
    try:
        return Straight(_Parts(text, scope), scope)
    except _Other:
        return None
