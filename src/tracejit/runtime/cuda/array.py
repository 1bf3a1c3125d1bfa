"""Arrays in a GPU's memory: NumPy's shape and strides over a `Block`, and nothing that would read it too early.

In: blocks. Out: `DeviceArray`s. Must not know: what computes them.

The host can read the memory, but only when the GPU has done what was asked of it. So a `DeviceArray` tells where its
elements lie and lets nobody compute with them; its `wait` gives a plain array on the same memory.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import numpy as np

from tracejit.runtime.cuda.driver import Context
from tracejit.runtime.cuda.memory import Pool


class OnGpu(TypeError):
    """NumPy was asked to compute with an array in a GPU's memory."""


class DeviceArray(np.ndarray):
    """An array in a GPU's memory, and every view of one.

    Raises: OnGpu for whatever looks at elements.
    """

    __slots__ = ()

    context: ClassVar[Context]
    """That of the one GPU which arrays are on."""
    used: ClassVar[bool] = False
    """Whether this process was ever asked for such arrays."""

    def wait(self) -> np.ndarray:
        """The same memory for the host, once all that was asked of the GPU is done."""
        DeviceArray.context.synchronize()
        return host_view(self)

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise OnGpu("the array is in a GPU's memory")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in _ABOUT_MEMORY:
            return function(*[host_view(a) if type(a) is DeviceArray else a for a in args], **kwargs)
        raise OnGpu(f"{function.__name__}: the array is in a GPU's memory")


_ABOUT_MEMORY = (np.may_share_memory, np.shares_memory)
"""Functions that ask where elements lie, not what they are."""


def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise OnGpu("the array is in a GPU's memory")


# What NumPy does without asking `__array_ufunc__`. `view`, `transpose` and attributes touch no element.
for _name in (
    *("item", "tolist", "tobytes", "tofile", "copy", "astype", "byteswap", "dump", "dumps", "fill", "put", "take"),
    *("reshape", "ravel", "flatten", "resize", "repeat", "choose", "compress", "nonzero", "searchsorted", "sort"),
    *("argsort", "partition", "argpartition", "sum", "prod", "mean", "std", "var", "min", "max", "argmin", "argmax"),
    *("any", "all", "cumsum", "cumprod", "clip", "round", "dot", "trace", "diagonal", "squeeze", "swapaxes"),
    *("__getitem__", "__setitem__", "__iter__", "__contains__", "__bool__", "__int__", "__float__", "__complex__"),
    *("__index__", "__repr__", "__str__", "__format__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__"),
    *("__array__", "__buffer__"),
):
    setattr(DeviceArray, _name, _refuse)


def empty(pool: Pool, shape: tuple[int, ...], kind: np.dtype[Any]) -> DeviceArray:
    """A new contiguous array whose elements are unknown.

    Raises: CudaOutOfMemoryError.
    """
    nbytes = kind.itemsize
    for size in shape:
        nbytes *= size
    return np.ndarray.__new__(DeviceArray, shape, kind, np.asarray(pool.allocate(nbytes)))


def host_view(array: np.ndarray) -> np.ndarray:
    """The same memory for the host, who must have waited for the GPU."""
    return array.view(np.ndarray)
