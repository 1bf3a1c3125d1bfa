"""Shorter text for what a replay's own stores make likely: counters that are one object, gradients that it gave."""

from __future__ import annotations

import re
from collections.abc import Callable

_WORD = re.compile(r"\bv\d+\b")
_LOAD = re.compile(r"(v\d+) = ((K\d+)\.get\(('\w+'), MISS\))")
_TYPE = re.compile(r"if not \(type\((v\d+)\) is K\d+\): return MISS")
_SUM = re.compile(r"(v\d+) = (v\d+) \+ (\d+)")


def uses(lines: list[str]) -> dict[str, int]:
    """How often each local name stands in the lines."""
    found: dict[str, int] = {}
    for line in lines:
        for name in _WORD.findall(line):
            found[name] = found.get(name, 0) + 1
    return found


def without_loads(lines: list[str], loads: set[str], kept: set[str]) -> tuple[list[str], list[str]]:
    """Lines but for those that only look at what one of `loads` gives, and those; `kept` are names used elsewhere."""
    names = {line.partition(" = ")[0] for line in lines if line.partition(" = ")[2] in loads}
    count = uses(lines)
    # The load and one look at its type: that there is nothing, the replay's own gradients make untrue.
    names &= {found[1] for line in lines if (found := _TYPE.fullmatch(line))}
    names = {name for name in names if count[name] == 2 and name not in kept}
    apart = [line for line in lines if any(name in names for name in _WORD.findall(line))]
    if not names:
        return lines, []
    return [line for line in lines if line not in apart], apart


def joined_counters(lines: list[str], kept: set[str], together: Callable[[list[str]], str | None]) -> list[str]:
    """The lines with counters that must advance alike compared by identity first.

    An optimizer counts the steps of each parameter, and all stand at one number: the replay stored one object in all of
    them, so the second to last need no arithmetic as long as they hold the object of the first. `together` gives a name
    for some dicts as a tuple, None if they are no plain ones: then one call compares them all.
    """
    count = uses(lines)
    firsts: dict[tuple[str, str], tuple[str, str]] = {}
    out: list[str] = []
    twins: list[str] = []
    before = ("", "")
    rest: list[str] = []

    def close() -> None:
        name = together(twins) if len(twins) > 1 else None
        if name is None:
            out.extend(rest)
        else:
            out.append(f"if not alike({name}, {before[0]}, {before[1]}):")
            out.extend(f"    {line}" for line in rest)
        twins.clear()
        rest.clear()

    at = 0
    while at < len(lines):
        load = _LOAD.fullmatch(lines[at])
        total = _SUM.fullmatch(lines[at + 2]) if load and at + 2 < len(lines) else None
        if (
            load is None
            or total is None
            or lines[at + 1] != f"if not (type({load[1]}) is int): return MISS"
            or total[2] != load[1]
        ):
            close()
            out.append(lines[at])
            at += 1
            continue
        value, expression, container, key = load.groups()
        kind = (expression.partition(".")[2], total[3])
        first = firsts.setdefault(kind, (value, total[1]))
        same = f"if not (not ({total[1]} != {first[1]})): return MISS"
        twin = first[0] != value and at + 3 < len(lines) and lines[at + 3] == same
        if twin and count[value] == 3 and count[total[1]] == 2 and not {value, total[1]} & kept:
            if before != (key, first[0]):
                close()
            before = key, first[0]
            twins.append(container)
            rest.append(f"if {expression} is not {first[0]}:")
            rest += [f"    {line}" for line in lines[at : at + 4]]
            at += 4
        else:
            close()
            out += lines[at : at + 3]
            at += 3
    close()
    return out
