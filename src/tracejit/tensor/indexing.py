"""Subscripts: `x[index]` and `x[index] = value` with PyTorch's rules.

A subscript is read in two steps. Integers, slices, None and ... choose a view. Tensors, lists and masks then pick
elements of that view; they are merged into one vector of places, so that one `take` or `index_copy` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import Op, ops
from tracejit.shapes import broadcast_all, check_expand
from tracejit.tensor.conversion import tensor
from tracejit.tensor.dispatch import apply, apply_view, beside, shaped, show, wrap
from tracejit.tensor.host import host, shown
from tracejit.tensor.inplace import assign, over, put_now
from tracejit.tensor.picking import is_of_numbers, pick_now, place_now
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.scalar import NUMBERS, Scalar, alike
from tracejit.tensor.state import state
from tracejit.tensor.tape import is_recorded
from tracejit.tensor.tensor import Tensor, method, on_gpu

_VALID = "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices"


class Choice(NamedTuple):
    """What a subscript chooses: a view of the tensor, and index tensors for some of the view's dimensions."""

    start: tuple[int, ...]
    length: tuple[int, ...]
    step: tuple[int, ...]
    shape: tuple[int, ...]
    keys: tuple[tuple[int, Tensor], ...]


def _items(index: Any) -> list[Any]:
    """A subscript as its items, sequences and arrays as tensors."""
    if isinstance(index, tuple):
        items = list(index)
    elif isinstance(index, list) and any(
        isinstance(i, (slice, Sequence, Tensor)) or i is None or i is ... for i in index
    ):
        # A list that holds more than numbers means what the tuple means.
        items = index
    else:
        items = [index]
    out: list[Any] = []
    for item in items:
        if item is None or item is ... or isinstance(item, (Tensor, slice, bool)):
            out.append(item)
        elif isinstance(item, (list, tuple, range, np.ndarray)):
            key = tensor(item if isinstance(item, np.ndarray) else list(item))
            out.append(key if key.numel() else to_dtype(key, dtypes.int64))
        elif isinstance(item, np.bool_):
            out.append(bool(item))
        elif _is_whole(item):
            out.append(item)
        elif hasattr(item, "__index__"):
            out.append(item.__index__())
        elif isinstance(item, str):
            raise TypeError("new(): invalid data type 'str'")
        else:
            raise IndexError(f"{_VALID} (got {type(item).__name__})")
    return out


def _consumed(item: Any) -> int:
    if item is None or item is ... or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item._dtype in (dtypes.bool, dtypes.uint8):
        return len(item._shape)
    return 1


def _within(i: Any, size: int, dim: int) -> Any:
    at = alike(i)
    if not -size <= at < size:
        raise IndexError(f"index {at} is out of bounds for dimension {dim} with size {size}")
    if type(i) is Scalar:
        return i.place(size)
    return i + size if i < 0 else i


def _is_whole(x: Any) -> bool:
    """Whether something is a whole number of the run."""
    return type(x) is Scalar and type(x.value) is int


def _is_step(x: Any) -> bool:
    return x is None or (type(x) is int and x > 0)


