"""Views and rearrangements with PyTorch's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracejit.dtypes import bfloat16, dtype
from tracejit.eager import LARGE
from tracejit.ops.record import ops
from tracejit.runtime.arrays import placed
from tracejit.shapes import broadcast_all, check_expand, infer_reshape, normalize_dim, normalize_dims, view_strides
from tracejit.symbols import Size as Open
from tracejit.tensor.casting import WIDEST, call_cast
from tracejit.tensor.dispatch import apply, apply_view, shaped, show, wrap
from tracejit.tensor.host import host
from tracejit.tensor.naming import named
from tracejit.tensor.promote import result_type, to_dtype
from tracejit.tensor.scalar import Scalar, alike
from tracejit.tensor.state import state
from tracejit.tensor.tape import current, is_recorded
from tracejit.tensor.tensor import Tensor, method


def ints(args: tuple[Any, ...], what: str) -> tuple[int, ...]:
    """Sizes or dimensions given one by one or as one sequence.

    Raises: TypeError for things that are not whole numbers.
    """
    if len(args) == 1 and type(args[0]) is not int and not hasattr(args[0], "__index__"):
        args = tuple(args[0])
    for a in args:
        if type(a) is not int:
            break
    else:
        return args
    try:
        whole: list[Any] = [a if type(a) is int or type(a) is Open else a.__index__() for a in args]
        return tuple(whole)
    except AttributeError:
        bad = next(a for a in args if not hasattr(a, "__index__"))
        raise TypeError(f"{what}(): expected ints, but got {type(bad).__name__}") from None


@method()
@named
def reshape(input: Tensor, *shape: Any) -> Any:
    """The elements in row-major order under another shape; one size may be -1. A view if the memory allows it."""
    to = infer_reshape(input._shape, ints(shape, "reshape"))
    return apply_view(ops.reshape, input, (to,))


@method()
@named(dtype="size")
def view(self: Tensor, *size: Any) -> Any:
    """The same memory under another shape (one size may be -1), or its bits as another type.

    DType: without a gradient in another type; the last dimension changes with the size of an element.
    Raises: RuntimeError if there is no such view.
    """
    if len(size) == 1 and isinstance(size[0], dtype):
        return self if size[0] is self._dtype else _as_type(self, size[0])
    to = infer_reshape(self._shape, ints(size, "view"))
    if not self.is_contiguous() and view_strides(self._shape, self.stride(), to) is None:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across two "
            "contiguous subspaces). Use .reshape(...) instead."
        )
    return apply_view(ops.reshape, self, (to,))


@host
def _as_type(x: Tensor, kind: dtype) -> Tensor:
    array = x._data()
    try:
        out = wrap(array.view(kind.np))
    except ValueError as e:
        raise RuntimeError(f"view(): {x._dtype.name} of shape {list(x._shape)} as {kind.name}: {e}") from None
    out._cell = x._share()
    return out


@method()
def view_as(self: Tensor, other: Tensor) -> Any:
    """The same memory under the shape of another tensor."""
    return view(self, other._shape)


@method()
def reshape_as(self: Tensor, other: Tensor) -> Any:
    """The elements under the shape of another tensor."""
    return reshape(self, other._shape)


@method()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions `start_dim` to `end_dim` merged into one."""
    shape = input._shape
    first, last = normalize_dim(start_dim, len(shape)), normalize_dim(end_dim, len(shape))
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not shape:
        return apply_view(ops.reshape, input, ((1,),))
    if first == last:
        return input
    return apply_view(ops.reshape, input, ((*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :]),))


def ravel(input: Tensor) -> Any:
    """All dimensions merged into one."""
    return flatten(input)


method()(ravel)


@named
@method()
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Any:
    """One dimension split into several; one of their sizes may be -1."""
    shape = input._shape
    d = normalize_dim(dim, len(shape))
    inner = infer_reshape((shape[d],), tuple(sizes))
    return apply_view(ops.reshape, input, ((*shape[:d], *inner, *shape[d + 1 :]),))


