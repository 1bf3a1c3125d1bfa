"""Subscripts with index tensors by the shortest way: one step of NumPy's, where few elements are asked for.

In: a tensor that no region knows of, a subscript. Out: what it picks, or whether a value was put there; nothing where
the general way (`tensor/indexing.py`) is needed, which also says what is wrong with a subscript.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.inplace import holds, is_free, is_like, is_plain
from tracejit.tensor.tape import is_recorded
from tracejit.tensor.tensor import Tensor

MOST = 1 << 14
"""Elements up to which NumPy takes no longer than a kernel and the way to it."""
_WHOLE = (int, type(None))


def is_of_numbers(item: slice) -> bool:
    """Whether nothing but numbers and None stand in a slice."""
    # A generator over the three would take as long as all else.
    return type(item.start) in _WHOLE and type(item.stop) in _WHOLE and type(item.step) in _WHOLE


def _keys(shape: tuple[int, ...], index: Any) -> tuple[tuple[Any, ...], tuple[int, ...] | None] | None:
    """A subscript of index tensors, slices and ... for NumPy, and the shape that it picks where that is plain.

    None where the two libraries differ, as in what numbers beside index tensors mean.
    """
    items = index if type(index) is tuple else (index,)
    keys: list[Any] = []
    picked: tuple[int, ...] | None = None
    tensors = dim = 0
    size = prod(shape)
    for item in items:
        if isinstance(item, Tensor):
            array = item._array
            if item._dtype is dtypes.bool:
                # A mask alone, of which the places are not counted before.
                alone = len(items) == 1 and type(array) is np.ndarray and array.shape == shape != ()
                return ((array,), None) if alone and array.size <= MOST else None
            if item._dtype is not dtypes.int64 or type(array) is not np.ndarray or not array.ndim:
                return None
        elif type(item) is slice:
            if not is_of_numbers(item) or (item.step or 1) < 1:
                return None
            keys.append(item)
            dim += 1
            continue
        elif item is ...:
            keys.append(item)
            dim += len(shape) - len(items) + 1
            continue
        elif type(item) is list and item and all(type(i) is int for i in item):
            array = np.array(item, np.int64)
        elif type(item) is np.ndarray and item.dtype == np.int64 and item.ndim:
            array = item
        else:
            return None
        if (tensors and array.shape != picked) or dim >= len(shape) or not size:
            return None
        picked = array.shape
        size //= shape[dim]
        tensors += 1
        dim += 1
        keys.append(array)
    if picked is None or prod(picked) * size > MOST:
        return None
    return tuple(keys), (*picked, *shape[tensors:]) if tensors == len(keys) else None


def pick_now(x: Tensor, index: Any) -> Tensor | None:
    """The elements that a subscript with index tensors picks, where no gradient takes part; None elsewhere."""
    array = x._array
    if type(array) is not np.ndarray or is_recorded(x):
        return None
    found = _keys(array.shape, index)
    if found is None:
        return None
    try:
        picked = array[found[0]]
    except IndexError:
        return None
    return wrap(picked if picked.flags.c_contiguous else np.ascontiguousarray(picked), x._dtype)


def place_now(x: Tensor, index: Any, value: Any) -> bool:
    """Puts a number, or a tensor like what is picked, at the elements that a subscript with index tensors picks;
    whether it did.
    """
    array = x._array
    if not is_free(x) or not array.flags.writeable:
        return False
    found = _keys(array.shape, index)
    if found is None:
        return False
    keys, shape = found
    if isinstance(value, Tensor):
        if value._dtype is not x._dtype or not is_plain(value) or np.may_share_memory(array, value._array):
            return False
        if shape is None:
            if not (type(keys[0]) is np.ndarray and keys[0].dtype == bool):
                return False
            shape = (int(np.count_nonzero(keys[0])),)
        if not is_like(value._array.shape, shape):
            return False
        value = value._array
    elif not holds(x._dtype, value):
        return False
    try:
        # It looks at all places before it changes one.
        array[keys] = value
    except IndexError:
        return False
    x._bump()
    return True
