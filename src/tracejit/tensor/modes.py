"""Grad modes: whether operations are recorded for gradients, as blocks, decorators and switches.

In: blocks and functions of the user's. Out: the thread's mode.
Must not know: what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from tracejit.runtime.entry import ENTRY, MODE_AT, MODE_CLASS, MODE_DICT, MODE_KEY, MODE_MAKER, MODE_THREAD
from tracejit.runtime.objects import slot_place
from tracejit.tensor.state import state


class _Mode:
    """A grad mode as a context manager and as a decorator.

    What a block does is native (`_make_native`): it keeps the mode before each entry that has not been left, as
    (rest, mode), the last one first, and the thread's mode is an entry of its state's dict.
    """

    __slots__ = ("_before",)

    if TYPE_CHECKING:

        def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
            """A mode that was not entered, or a function that runs in it."""

        def __enter__(self) -> None:
            """Put the thread into the mode."""

        def __exit__(self, kind: object, error: object, traceback: object) -> None:
            """Put the thread into the mode before."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run a function in this mode."""
        mode = type(self)

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with mode():
                return function(*args, **kwargs)

        return wrapped


class no_grad(_Mode):
    """Operations inside are not recorded for gradients; context manager or decorator.

    >>> import tracejit as tj
    >>> x = tj.ones(2, requires_grad=True)
    >>> with tj.no_grad():
    ...     (x * 2).requires_grad
    False
    """

    __slots__ = ()


class enable_grad(_Mode):
    """Operations inside are recorded for gradients again; context manager or decorator."""

    __slots__ = ()


class inference_mode(no_grad):
    """Like `no_grad`, or, with `mode=False`, like `enable_grad`."""

    __slots__ = ()

    def __new__(cls, mode: bool | Callable[..., Any] = True) -> Any:
        if callable(mode):
            return _decorated(cls, mode)
        return no_grad.__new__(cls) if mode else enable_grad()


def _decorated(mode: type[_Mode], function: Callable[..., Any]) -> Callable[..., Any]:
    """What a class of modes gives that is called with a function: `@no_grad`."""
    return mode()(function)


def _make_native() -> None:
    """Give the modes their methods: a block costs a quarter of a microsecond so, and twice that in Python."""
    ENTRY.know({MODE_THREAD: state, MODE_DICT: "__dict__", MODE_KEY: "grad_enabled"})
    ENTRY.know({MODE_CLASS: _Mode, MODE_MAKER: _decorated})
    ENTRY.state[MODE_AT] = slot_place(_Mode, "_before")
    _Mode.__new__ = ENTRY.static_method("__new__", "new_mode")  # type: ignore[method-assign]
    _Mode.__exit__ = ENTRY.method(_Mode, "__exit__", "leave_mode")  # type: ignore[method-assign]
    no_grad.__enter__ = ENTRY.method(no_grad, "__enter__", "enter_no_grad")  # type: ignore[method-assign]
    enable_grad.__enter__ = ENTRY.method(enable_grad, "__enter__", "enter_grad")  # type: ignore[method-assign]


_make_native()


class set_grad_enabled(_Mode):
    """Switch recording for gradients on or off, at once; as a context manager until its end."""

    def __new__(cls, mode: bool) -> Any:
        return object.__new__(cls)

    def __init__(self, mode: bool) -> None:
        self.enabled = bool(mode)
        self._before = (None, state.grad_enabled)
        state.grad_enabled = self.enabled

    def __enter__(self) -> None:
        state.grad_enabled = self.enabled

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run a function in this mode."""
        enabled = self.enabled
        state.grad_enabled = self._before[1]

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with set_grad_enabled(enabled):
                return function(*args, **kwargs)

        return wrapped


def is_grad_enabled() -> bool:
    """Whether operations are recorded for gradients."""
    return state.grad_enabled