@method()
@named
def squeeze(input: Tensor, *dim: Any) -> Any:
    """Without dimensions of size 1: all of them, or those named."""
    shape = input._shape
    if not dim or dim[0] is None:
        to = tuple(s for s in shape if s != 1)
    elif len(dim) == 1 and type(dim[0]) is int:
        d = normalize_dim(dim[0], len(shape))
        to = shape[:d] + shape[d + 1 :] if shape and shape[d] == 1 else shape
    else:
        given = ints(dim, "squeeze")
        dims = normalize_dims(given, len(shape)) if given else ()
        to = tuple(s for i, s in enumerate(shape) if i not in dims or s != 1)
    return apply_view(ops.reshape, input, (to,))


@method()
@named
def unsqueeze(input: Tensor, dim: int) -> Any:
    """With a new dimension of size 1."""
    shape = input._shape
    d = normalize_dim(dim, len(shape) + 1)
    return apply_view(ops.reshape, input, ((*shape[:d], 1, *shape[d:]),))


@method()
@named
def permute(input: Tensor, *dims: Any) -> Any:
    """Dimensions in another order."""
    order = ints(dims, "permute")
    n = len(input._shape)
    if len(order) != n:
        raise RuntimeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired "
            f"ordering of dimensions i.e. input.dim() = {n} is not equal to len(dims) = {len(order)}"
        )
    normal = tuple(normalize_dim(d, n) for d in order)
    if len(set(normal)) != n:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return apply_view(ops.permute, input, (normal,))


