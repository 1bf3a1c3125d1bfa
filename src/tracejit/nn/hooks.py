"""Handles of the callables that a Module runs around its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

__all__ = ["Hooks", "RemovableHandle"]


class Hooks(dict[int, tuple[Callable[..., Any], bool, bool]]):
    """Registered callables in call order: key -> (callable, takes keyword arguments, runs even after an error)."""

    def __init__(self) -> None:
        super().__init__()
        self.next_key = 0

    def register(
        self, hook: Callable[..., Any], *, with_kwargs: bool, always_call: bool, prepend: bool
    ) -> RemovableHandle:
        """Add a callable at the end, or at the front with ``prepend``."""
        key = self.next_key
        self.next_key += 1
        if prepend:
            others = dict(self)
            self.clear()
            self[key] = (hook, with_kwargs, always_call)
            self.update(others)
        else:
            self[key] = (hook, with_kwargs, always_call)
        return RemovableHandle(self, key)


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook out again; also a context manager."""

    def __init__(self, hooks: Hooks, key: int) -> None:
        self._hooks = ref(hooks)
        self.id = key

    def remove(self) -> None:
        """Take the hook out. Edge: a second call does nothing."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
