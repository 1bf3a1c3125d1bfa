"""The watch of a replay: its guards as a table of words, with the few that Python has to look at beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.runtime.objects import peek
from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.guards import ABSENT, Guard
from tracejit.trace.replay.words import NEVER, Word, table, tensor_words, words_of
from tracejit.trace.tree import External

_VERSION = 24
_PATIENCE = 2
"""How often a dict may change, with all guards still holding, before its entries are watched one by one."""


class Watch:
    """Guards of the world and of the tensors that stay the same.

    `tables` holds the one table that `hold` compares, `looks` a function for what no word tells, if there is any. Where
    one of them fails, `renew` looks at everything and makes new ones.
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
        self.looks: list[Callable[[], bool]] = []
        self.failed: Guard | None = None

    def _write(self) -> Callable[[], bool]:
        """A function that looks at what no word tells; where it says no, `renew` has the last word."""
        scope: dict[str, Any] = {"fits": self._fits}
        conditions = []
        for i, guard in enumerate(self.left):
            scope[f"c{i}"], scope[f"k{i}"], scope[f"v{i}"] = guard.container, guard.key, guard.expected
            if guard.kind == "item" and guard.expected is ABSENT:
                conditions.append(f"k{i} not in c{i}")
            elif guard.kind == "item":
                conditions.append(f"c{i}.get(k{i}) is v{i}")
            else:
                scope[f"h{i}"] = guard.holds
                conditions.append(f"h{i}()")
        for i, (t, external) in enumerate(self.loose):
            scope[f"t{i}"], scope[f"e{i}"] = t, external
            conditions.append(f"fits(t{i}, e{i})")
        exec(compile(f"def look(): return {' and '.join(conditions) or True}", "<watch>", "exec"), scope)
        return scope["look"]  # type: ignore[no-any-return]

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
        if self.left != left or self.loose != loose:
            self.left[:], self.loose[:] = left, loose
            self.looks[:] = [self._write()] if left or loose else []
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
