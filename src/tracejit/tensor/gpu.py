"""The way to what GPUs need, which a process that uses none does not load."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from tracejit import devices
from tracejit.devices import CUDA, device
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.cuda.driver import available


@functools.cache
def gpu_side() -> Any:
    """The module `tracejit.gpu_eager`. Cost: 50 ms when it is first asked for."""
    return importlib.import_module("tracejit.gpu_eager")


def _find(where: device) -> device:
    """The GPU that a name stands for.

    Raises: RuntimeError if tensors cannot be there.
    """
    if where.type != "cuda" or available() is None:
        raise RuntimeError(
            f"device '{where}' is not available: tensors live on the CPU (device='cpu'); "
            "tracejit.cuda.is_available() says whether there is a GPU to compute on"
        )
    if where.index:
        raise RuntimeError(
            f"CUDA error: invalid device ordinal: '{where}' was asked for, and tensors can be on the first usable GPU "
            "alone, which is 'cuda:0'; CUDA_VISIBLE_DEVICES chooses another one"
        )
    DeviceArray.used = True
    return CUDA


def _accelerator() -> str:
    if available() is None:
        raise RuntimeError("Cannot access accelerator device when none is available.")
    return "cuda"


devices.install(_find, _accelerator)
