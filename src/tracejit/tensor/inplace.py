"""Changes in place: a new value for a tensor's memory, seen by every view of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from tracejit.dtypes import dtype, float32, float64, int64
from tracejit.eager_few import run_into
from tracejit.eager_single import writing_over
from tracejit.ops.record import Op, ops
from tracejit.ops.view import on_diagonals
from tracejit.runtime.cuda.array import OnGpu
from tracejit.shapes import broadcast
from tracejit.tensor import arithmetic
from tracejit.tensor.blending import addcdiv, addcmul, lerp
from tracejit.tensor.clamping import clamp, clamp_max, clamp_min
from tracejit.tensor.dispatch import apply, beside, wrap
from tracejit.tensor.gpu import gpu_side
from tracejit.tensor.host import shown
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.state import state
from tracejit.tensor.tape import current, enter
from tracejit.tensor.tensor import Tensor, method


def assign(target: Tensor, value: Tensor) -> Tensor:
    """Let the memory of `target` hold `value`, which has its type and broadcasts to its shape.

    Raises: RuntimeError if the result type cannot be stored, the shape does not fit, or a leaf that requires
    gradients would be changed while gradients are recorded; nothing is changed then.
    """
    if _write_now(target, value):
        return target
    check_no_leaf(target)
    if value._dtype is not target._dtype:
        if value._dtype.category > target._dtype.category:
            raise RuntimeError(
                f"result type {value._dtype.title} can't be cast to the desired output type "
                f"{target._dtype.title}"
            )
        value = to_dtype(value, target._dtype)
    if value._shape != target._shape:
        if broadcast(value._shape, target._shape) != target._shape:
            raise RuntimeError(
                f"output with shape {list(target._shape)} doesn't match the broadcast shape "
                f"{list(broadcast(value._shape, target._shape))}"
            )
        value = apply(ops.expand, (value,), (target._shape,))
    session = state.session
    if session is not None:
        session.assign(target, value)
    else:
        write(target, value)
    return target


def check_no_leaf(target: Tensor) -> None:
    """Raises: RuntimeError if a change of the tensor would change a leaf whose gradient is asked for."""
    if not state.grad_enabled:
        return
    if target._requires_grad and target._node is None:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    base = target._base
    if base is not None and base._requires_grad and base._node is None:
        raise RuntimeError("a view of a leaf Variable that requires grad is being used in an in-place operation.")


def _write_now(target: Tensor, value: Tensor) -> bool:
    """Does what `assign` does, where that is nothing but a copy; whether it is."""
    if target._dtype is not value._dtype or not is_free(target) or not is_plain(value):
        return False
    array, source = target._array, value._array
    if array.shape != source.shape or not array.flags.writeable:
        return False
    if source is not array:
        np.copyto(array, source)
    target._bump()
    return True


def write(target: Tensor, value: Tensor) -> None:
    """Copy a value into a tensor's memory and put it on the tape."""
    array = target._memory()
    if not array.flags.writeable:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory "
            "location, or the memory is read-only. Please clone() the tensor before performing the operation."
        )
    copy_into(array, value._memory())
    rewritten(target, value)


def write_late(target: Tensor, value: Tensor) -> None:
    """`write` for a tensor that was pending when `assign` looked at it: a view then said nothing of its base."""
    check_no_leaf(target)
    write(target, value)


def copy_into(target: Any, value: Any) -> None:
    """Copy an array into another of its type and shape, wherever they are."""
    try:
        np.copyto(target, value)
    except OnGpu:
        gpu_side().copy_into(target, value)


def rewritten(target: Tensor, value: Tensor) -> None:
    """Note that a tensor's memory was overwritten with a value: its version, and its place on the tape."""
    # Not by the field: what a view shows may have got a history since.
    records = state.grad_enabled and (value.requires_grad or target.requires_grad)
    if records and value._base is not None:
        value = _as_before(value)
    target._bump()
    if not records:
        return
    if target._base is None:
        _take_history(target, value)
    else:
        _rebase(target, value)


def _as_before(view: Tensor) -> Tensor:
    """A view with the history that it has now, whatever becomes of the memory that it shows."""
    node = current(view)
    if node is None:
        return view
    value = wrap(view._array)
    value._index, value._node, value._requires_grad = view._index, node, True
    return value


