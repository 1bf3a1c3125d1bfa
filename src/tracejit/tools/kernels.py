"""The kernel cache for people: list it, empty it."""

from __future__ import annotations

import time

from tracejit.config import SETTINGS
from tracejit.runtime import cache
from tracejit.tools import table


def listing() -> str:
    """Every kernel on disk, the most recently used first, with a line of totals."""
    found = cache.entries()
    now = time.time()
    rows = [
        [entry.name, entry.digest[:16], f"{entry.size / 1024:.1f}", f"{(now - entry.used) / 86400:.1f}"]
        for entry in found
    ]
    total = f"{cache.summary()} in {SETTINGS.cache_dir}"
    return f"{table.render(['kernel', 'digest', 'KiB', 'days unused'], rows, left=2)}\n{total}" if rows else total


def clear() -> str:
    """Remove every kernel; what was done."""
    return f"removed {cache.clear()} kernels from {SETTINGS.cache_dir}"
