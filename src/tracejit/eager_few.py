"""Operations on few elements, by the shortest way: what `run_op` gives, with less on the way there.

In: a record and arrays. Out: a new array, or whether one was changed.
Must not know: tensors, autograd, traces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.eager import LARGE, NO_SCALARS, SILENT, UFUNCS, flat_kernels, programs, restore, run_op, silence
from tracejit.ops import Op
from tracejit.runtime.arrays import empty
from tracejit.runtime.team import launch


def run_single(op: Op, x: Any) -> Any:
    """`run_op` for an elementwise operation on one array: the same, by the shortest way."""
    flat = None if op in UFUNCS else flat_kernels.get((op, x.dtype.num))
    if flat is None or not x.flags.c_contiguous:
        return run_op(op, (x,), ())
    out = empty(x.shape, flat.dtype)
    launch(flat.address, out.size, flat.cost, x, out)
    return out


def run_reduced(op: Op, x: Any, dim: int) -> Any:
    """`run_op` for a reduction of one array: the same, by the shortest way."""
    found = programs.get((op, (dim,), x.shape, x.dtype.num, x.strides))
    if found is None or not x.size:
        return run_op(op, (x,), (dim,))
    ((shape, kind),) = found.results
    out = empty(shape, kind)
    found.run_on(NO_SCALARS, x, out)
    return out


def run_into(op: Op, out: Any, y: Any) -> bool:
    """Lets an array of floats hold what an operation on it and an array like it or a float gives, where one loop of
    NumPy's does that; whether it did.
    """
    ufunc = UFUNCS.get(op)
    if ufunc is None or SILENT is None or out.size >= LARGE or out.dtype.kind != "f":
        return False
    if type(y) is not float and (type(y) is not np.ndarray or y.dtype is not out.dtype or y.shape != out.shape):
        return False
    token = silence(SILENT)
    try:
        ufunc(out, y, out)
    finally:
        restore(token)
    return True


def run_pair(op: Op, x: Any, y: Any) -> Any:
    """`run_op` for an elementwise operation on two arrays: the same, by the shortest way."""
    ufunc = UFUNCS.get(op)
    # What they give has no more elements than so many.
    if ufunc is None or SILENT is None or x.size * y.size >= LARGE:
        return run_op(op, (x, y), ())
    token = silence(SILENT)
    try:
        result = ufunc(x, y)
    finally:
        restore(token)
    return result if type(result) is np.ndarray else np.asarray(result)