def _take_history(target: Tensor, value: Tensor) -> None:
    """Give a tensor the history of the value that its memory holds now."""
    node = current(value)
    if node is not None:
        target._index, target._node, target._requires_grad = value._index, node, True
    elif value._requires_grad:
        # A leaf: the target is a copy of it.
        enter(ops.copy, (value,), (), (target,), 1)
    elif target._requires_grad:
        # The target goes on requiring gradients; that of what it held is zero.
        before = wrap(target._array)
        before._index, before._node, before._requires_grad = target._index, target._node, True
        n = len(target._shape)
        enter(ops.place, (before, value), ((0,) * n, (1,) * n), (target,), 1)


def _rebase(view: Tensor, value: Tensor) -> None:
    """The history of a base after one of its views was changed: the old base with the new value put in."""
    base = view._base
    assert base is not None
    _take_history(base, with_part(view, value))
    # Whoever uses the view looks at it, as at others: that somebody changed it gives it no place on the tape.
    view._seen = -1


def with_part(view: Tensor, value: Tensor) -> Any:
    """The base of a view, with the view's elements replaced by `value`."""
    base = view._base
    assert base is not None
    parents = [base]
    for op, step in view._view[:-1]:
        parents.append(apply(op, *op.of_step(parents[-1], step)))
    for (op, attrs), parent in zip(reversed(view._view), reversed(parents), strict=True):
        value = _put_back(op, attrs, parent, value)
    return value


def _put_back(op: Op, attrs: tuple[Any, ...], parent: Tensor, value: Tensor) -> Any:
    """The parent of a view, with the view's elements replaced by `value`."""
    if op is ops.reshape:
        return apply(op, (value,), (parent._shape,))
    if op is ops.permute:
        dims = attrs[0]
        return apply(op, (value,), (tuple(sorted(range(len(dims)), key=dims.__getitem__)),))
    if op is ops.flip:
        return apply(op, (value,), attrs)
    if op is ops.diagonal:
        shape, start, step = on_diagonals(parent._shape)
        flat = apply(ops.place, (apply(ops.reshape, (parent,), (shape,)), value), (start, step))
        return apply(ops.reshape, (flat,), (parent._shape,))
    if op is ops.slice:
        start, _, step = attrs
        return apply(ops.place, (parent, value), (start, step))
    if op is ops.dynamic_slice:
        at, dim, _ = attrs
        return apply(ops.dynamic_place, (parent, value, at), (dim,))
    if op is ops.windows:
        return _put_windows_back(parent, value, *attrs)
    raise RuntimeError(f"a tensor made by {op.name}() cannot be changed in place; clone() it first")


def _put_windows_back(parent: Tensor, value: Tensor, dim: int, size: int, step: int) -> Any:
    """The parent of windows that have no element in common, with these replaced by `value`."""
    shape, n, count = parent._shape, len(parent._shape), value._shape[dim]
    none, one = (0,) * n, (1,) * n

    def at(where: tuple[int, ...], number: int) -> tuple[int, ...]:
        return (*where[:dim], number, *where[dim + 1 :])

    # What follows the last window need not be a whole gap; a window alone may be larger than a step.
    whole = count if size <= step and count * step <= shape[dim] else count - 1
    for first, many, width in ((0, whole, step), (whole, count - whole, size)):
        some = apply(ops.slice, (value,), ((*at(none, first), 0), (*at(value._shape, many)[:n], size), (*one, 1)))
        start, length = at(none, first * step), at(shape, many * width)
        if width > size:
            row = apply(ops.slice, (parent,), (start, length, one))
            blocks = apply(ops.windows, (row,), (dim, width, width))
            some = apply(ops.place, (blocks, some), ((*none, 0), (*one, 1)))
        turned = apply(ops.permute, (some,), ((*range(dim + 1), n, *range(dim + 1, n)),))
        parent = apply(ops.place, (parent, apply(ops.reshape, (turned,), (length,))), (start, one))
    return parent


