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
"""What `ENTRY.replay` does, line by line; its arguments are looked at behind the tensor that it makes."""

_STATE = ("session", "grad_enabled", "autocast")


class Straight:
    """A native replay with its table; `run` is the function. It leaves all to the text until it is told what holds."""

    def __init__(self, parts: re.Match[str], scope: dict[str, Any], slowly: Callable[[Any, Any], Any]) -> None:
        self._tables: list[np.ndarray] = scope["words"]
        self._looks: list[Any] = scope["looks"]
        state, names = scope["state"], ("__dict__", *_STATE)
        wanted = None, parts["grad"] == "True", None
        like, table = scope[parts["like"]], scope[parts["table"]]
        self._table = np.zeros(words.REPLAY_WORDS, np.int64)
        self._table[words.STATE] = ENTRY.state.ctypes.data
        self._table[words.THREAD], self._table[words.DICT] = id(state), id(names[0])
        self._table[words.KEYS : words.KEYS + 6] = [id(x) for pair in zip(names[1:], wanted, strict=True) for x in pair]
        self._table[words.LOOK] = scope["expected"].ctypes.data
        self._table[words.ARGUMENTS] = parts["found"].count("v")
        self._table[words.TEMPLATE], self._table[words.TEMPLATE_TABLE] = id(like), table.ctypes.data
        self._table[words.CONTROL] = id(scope["C"])
        self._table[words.POINTERS] = scope["pointers"].ctypes.data
        self._table[words.SCALARS] = scope["scalars"].ctypes.data
        # The table has the addresses of what the scope and these names keep.
        self.run = ENTRY.replay(self._table, slowly, scope, names)

    def refuse(self) -> None:
        """Leave all to the text."""
        self._table[words.READY] = 0

    def admit(self) -> None:
        """The words of memory are those of now; what Python has to look at is left to the text."""
        self._table[words.HELD] = self._tables[0].ctypes.data
        self._table[words.READY] = not self._looks


def straight(text: str, scope: dict[str, Any], slowly: Callable[[Any, Any], Any]) -> Straight | None:
    """The native replay of a text with its names, None where the text does more; `slowly` is its function."""
    parts = _TEXT.fullmatch(text)
    if parts is None or parts["found"].count("v") > words.MAX_ARGUMENTS:
        return None
    return Straight(parts, scope, slowly)
