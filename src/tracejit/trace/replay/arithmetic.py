"""Arithmetic of a replay's text as steps for native code, which computes with the same double precision numbers.

In: lines such as `v3 = 0.9 ** v2`, and what their names stand for. Out: a table of steps, one of numbers.
Must not know: what the numbers are for.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np

from tracejit.runtime import replay_text as words

_SIGNS = {
    "+": words.ADD,
    "-": words.SUBTRACT,
    "*": words.MULTIPLY,
    "/": words.DIVIDE,
    "**": words.POWER,
}
_BINARY = re.compile(r"(v\d+) = (\S+) (\+|-|\*\*|\*|/) (\S+)")
_ROOT = re.compile(r"(v\d+) = (K\d+)\((v\d+)\)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@cache
def _powers_vanish() -> bool:
    """Whether Python gives powers that are too small, as C's function does, and no error: the C library decides."""
    # Of a name, or whoever compiled this file had decided.
    base = 0.5
    try:
        return base**1070.0 > 0.0 == base**5000.0
    except OverflowError:
        return False


class Arithmetic:
    """Steps, and the numbers they are done with, behind a count before and after.

    >>> steps = Arithmetic({"K1": math.sqrt})
    >>> steps.counted("v0", "v1")
    >>> [steps.add(line) for line in ("v2 = 0.5 ** v1", "v3 = K1(v2)", "v4 = v1 + v0", "v5 = len(v1)")]
    [True, True, False, False]
    >>> steps.put(0, "v3"), steps.put(1, "v9"), steps.table().tolist()[:5]
    (True, False, [3, 4, 3, 2, 1])
    """

    def __init__(self, scope: dict[str, Any]) -> None:
        self._scope = scope
        self._numbers = [0.0, 0.0]
        self._steps: list[int] = []
        self._places: dict[str, int] = {}
        self._whole: set[int] = set()
        """Places of whole numbers, with which Python computes in another way."""

    def counted(self, before: str, after: str) -> None:
        """The first two numbers have names."""
        self._places |= {before: 0, after: 1}
        self._whole |= {0, 1}

    def add(self, line: str) -> bool:
        """Have a line done; whether that is possible."""
        found = _BINARY.fullmatch(line)
        if found is not None:
            target, x, sign, y = found.groups()
            left, right = self._find(x), self._find(y)
            if left is None or right is None or {left, right} <= self._whole:
                return False
            if sign == "**" and not _powers_vanish():
                return False
            self._steps += _SIGNS[sign], self._new(target, 0.0), left, right
            return True
        found = _ROOT.fullmatch(line)
        if found is None or self._scope.get(found[2]) is not math.sqrt or found[3] not in self._places:
            return False
        place = self._places[found[3]]
        self._steps += words.ROOT, self._new(found[1], 0.0), place, place
        return True

    def put(self, at: int, text: str) -> bool:
        """Have a number stand at a place among the scalars of the program; whether that is possible."""
        place = self._find(text)
        if place is None:
            return False
        self._steps += words.PUT, at, place, place
        return True

    def table(self) -> np.ndarray:
        """The number of steps, and four words for each."""
        return np.array([len(self._steps) // 4, *self._steps], np.int64)

    def numbers(self) -> np.ndarray:
        """What stands at each place."""
        return np.array(self._numbers)

    def _new(self, name: str, value: float) -> int:
        self._places[name] = len(self._numbers)
        self._numbers.append(value)
        return self._places[name]

    def _find(self, text: str) -> int | None:
        """The place of a name or of a constant."""
        if text in self._places:
            return self._places[text]
        value = self._scope.get(text)
        if _NUMBER.fullmatch(text):
            value = float(text) if re.search(r"[.e]", text) else int(text)
        if type(value) is int and abs(value) < words.EXACT:
            self._whole.add(len(self._numbers))
            return self._new(text, float(value))
        return self._new(text, value) if type(value) is float else None
