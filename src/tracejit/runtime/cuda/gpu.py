"""The GPU that tensors can be on, and copies between it and the host.

In: what the driver finds. Out: `gpu()`, arrays there and back. Must not know: what arrays are for.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tracejit.runtime.cuda.array import DeviceArray, empty
from tracejit.runtime.cuda.driver import Context, available
from tracejit.runtime.cuda.memory import Pool


class Gpu:
    """A device in use: its context, and the memory that tensors have of it."""

    def __init__(self, context: Context) -> None:
        self.context = DeviceArray.context = context
        DeviceArray.used = True
        self.pool = Pool(context)

    def empty(self, shape: tuple[int, ...], kind: np.dtype[Any]) -> DeviceArray:
        """A new array whose elements are unknown."""
        return empty(self.pool, shape, kind)

    def upload(self, array: np.ndarray) -> DeviceArray:
        """A copy of an array of the host, which may change as soon as this returns."""
        array = np.ascontiguousarray(array) if array.ndim else array
        made = self.empty(array.shape, array.dtype)
        self.context.put(made.ctypes.data, array)
        return made

    def wait(self) -> None:
        """Waits until all that was asked for is done."""
        self.context.synchronize()

    def download(self, array: DeviceArray) -> np.ndarray:
        """A copy of an array in the host's memory."""
        return np.array(array.wait(), order="C")


@functools.cache
def gpu() -> Gpu:
    """The GPU that tensors of this process can be on, taken into use.

    Raises: RuntimeError if there is none.
    """
    found = available()
    if found is None:
        raise RuntimeError("no GPU is available")
    return Gpu(Context(*found))
