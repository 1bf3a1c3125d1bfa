"""Where the user's code stands."""

from __future__ import annotations

import os
import sys
from types import FrameType

MATCHER = "<matcher of "
REPLAY = "<replay>"
"""How the file names of generated text begin: of matchers, and of replays."""

_INSIDE = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, MATCHER, REPLAY)


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


def user_constants() -> tuple[object, ...]:
    """The constants in the text of the nearest caller outside this package."""
    frame = _user_frame()
    return () if frame is None else frame.f_code.co_consts
