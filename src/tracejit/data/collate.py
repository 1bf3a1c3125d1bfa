"""default_collate: one batch from a list of examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracejit.dtypes import float64
from tracejit.tensor import Tensor, from_numpy, stack, tensor

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Join examples along a new first dimension, inside whatever containers hold the tensors.

    DType: Python floats become float64, integers int64. Edge: strings and bytes stay a list.
    Raises: TypeError for other values; RuntimeError for sequences of unequal length.

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ('a', 'b')]
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, np.ndarray):
        if first.dtype.kind in "SaUO":
            raise _unknown(first.dtype)
        return stack([from_numpy(np.ascontiguousarray(item)) for item in batch], 0)
    if isinstance(first, np.generic):
        return from_numpy(np.array(batch))
    if isinstance(first, float):
        return tensor(batch, dtype=float64)
    if isinstance(first, int):
        return tensor(batch)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        joined = {key: default_collate([item[key] for item in batch]) for key in first}
        try:
            return type(first)(joined)  # type: ignore[call-arg]
        except TypeError:
            # A mapping that cannot be made from one: a plain dictionary stands for it.
            return joined
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(items) for items in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(item) != len(first) for item in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(items) for items in zip(*batch, strict=True)]
        if isinstance(first, tuple):
            return columns
        try:
            return type(first)(columns)  # type: ignore[call-arg]
        except TypeError:
            return columns
    raise _unknown(type(first))


def _unknown(kind: object) -> TypeError:
    return TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {kind}"
    )


def default_convert(data: Any) -> Any:
    """One example with its arrays as tensors: what a loader without batches does."""
    if isinstance(data, np.ndarray) and data.dtype.kind not in "SaUO":
        return from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Mapping):
        return {key: default_convert(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(value) for value in data))
    if isinstance(data, tuple | list):
        return [default_convert(value) for value in data]
    return data