def _run_of(item: slice, size: int) -> tuple[Any, int, int]:
    """Start, length and step of a slice."""
    if _is_whole(item.start) and _is_whole(item.stop) and _is_step(item.step) and item.start.leads(item.stop, size):
        step = item.step or 1
        return item.start, -(-(item.stop.value - item.start.value) // step), step
    if item.step is not None and item.step.__index__() < 0:
        raise ValueError("step must be greater than zero")
    start, stop, step = item.indices(size)
    return start, max(0, -(-(stop - start) // step)), step


def choose(x_shape: tuple[int, ...], index: Any) -> Choice:
    """Read a subscript of a tensor of a shape.

    Raises: IndexError for too many or invalid indices, ValueError for a step that is not positive.
    """
    if type(index) is int and x_shape:
        # Subscripts are mostly one number.
        rest = x_shape[1:]
        return Choice((_within(index, x_shape[0], 0), *(0,) * len(rest)), (1, *rest), (1,) * len(x_shape), rest, ())
    items = _items(index)
    used = sum(map(_consumed, items))
    if used > len(x_shape):
        if not x_shape and not any(isinstance(i, Tensor) for i in items):
            raise IndexError(
                "invalid index of a 0-dim tensor. Use `tensor.item()` to convert a 0-dim tensor to a number"
            )
        raise IndexError(f"too many indices for tensor of dimension {len(x_shape)}")
    runs: list[tuple[int, int, int]] = []
    shape: list[int] = []
    keys: list[tuple[int, Tensor]] = []

    def whole(count: int) -> None:
        for size in x_shape[len(runs) : len(runs) + count]:
            runs.append((0, size, 1))
            shape.append(size)

    open_dots = True
    for item in items:
        dim = len(runs)
        if item is ...:
            if open_dots:
                whole(len(x_shape) - used)
                open_dots = False
        elif item is None:
            shape.append(1)
        elif isinstance(item, bool):
            keys.append((len(shape), wrap(np.zeros(int(item), np.int64))))
            shape.append(1)
        elif isinstance(item, slice):
            run = _run_of(item, x_shape[dim])
            runs.append(run)
            shape.append(run[1])
        elif not isinstance(item, Tensor):
            runs.append((_within(item, x_shape[dim], dim), 1, 1))
        elif item._dtype.is_floating_point:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        elif item._dtype in (dtypes.bool, dtypes.uint8):
            mask = to_dtype(item, dtypes.bool)
            if not mask._shape:
                keys.append((len(shape), apply(ops.reshape, (mask,), ((1,),))))
                shape.append(1)
            else:
                _check_mask(mask._shape, x_shape, dim)
                keys.append((len(shape), mask))
                whole(len(mask._shape))
        elif not item._shape:
            # Its value must be known, as the result is a view.
            runs.append((_within(int(item), x_shape[dim], dim), 1, 1))
        else:
            keys.append((len(shape), to_dtype(item, dtypes.int64)))
            whole(1)
    whole(len(x_shape) - len(runs))
    start, length, step = zip(*runs, strict=True) if runs else ((), (), ())
    return Choice(start, length, step, tuple(shape), tuple(keys))


def _check_mask(mask: tuple[int, ...], shape: tuple[int, ...], dim: int) -> None:
    if mask != shape[dim : dim + len(mask)]:
        raise IndexError(
            f"The shape of the mask {list(mask)} at index {dim} does not match the shape of the indexed tensor "
            f"{list(shape)} at index {dim}"
        )


def _view_of(x: Tensor, at: Choice) -> Tensor:
    """The view that the integers, slices and new dimensions choose."""
    out = x
    for op, attrs in _steps(x._shape, at):
        out = apply_view(op, out, attrs)
    return out


def _steps(shape: tuple[int, ...], at: Choice) -> Steps:
    """The steps that lead from a tensor of a shape to what the integers, slices and new dimensions choose."""
    cut = ((ops.slice, (at.start, at.length, at.step)),) if at.length != shape else ()
    if at.length != at.shape or not (cut or at.keys):
        return (*cut, (ops.reshape, (at.shape,)))
    return cut


Steps = tuple[tuple[Op, tuple[Any, ...]], ...]

_MOST_PLANS = 512
_plans: dict[Any, tuple[Any, tuple[int, ...] | None, Steps] | None] = {}
"""Of layouts and subscripts of numbers, slices, None and ...: the subscript for NumPy, the shape after that if it is
another, and the steps of the view; None where NumPy's view would have other strides.
"""


def _named(index: Any) -> Any:
    """What tells apart a subscript of numbers and slices of numbers, None and ...; None for one of anything else."""
    if type(index) is int:
        return index
    names: list[Any] = []
    for item in index if type(index) is tuple else (index,):
        if type(item) is slice:
            if not is_of_numbers(item):
                return None
            names += (item.start, item.stop, item.step, "slice")
        elif type(item) is int or item is None or item is ...:
            names.append(item)
        else:
            return None
    return tuple(names)


def _view_now(x: Tensor, index: Any) -> Tensor | None:
    """The view that a plain subscript chooses, in one step of NumPy's, where no gradient takes part; None elsewhere."""
    array = x._array
    if type(array) is not np.ndarray or is_recorded(x):
        return None
    plan = _plan_of(x, index)
    if plan is None:
        return None
    items, to, steps = plan
    found = array[items] if to is None else array[items].reshape(to)
    out = wrap(found, x._dtype)
    show(x, steps, out)
    return out


def _plan_of(x: Tensor, index: Any) -> tuple[Any, tuple[int, ...] | None, Steps] | None:
    array = x._array
    name = _named(index)
    if name is None:
        return None
    key = array.shape, array.strides, name
    if key not in _plans:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        _plans[key] = _planned(x, index)
    return _plans[key]


def _put_now(x: Tensor, index: Any, value: Any) -> bool:
    """Puts a value where a plain subscript chooses places, in one step of NumPy's, if that can be; whether it did."""
    if type(x._array) is not np.ndarray:
        return False
    plan = _plan_of(x, index)
    return plan is not None and plan[1] is None and put_now(x, plan[0], value)


def _planned(x: Tensor, index: Any) -> tuple[Any, tuple[int, ...] | None, Steps] | None:
    array = x._array
    at = choose(array.shape, index)
    items = [item for item in (index if type(index) is tuple else [index]) if item is not None]
    # NumPy takes one ... only; with none it would give a number where no dimension is left.
    first = items.index(...) if ... in items else len(items)
    numpy_items = (*items[:first], ..., *(item for item in items[first:] if item is not ...))
    found = array[numpy_items]
    to = None if found.shape == at.shape else at.shape
    if to is not None:
        found = found.reshape(to)
    wanted = _view_of(x, at)._array
    if found.strides != wanted.strides or (found.size and not np.shares_memory(found, array)):
        return None
    return numpy_items, to, _steps(array.shape, at)


@host
@shown("nonzero")
def _read_places(mask: Tensor) -> tuple[Tensor, ...]:
    return tuple([wrap(np.ascontiguousarray(places)) for places in coordinates(mask._data())])


def true_places(mask: Tensor) -> tuple[Tensor, ...]:
    """Coordinates of the elements that hold, one vector for each dimension."""
    shape = mask._shape
    if state.session is None or on_gpu(mask) or not mask.numel() or not shape:
        return _read_places(mask)
    held = mask if mask._dtype is dtypes.bool else apply(ops.ne, (mask, 0), ())
    flat = places_of(apply(ops.reshape, (held,), ((mask.numel(),),)))
    if len(shape) == 1:
        return (flat,)
    found = []
    for d, size in enumerate(shape):
        # Whole numbers are not divided in a program: an element's coordinate is looked up.
        along = tuple([size if k == d else 1 for k in range(len(shape))])
        places = apply(ops.reshape, (beside(mask, ops.iota, (), (size,)),), (along,))
        every = apply(ops.reshape, (apply(ops.expand, (places,), (shape,)),), ((mask.numel(),),))
        found.append(apply(ops.take, (every, flat), (0,)))
    return tuple(found)


def places_of(mask: Tensor) -> Tensor:
    """The places of the elements of a vector that hold: in a region an operation, for which only their number is read.
    """
    if state.session is None or on_gpu(mask):
        return _read_places(mask)[0]
    count = int(apply(ops.sum, (to_dtype(mask, dtypes.int64),), (0,)))
    return apply(ops.true_places, (mask,), (count,))  # type: ignore[no-any-return]


def coordinates(array: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `numpy.nonzero` gives, in half of its time where there are several dimensions."""
    if array.ndim < 2:
        return np.nonzero(array)
    return np.unravel_index(np.flatnonzero(array if array.dtype == bool else array != 0), array.shape)


class Places(NamedTuple):
    """Index tensors merged into one vector of places along one dimension of a rearranged view.

    `order` permutes the view's dimensions (None: as they are), `merged` is its shape with the indexed dimensions as
    one, `dim` is that one, `flat` the vector, `result` the shape of what is picked.
    """

    order: tuple[int, ...] | None
    merged: tuple[int, ...]
    dim: int
    flat: Tensor
    result: tuple[int, ...]


def merge(shape: tuple[int, ...], keys: Sequence[tuple[int, Tensor]]) -> Places:
    """Merge the index tensors of a view of a shape.

    Raises: IndexError if they do not broadcast.
    """
    if len(keys) == 1 and keys[0][1]._dtype is dtypes.bool:
        return _merge_mask(shape, *keys[0])
    spread: list[tuple[int, Tensor]] = []
    for at, key in keys:
        if key._dtype is dtypes.bool:
            spread.extend((at + i, places) for i, places in enumerate(true_places(key)))
        else:
            spread.append((at, key))
    shapes = [key._shape for _, key in spread]
    try:
        picked = broadcast_all(shapes)
    except RuntimeError:
        named = ", ".join(str(list(s)) for s in shapes)
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {named}"
        ) from None
    dims = [at for at, _ in spread]
    flat: Any = None
    for at, key in spread:
        key = apply(ops.wrap_index, (key,), (shape[at],))
        flat = key if flat is None else apply(ops.add, (apply(ops.mul, (flat, shape[at])), key))
    order = None
    dim = dims[0]
    if dims != list(range(dim, dim + len(dims))):
        # Indexed dimensions that are not neighbours come first in the result.
        order = (*dims, *(d for d in range(len(shape)) if d not in dims))
        shape = tuple(shape[d] for d in order)
        dim = 0
    before, after = shape[:dim], shape[dim + len(dims) :]
    merged = (*before, prod(shape[dim : dim + len(dims)]), *after)
    if len(flat._shape) != 1:
        flat = apply(ops.reshape, (flat,), ((prod(picked),),))
    return Places(order, merged, dim, flat, (*before, *picked, *after))


def _merge_mask(shape: tuple[int, ...], at: int, mask: Tensor) -> Places:
    """A mask alone: the dimensions that it covers are one, and its places need no look at their range."""
    before, after = shape[:at], shape[at + len(mask._shape) :]
    flat = places_of(apply(ops.reshape, (mask,), ((mask.numel(),),)))
    return Places(None, (*before, mask.numel(), *after), at, flat, (*before, *flat._shape, *after))


def _arranged(x: Tensor, to: Places) -> Tensor:
    if to.order is not None:
        x = apply(ops.permute, (x,), (to.order,))
    return x if x._shape == to.merged else apply(ops.reshape, (x,), (to.merged,))  # type: ignore[no-any-return]


def pick(x: Tensor, keys: Sequence[tuple[int, Tensor]]) -> Any:
    """The elements of a view that index tensors pick."""
    to = merge(x._shape, keys)
    out = apply(ops.take, (_arranged(x, to), to.flat), (to.dim,))
    return shaped(out, to.result)


def replaced(x: Tensor, keys: Sequence[tuple[int, Tensor]], value: Tensor, accumulate: bool = False) -> Any:
    """A view with the elements that index tensors pick replaced by a value, or with the value added to them.

    Raises: RuntimeError if the value does not broadcast to them.
    """
    if len(keys) == 1 and keys[0][1]._dtype is dtypes.bool and value.numel() == 1 and not accumulate:
        at, mask = keys[0]
        fit = (*mask._shape, *(1,) * (len(x._shape) - at - len(mask._shape)))
        mask = mask if mask._shape == fit else apply(ops.reshape, (mask,), (fit,))
        return apply(ops.where, (mask, apply(ops.reshape, (value,), ((),)), x))
    to = merge(x._shape, keys)
    try:
        value = _fitted(value, to.result)
    except RuntimeError:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(value._shape)} cannot be broadcast to indexing result of "
            f"shape {list(to.result)}"
        ) from None
    src = (*to.merged[: to.dim], to.flat._shape[0], *to.merged[to.dim + 1 :])
    value = value if value._shape == src else apply(ops.reshape, (value,), (src,))
    out = apply(ops.index_add if accumulate else ops.index_copy, (_arranged(x, to), to.flat, value), (to.dim,))
    if to.order is None:
        return out if out._shape == x._shape else apply(ops.reshape, (out,), (x._shape,))
    out = apply(ops.reshape, (out,), (tuple(x._shape[d] for d in to.order),))
    return apply(ops.permute, (out,), (tuple(sorted(range(len(to.order)), key=to.order.__getitem__)),))


def _fitted(value: Tensor, shape: tuple[int, ...]) -> Any:
    """A value expanded to a shape; leading dimensions of size 1 that are too many go away."""
    extra = len(value._shape) - len(shape)
    if extra > 0 and value._shape[:extra] == (1,) * extra:
        value = apply(ops.reshape, (value,), (value._shape[extra:],))
    check_expand(value._shape, shape)
    return value if value._shape == shape else apply(ops.expand, (value,), (shape,))


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Any:
    """The chosen elements.

    Integers, slices, None and ... give a view; tensors, lists and masks a copy.
    Edge: index tensors that are not neighbours put their dimensions first, and a single integer takes no part in that,
    as in PyTorch and unlike NumPy.
    Raises: IndexError for a place that does not exist or too many indices, ValueError for a negative step.

    >>> import tracejit as tj
    >>> x = tj.arange(6).reshape(2, 3)
    >>> x[1, ::2], x[:, [0, -1]]
    (tensor([3, 5]), tensor([[0, 2],
            [3, 5]]))
    """
    if state.session is None:
        found = _view_now(self, index)
        if found is None:
            found = pick_now(self, index)
        if found is not None:
            return found
    at = choose(self._shape, index)
    view = _view_of(self, at)
    return pick(view, at.keys) if at.keys else view


@method("__setitem__")
def setitem(self: Tensor, index: Any, value: Any) -> None:
    """Put a number or a tensor, cast and broadcast, at the chosen elements.

    Edge: of several values for one element the last stays.
    Raises: as reading does; RuntimeError if the value does not fit; TypeError if it is neither tensor nor number.
    """
    if not isinstance(value, (Tensor, *NUMBERS)):
        raise TypeError(f"can't assign a {type(value).__name__} to a {self._dtype.name} tensor")
    if state.session is None and (_put_now(self, index, value) or place_now(self, index, value)):
        return
    at = choose(self._shape, index)
    if not isinstance(value, Tensor):
        value = beside(self, ops.full, (value,), ((), self._dtype))
    elif at.keys and value._dtype is not self._dtype and not isinstance(index, bool):
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {self._dtype.name} for the destination "
            f"and {value._dtype.name} for the source."
        )
    value = to_dtype(value, self._dtype)
    if at.keys:
        view = _view_of(self, at)
        if view is self:
            with over(self, value):
                assign(self, replaced(self, at.keys, value))
            return
        value = replaced(view, at.keys, value)
    else:
        value = _fitted(value, at.shape)
        view = None
    if state.session is None:
        assign(_view_of(self, at) if view is None else view, value)
        return
    if value._shape != at.length:
        value = apply(ops.reshape, (value,), (at.length,))
    if at.length != self._shape:
        value = apply(ops.place, (self, value), (at.start, at.step))
    assign(self, value)


@method()
def __delitem__(self: Tensor, index: Any) -> None:
    """Raises: TypeError, as elements cannot be deleted."""
    raise TypeError("Tensor does not support deleting items")
