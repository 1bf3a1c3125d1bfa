"""Elements repeated in a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.dispatch import apply, apply_view, shaped, wrap
from tracejit.tensor.host import host
from tracejit.tensor.naming import named
from tracejit.tensor.shaping import flatten
from tracejit.tensor.tensor import Tensor, method


@method()
@named
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Each element (along `dim`) `repeats` times in a row, or as often as a tensor says for each; of such a tensor
    alone, the places of the elements.

    Edge: repeats given as a tensor are a look at its values.
    Raises: RuntimeError for negative numbers, as many as there are not places, or another `output_size` than there is;
    NotImplementedError for a tensor that does not hold int64 or int32.

    >>> import tracejit as tj
    >>> tj.repeat_interleave(tj.tensor([5, 6, 7]), tj.tensor([2, 0, 1]))
    tensor([5, 5, 7])
    """
    if repeats is None:
        if not isinstance(input, Tensor) or dim is not None:
            raise TypeError("repeat_interleave(): repeats alone are a tensor, and have no dim")
        return _places(input, None, output_size)
    if dim is None:
        input, dim = flatten(input), 0
    d = normalize_dim(dim, len(input._shape))
    shape = input._shape
    if isinstance(repeats, Tensor):
        return apply(ops.take, (input, _places(repeats, shape[d], output_size)), (d,))
    if repeats < 0:
        raise RuntimeError("Repeats must be non-negative")
    total = shape[d] * repeats
    if output_size not in (None, total):
        raise RuntimeError(f"repeat_interleave: Invalid output_size, expected {total} but got {output_size}")
    wide = apply_view(ops.reshape, input, ((*shape[: d + 1], 1, *shape[d + 1 :]),))
    wide = apply_view(ops.expand, wide, ((*shape[: d + 1], repeats, *shape[d + 1 :]),))
    return shaped(apply(ops.copy, (wide,)), (*shape[:d], total, *shape[d + 1 :]))


@host
def _places(repeats: Tensor, size: int | None, output_size: int | None) -> Tensor:
    """Each place as often as a vector, or one number for all of `size` places, says."""
    if len(repeats._shape) > 1 or (size is None and not repeats._shape):
        what = "only accept 1D vector as repeat" if size is None else "repeats must be 0-dim or 1-dim tensor"
        raise RuntimeError(f"repeat_interleave: {what}")
    counts = repeats._data()
    if counts.size == 1 and size is not None:
        counts = np.broadcast_to(counts, (size,))
    if size is not None and len(counts) != size:
        raise RuntimeError(
            "repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{len(counts)} and input.size(0) = {size}"
        )
    if repeats._dtype not in (dtypes.int64, dtypes.int32):
        raise NotImplementedError(f"\"repeat_interleave_cpu\" not implemented for '{repeats._dtype.title}'")
    if counts.size and counts.min() < 0:
        raise RuntimeError("repeats can not be negative")
    places = np.repeat(np.arange(len(counts)), counts)
    if output_size not in (None, len(places)):
        raise RuntimeError("allocated size does not match required size")
    return wrap(places)
