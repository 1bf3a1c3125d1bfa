"""Functions whose result depends on values: they read memory, so a compiled region computes pending values first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from tracejit.dtypes import bfloat16
from tracejit.tensor.state import state

F = TypeVar("F", bound=Callable[..., Any])


def comparable(tensor: Any) -> Any:
    """A tensor's memory for functions of NumPy that sort or compare: bfloat16, which they do not know, as float32."""
    array = tensor._data()
    return array.astype(np.float32) if tensor._dtype is bfloat16 else array


def host(function: F) -> F:
    """Make a function of real memory one that a compiled region runs eagerly, after what is pending."""

    @wraps(function)
    def front(*args: Any, **kwargs: Any) -> Any:
        session = state.session
        return function(*args, **kwargs) if session is None else session.host(function, args, kwargs)

    return front  # type: ignore[return-value]