# Functions whose gradients do not look at the operand that is changed, or only if another one requires gradients.
_FORGET = {
    *("add", "sub", "neg", "masked_fill", "masked_scatter", "scatter", "scatter_add", "index_add", "index_copy"),
    *("eq", "ne", "lt", "le", "gt", "ge", "cumsum", "tril", "triu", "addmm", "baddbmm"),
    *("index_fill", "exp", "expm1", "sqrt", "sigmoid", "tanh", "relu", "floor", "ceil", "trunc", "round", "sign"),
}
_FORGET_ALONE = {"mul", "div"}


def _looks_back(name: str, self: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether a gradient needs the value that the change in place overwrites."""
    if name in _FORGET:
        return False
    return (self.requires_grad and name not in _FORGET_ALONE) or any(
        isinstance(a, Tensor) and a.requires_grad for a in args
    )


_OF_FEW = ("scatter", "scatter_add", "index_add", "index_copy", "index_fill")
"""What changes a few elements. The gradients of none look at the operand that is changed."""

_LOOPS = ("add", "sub", "mul", "div")
"""What NumPy computes in place."""


def is_plain(x: Any) -> bool:
    """Whether a tensor is an array at hand, without history, and shows none that has one."""
    base = x._base
    return (
        type(x._array) is np.ndarray
        and not x._requires_grad
        and (base is None or (base._node is None and not base._requires_grad))
    )


def is_free(x: Any) -> bool:
    """Whether a tensor is plain and no region takes part."""
    return state.session is None and isinstance(x, Tensor) and is_plain(x)


_EXACT = 1 << 31
"""Below that whole numbers are the same in any of the types that `holds` knows."""


def holds(kind: dtype, value: Any) -> bool:
    """Whether a type, if it is one of the usual, holds a number as it is, so that nothing has to be said about it."""
    if type(value) is float:
        # What is not finite needs no look at what the type holds.
        return (kind is float32 or kind is float64) and (abs(value) < 3e38 or value - value != 0)
    return type(value) is int and (kind in (float32, float64, int64)) and -_EXACT < value < _EXACT


def put_now(target: Any, at: Any, value: Any) -> bool:
    """Puts a value where a subscript for NumPy chooses places of a free tensor, if that is nothing but a copy of a
    tensor like these places or their last dimensions, or of a number that their type holds; whether it did.
    """
    array = target._array
    if not is_free(target) or not array.flags.writeable:
        return False
    if isinstance(value, Tensor):
        found = array[at]
        if value._dtype is not target._dtype or not is_plain(value) or not is_like(value._array.shape, found.shape):
            return False
        np.copyto(found, value._array)
    elif holds(target._dtype, value):
        array[at] = value
    else:
        return False
    target._bump()
    return True


def is_like(shape: tuple[int, ...], places: tuple[int, ...]) -> bool:
    """Whether a shape is that of places, or of their last dimensions."""
    return shape == places or places[len(places) - len(shape) :] == shape


def _compute_now(op: Op, target: Tensor, other: Any) -> bool:
    """Computes in place on a free tensor, where that is nothing but one loop; whether it did."""
    if isinstance(other, Tensor):
        if not is_plain(other):
            return False
        other = other._array
    array = target._array
    if not array.flags.writeable or not run_into(op, array, other):
        return False
    target._bump()
    return True


FEW_OF = 1 << 12
"""Elements from which on a tensor of which a few are changed is not copied."""


def over(target: Tensor, *operands: Any) -> AbstractContextManager[None]:
    """Inside, what gives the tensor with a few elements changed does so in its memory, where nobody else would see that
    before the change is done.
    """
    array = target._array
    if not is_free(target) or array.size < FEW_OF or not array.flags.writeable:
        return nullcontext()
    if state.grad_enabled and any(isinstance(a, Tensor) and a.requires_grad for a in operands):
        return nullcontext()
    return writing_over(array)


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place form of a function: `x.f_(...)`."""
    name = function.__name__.rstrip("_")
    op = getattr(ops, name) if name in _LOOPS else None
    few = name in _OF_FEW

    def changed(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if op is not None and len(args) == 1 and not kwargs and is_free(self) and _compute_now(op, self, args[0]):
            return self
        if few:
            with over(self, *args, *kwargs.values()):
                return assign(self, function(self, *args, **kwargs))
        if args and type(args[0]) is np.ndarray:
            raise TypeError(f"{name}_(): argument must be Tensor or number, not ndarray; make a tensor of it")
        source = self
        if state.grad_enabled and _looks_back(name, self, (*args, *kwargs.values())):
            source = apply(ops.copy, (self,))
        return assign(self, function(source, *args, **kwargs))

    changed.__name__ = changed.__qualname__ = f"{name}_"
    changed.__doc__ = f"`{name}` in place.\n\nRaises: RuntimeError if the result does not fit the tensor."
    setattr(Tensor, changed.__name__, changed)
    return changed


IN_PLACE = tuple(
    in_place(getattr(arithmetic, name))
    for name in (
        *("add", "sub", "mul", "div", "pow", "remainder", "fmod", "floor_divide"),
        *("exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tan", "tanh", "sigmoid", "erf", "sqrt", "rsqrt"),
        *("exp2", "log10", "sinh", "cosh", "asin", "acos", "atan"),
        *("neg", "abs", "sign", "floor", "ceil", "trunc", "round", "reciprocal", "square"),
        *("masked_fill", "logical_not", "logical_and", "logical_or", "logical_xor"),
        *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bitwise_left_shift", "bitwise_right_shift"),
        *("eq", "ne", "lt", "le", "gt", "ge", "atan2"),
    )
) + tuple(in_place(function) for function in (addcdiv, addcmul, clamp, clamp_max, clamp_min, lerp))

for _other, _name in (
    ("clip_", "clamp_"),
    ("absolute_", "abs_"),
    ("arcsin_", "asin_"),
    ("arccos_", "acos_"),
    ("arctan_", "atan_"),
    ("arctan2_", "atan2_"),
    ("fix_", "trunc_"),
    ("sgn_", "sign_"),
    ("bitwise_left_shift_", "left_shift_"),
    ("bitwise_right_shift_", "right_shift_"),
    ("negative_", "neg_"),
    ("subtract_", "sub_"),
    ("multiply_", "mul_"),
    ("divide_", "div_"),
    ("true_divide_", "div_"),
    ("not_equal_", "ne_"),
    ("less_", "lt_"),
    ("less_equal_", "le_"),
    ("greater_", "gt_"),
    ("greater_equal_", "ge_"),
    ("__iadd__", "add_"),
    ("__isub__", "sub_"),
    ("__imul__", "mul_"),
    ("__itruediv__", "div_"),
    ("__ipow__", "pow_"),
    ("__imod__", "remainder_"),
    ("__ifloordiv__", "floor_divide_"),
    ("__iand__", "bitwise_and_"),
    ("__ior__", "bitwise_or_"),
    ("__ixor__", "bitwise_xor_"),
    ("__ilshift__", "bitwise_left_shift_"),
    ("__irshift__", "bitwise_right_shift_"),
):
    setattr(Tensor, _other, getattr(Tensor, _name))


@method()
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Copy the elements of `src`, cast and broadcast, into the tensor."""
    if not isinstance(src, Tensor):
        raise TypeError(f"copy_(): argument 'other' must be Tensor, not {type(src).__name__}")
    return assign(self, to_dtype(src, self._dtype))


@method()
def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number."""
    if isinstance(value, Tensor):
        if value._shape:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {len(value._shape)} dimensions."
            )
        return assign(self, to_dtype(value, self._dtype))
    if put_now(self, ..., value):
        return self
    return assign(self, beside(self, ops.full, (value,), (self._shape, self._dtype)))


@method()
def zero_(self: Tensor) -> Tensor:
    """Set every element to zero."""
    return fill_(self, 0)


def _set_data(self: Tensor, value: Tensor) -> None:
    """Let the tensor stand on the memory of another: `x.data = y`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
    session = state.session
    if session is None:
        _adopt(self, value)
    elif self._base is not None or not session.stands_on(self, value):
        # After `x.data -= y` Python sets what there is.
        session.host(_adopt, (self, value), {})


@shown("setting .data")
def _adopt(target: Tensor, value: Tensor) -> None:
    target._array = value._memory()
    target._dtype = value._dtype
    target._cell = value._share()
    target._base = None


Tensor.data = property(lambda self: self.detach(), _set_data)  # type: ignore[attr-defined]
