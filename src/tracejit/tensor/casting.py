"""Automatic mixed precision: which operations take their operands in a shorter type, and the block that says so.

In: calls of fronts. Out: the same calls with operands in another type. Must not know: records, kernels.

What is cast is decided by PyTorch's lists for the CPU. A cast is an operation like any other, so its gradient goes back
in the type of what was cast, and a compiled region sees casts and what they feed. Inside of what is listed nothing is
cast any more.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from tracejit import dtypes
from tracejit.devices import device
from tracejit.dtypes import dtype as dtype_
from tracejit.runtime.cuda.driver import available
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

SHORT, SINGLE, WIDEST = "short", "single", "widest"
"""Operands in the type of the block, in float32, in the widest type that is there."""


class Defaults:
    """What a block takes that says nothing of it: a type for each kind of device, whether casts of weights are kept."""

    __slots__ = ("cache_enabled", "enabled", "types")

    def __init__(self, types: dict[str, dtype_], enabled: dict[str, bool], cache_enabled: bool) -> None:
        self.types = types
        self.enabled = enabled
        self.cache_enabled = cache_enabled


_FIRST = Defaults({"cpu": dtypes.bfloat16, "cuda": dtypes.float16}, {}, True)


def _defaults() -> Defaults:
    return state.autocast_defaults or _FIRST


def _set(types: dict[str, dtype_] | None, enabled: dict[str, bool] | None, cache: bool | None) -> None:
    now = _defaults()
    made = Defaults(
        now.types if types is None else types,
        now.enabled if enabled is None else enabled,
        now.cache_enabled if cache is None else cache,
    )
    state.autocast_defaults = made
    active = {kind: made.types[kind] for kind, on in made.enabled.items() if on}
    state.autocast = active or None


def _is_castable(x: Any, active: dict[str, dtype_]) -> bool:
    kind = x._dtype
    return kind.is_floating_point and kind is not dtypes.float64 and x.device.type in active


def _short(x: Tensor, active: dict[str, dtype_]) -> Any:
    """A tensor in the block's type; the cast of a weight is kept until the outermost block ends."""
    kind = active[x.device.type]
    if x._dtype is kind:
        return x
    kept = x._requires_grad and x._node is None and x._base is None and x._dtype is dtypes.float32
    if not kept or not _defaults().cache_enabled or not state.autocast_depth:
        return to_dtype(x, kind)
    # Without gradients the cast has no history, so that it is another one.
    key = id(x), kind, state.grad_enabled
    found = state.autocast_cache.get(key)
    if found is None:
        found = state.autocast_cache[key] = (x, to_dtype(x, kind))
    return found[1]


def _walk(x: Any, cast: Callable[[Tensor], Any]) -> Any:
    if isinstance(x, Tensor):
        return cast(x)
    if type(x) in (list, tuple):
        return type(x)(_walk(e, cast) for e in x)
    return x


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    return [t for e in x for t in _tensors(e)] if isinstance(x, (list, tuple)) else []


def _caster(operands: str, args: tuple[Any, ...], active: dict[str, dtype_]) -> Callable[[Tensor], Any]:
    if operands == SHORT:
        return lambda x: _short(x, active) if _is_castable(x, active) else x
    wanted = dtypes.float32
    if operands == WIDEST:
        found = [x for x in _tensors(list(args)) if _is_castable(x, active)]
        wanted = next((active[x.device.type] for x in found), wanted)
        for x in found:
            wanted = dtypes.promote_types(wanted, x._dtype)
    return lambda x: to_dtype(x, wanted) if _is_castable(x, active) else x


