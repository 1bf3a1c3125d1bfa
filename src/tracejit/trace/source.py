"""Where the user's code stands."""

from __future__ import annotations

import dis
import functools
import os
import sys
from types import CodeType, FrameType

MATCHER = "<matcher of "
REPLAY = "<replay>"
"""How the file names of generated text begin: of matchers, and of replays."""

_INSIDE = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, MATCHER, REPLAY)

_LOADS = frozenset(("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF"))
"""Instructions that put one value on the stack and take none."""


@functools.lru_cache(maxsize=1024)
def is_user_file(name: str) -> bool:
    """Whether a file lies outside this package and is not text that it generated."""
    return not name.startswith(_INSIDE)


def _user_frame() -> FrameType | None:
    """The nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_line() -> str:
    """File and line of the nearest caller outside this package, as "file.py:12"."""
    frame = _user_frame()
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@functools.lru_cache(maxsize=64)
def _instructions(code: CodeType) -> dict[int, tuple[dis.Instruction, ...]]:
    """Each instruction by its place, behind the two before it."""
    found = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    return {found[k].offset: tuple(found[max(0, k - 2) : k + 1]) for k in range(len(found))}


def user_literal() -> object:
    """The number that is written in the text as an operand of the operator that the nearest caller outside this
    package is at, as in `x / 2` and `2 * x`; None if there is none.
    """
    frame = _user_frame()
    if frame is None:
        return None
    *before, operator = _instructions(frame.f_code).get(frame.f_lasti, (None,))
    # A jump may bring another operand, as in `x / (y or 2)`.
    if operator is None or operator.opname != "BINARY_OP" or operator.is_jump_target or len(before) < 2:
        return None
    left, right = before
    if right.opname == "LOAD_CONST":
        return right.argval
    return left.argval if left.opname == "LOAD_CONST" and right.opname in _LOADS else None
