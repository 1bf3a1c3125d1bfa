"""Reading and writing elements at places given by index tensors, with PyTorch's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import Op, ops
from tracejit.shapes import broadcast, normalize_dim
from tracejit.tensor.arithmetic import mul
from tracejit.tensor.casting import WIDEST, call_cast
from tracejit.tensor.dispatch import apply, beside, shaped, wrap
from tracejit.tensor.host import host
from tracejit.tensor.indexing import coordinates, pick, places_of, replaced, true_places
from tracejit.tensor.inplace import assign, in_place, over
from tracejit.tensor.naming import named
from tracejit.tensor.picking import pick_now
from tracejit.tensor.promote import operand, result_type, tensor_of, to_dtype
from tracejit.tensor.shaping import expand, reshape
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, method


def _tensor(x: Any, what: str, argument: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what}(): argument '{argument}' must be Tensor, not {type(x).__name__}")
    return x


def places(index: Any, what: str) -> Tensor:
    """An index tensor as int64.

    Raises: TypeError for no tensor, RuntimeError for another type than int32 or int64.
    """
    if _tensor(index, what, "index")._dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(f"{what}(): Expected dtype int32/int64 for index")
    return to_dtype(index, dtypes.int64)  # type: ignore[no-any-return]


def _line(x: Tensor) -> Any:
    """A tensor without dimensions as a vector of one element."""
    return x if x._shape else apply(ops.reshape, (x,), ((1,),))


def _back(out: Any, like: Tensor) -> Any:
    return shaped(out, like._shape)


def _fits(index: tuple[int, ...], limit: tuple[int, ...], dim: int | None) -> bool:
    return all(i <= s or d == dim for d, (i, s) in enumerate(zip(index, limit, strict=True)))


def _shared(at: Tensor, dim: int, *operands: Tensor) -> Tensor | None:
    """The vector of places that all lines of an index along `dim` share, as `vector[:, None].expand(-1, n)` has it,
    if the index is as large as the operands in the other dimensions.
    """
    shape = at._shape
    if not at.numel():
        # How nothing lies in memory says nothing.
        return None
    others = [d for d in range(len(shape)) if d != dim]
    lies = at.stride()
    if any((lies[d] and shape[d] > 1) or any(o._shape[d] != shape[d] for o in operands) for d in others):
        return None
    line = tuple([n if d == dim else 1 for d, n in enumerate(shape)])
    first = apply(ops.slice, (at,), ((0,) * len(shape), line, (1,) * len(shape)))
    return apply(ops.reshape, (first,), ((shape[dim],),))  # type: ignore[no-any-return]


@method()
@named
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Any:
    """For each place of `index` the element with that coordinate in `dim` and the same others.

    Shape: of `index`. Raises: IndexError for a place out of range, RuntimeError if the shapes do not fit.
    Cost: an index that repeats a vector picks whole slices, as `index_select` does.
    """
    d = normalize_dim(dim, len(input._shape))
    places_ = places(index, "gather")
    x, at = _line(input), _line(places_)
    if len(x._shape) != len(at._shape):
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    if not _fits(at._shape, x._shape, d):
        raise RuntimeError(
            f"Size does not match expected index {list(at._shape)} to be no larger than self {list(x._shape)} apart "
            f"from dimension {d}"
        )
    if len(at._shape) > 1 and (vector := _shared(at, d, x)) is not None:
        return apply(ops.take, (x, vector), (d,))
    return _back(apply(ops.gather, (x, at), (d,)), index)


_OF_SLICES = {ops.scatter: ops.index_copy, ops.scatter_add: ops.index_add}
"""What does the same to whole slices."""


def _scattered(op: Op, input: Tensor, dim: int, index: Tensor, src: Any) -> Any:
    what = op.name
    places_ = places(index, what)
    d = normalize_dim(dim, len(input._shape))
    if not isinstance(src, Tensor):
        src = beside(input, ops.full, (src,), (index._shape, input._dtype))
    elif src._dtype is not input._dtype:
        raise RuntimeError(f"{what}(): Expected self.dtype to be equal to src.dtype")
    x, at, src = _line(input), _line(places_), _line(src)
    if not len(x._shape) == len(at._shape) == len(src._shape):
        raise RuntimeError("Index tensor must have the same number of dimensions as self and src tensor")
    if at.numel() == 0:
        return apply(ops.copy, (input,))
    if not (_fits(at._shape, x._shape, d) and _fits(at._shape, src._shape, None)):
        raise RuntimeError(
            f"Expected index {list(at._shape)} to be no larger than self {list(x._shape)} apart from dimension {d} "
            f"and to be no larger size than src {list(src._shape)}"
        )
    if len(at._shape) > 1 and src._shape == at._shape and (vector := _shared(at, d, x)) is not None:
        return apply(_OF_SLICES[op], (x, vector, src), (d,))
    return _back(apply(op, (x, at, src), (d,)), input)


@method()
@named
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Any:
    """`input` with elements of `src`, or a number, put at places along `dim`; of several for one place the last stays.

    With `reduce` "add" or "multiply" they are added to, or multiplied with, what is there. Edge: products have no
    gradient, and a compiled region computes what is pending first.
    Raises: IndexError for a place out of range, RuntimeError if shapes or types do not fit.
    """
    if reduce == "add":
        return scatter_add(input, dim, index, _source(input, index, src, value))
    if reduce == "multiply":
        return _multiplied(input, normalize_dim(dim, len(input._shape)), index, _source(input, index, src, value))
    if reduce is not None:
        raise RuntimeError("reduce argument must be either add or multiply.")
    return _scattered(ops.scatter, input, dim, index, _source(input, index, src, value))


@host
def _multiplied(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    if state.grad_enabled and (input.requires_grad or src.requires_grad):
        raise RuntimeError("the derivative for scatter() with reduce='multiply' is not implemented")
    if src._dtype is not input._dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    x, at, factors = (_line(t)._data() for t in (input, places(index, "scatter"), src))
    if not x.ndim == at.ndim == factors.ndim:
        raise RuntimeError("Index tensor must have the same number of dimensions as self and src tensor")
    if not (_fits(at.shape, x.shape, dim) and _fits(at.shape, factors.shape, None)):
        raise RuntimeError(
            f"Expected index {list(at.shape)} to be no larger than self {list(x.shape)} apart from dimension {dim} "
            f"and to be no larger size than src {list(factors.shape)}"
        )
    wrong = at[(at < 0) | (at >= x.shape[dim])]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for dimension {dim} with size {x.shape[dim]}")
    out = np.array(x)
    where = [at if d == dim else places_ for d, places_ in enumerate(np.ogrid[tuple(slice(s) for s in at.shape)])]
    np.multiply.at(out, tuple(where), factors[tuple(slice(s) for s in at.shape)])
    return wrap(out.reshape(input._shape))


def _source(input: Tensor, index: Tensor, src: Any, value: Any) -> Any:
    if src is None and value is None:
        raise TypeError('scatter() missing 1 required positional argument: "src"')
    src = value if src is None else src
    if isinstance(src, Tensor):
        return src
    return beside(input, ops.full, (src,), (index._shape, input._dtype))


@method()
@named
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Any:
    """`input` with elements of `src` added at places along `dim`, in ascending order.

    Raises: IndexError for a place out of range, RuntimeError if shapes or types do not fit.
    Cost: an index that repeats a vector adds whole slices, as `index_add` does.
    """
    return _scattered(ops.scatter_add, input, dim, index, src)


def _vector(index: Any, what: str) -> Tensor:
    at: Tensor = _line(places(index, what))
    if len(at._shape) != 1:
        raise IndexError(f"{what}(): Index is supposed to be a vector")
    return at


@method()
@named
def index_select(input: Tensor, dim: int, index: Tensor) -> Any:
    """Slices along a dimension, at the places of a vector.

    Raises: IndexError for a place out of range or an index that is no vector.
    """
    d = normalize_dim(dim, len(input._shape))
    at = _vector(index, "index_select")
    return _back(apply(ops.take, (_line(input), at), (d,)), input) if not input._shape else apply(
        ops.take, (input, at), (d,)
    )


def _slices(input: Tensor, dim: int, index: Tensor, source: Tensor, what: str) -> tuple[Any, Any, Any, int]:
    """The operands of an operation that writes slices, checked."""
    at = _vector(index, what)
    d = normalize_dim(dim, len(input._shape))
    if _tensor(source, what, "source")._dtype is not input._dtype:
        raise RuntimeError(f"{what}(): self and source expected to have the same dtype")
    x, src = _line(input), _line(source)
    if len(src._shape) != len(x._shape):
        raise (IndexError if what == "index_copy" else RuntimeError)(
            f"{what}(): source has {len(src._shape)} dimensions where self has {len(x._shape)}"
        )
    if any(a != b for i, (a, b) in enumerate(zip(x._shape, src._shape, strict=True)) if i != d):
        raise RuntimeError(
            f"{what}(): source shape {list(src._shape)} must match self shape {list(x._shape)} apart from dimension {d}"
        )
    if at._shape[0] != src._shape[d]:
        raise (IndexError if what == "index_copy" else RuntimeError)(
            f"{what}(): Number of indices ({at._shape[0]}) should be equal to source.size(dim): ({src._shape[d]}), "
            f"for dim: {d}"
        )
    return x, at, src, d


@method()
@named
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Any:
    """`input` with alpha times slices of `source` added at the places of a vector, in ascending order."""
    x, at, src, d = _slices(input, dim, index, source, "index_add")
    if not (type(alpha) is int and alpha == 1):
        src = to_dtype(mul(src, alpha), input._dtype)
    return _back(apply(ops.index_add, (x, at, src), (d,)), input)


@method()
@named
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    """`input` with slices of `source` put at the places of a vector; of several for one place the last stays."""
    if state.autocast is not None:
        return call_cast(WIDEST, index_copy, (input, dim, index, source))
    x, at, src, d = _slices(input, dim, index, source, "index_copy")
    return _back(apply(ops.index_copy, (x, at, src), (d,)), input)


@method()
@named
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    """`input` with one number put into the slices at the places of a vector."""
    at = _vector(index, "index_fill")
    d = normalize_dim(dim, len(input._shape))
    x = _line(input)
    if isinstance(value, Tensor):
        if value._shape:
            raise RuntimeError(
                "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
                f"{len(value._shape)} dimension(s)."
            )
        value = to_dtype(value, input._dtype)
    else:
        value = beside(input, ops.full, (value,), ((), input._dtype))
    at = apply(ops.wrap_index, (at,), (x._shape[d],))
    src = apply(ops.expand, (value,), ((*x._shape[:d], at._shape[0], *x._shape[d + 1 :]),))
    return _back(apply(ops.index_copy, (x, at, src), (d,)), input)


@method()
def index_put(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Any:
    """`input` with values put at, or with `accumulate` added to, the elements that index tensors pick.

    Raises: IndexError for a place out of range, RuntimeError if values do not broadcast or have another type.
    """
    if values._dtype is not input._dtype:
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {input._dtype.title} for the destination "
            f"and {values._dtype.title} for the source."
        )
    keys: list[tuple[int, Tensor]] = []
    dim = 0
    for index in indices:
        if index is None:
            dim += 1
        elif index._dtype in (dtypes.bool, dtypes.uint8):
            mask = to_dtype(index, dtypes.bool)
            if mask._shape != input._shape[dim : dim + len(mask._shape)]:
                raise IndexError(
                    f"The shape of the mask {list(mask._shape)} at index {dim} does not match the shape of the indexed "
                    f"tensor {list(input._shape)} at index {dim}"
                )
            keys.append((dim, mask))
            dim += len(mask._shape)
        elif index._dtype.is_floating_point:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        else:
            keys.append((dim, to_dtype(index, dtypes.int64)))
            dim += 1
    if dim > len(input._shape):
        raise IndexError(f"too many indices for tensor of dimension {len(input._shape)} (got {dim})")
    if not keys:
        raise IndexError("index_put(): at least one index tensor is needed")
    return replaced(input, keys, values, accumulate)


@method()
def index_put_(self: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """`index_put` in place."""
    with over(self, values):
        return assign(self, index_put(self, indices, values, accumulate))


@method()
def masked_select(input: Tensor, mask: Tensor) -> Any:
    """The elements where the mask holds, as a vector.

    Cost: reads the mask, which a compiled region computes first. Raises: RuntimeError if the mask is not bool.
    """
    if mask._dtype is not dtypes.bool:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    if state.session is None and (found := pick_now(input, mask)) is not None:
        return found
    shape = broadcast(input._shape, mask._shape)
    x, m = expand(_line(input), shape or (1,)), expand(_line(mask), shape or (1,))
    return pick(x, ((0, m),))


@method()
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Any:
    """`input` with the elements of `source`, in order, put where the mask holds.

    Raises: RuntimeError if the mask is not bool or the source has too few elements.
    """
    if mask._dtype is not dtypes.bool:
        raise RuntimeError(f"masked_scatter_ only supports boolean masks, but got mask with dtype {mask._dtype}")
    if source._dtype is not input._dtype:
        raise RuntimeError("masked_scatter: expected self and source to have same dtypes")
    shape = broadcast(input._shape, mask._shape) or (1,)
    x, m = expand(_line(input), shape), expand(_line(mask), shape)
    at = places_of(reshape(m, -1))
    count = at._shape[0]
    if source.numel() < count:
        raise RuntimeError(
            "masked_scatter: expected the number of elements of source to be >= the number of ones in mask"
        )
    flat = reshape(source, -1)
    src = apply(ops.slice, (flat,), ((0,), (count,), (1,)))
    out = apply(ops.index_copy, (reshape(x, -1), at, src), (0,))
    return shaped(out, shape if input._shape or mask._shape else ())


@method()
def take(input: Tensor, index: Tensor) -> Any:
    """Elements of the flattened tensor at the places given; negative ones count from the end.

    Shape: of `index`. Raises: IndexError for a place out of range.
    """
    if isinstance(index, Tensor) and index._dtype is not dtypes.int64:
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {index._dtype.title}")
    at = places(index, "take")
    flat = apply(ops.reshape, (input,), ((input.numel(),),))
    at = apply(ops.wrap_index, (apply(ops.reshape, (at,), ((at.numel(),),)),), (input.numel(),))
    return _back(apply(ops.take, (flat, at), (0,)), index)


@method()
@named
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Any:
    """`gather` with shapes broadcast apart from `dim`; without `dim` of the flattened tensors."""
    if indices._dtype is not dtypes.int64:
        raise RuntimeError("torch.take_along_dim(): dtype of indices should be Long")
    if dim is None:
        return gather(reshape(input, -1), 0, reshape(indices, -1))
    n = len(input._shape)
    if n != len(indices._shape):
        raise RuntimeError(
            f"torch.take_along_dim(): input and indices should have the same number of dimensions, but got {n} "
            f"dimensions for input, and {len(indices._shape)} dimensions for indices"
        )
    d = normalize_dim(dim, n)
    pairs = enumerate(zip(input._shape, indices._shape, strict=True))
    sizes = [1 if i == d else broadcast((a,), (b,))[0] for i, (a, b) in pairs]
    to_x = tuple(input._shape[d] if i == d else s for i, s in enumerate(sizes))
    to_i = tuple(indices._shape[d] if i == d else s for i, s in enumerate(sizes))
    at = apply(ops.wrap_index, (expand(indices, to_i),), (input._shape[d],))
    return gather(expand(input, to_x), d, at)


@host
def _coordinates(input: Tensor) -> Tensor:
    array = input._data()
    return wrap(np.array(coordinates(array)).T if array.ndim > 1 else np.argwhere(array))


@method()
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Coordinates of the elements that are not zero: one row each, or with `as_tuple` one vector for each dimension.

    Cost: reads the tensor, which a compiled region computes first.
    """
    return true_places(_line(input)) if as_tuple else _coordinates(input)


