"""Copies between devices, as steps of the tape."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.devices import CPU, device
from tracejit.ops.record import Op, same
from tracejit.runtime.cuda.array import host_view
from tracejit.tensor.dispatch import apply, wrap
from tracejit.tensor.gpu import gpu_side
from tracejit.tensor.tensor import Tensor, on_gpu


def _to_gpu(x: Any) -> Any:
    """A copy of the elements in a GPU's memory."""


def _to_cpu(x: Any) -> Any:
    """A copy of the elements in the host's memory."""


# No records of the registry: no kernel, pass or graph knows devices. A compiled region runs them between two segments.
TO_GPU: Op = Op(
    _to_gpu, "transfer", same, lambda x: gpu_side().upload(x), exact=True, vjp={"x": lambda ct: apply(TO_CPU, (ct,))}
)
TO_CPU: Op = Op(
    _to_cpu, "transfer", same, lambda x: gpu_side().download(x), exact=True, vjp={"x": lambda ct: apply(TO_GPU, (ct,))}
)
# The CPU's side of eager leaves both to the GPU's.
TO_GPU.origin, TO_CPU.origin = TO_GPU, TO_CPU


def as_laid_out(memory: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tensor:
    """A leaf on the memory of a flat tensor, which must reach as far: strides and offset in elements."""
    array = host_view(memory._memory())
    steps = tuple(step * array.itemsize for step in strides)
    start = array[offset:] if array.size else array
    return wrap(np.lib.stride_tricks.as_strided(start, shape, steps).view(type(memory._memory())))


def moved(x: Tensor, where: device) -> Tensor:
    """A tensor on a device: itself if it is there."""
    if (where is not CPU) is on_gpu(x):
        return x
    return apply(TO_CPU if where is CPU else TO_GPU, (x,))  # type: ignore[no-any-return]
