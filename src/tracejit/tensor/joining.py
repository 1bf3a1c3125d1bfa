"""Tensors laid together, cut into pieces, and turned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.creation import empty, meshgrid
from tracejit.tensor.dispatch import apply
from tracejit.tensor.naming import named
from tracejit.tensor.padding import pad
from tracejit.tensor.promote import result_type, to_dtype
from tracejit.tensor.shaping import cat, flatten, flip, narrow, reshape, split, stack, transpose, vstack
from tracejit.tensor.tensor import Tensor, method

# --- at least so many dimensions --------------------------------------------------------------------------------------


def _each(function: Callable[[Tensor], Any], tensors: tuple[Any, ...]) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return function(tensors[0])
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(function(x) for x in given)


def _one(x: Tensor) -> Any:
    return x if x._shape else reshape(x, (1,))


def _two(x: Tensor) -> Any:
    return x if len(x._shape) >= 2 else reshape(x, (1, -1) if x.numel() else (1, 0))


def _three(x: Tensor) -> Any:
    shape = x._shape
    if len(shape) >= 3:
        return x
    return reshape(x, (*shape, 1) if len(shape) == 2 else (1, x.numel(), 1))


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with at least 1 dimension: one, or a tuple of several.

    >>> import tracejit as tj
    >>> atleast_1d(tj.tensor(3))
    tensor([3])
    """
    return _each(_one, tensors)


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with at least 2 dimensions; a vector becomes a row."""
    return _each(_two, tensors)


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with at least 3 dimensions: (N) becomes (1, N, 1), (N, M) becomes (N, M, 1)."""
    return _each(_three, tensors)


# --- together ---------------------------------------------------------------------------------------------------------


def column_stack(tensors: Sequence[Tensor]) -> Any:
    """Tensors joined along the second dimension, vectors as columns. Raises: RuntimeError for no tensors."""
    if not tensors:
        raise RuntimeError("column_stack expects a non-empty TensorList")
    return cat([x if len(x._shape) > 1 else reshape(x, (x.numel(), 1)) for x in tensors], 1)


def dstack(tensors: Sequence[Tensor]) -> Any:
    """Tensors joined along the third dimension. Raises: RuntimeError for no tensors."""
    if not tensors:
        raise RuntimeError("dstack expects a non-empty TensorList")
    return cat([_three(x) for x in tensors], 2)


row_stack = vstack


def block_diag(*tensors: Tensor) -> Any:
    """A matrix with the given ones along its diagonal and zeros elsewhere; vectors are rows.

    DType: promoted. Raises: RuntimeError for more than 2 dimensions.
    """
    if not tensors:
        return empty(1, 0)
    for place, x in enumerate(tensors):
        if len(x._shape) > 2:
            raise RuntimeError(
                f"torch.block_diag: Input tensors must have 2 or fewer dimensions. Input {place} has "
                f"{len(x._shape)} dimensions"
            )
    kind = result_type(*tensors)
    blocks = [to_dtype(_two(x), kind) for x in tensors]
    width = sum(x._shape[1] for x in blocks)
    rows, before = [], 0
    for x in blocks:
        columns = x._shape[1]
        rows.append(pad(x, (before, width - before - columns)))
        before += columns
    return cat(rows, 0)


def cartesian_prod(*tensors: Tensor) -> Any:
    """All combinations of the elements of vectors, one row each; one vector stays as it is.

    Raises: RuntimeError for no tensors and for what is no vector.
    """
    for x in tensors:
        if len(x._shape) != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(x._shape)}")
    if not tensors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    if len(tensors) == 1:
        return tensors[0]
    return stack([flatten(x) for x in meshgrid(*tensors, indexing="ij")], 1)


# --- apart ------------------------------------------------------------------------------------------------------------

_EITHER = named(**dict.fromkeys(("sections", "indices", "tensor_indices_or_sections"), "indices_or_sections"))


@method()
@_EITHER
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """So many pieces along a dimension, the first ones longer by one where needed, or pieces between indices.

    Edge: indices given as a tensor are a look at its values.
    Raises: RuntimeError for no dimensions, no sections, or a tensor that does not hold int64.
    """
    if not input._shape:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    at = indices_or_sections
    if isinstance(at, Tensor):
        if at._dtype is not dtypes.int64:
            raise RuntimeError(
                "tensor_split expected tensor_indices_or_sections to have dtype of long, but got "
                f"{at._dtype.title}"
            )
        at = at.tolist()
    d = normalize_dim(dim, len(input._shape))
    size = input._shape[d]
    if isinstance(at, int):
        if at <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {at}")
        short, longer = divmod(size, at)
        return split(input, [short + (k < longer) for k in range(at)], d)
    ends = [*at, size]
    return tuple(_between(input, d, start, end) for start, end in zip([0, *at], ends, strict=True))


def _between(x: Tensor, dim: int, start: int, end: int) -> Any:
    first, last, _ = slice(start, end).indices(x._shape[dim])
    return narrow(x, dim, first, max(last - first, 0))


def _apart(name: str, x: Tensor, at: Any, least: int, dim: int) -> tuple[Any, ...]:
    if len(x._shape) < least:
        raise RuntimeError(
            f"torch.{name} requires a tensor with at least {least} dimension, but got a tensor with {len(x._shape)} "
            "dimensions!"
        )
    if isinstance(at, int) and (at == 0 or x._shape[dim] % at):
        raise RuntimeError(
            f"torch.{name} attempted to split along dimension {dim}, but the size of the dimension {x._shape[dim]} is "
            f"not divisible by the split_size {at}!"
        )
    return tensor_split(x, at, dim)


@method()
@_EITHER
def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Any, ...]:
    """Equal pieces along the second dimension, or pieces between indices; of a vector along its only one.

    Raises: RuntimeError for no dimensions, or sections that do not divide the size.
    """
    return _apart("hsplit", input, indices_or_sections, 1, 1 if len(input._shape) > 1 else 0)


@method()
@_EITHER
def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Any, ...]:
    """Equal pieces along the first dimension, or pieces between indices.

    Raises: RuntimeError for fewer than 2 dimensions, or sections that do not divide the size.
    """
    return _apart("vsplit", input, indices_or_sections, 2, 0)


@method()
@_EITHER
def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Any, ...]:
    """Equal pieces along the third dimension, or pieces between indices.

    Raises: RuntimeError for fewer than 3 dimensions, or sections that do not divide the size.
    """
    return _apart("dsplit", input, indices_or_sections, 3, 2)


# --- turned -----------------------------------------------------------------------------------------------------------


@method()
def fliplr(input: Tensor) -> Any:
    """The second dimension in reverse order, as a copy. Raises: RuntimeError for fewer than 2 dimensions."""
    if len(input._shape) < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@method()
def flipud(input: Tensor) -> Any:
    """The first dimension in reverse order, as a copy. Raises: RuntimeError for no dimensions."""
    if not input._shape:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


@method()
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Turned `k` times by 90 degrees in the plane of two dimensions, from the first towards the second.

    Raises: RuntimeError unless `dims` are two different ones of at least two.
    """
    n = len(input._shape)
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if n < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {n}")
    first, second = (normalize_dim(d, n) for d in dims)
    if first == second:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    turns = k % 4
    if turns == 0:
        return apply(ops.copy, (input,))
    if turns == 2:
        return flip(input, (first, second))
    return transpose(flip(input, second if turns == 1 else first), first, second)
