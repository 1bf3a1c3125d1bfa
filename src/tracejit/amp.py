"""Automatic mixed precision, with PyTorch's names.

In: what a program asks for. Out: `autocast`, which is part of the tensor package, and a scaler of losses.
Must not know: kernels.

As in PyTorch without a GPU, asking for either on "cuda" warns and turns it off.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from tracejit import cuda
from tracejit.dtypes import float16
from tracejit.tensor import Tensor, autocast, composite, isfinite, mul, no_grad
from tracejit.tensor import all as all_of

__all__ = ["GradScaler", "autocast", "is_autocast_available"]

_READY, _UNSCALED, _STEPPED = "ready", "unscaled", "stepped"


def is_autocast_available(device_type: str) -> bool:
    """Whether operands on a kind of device can be cast: on the CPU."""
    return device_type == "cpu"


@composite(mutates=("grads",))
def _unscale(grads: list[Tensor], *, inverse: Any) -> Tensor:
    """Multiply the gradients; gives whether all of them were finite."""
    finite = None
    for grad in grads:
        one = all_of(isfinite(grad))
        finite = one if finite is None else finite & one
        grad.mul_(inverse)
    assert finite is not None
    return finite


class GradScaler:
    """Scales a loss so that small gradients do not vanish in 16 bits, and leaves out steps whose gradients overflow.

    The scale grows by a factor after so many steps without an overflow and shrinks by another at one.

    Edge: for "cuda" without a GPU a UserWarning says that it is off; a scaler that is off changes nothing.
    Raises: ValueError or AssertionError for factors that do not grow and shrink.
    Source: as PyTorch's, with the scale as a Python number.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(2))
    >>> optimizer, scaler = tj.optim.SGD([w], lr=0.5), GradScaler("cpu", init_scale=4.0)
    >>> scaler.scale(w.sum()).backward()
    >>> w.grad
    tensor([4., 4.])
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> w.grad, w.tolist()
    (tensor([1., 1.]), [0.5, 0.5])
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
        self._enabled = bool(enabled)
        if enabled and device != "cpu" and not (device == "cuda" and cuda.is_available()):
            warnings.warn(f"{device} is not available. Disabling GradScaler.", UserWarning, stacklevel=2)
            self._enabled = False
        if not self._enabled:
            return
        if growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._scale = float(init_scale)
        self._growth_factor = float(growth_factor)
        self._backoff_factor = float(backoff_factor)
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        # Of each optimizer, by its id, since the last update: how far it is, and whether a gradient overflowed.
        self._stages: dict[int, str] = {}
        self._overflowed: dict[int, bool] = {}

    def scale(self, outputs: Any) -> Any:
        """The outputs, a tensor or nested sequences of them, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return mul(outputs, self._scale)
        if isinstance(outputs, Iterable):
            scaled = [self.scale(x) for x in outputs]
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else iter(scaled)  # type: ignore[call-arg]
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, before they are clipped, say.

        Raises: RuntimeError at a second time before `update`, or behind `step`; ValueError for float16 gradients.
        """
        if not self._enabled:
            return
        stage = self._stages.get(id(optimizer), _READY)
        if stage == _UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage == _STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        self._unscale(optimizer)

    def _unscale(self, optimizer: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(g.dtype is float16 for g in grads):
            raise ValueError("Attempting to unscale FP16 gradients.")
        if grads:
            with no_grad():
                finite = _unscale(grads, inverse=1.0 / self._scale)
            # New dicts in place of changed ones: what a compiled step looks at is then known before it runs.
            self._overflowed = {**self._overflowed, id(optimizer): not finite.item()}
        self._stages = {**self._stages, id(optimizer): _UNSCALED}

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(*args, **kwargs)``, unless a gradient is infinite or NaN; gradients are unscaled before.

        Raises: RuntimeError for a closure, or at a second time before `update`.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        stage = self._stages.get(id(optimizer), _READY)
        if stage == _STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if stage == _READY:
            self._unscale(optimizer)
        if id(optimizer) not in self._overflowed:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        self._stages = {**self._stages, id(optimizer): _STEPPED}
        return None if self._overflowed[id(optimizer)] else optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        """Let the scale grow or shrink, or set it.

        Raises: AssertionError if no gradient was looked at since the last time.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        else:
            if not self._overflowed:
                raise AssertionError("No inf checks were recorded prior to update.")
            if any(self._overflowed.values()):
                self._scale *= self._backoff_factor
                self._growth_tracker = 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self._growth_interval:
                    # A float32 in PyTorch, which does not grow to infinity.
                    if self._scale * self._growth_factor <= _LARGEST:
                        self._scale *= self._growth_factor
                    self._growth_tracker = 0
        self._stages = {}
        self._overflowed = {}

    def get_scale(self) -> float:
        """The scale, 1 if it is off."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by when it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by when it grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by when it shrinks."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by when it shrinks."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """How many steps without an overflow let the scale grow."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set how many steps without an overflow let the scale grow."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether losses are scaled."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scale, how it changes and for how many steps it has not; nothing if it is off."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Raises: RuntimeError for that of a scaler which was off.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]


_LARGEST = (2 - 2.0**-23) * 2.0**127
