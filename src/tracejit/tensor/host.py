"""Functions whose result depends on values: they read memory, so a compiled region computes pending values first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from tracejit.dtypes import bfloat16
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.gpu import gpu_side
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, on_gpu

F = TypeVar("F", bound=Callable[..., Any])


def shown(name: str) -> Callable[[F], F]:
    """Give a function the name by which users know what it does."""

    def enter(function: F) -> F:
        function.shown = name  # type: ignore[attr-defined]
        return function

    return enter


def name_of(function: Any) -> str:
    """How `explain` calls a function."""
    return getattr(function, "shown", None) or str(getattr(function, "__name__", function)).strip("_")


def comparable(tensor: Any) -> Any:
    """A tensor's memory for functions of NumPy that sort or compare: bfloat16, which they do not know, as float32."""
    array = tensor._data()
    return array.astype(np.float32) if tensor._dtype is bfloat16 else array


def _back(found: Any) -> Any:
    if isinstance(found, Tensor):
        if type(found._array) is not DeviceArray:
            found._array = gpu_side().upload(found._array)
        return found
    if isinstance(found, tuple):
        items = [_back(f) for f in found]
        return type(found)(*items) if hasattr(found, "_fields") else tuple(items)
    return found


def host(function: F) -> F:
    """Make a function of real memory one that a compiled region runs eagerly, after what is pending.

    What it makes on the CPU of tensors on a GPU goes back there.
    """

    @wraps(function)
    def there_and_back(*args: Any, **kwargs: Any) -> Any:
        return _back(function(*args, **kwargs))

    @wraps(function)
    def front(*args: Any, **kwargs: Any) -> Any:
        session = state.session
        run = function
        if DeviceArray.used and any(isinstance(a, Tensor) and on_gpu(a) for a in (*args, *kwargs.values())):
            run = there_and_back  # type: ignore[assignment]
        return run(*args, **kwargs) if session is None else session.host(run, args, kwargs)

    return front  # type: ignore[return-value]
