"""`tracejit.cuda`, with PyTorch's names: what programs ask before they use a GPU. There is none to compute on.

In: nothing. Out: the answers of a machine without a GPU, so that a program which asks `is_available` runs on the CPU.
Must not know: tensors, kernels.

What asks for the state of no device is answered (0 bytes, 0 devices), seeds are accepted, and what needs a device
raises RuntimeError. `docs/cuda.md` says what there is of a backend.
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = [
    "Event", "Stream", "current_device", "current_stream", "device_count", "empty_cache", "get_device_capability",
    "get_device_name", "get_device_properties", "is_available", "is_bf16_supported", "is_initialized", "manual_seed",
    "manual_seed_all", "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated",
    "memory_reserved", "reset_peak_memory_stats", "seed_all", "set_device", "synchronize",
]  # fmt: skip


def _missing(what: str) -> NoReturn:
    raise RuntimeError(
        f"tracejit.cuda.{what} needs a GPU, and tracejit cannot put tensors on one yet; "
        "ask tracejit.cuda.is_available() first, or use device='cpu'"
    )


def is_available() -> bool:
    """Whether tensors can be on a GPU: no.

    >>> device = "cuda" if is_available() else "cpu"
    >>> device
    'cpu'
    """
    return False


def is_initialized() -> bool:
    """Whether a GPU has been used: no."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether a GPU computes with bfloat16: there is none."""
    return False


def device_count() -> int:
    """How many GPUs there are to compute on: 0."""
    return 0


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors take on a GPU: 0."""
    return 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors took on a GPU: 0."""
    return 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that are kept for tensors on a GPU: 0."""
    return 0


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that were kept for tensors on a GPU: 0."""
    return 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Count the peak of a GPU's memory anew: there is none."""


def empty_cache() -> None:
    """Give back memory that no tensor on a GPU needs: there is none."""


def manual_seed(seed: int) -> None:
    """Seed the generator of the current GPU; as in PyTorch nothing happens without one.

    Raises: TypeError for a seed that is no whole number.
    """
    seed.__index__()


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all GPUs, of which there are none.

    Raises: TypeError for a seed that is no whole number.
    """
    seed.__index__()


def seed_all() -> None:
    """Seed the generators of all GPUs from the clock: there are none."""


def current_device() -> int:
    """The number of the GPU in use.

    Raises: RuntimeError without a GPU; so do all functions below.
    """
    _missing("current_device()")


def set_device(device: Any) -> None:
    """Use a GPU from now on."""
    _missing("set_device()")


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has done all its work."""
    _missing("synchronize()")


def current_stream(device: Any = None) -> Stream:
    """The stream in use."""
    _missing("current_stream()")


def get_device_name(device: Any = None) -> str:
    """The name of a GPU."""
    _missing("get_device_name()")


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a GPU."""
    _missing("get_device_capability()")


def get_device_properties(device: Any = None) -> Any:
    """The properties of a GPU."""
    _missing("get_device_properties()")


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """The free and all memory of a GPU in bytes."""
    _missing("mem_get_info()")


class Stream:
    """A queue of a GPU's work.

    Raises: RuntimeError without a GPU.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _missing("Stream")


class Event:
    """A mark in a queue of a GPU's work.

    Raises: RuntimeError without a GPU.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _missing("Event")