@method()
def argwhere(input: Tensor) -> Any:
    """Coordinates of the elements that are not zero, one row each."""
    return _coordinates(input)


def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Places where values would be put into sorted rows to keep them sorted: before what equals them, or behind.

    `sorter` has the places of the rows' elements in order, if they are not in order themselves.

    Shape: of `input`; its leading dimensions are those of the rows, unless there is but one.
    DType: int64, or int32; rows and values are compared in the type that both promote to.
    Edge: NaN is put behind everything; among numbers a row's own NaN is greatest.
    Raises: RuntimeError for other shapes, or if `side` and `right` say opposites; TypeError for rows or a `sorter` that
    are no tensors; NotImplementedError for bools.
    Cost: the logarithm of a row's size, for each value.

    >>> import tracejit as tj
    >>> tj.searchsorted(tj.tensor([1.0, 3.0, 3.0, 5.0]), tj.tensor([3.0, 4.0]), right=True)
    tensor([3, 3])
    """
    if side not in (None, "left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left while right was True"
        )
    shape = _tensor(sorted_sequence, "searchsorted", "sorted_sequence")._shape
    if not shape:
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should have positive dimension, but got 0 dimension"
        )
    values = tensor_of(operand(input, "searchsorted"), sorted_sequence)
    if len(shape) > 1 and not values._shape:
        raise RuntimeError(
            "torch.searchsorted(): input value can be a scalar only when boundaries tensor dimension is 1, but we got "
            f"boundaries tensor dim({len(shape)}) and input value's dim(0) numel(1)"
        )
    if len(shape) > 1 and shape[:-1] != values._shape[:-1]:
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of "
            f"boundaries tensor and input value tensor must match, but we got boundaries tensor "
            f"{list(shape)} and input value tensor {list(values._shape)}"
        )
    d = result_type(sorted_sequence, values)
    if d is dtypes.bool:
        raise NotImplementedError("searchsorted(): there is no order of bools; convert them to integers")
    rows = sorted_sequence if sorter is None else _in_order(sorted_sequence, sorter)
    found: Any = apply(ops.searchsorted, (to_dtype(rows, d), to_dtype(values, d)), (right or side == "right",))
    return to_dtype(found, dtypes.int32) if out_int32 else found  # type: ignore[no-any-return]


def _in_order(rows: Tensor, sorter: Tensor) -> Tensor:
    if _tensor(sorter, "searchsorted", "sorter")._dtype is not dtypes.int64:
        raise RuntimeError(f"torch.searchsorted(): sorter must be a tensor of long dtype but got dtype {sorter._dtype}")
    if sorter._shape != rows._shape:
        raise RuntimeError(
            f"torch.searchsorted(): boundary and sorter must have the same size, but got boundary tensor "
            f"{list(rows._shape)}and got sorter tensor {list(sorter._shape)}"
        )
    return gather(rows, -1, sorter)  # type: ignore[no-any-return]


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The interval between sorted boundaries in which each value lies, as `searchsorted` finds it.

    Raises: RuntimeError unless `boundaries` is a vector, TypeError unless it is a tensor.
    """
    if len(_tensor(boundaries, "bucketize", "boundaries")._shape) != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({len(boundaries._shape)})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


IN_PLACE = tuple(
    in_place(function) for function in (scatter, scatter_add, index_add, index_copy, index_fill, masked_scatter)
)
