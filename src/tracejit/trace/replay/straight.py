"""Replays that are one native call: those that only look, run their program and make one tensor.

In: the text of a replay and what it names. Out: a built-in function that does the same, or nothing.
Must not know: what the text was written from.

Inference of a small model is such a call, and of what it costs most would be Python that goes from one native function
to the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.runtime import replay_text as words
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.objects import slot_place

_TEXT = re.compile(
    r"""def replay\(args, kwargs\):
    here = state\.__dict__
    if here\['session'\] is not None or here\['grad_enabled'\] is not (?P<grad>True|False)"""
    r""" or here\['autocast'\] is not None: return MISS
    if hold\(words\[0\]\) and not me\.renew\(\): return MISS
    if looks and not looks\[0\]\(\) and not me\.renew\(\): return MISS
    try:
        (?P<found>v\d+(?:, v\d+)*), = args
        if not \(not kwargs\): return MISS
        pass
    except \([\w, ]+\):
        return MISS
    if look\(expected, (?P=found)\) and not me\.admits\((?P=found)\): return MISS
    (?P<made>t\d+) = make\((?P<like>\w+), (?P<table>\w+), pointers\)
    if run\(C\[0\], pointers, scalars\) and me\.again\(\): return MISS
    return (?P=made)"""
)
"""What `ENTRY.replay` does. It makes the tensor before it looks at memory, as that may run Python code."""

_STATE = ("session", "grad_enabled", "autocast")


class Straight:
    """A native replay with its table. It misses until it is told what holds."""

    def __init__(self, parts: re.Match[str], scope: dict[str, Any]) -> None:
        self._scope = scope
        self._words: list[np.ndarray] = scope["words"]
        self._looks: list[Any] = scope["looks"]
        self._held: np.ndarray | None = None
        self._names = ("__dict__", *_STATE)
        wanted = None, parts["grad"] == "True", None
        keys = [id(x) for pair in zip(_STATE, wanted, strict=True) for x in pair]
        self._table = table = np.zeros(words.REPLAY_WORDS, np.int64)
        table[words.STATE] = ENTRY.state.ctypes.data
        table[words.THREAD], table[words.DICT] = id(scope["state"]), id(self._names[0])
        table[words.KEYS : words.KEYS + len(keys)] = keys
        table[words.LOOK] = scope["expected"].ctypes.data
        table[words.ARGUMENTS] = parts["found"].count("v")
        table[words.TEMPLATE], table[words.TEMPLATE_TABLE] = id(scope[parts["like"]]), scope[parts["table"]].ctypes.data
        table[words.CONTROL] = id(scope["C"])
        table[words.POINTERS], table[words.SCALARS] = (scope[name].ctypes.data for name in ("pointers", "scalars"))
        table[words.MISS] = id(scope["MISS"])

    def run(self, free: list[None], calls: Any) -> Callable[[Any, Any], Any]:
        """The function of a call's arguments and named arguments: its result, counted among the calls, or `MISS`.

        It misses while the list is empty, and is no part of the region's own call, which empties it.
        """
        self._table[words.FREE] = id(free)
        self._table[words.COUNT] = id(calls) + slot_place(type(calls), "replayed")
        # The table has the addresses of what these keep.
        return ENTRY.replay(self._table, self._scope, self._names, free, calls)

    def admit(self) -> None:
        """The words of memory are those of now; what Python has to look at is left to the text."""
        self._held = self._words[0]
        self._table[words.HELD] = self._held.ctypes.data
        self._table[words.READY] = not self._looks


def straight(text: str, scope: dict[str, Any]) -> Straight | None:
    """The native replay of a text with its names, None where the text does more."""
    parts = _TEXT.fullmatch(text)
    if parts is None or parts["found"].count("v") > words.MAX_ARGUMENTS:
        return None
    return Straight(parts, scope)