@method("swapdims")
def transpose(input: Tensor, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged."""
    n = len(input._shape)
    a, b = normalize_dim(dim0, n), normalize_dim(dim1, n)
    if n == 0:
        return apply_view(ops.reshape, input, ((),))
    order = list(range(n))
    order[a], order[b] = b, a
    return apply_view(ops.permute, input, (tuple(order),))


swapdims = transpose


@method()
def swapaxes(input: Tensor, axis0: int, axis1: int) -> Any:
    """Two dimensions exchanged."""
    return transpose(input, axis0, axis1)


@method()
def t(input: Tensor) -> Any:
    """The transpose of a matrix; vectors and numbers stay.

    Raises: RuntimeError for more than two dimensions.
    """
    n = len(input._shape)
    if n > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {n}D")
    return transpose(input, 0, 1) if n == 2 else apply_view(ops.reshape, input, (input._shape,))


Tensor.T = property(lambda self: permute(self, tuple(reversed(range(len(self._shape))))))  # type: ignore[attr-defined]
Tensor.mT = property(lambda self: transpose(self, -2, -1))  # type: ignore[attr-defined]


@method()
def movedim(input: Tensor, source: Any, destination: Any) -> Any:
    """Dimensions moved to other places, the rest in order."""
    n = len(input._shape)
    src = [normalize_dim(d, n) for d in ((source,) if isinstance(source, int) else source)]
    dst = [normalize_dim(d, n) for d in ((destination,) if isinstance(destination, int) else destination)]
    rest = iter(d for d in range(n) if d not in src)
    order = [src[dst.index(i)] if i in dst else next(rest) for i in range(n)]
    return apply_view(ops.permute, input, (tuple(order),))


moveaxis = movedim
method("moveaxis")(movedim)


@method()
@named
def expand(self: Tensor, *size: Any) -> Any:
    """Dimensions of size 1, and new leading ones, repeated without a copy; -1 keeps a size."""
    to = check_expand(self._shape, ints(size, "expand"))
    return apply_view(ops.expand, self, (to,))


@method()
def expand_as(self: Tensor, other: Tensor) -> Any:
    """Repeated to the shape of another tensor."""
    return expand(self, other._shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Any:
    """Repeated to a shape without a copy."""
    return expand(input, tuple(size))


method()(broadcast_to)


@method()
@named
def repeat(self: Tensor, *repeats: Any) -> Any:
    """The tensor laid side by side `repeats` times along each dimension, as a copy."""
    counts = ints(repeats, "repeat")
    shape = self._shape
    if len(counts) < len(shape):
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    full = (1,) * (len(counts) - len(shape)) + shape
    spaced = tuple(x for s in full for x in (1, s))
    target = tuple(x for r, s in zip(counts, full, strict=True) for x in (r, s))
    wide = apply(ops.expand, (apply_view(ops.reshape, self, (spaced,)),), (target,))
    merged = tuple(r * s for r, s in zip(counts, full, strict=True))
    return shaped(apply(ops.copy, (wide,)), merged)


@named
def tile(input: Tensor, *dims: Any) -> Any:
    """The tensor laid side by side; missing counts are 1."""
    counts = ints(dims, "tile")
    return repeat(input, (1,) * (len(input._shape) - len(counts)) + counts)


method()(tile)


@method()
@named
def flip(input: Tensor, *dims: Any) -> Any:
    """Dimensions in reverse order of their elements, as a copy."""
    n = len(input._shape)
    which = tuple(normalize_dim(d, n) for d in ints(dims, "flip"))
    return apply(ops.copy, (apply_view(ops.flip, input, (which,)),))


@method()
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Any:
    """Elements shifted along dimensions, those pushed out re-entering at the other end."""
    if dims is None:
        return reshape(roll(flatten(input), shifts, 0), input._shape)
    out = input
    pairs = [(shifts, dims)] if isinstance(dims, int) else list(zip(shifts, dims, strict=True))
    for shift, dim in pairs:
        d = normalize_dim(dim, len(out._shape))
        size = out._shape[d]
        if size and shift % size:
            cut = size - shift % size
            out = cat([narrow(out, d, cut, size - cut), narrow(out, d, 0, cut)], d)
    return out


def _cut_now(x: Tensor, d: int, start: int, length: int | None) -> Tensor | None:
    """Slices from `start` on along a dimension, or one without the dimension, in one step of NumPy's, where no gradient
    takes part; None elsewhere.
    """
    array = x._array
    if state.session is not None or type(array) is not np.ndarray or not array.size or is_recorded(x):
        return None
    shape, n = array.shape, array.ndim
    before: tuple[Any, ...] = (slice(None),) * d
    where = ((0,) * d + (start,) + (0,) * (n - d - 1), (*shape[:d], length or 1, *shape[d + 1 :]), (1,) * n)
    if length is None:
        found = array[(*before, start, ...)]
        steps: tuple[Any, ...] = ((ops.slice, where), (ops.reshape, (found.shape,)))
    else:
        found = array[(*before, slice(start, start + length))]
        steps = ((ops.slice, where),)
    out = wrap(found, x._dtype)
    show(x, steps, out)
    return out


@method()
@named
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Any:
    """`length` slices from `start` on along a dimension."""
    shape = input._shape
    d = normalize_dim(dim, len(shape))
    at, length = int(alike(start)), int(length)
    if at < 0:
        at += shape[d]
    if at < 0 or at + length > shape[d] or length < 0:
        raise RuntimeError(f"start ({at}) + length ({length}) exceeds dimension size ({shape[d]}).")
    # From behind it is another number.
    start = at if type(start) is not Scalar else start.place(shape[d] + 1 - length) if start.value == at else int(start)
    found = _cut_now(input, d, start, length) if length else None
    if found is not None:
        return found
    begin = tuple(start if i == d else 0 for i in range(len(shape)))
    size = (*shape[:d], length, *shape[d + 1 :])
    return apply_view(ops.slice, input, (begin, size, (1,) * len(shape)))


@method()
@named
def select(input: Tensor, dim: int, index: Any) -> Any:
    """One slice along a dimension, which goes away."""
    shape = input._shape
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = normalize_dim(dim, len(shape))
    at = int(alike(index))
    if not -shape[d] <= at < shape[d]:
        raise IndexError(f"select(): index {at} out of range for tensor of size {list(shape)} at dimension {d}")
    index = index.place(shape[d]) if type(index) is Scalar else at % shape[d]
    found = _cut_now(input, d, index, None)
    if found is not None:
        return found
    out = narrow(input, d, index, 1)
    return apply_view(ops.reshape, out, (shape[:d] + shape[d + 1 :],))


@method()
@named
def unbind(input: Tensor, dim: int = 0) -> tuple[Any, ...]:
    """All slices along a dimension, which goes away."""
    d = normalize_dim(dim, len(input._shape))
    return tuple(select(input, d, i) for i in range(input._shape[d]))


@method("split")
def _split_method(self: Tensor, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
    """Pieces of `split_size` along a dimension (the last may be smaller), or of the sizes given."""
    return split(self, split_size, dim)


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Pieces of one size along a dimension (the last may be smaller), or of the sizes given."""
    split_size, d = split_size_or_sections, normalize_dim(dim, len(tensor._shape))
    if not tensor._shape:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    size = tensor._shape[d]
    if isinstance(split_size, int):
        if split_size <= 0:
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={split_size}")
        sizes = [min(split_size, size - i) for i in range(0, size, split_size)] or [0]
    else:
        sizes = list(split_size)
        if sum(sizes) != size:
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's size at dimension "
                f"{d}), but got split_sizes={sizes}"
            )
    out, at = [], 0
    for s in sizes:
        out.append(narrow(tensor, d, at, s))
        at += s
    return tuple(out)


