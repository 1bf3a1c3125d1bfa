"""Sizes that may be given as one number or as one number per dimension."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["pair"]


def pair(value: int | Iterable[int]) -> tuple[int, int]:
    """Two equal numbers from one, or the two that were given. Raises: ValueError for another count."""
    if isinstance(value, Iterable):
        both = tuple(value)
        if len(both) != 2:
            raise ValueError(f"expected one number or two, got {both}")
        return both
    return value, value
