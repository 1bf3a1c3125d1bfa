"""Kinds of calls that earlier processes made programs for.

In: what tells calls of composites from one another, the composite first. Out: whether there should be programs on disk.
Must not know: what the programs are; whoever remembers wrongly only builds early.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tracejit.compiler import version
from tracejit.config import SETTINGS
from tracejit.runtime.cache import STORE, UNIT


def _digest(kind: tuple[Any, ...]) -> str:
    composite, *told = kind
    content = f"{version()}\n{composite.__module__}.{composite.__qualname__}\n{told!r}"
    return hashlib.sha256(content.encode()).hexdigest()


def was_made(kind: tuple[Any, ...]) -> bool:
    """Whether there was a program for calls of a kind. Cost: a small file is read."""
    # Reading it says that it is in use, so that it is kept as long as the programs are.
    return SETTINGS.trees and STORE.get(_digest(kind), UNIT) is not None


def remember(kind: tuple[Any, ...]) -> None:
    """Calls of a kind have a program now, which later processes take at once. Cost: a small file, the first time."""
    if SETTINGS.trees and not was_made(kind):
        STORE.put(_digest(kind), kind[0].__qualname__, "", b"", UNIT)