@method()
@named
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` pieces of equal size along a dimension, the last maybe smaller."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    size = input._shape[normalize_dim(dim, len(input._shape))]
    return split(input, max(-(-size // chunks), 1), dim)


@method()
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two dimensions as the last one. Cost: nothing, it is a view.

    >>> import tracejit as tj
    >>> x = tj.zeros(2, 2)
    >>> x.diagonal().add_(1.0)
    tensor([1., 1.])
    >>> x
    tensor([[1., 0.],
            [0., 1.]])
    """
    n = len(input._shape)
    a, b = normalize_dim(dim1, n), normalize_dim(dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    rest = [d for d in range(n) if d not in (a, b)]
    x = apply_view(ops.permute, input, ((*rest, a, b),))
    rows, cols = x._shape[-2:]
    r0, c0 = max(-offset, 0), max(offset, 0)
    length = max(min(rows - r0, cols - c0), 0)
    if length != rows or length != cols:
        lead = x._shape[:-2]
        start = (*((0,) * len(lead)), r0, c0) if length else (0,) * n
        x = apply_view(ops.slice, x, (start, (*lead, length, length), (1,) * n))
    return apply(ops.diagonal, (x,))


def _arrays_now(tensors: Any) -> list[Any] | None:
    """The memory of few elements of one type that no gradient goes to, where it is at hand; None elsewhere."""
    if type(tensors) not in (list, tuple) or not tensors or state.session is not None:
        return None
    arrays, elements, records = [], 0, state.grad_enabled
    kind = getattr(tensors[0], "_dtype", None)
    for x in tensors:
        if not isinstance(x, Tensor) or x._dtype is not kind or type(x._array) is not np.ndarray:
            return None
        if x._base is not None:
            current(x)
        if records and x._requires_grad:
            return None
        arrays.append(x._array)
        elements += x._array.size
    # What is large threads join.
    return None if elements >= LARGE or kind is bfloat16 else arrays


def _joined(arrays: list[Any], dim: int, kind: dtype) -> Tensor | None:
    """Arrays joined by NumPy; None where there is something to say."""
    try:
        joined = np.concatenate(arrays, dim)
    except ValueError:
        return None
    return wrap(placed(joined if joined.flags.c_contiguous else np.ascontiguousarray(joined)), kind)


def _cat_now(tensors: Any, dim: Any) -> Tensor | None:
    """`cat` by NumPy, where that does the same; None elsewhere."""
    arrays = _arrays_now(tensors)
    return None if arrays is None or type(dim) is not int else _joined(arrays, dim, tensors[0]._dtype)


def _stack_now(tensors: Any, dim: Any) -> Tensor | None:
    """`stack` by NumPy, where that does the same; None elsewhere."""
    arrays = _arrays_now(tensors)
    if arrays is None or type(dim) is not int or not -arrays[0].ndim - 1 <= dim <= arrays[0].ndim:
        return None
    shape = arrays[0].shape
    for array in arrays:
        if array.shape != shape:
            return None
    before = (slice(None),) * (dim % (arrays[0].ndim + 1))
    return _joined([a[(*before, None)] for a in arrays], dim, tensors[0]._dtype)


@named
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Tensors joined along a dimension.

    DType: promoted. Edge: tensors of shape (0,) are skipped. Raises: RuntimeError if other sizes
    differ, ValueError for no tensors.
    """
    if state.autocast is not None:
        return call_cast(WIDEST, cat, (tensors, dim))
    found = _cat_now(tensors, dim)
    if found is not None:
        return found
    if isinstance(tensors, Tensor):
        raise TypeError("cat(): argument 'tensors' (position 1) must be tuple of Tensors, not Tensor")
    given = list(tensors)
    if not given:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    for i, x in enumerate(given):
        if not isinstance(x, Tensor):
            raise TypeError(f"expected Tensor as element {i} in argument 0, but got {type(x).__name__}")
    d = result_type(*given)
    xs = [to_dtype(x, d) for x in given if x._shape != (0,)] or [to_dtype(given[0], d)]
    n = len(xs[0]._shape)
    if n == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    axis = normalize_dim(dim, n)
    first = xs[0]._shape
    for i, x in enumerate(xs):
        if len(x._shape) != n:
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {n} and {len(x._shape)}"
            )
        if any(s != f for k, (s, f) in enumerate(zip(x._shape, first, strict=True)) if k != axis):
            k = next(k for k in range(n) if k != axis and x._shape[k] != first[k])
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {axis}. Expected size {first[k]} but got size "
                f"{x._shape[k]} for tensor number {i} in the list."
            )
    if len(xs) == 1:
        return apply(ops.copy, (xs[0],))
    return apply(ops.cat, tuple(xs), (axis,))


concat = concatenate = cat


@named
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new dimension."""
    if state.autocast is not None:
        return call_cast(WIDEST, stack, (tensors, dim))
    found = _stack_now(tensors, dim)
    if found is not None:
        return found
    xs = list(tensors)
    if not xs:
        raise RuntimeError("stack expects a non-empty TensorList")
    for i, x in enumerate(xs):
        if x._shape != xs[0]._shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(xs[0]._shape)} at entry 0 and "
                f"{list(x._shape)} at entry {i}"
            )
    return cat([unsqueeze(x, dim) for x in xs], normalize_dim(dim, len(xs[0]._shape) + 1))


def hstack(tensors: Sequence[Tensor]) -> Any:
    """Tensors joined along the second dimension, vectors along the first."""
    xs = [reshape(x, 1) if not x._shape else x for x in tensors]
    return cat(xs, 0 if not xs or len(xs[0]._shape) <= 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Any:
    """Tensors joined along the first dimension, vectors as rows."""
    return cat([reshape(x, (1, -1)) if len(x._shape) < 2 else x for x in tensors], 0)


def broadcast_tensors(*tensors: Tensor) -> tuple[Any, ...]:
    """The tensors repeated to their common shape."""
    shape = broadcast_all([x._shape for x in tensors])
    return tuple(expand(x, shape) for x in tensors)


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all shapes broadcast to."""
    return broadcast_all([tuple(s) for s in shapes])
