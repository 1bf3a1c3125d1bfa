"""Functions whose result depends on values: they read memory, so a compiled region computes pending values first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from tracejit.tensor.state import state

F = TypeVar("F", bound=Callable[..., Any])


def host(function: F) -> F:
    """Make a function of real memory one that a compiled region runs eagerly, after what is pending."""

    @wraps(function)
    def front(*args: Any, **kwargs: Any) -> Any:
        session = state.session
        return function(*args, **kwargs) if session is None else session.host(function, args, kwargs)

    return front  # type: ignore[return-value]
