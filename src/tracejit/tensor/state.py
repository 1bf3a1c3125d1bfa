"""What a thread is doing: whether it records gradients, and the compiled region it is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Session(Protocol):
    """A compiled region that is being recorded or followed: it takes over what tensors do."""

    def apply(self, op: Any, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Apply a record."""

    def assign(self, target: Any, value: Any) -> None:
        """Let `target` hold `value` from here on, in its own memory."""

    def composite(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a composite."""

    def backward(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Run the gradient engine."""

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that works on real memory."""

    def read(self, tensor: Any) -> Any:
        """The memory of a tensor, with the value it has at this point."""

    def detach(self, tensor: Any) -> Any:
        """The same memory without history."""

    def stands_on(self, tensor: Any, value: Any) -> bool:
        """Whether `value` was detached from the tensor."""

    def require(self, tensor: Any, value: bool) -> None:
        """Let a leaf require gradients, or no longer."""

    def finish(self) -> None:
        """The region's Python is done."""

    def draw(self, generator: Any, count: int) -> tuple[Any, Any]:
        """Seed and first offset of `count` random operations."""


class State(threading.local):
    """The state of one thread."""

    session: Session | None
    grad_enabled: bool
    gradients_on_gpu: bool
    # The innermost composite that runs operation by operation, outside of regions.
    composite: Any
    # Of automatic casting (tensor/casting.py): the type of each kind of device, or None where nothing is cast; what
    # blocks take that do not say; how many are open; the casts that are kept.
    autocast: Any
    autocast_defaults: Any
    autocast_depth: int
    autocast_cache: Any
    # Of a running region: the version cells of tensors whose memory NumPy arrays show, with a look at each array.
    exposed: list[tuple[Any, Any]] | None

    def __init__(self) -> None:
        # In each thread's own dictionary, where the grad modes change it: a `with` costs a quarter less so.
        self.session = None
        self.grad_enabled = True
        self.gradients_on_gpu = False
        self.composite = None
        self.autocast = self.autocast_defaults = self.autocast_cache = None
        self.autocast_depth = 0
        self.exposed = None


state = State()


@contextmanager
def untraced() -> Iterator[None]:
    """What is made inside comes from outside of the compiled region that the thread is in."""
    session, state.session = state.session, None
    try:
        yield
    finally:
        state.session = session