def call_cast(
    operands: str | None, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Any:
    """Call a function with its operands cast, and without casting inside of it; None casts no operand.

    Fronts that PyTorch lists call themselves by it where `state.autocast` is not None.
    """
    active = state.autocast
    assert active is not None
    kwargs = kwargs or {}
    if operands is not None:
        cast = _caster(operands, (*args, *kwargs.values()), active)
        args = tuple(_walk(a, cast) for a in args)
        kwargs = {k: _walk(a, cast) for k, a in kwargs.items()}
    state.autocast = None
    try:
        return function(*args, **kwargs)
    finally:
        state.autocast = active


def uncast(function: F) -> F:
    """Make a function run as outside of all blocks."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if state.autocast is None:
            return function(*args, **kwargs)
        return call_cast(None, function, args, kwargs)

    return run  # type: ignore[return-value]


class autocast:
    """A block, or a decorated function, in which products, convolutions and attention take operands of a shorter type.

    Losses and what else PyTorch lists for the CPU take float32, `cat` and `stack` the widest type that is there. All
    others take what they are given. Each cast of a weight is kept until the outermost block ends. Run backward passes
    outside: each step of theirs has the type of the step forward.

    DType: bfloat16 or float16, on the CPU bfloat16 if none is given; float64 stays as it is.
    Edge: for another type, and on "cuda" without a GPU, a UserWarning says that it is off.
    Raises: what `device` raises for a name that is none.

    >>> import tracejit as tj
    >>> with tj.autocast("cpu"):
    ...     (tj.ones(2, 3) @ tj.ones(3, 2)).dtype
    tracejit.bfloat16
    """

    __slots__ = ("_before", "cache_enabled", "device", "enabled", "fast_dtype")

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        complaint = self.complaint(device_type, dtype, enabled)
        if complaint:
            warnings.warn(complaint, UserWarning, stacklevel=2)
        self.device = device(device_type).type
        self.fast_dtype = get_autocast_dtype(self.device) if dtype is None else dtype
        self.enabled = bool(enabled) and not complaint
        self.cache_enabled = _defaults().cache_enabled if cache_enabled is None else bool(cache_enabled)
        self._before: list[Any] = []

    @staticmethod
    def complaint(device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None) -> str:
        """Why an enabled block is off nevertheless, or nothing."""
        kind = device(device_type).type
        if not enabled:
            return ""
        if kind != "cpu" and not (kind == "cuda" and available()):
            return f"{kind} is not available. Disabling autocast."
        if (get_autocast_dtype(kind) if dtype is None else dtype) not in dtypes.HALVES:
            return (
                "In CPU autocast, but the target dtype is not supported. Disabling autocast.\n"
                "CPU Autocast only supports dtype of torch.bfloat16, torch.float16 currently."
            )
        return ""

    def __enter__(self) -> autocast:
        now = _defaults()
        self._before.append((state.autocast, state.autocast_defaults))
        _set(
            {**now.types, self.device: self.fast_dtype},
            {**now.enabled, self.device: self.enabled},
            self.cache_enabled,
        )
        if not state.autocast_depth:
            state.autocast_cache = {}
        state.autocast_depth += 1
        return self

    def __exit__(self, *exception: object) -> None:
        state.autocast_depth -= 1
        if not state.autocast_depth:
            clear_autocast_cache()
        state.autocast, state.autocast_defaults = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run a function in such a block."""

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether operands on a kind of device are cast."""
    active = state.autocast
    return active is not None and device(device_type).type in active


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Cast operands on a kind of device from here on, or no more."""
    _set(None, {**_defaults().enabled, device(device_type).type: bool(enabled)}, None)


def get_autocast_dtype(device_type: str) -> dtype_:
    """The type that operands on a kind of device are cast to.

    Raises: RuntimeError for a kind of device that has none.
    """
    kind = device(device_type).type
    found = _defaults().types.get(kind)
    if found is None:
        raise RuntimeError(f"unsupported autocast device_type '{kind}'")
    return found


def set_autocast_dtype(device_type: str, dtype: dtype_) -> None:
    """Set the type that operands on a kind of device are cast to.

    >>> get_autocast_dtype("cpu")
    tracejit.bfloat16
    """
    _set({**_defaults().types, device(device_type).type: dtype}, None, None)


def is_autocast_cache_enabled() -> bool:
    """Whether casts of weights are kept until the outermost block ends."""
    return _defaults().cache_enabled


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Keep casts of weights until the outermost block ends, or not."""
    _set(None, None, bool(enabled))


def clear_autocast_cache() -> None:
    """Forget the casts that are kept."""
    state.autocast_cache = {}
