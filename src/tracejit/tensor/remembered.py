"""Kinds of calls that earlier processes made programs for.

In: what tells calls of a composite from one another. Out: whether its programs should be on disk.
Must not know: what the programs are; whoever remembers wrongly only builds early.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tracejit.compiler import version
from tracejit.config import SETTINGS
from tracejit.runtime.cache import STORE, UNIT


def _digest(name: str, kind: tuple[Any, ...]) -> str:
    return hashlib.sha256(f"{version()}\n{name}\n{kind!r}".encode()).hexdigest()


def was_made(name: str, kind: tuple[Any, ...]) -> bool:
    """Whether there was a program for calls of a kind. Cost: some 30 us."""
    return SETTINGS.trees and STORE.has(_digest(name, kind), UNIT)


def remember(name: str, kind: tuple[Any, ...]) -> None:
    """Calls of a kind have a program now, which later processes take at once. Cost: a small file."""
    if SETTINGS.trees:
        STORE.put(_digest(name, kind), name, "", b"", UNIT)
