"""Devices: where tensors are, as PyTorch names it.

In: what users write as a device. Out: `device` objects, and `require`, which refuses those that are not there.
Must not know: tensors.
"""

from __future__ import annotations

from typing import Any, cast

TYPES = ("cpu", "cuda", "xpu", "mps", "meta")
_known: dict[tuple[str, int | None], device] = {}


class device:
    """The name of a device: a type, and a number where there may be several.

    Edge: a device may be named that is not there; tensors can only be made on the CPU. Two devices are equal if type
    and number are, so ``device("cpu") != device("cpu:0")``, and neither equals a string.
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
        """Make tensors here while the block runs: only the CPU can be entered, where they are made anyway."""
        require(self)
        return self

    def __exit__(self, *exception: object) -> None:
        return None


def _parsed(name: Any, index: Any) -> tuple[str, int | None]:
    if isinstance(name, int) and not isinstance(name, bool):
        raise RuntimeError("Cannot access accelerator device when none is available.")
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
"""Where all tensors are."""


def require(where: Any) -> None:
    """Refuse a device on which no tensor can be; None is whatever device is the default.

    Raises: RuntimeError naming the device; what `device` raises for a name that is none.
    """
    if where is None or where is CPU:
        return
    named = device(where)
    if named.type != "cpu":
        raise RuntimeError(
            f"device '{named}' is not available: tensors live on the CPU (device='cpu'); "
            "tracejit.cuda.is_available() says whether there is a GPU to compute on"
        )


def get_default_device() -> device:
    """The device on which tensors are made: the CPU.

    >>> get_default_device()
    device(type='cpu')
    """
    return CPU


def set_default_device(where: Any) -> None:
    """Make tensors on this device from now on: only the CPU can be chosen.

    Raises: RuntimeError for another device.
    """
    require(where)
