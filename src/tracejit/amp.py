"""Automatic mixed precision, with PyTorch's names: programs that use it run, without it.

In: what a program asks for. Out: contexts and scalers that do nothing, or an error where doing nothing would be another
program. Must not know: kernels.

As in PyTorch without a GPU, asking for it on "cuda" warns and turns it off. bfloat16 does not exist here, so asking
for it on the CPU is an error.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from tracejit.devices import device

__all__ = ["GradScaler", "autocast"]


class autocast:
    """A block, or a decorated function, in which products may be computed in a shorter type: never here.

    Edge: on "cuda" a UserWarning says that it is off. Raises: NotImplementedError for ``autocast("cpu")`` that is
    enabled; what `device` raises for a name that is none.

    >>> with autocast("cuda", enabled=False):
    ...     pass
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        self.device = device(device_type).type
        if enabled and self.device == "cpu":
            raise NotImplementedError(
                "autocast('cpu') is not supported: it would compute products in bfloat16, which does not exist here; "
                "pass enabled=False"
            )
        if enabled:
            warnings.warn(f"{self.device} is not available. Disabling autocast.", UserWarning, stacklevel=2)

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside


class GradScaler:
    """Scales a loss so that gradients of float16 do not vanish: turned off, as there are none of a GPU.

    Edge: for "cuda" a UserWarning says that it is off. Raises: NotImplementedError for ``GradScaler("cpu")`` that is
    enabled.

    >>> scaler = GradScaler("cuda", enabled=False)
    >>> scaler.is_enabled(), scaler.scale(2.0)
    (False, 2.0)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and device == "cpu":
            raise NotImplementedError("GradScaler('cpu') is not supported; pass enabled=False")
        if enabled:
            warnings.warn(f"{device} is not available. Disabling GradScaler.", UserWarning, stacklevel=2)

    def scale(self, outputs: Any) -> Any:
        """The outputs as they are."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Leave the gradients as they are."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(*args, **kwargs)``."""
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        """Keep the scale, which is 1."""

    def get_scale(self) -> float:
        """The scale: 1."""
        return 1.0

    def is_enabled(self) -> bool:
        """Whether losses are scaled: no."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a scaler that is off has no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing from a state."""
