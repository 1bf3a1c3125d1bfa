"""Devices: where tensors are, as PyTorch names it.

In: what users write as a device. Out: `device` objects, and `require`, which refuses those that are not there.
Must not know: tensors, drivers; who knows what is there says so with `install`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

TYPES = ("cpu", "cuda", "xpu", "mps", "meta")
_known: dict[tuple[str, int | None], device] = {}


class device:
    """The name of a device: a type, and a number where there may be several.

    Edge: a device may be named that is not there. Two devices are equal if type and number are, so
    ``device("cpu") != device("cpu:0")``, and neither equals a string.
    Raises: RuntimeError for a type that is none; TypeError for anything but a name and a number.

    >>> device("cuda:1").type, device("cuda:1").index, device("cpu").index
    ('cuda', 1, None)
    >>> device("cuda", 1) is device("cuda:1")
    True
    """

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __new__(cls, type: Any, index: int | None = None) -> device:
        if isinstance(type, device) and index is None:
            return type
        key = _parsed(type, index)
        found = _known.get(key)
        if found is None:
            found = super().__new__(cls)
            object.__setattr__(found, "type", key[0])
            object.__setattr__(found, "index", key[1])
            # Of two threads that come here at once, both get the one that is kept.
            found = _known.setdefault(key, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"attribute '{name}' of a device cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"attribute '{name}' of a device cannot be deleted")

    def __repr__(self) -> str:
        return f"device(type='{self.type}'{'' if self.index is None else f', index={self.index}'})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)

    def __enter__(self) -> device:
        """Make tensors here while the block runs, in this thread."""
        _choose([*_chosen(), require(self)])
        return self

    def __exit__(self, *exception: object) -> None:
        _choose(_chosen()[:-1])


def _parsed(name: Any, index: Any) -> tuple[str, int | None]:
    if isinstance(name, int) and not isinstance(name, bool):
        if index is not None:
            raise TypeError("device(): expected the name of a device before its index")
        return str(_accelerator()), name
    if not isinstance(name, str):
        raise TypeError(f"device(): expected the name of a device, such as 'cpu', got {type(name).__name__}")
    kind, colon, number = name.partition(":")
    if kind not in TYPES:
        raise RuntimeError(f"Expected one of {', '.join(TYPES)} device type at start of device string: {name}")
    if colon:
        if index is not None:
            raise RuntimeError(f"type (string) must not include an index because index was passed explicitly: {name}")
        if not (number.isascii() and number.isdigit()) or (len(number) > 1 and number[0] == "0"):
            raise RuntimeError(f"Invalid device string: '{name}'")
        index = int(number)
    elif index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        raise TypeError(f"device(): expected a whole number as index, got {type(index).__name__}")
    if index is not None and index < 0:
        raise RuntimeError(f"Device index must not be negative, got {index}")
    return kind, cast("int | None", index)


CPU = device("cpu")
"""Where tensors are unless something else is asked for."""
CUDA = device("cuda", 0)
"""The GPU that tensors can be on."""


_find: Callable[[device], device]
_accelerator: Callable[[], str]
_defaults = threading.local()
_changed = False
"""Whether anybody ever chose a default device: most processes need not ask their threads."""


def install(find: Callable[[device], device], accelerator: Callable[[], str]) -> None:
    """Say who finds the devices beside the CPU.

    `find` gives the device that tensors are on for the one that was named, or raises RuntimeError. `accelerator` gives
    the type of a device that is only a number, or raises RuntimeError.
    """
    global _find, _accelerator
    _find, _accelerator = find, accelerator


def _chosen() -> list[device]:
    found: list[device] = getattr(_defaults, "stack", [])
    return found


def _choose(stack: list[device]) -> None:
    global _changed  # noqa: PLW0603 - set once, by the first choice of the process
    _changed = True
    _defaults.stack = stack


def was_chosen() -> bool:
    """Whether anybody ever chose a default device."""
    return _changed


def require(where: Any) -> device:
    """The device on which tensors will be that are asked for on `where`; None is whatever device is the default.

    Raises: RuntimeError naming the device if no tensor can be there; what `device` raises for a name that is none.
    """
    if where is CPU:
        return CPU
    if where is None:
        return get_default_device() if _changed else CPU
    named = device(where)
    return CPU if named.type == "cpu" else _find(named)


def get_default_device() -> device:
    """The device on which this thread makes tensors.

    >>> get_default_device()
    device(type='cpu')
    """
    stack = _chosen()
    return stack[-1] if stack else CPU


def set_default_device(device: Any) -> None:
    """Make tensors on this device from now on, in this thread; None is the CPU.

    Raises: RuntimeError for a device that is not there.
    """
    stack = _chosen()
    _choose([*stack[:-1], CPU if device is None else require(device)])
