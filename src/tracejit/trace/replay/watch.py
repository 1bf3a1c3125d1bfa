"""The watch of a replay: its guards as a table of words, with the few that Python has to look at beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.guards import Guard
from tracejit.trace.replay.words import NEVER, Word, peek, table, tensor_words, words_of
from tracejit.trace.tree import External

_VERSION = 24
_PATIENCE = 2
"""How often a dict may change, with all guards still holding, before its entries are watched one by one."""


class Watch:
    """Guards of the world and of the tensors that stay the same.

    `tables` holds the one table that `hold` compares; where it fails, `renew` looks at everything and makes a new one.
    """

    def __init__(
        self, guards: list[Guard], tensors: list[tuple[Tensor, External]], leaves: set[int], own: frozenset[int]
    ) -> None:
        self.guards = guards
        self.tensors = tensors
        self.leaves = leaves
        self.moving = set(own)
        self.changed: dict[int, int] = {}
        self.versions: dict[int, int] = {}
        self.tables: list[np.ndarray] = [NEVER]
        self.left: list[Guard] = []
        self.loose: list[tuple[Tensor, External]] = []
        self.failed: Guard | None = None

    def look(self) -> bool:
        """Whether what no word tells holds."""
        for guard in self.left:
            if not guard.holds():
                self.failed = guard
                return False
        return all(self._fits(t, external) for t, external in self.loose)

    def _fits(self, t: Tensor, external: External) -> bool:
        return external.admits(t) and (t._hooks is None or id(t) not in self.leaves)

    def renew(self) -> bool:
        """Whether everything holds, looked at by Python; the words are then those of now."""
        # The words first: what changes while Python looks is then seen the next time.
        self._notice()
        words: dict[int, int] = {}
        left: list[Guard] = []
        loose: list[tuple[Tensor, External]] = []
        moving = frozenset(self.moving)
        for guard in self.guards:
            self._add(words_of(guard, moving), words, left, guard)
        for t, external in self.tensors:
            self._add(tensor_words(t, id(t) in self.leaves), words, loose, (t, external))
        self.failed = next((g for g in self.guards if not g.holds()), None)
        if self.failed is not None or not all(self._fits(t, external) for t, external in self.tensors):
            return False
        self.left[:], self.loose[:] = left, loose
        self.tables[0] = table(list(words.items()))
        return True

    def _add(self, found: list[Word] | None, words: dict[int, int], rest: list[Any], x: Any) -> None:
        if found is None or any(words.get(address, then) != then for address, then in found):
            rest.append(x)
            return
        for address, then in found:
            words.setdefault(address, then)

    def _notice(self) -> None:
        """Find the dicts that change all the time."""
        for guard in self.guards:
            if guard.kind in ("item", "keys") and id(guard.container) not in self.moving:
                version = peek(id(guard.container) + _VERSION)
                before = self.versions.get(id(guard.container))
                if before is not None and before != version:
                    count = self.changed[id(guard.container)] = self.changed.get(id(guard.container), 0) + 1
                    if count > _PATIENCE:
                        self.moving.add(id(guard.container))
                self.versions[id(guard.container)] = version
