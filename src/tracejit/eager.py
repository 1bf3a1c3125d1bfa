"""One operation on NumPy arrays, computed with the same kernels as compiled programs.

In: a record, arrays and numbers, attributes. Out: new arrays.
Must not know: tensors, autograd, graphs, traces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.ops import Op

try:
    from numpy._core._ufunc_config import _extobj_contextvar, _make_extobj
except ImportError:  # a NumPy that keeps this elsewhere: the public way, 0.8 us dearer
    _SILENT = None
else:
    # Setting the context variable by hand costs 0.1 us, `np.errstate` 0.9 us.
    _SILENT = _make_extobj(all="ignore")
    _set, _reset = _extobj_contextvar.set, _extobj_contextvar.reset


def _numpy(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """The record's NumPy function, without NumPy's floating point warnings."""
    if _SILENT is None:
        with np.errstate(all="ignore"):
            return op.numpy(*args, *attrs)
    token = _set(_SILENT)
    try:
        return op.numpy(*args, *attrs)
    finally:
        _reset(token)


def run_op(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What one operation gives on arrays and Python numbers: an array, or a tuple of arrays.

    DType: as the record's typing rule says.
    Raises: what the record's NumPy function raises, such as IndexError for a place out of range.

    >>> from tracejit.ops import ops
    >>> run_op(ops.add, (np.float32([1, 2]), 0.5), ())
    array([1.5, 2.5], dtype=float32)
    """
    result = _numpy(op, args, attrs)
    if type(result) is np.ndarray:
        return result
    if type(result) is tuple:
        return tuple(map(np.asarray, result))
    return np.asarray(result)
