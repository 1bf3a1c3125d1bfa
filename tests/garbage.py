"""Collecting garbage in the middle of a long run of tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_heap() -> Iterator[None]:
    """Garbage is looked for in what is made from here on alone, not in all that other tests left behind."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
