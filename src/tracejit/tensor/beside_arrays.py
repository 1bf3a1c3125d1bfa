"""Operators between a tensor and a NumPy array: NumPy computes them, as in PyTorch.

In: a tensor, and an array behind the operator. Out: what NumPy makes of the two, in the type that it gives it.
Must not know: the rules of promotion among tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import Op
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.host import host
from tracejit.tensor.tensor import Tensor


@host
def with_array(op: Op, x: Tensor, array: np.ndarray) -> Tensor:
    """What an elementwise operation makes of a tensor and an array.

    Raises: RuntimeError for a tensor that requires gradients, TypeError for element types that have no counterpart.
    """
    if x.requires_grad and op.rules:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    out: Any = np.asarray(op.numpy(x._data(), array))
    dtypes.from_numpy(out.dtype)
    return wrap(np.ascontiguousarray(out).reshape(out.shape))
