"""The tree of a compiled function as text, beside the lines of the user's source."""

from __future__ import annotations

import linecache
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tracejit.trace.tree import Event, Place, Segment, Stop

_PERIOD = 64
"""Rows of the longest loop body that is folded."""

Row = tuple[str, tuple[str, ...]]
"""A line of the user's source, and the events that it made."""


def source_of(line: str) -> str:
    """The text of "file.py:12", empty if it is not at hand.

    >>> source_of("nowhere.py:3")
    ''
    """
    file, _, number = line.rpartition(":")
    return linecache.getline(file, int(number)).strip() if number.isdigit() else ""


def short(line: str) -> str:
    """ "file.py:12" with a path from the working directory on, if it lies in there."""
    inside = os.getcwd() + os.sep
    return line.removeprefix(inside)


def brief(names: Sequence[str]) -> str:
    """Names in order, equal ones once with their number.

    >>> brief(["add", "mul", "add"])
    'add x2, mul'
    """
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in Counter(names).items())


def fold(rows: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """Rows as blocks with how often each is repeated; a row that is not repeated is a block of its own.

    >>> fold(["a", "b", "c", "b", "c", "b", "c", "d"])
    [(1, ['a']), (3, ['b', 'c']), (1, ['d'])]
    """
    out: list[tuple[int, list[Any]]] = []
    at = 0
    while at < len(rows):
        length, times = 1, 1
        for period in range(1, min(_PERIOD, (len(rows) - at) // 2) + 1):
            if rows[at] != rows[at + period]:
                continue
            block, n = rows[at : at + period], 1
            while rows[at + n * period : at + (n + 1) * period] == block:
                n += 1
            if period * (n - 1) > length * (times - 1):
                length, times = period, n
        out.append((times, list(rows[at : at + length])))
        at += length * times
    return out


class Outline:
    """Draws a tree: a row for each line of the user's source, branches one after another.

    Loops that repeat the same rows are folded. Where the tree branches, the first way goes on and the others are
    numbered and follow.
    """

    def __init__(self, root: Segment) -> None:
        self.lines: list[str] = []
        self._rows: list[Row] = []
        self._branches = 0
        self._todo: list[tuple[int, Event | Stop]] = []
        self._walk(root.root)
        while self._todo:
            number, way = self._todo.pop()
            self.lines.append(f"branch {number}:")
            following = self._take(way)
            if following is not None:
                self._walk(following)
        columns = [line.split("\t", 2) for line in self.lines]
        widths = [max((len(c[k]) for c in columns if len(c) > 1), default=0) for k in (0, 1)]
        form = f"{{:{widths[0]}}}  {{:{widths[1]}}}  {{}}"
        self.lines = [c[0] if len(c) == 1 else form.format(*c).rstrip() for c in columns]

    def _walk(self, place: Place) -> None:
        """Draw one way until it ends."""
        following: Place | None = place
        while following is not None:
            ways: list[Event | Stop] = [*following.events]
            ways += [stop for stop in (following.cut, following.end) if stop is not None]
            if len(ways) > 1:
                self._flush()
                numbered = [(self._branches + k, way) for k, way in enumerate(ways[1:], 1)]
                self._branches += len(numbered)
                self.lines += [f"  or branch {k}: {_first(way)}" for k, way in numbered]
                self._todo += reversed(numbered)
            following = self._take(ways[0]) if ways else None
        self._flush()

    def _take(self, way: Event | Stop) -> Place | None:
        """Draw an event or the end of a segment; what follows it."""
        if isinstance(way, Event):
            if self._rows and self._rows[-1][0] == way.line:
                self._rows[-1] = (way.line, (*self._rows[-1][1], way.name))
            else:
                self._rows.append((way.line, (way.name,)))
            return way.next
        self._flush()
        if way.next is None:
            self.lines.append("end")
            return None
        self.lines.append(f"-- cut: {way.reason} ({short(way.line)})")
        return way.next.root

    def _flush(self) -> None:
        for times, block in fold(self._rows):
            if times > 1:
                self.lines.append(f"{times} times:")
            for line, names in block:
                margin = "  " if times > 1 else ""
                self.lines.append(f"{margin}{brief(names)}\t{short(line)}\t{source_of(line)}")
        self._rows = []


def _first(way: Event | Stop) -> str:
    if isinstance(way, Event):
        return f"{way.name} ({short(way.line)})"
    return "end" if way.next is None else f"cut, {way.reason} ({short(way.line)})"


def draw(root: Segment) -> str:
    """The tree below a segment as text."""
    return "\n".join(Outline(root).lines)
