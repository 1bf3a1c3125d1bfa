"""Names of what may go while it has one.

In: objects and what they are called. Out: names that are gone with them.
Must not know: what a name is for.
"""

from __future__ import annotations

from typing import Any
from weakref import ref


class Passing(ref[Any]):
    """A look at an object that others keep, if at all; while this is kept, a name of the object goes with it."""

    __slots__ = ("names", "place")

    place: int
    names: dict[int, Any]


def _forget(gone: Any) -> None:
    # Another object may be where it was.
    gone.names.pop(gone.place, None)


def passing(it: Any, names: dict[int, Any]) -> Passing:
    """What is to be kept for as long as `names`, by `id`, has an object that may go."""
    look = Passing(it, _forget)
    look.place, look.names = id(it), names
    return look
