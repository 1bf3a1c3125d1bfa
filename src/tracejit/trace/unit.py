"""What a recorder gathers about the event that it is in."""

from __future__ import annotations

from typing import Any

from tracejit.trace.tree import Number, Step


class Unit:
    """The event that is being recorded; `broken` says why it cannot be one, if so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[Step] = []
        self.draws: list[tuple[Any, Number, Number, int]] = []
        self.assigned: list[tuple[int, int, Any]] = []
        self.shown: list[tuple[int, int]] = []
        self.renewed: list[tuple[int, int]] = []
        self.broken: str | None = None
