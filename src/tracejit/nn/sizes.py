"""Sizes that may be given as one number or as one number per dimension."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["sizes"]


def sizes(value: int | Iterable[int], count: int) -> tuple[int, ...]:
    """As many equal numbers from one, or those that were given. Raises: ValueError for another count."""
    if not isinstance(value, Iterable):
        return (value,) * count
    given = tuple(value)
    if len(given) != count:
        raise ValueError(f"expected one number or {count}, got {given}")
    return given
