"""The way of an operation: a compiled region takes it, or it runs now and is entered on the tape."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.devices import CPU, device
from tracejit.dtypes import dtype
from tracejit.eager import run_op
from tracejit.eager_few import run_pair, run_reduced, run_single
from tracejit.ops.record import Op, install, ops
from tracejit.runtime.cuda.array import OnGpu
from tracejit.tensor.gpu import gpu_side
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import current, enter
from tracejit.tensor.tensor import _BY_NUM, Tensor, aval_of

ndarray = np.ndarray
new = Tensor.__new__


def wrap(array: Any, kind: dtype | None = None) -> Tensor:
    """A leaf tensor on an array, whose type need not be looked up where it is known."""
    t: Tensor = new(Tensor)
    t._array = array
    t._dtype = _BY_NUM[array.dtype.num] if kind is None else kind
    t._requires_grad = False
    t._node = t._grad = t._cell = t._base = t._hooks = None
    return t


def detached(t: Tensor) -> Tensor:
    """A leaf on the memory of a tensor."""
    out: Tensor = Tensor.__new__(Tensor)
    out._array = t._memory() if t._array is None else t._array
    out._dtype = t._dtype
    out._requires_grad = False
    out._node = out._grad = out._hooks = None
    out._cell = t._share()
    out._base = None
    return out


def apply(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...] = ()) -> Any:
    """Apply a record to tensors and Python numbers."""
    session = state.session
    if session is not None:
        return session.apply(op, args, attrs)
    return compute(op, args, attrs)


def shaped(out: Tensor, shape: tuple[int, ...]) -> Any:
    """A result that nobody else has under another shape: as `reshape`, but no view."""
    return out if out._shape == shape else apply(ops.reshaped, (out,), (shape,))


def apply_pair(op: Op, x: Tensor, y: Tensor) -> Any:
    """`apply` for an elementwise record on two tensors of one type: the same, by the shortest way."""
    session = state.session
    if session is not None:
        return session.apply(op, (x, y), ())
    a, b = x._array, y._array
    if a is None or b is None:
        a, b = x._memory(), y._memory()
    try:
        found = run_pair(op, a, b)
    except OnGpu:
        found = gpu_side().run_on_gpu(op, (a, b), ())
    except ValueError:
        op.infer(aval_of(x), aval_of(y))
        raise
    out = wrap(found if found.flags.c_contiguous else np.ascontiguousarray(found))
    if x._base is not None:
        current(x)
    if y._base is not None:
        current(y)
    mask = x._requires_grad + 2 * y._requires_grad
    if mask and state.grad_enabled:
        enter(op, (x, y), (), (out,), mask)
    return out


def _follow(op: Op, x: Tensor, attrs: tuple[Any, ...], out: Tensor) -> None:
    """Enter what was made of a tensor that has a history, or may have got one by what it shows."""
    current(x)
    if x._requires_grad and state.grad_enabled and op.rules:
        enter(op, (x,), attrs, (out,), 1)


def apply_single(op: Op, x: Tensor) -> Any:
    """`apply` for an elementwise record on one tensor: the same, by the shortest way."""
    session = state.session
    array = x._array
    if session is not None or type(array) is not ndarray:
        return apply(op, (x,), ())
    found = run_single(op, array)
    out = wrap(found if found.flags.c_contiguous else np.ascontiguousarray(found))
    if x._base is not None or x._requires_grad:
        _follow(op, x, (), out)
    return out


def apply_reduction(op: Op, x: Tensor, dim: int) -> Any:
    """`apply` for a reduction of one tensor: the same, by the shortest way."""
    array = x._array
    if state.session is not None or type(array) is not ndarray:
        return apply(op, (x,), (dim,))
    out = wrap(run_reduced(op, array, dim))
    if x._base is not None or x._requires_grad:
        _follow(op, x, (dim,), out)
    return out


def apply_view(op: Op, x: Tensor, attrs: tuple[Any, ...]) -> Any:
    """`apply` for a view of one tensor: the same, by the shortest way."""
    session = state.session
    if session is not None:
        return session.apply(op, (x,), attrs)
    array = x._array
    if type(array) is not ndarray:
        return compute(op, (x,), attrs)
    try:
        found = op.numpy(array, *attrs)
    except ValueError:
        return compute(op, (x,), attrs)
    out = wrap(found if type(found) is ndarray else np.asarray(found), x._dtype)
    attach(op, x, attrs, out)
    if x._base is not None or x._requires_grad:
        _follow(op, x, attrs, out)
    return out


def compute_array(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What a record gives on arrays, wherever they are, and numbers."""
    try:
        return run_op(op, args, attrs)
    except OnGpu:
        return gpu_side().run_on_gpu(op, args, attrs)


def compute(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Run a record now."""
    mask = 0
    bit = 1
    arrays = []
    for a in args:
        if isinstance(a, Tensor):
            array = a._array
            # Without memory it is pending in another thread's region: `_data` says so.
            arrays.append(a._memory() if array is None else array)
            if a._base is not None:
                # A change in place of what it shows may have given it a history.
                current(a)
            if a._requires_grad:
                mask |= bit
        else:
            arrays.append(a.value if type(a) is Scalar else a)
        bit <<= 1
    try:
        # `compute_array`, without its call.
        try:
            found = run_op(op, tuple(arrays), attrs)
        except OnGpu:
            found = gpu_side().run_on_gpu(op, tuple(arrays), attrs)
    except ValueError:
        # NumPy's own words for shapes that do not broadcast; the record's typing rule says it as elsewhere.
        op.infer(*(aval_of(a) if isinstance(a, Tensor) else a for a in args), *attrs)
        raise
    except OverflowError as e:
        raise RuntimeError(f"value cannot be converted to the other operand's type without overflow: {e}") from None
    if type(found) is tuple:
        outs = tuple(wrap(a) for a in found)
        if mask and state.grad_enabled and op.rules:
            enter(op, args, attrs, outs, mask)
        return outs
    if op.family == "view":
        out = wrap(found)
        attach(op, args[0], attrs if len(args) == 1 else (*args[1:], *attrs), out)
    else:
        # NumPy keeps the order of a transposed operand; here every computed tensor is contiguous.
        out = wrap(found if found.flags.c_contiguous else np.ascontiguousarray(found))
    if mask and state.grad_enabled and op.rules:
        enter(op, args, attrs, (out,), mask)
    return out


def made_on(where: device, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Apply a record that makes a tensor out of numbers, on a device."""
    return apply(op if where is CPU or op.twin is None else op.twin, args, attrs)


def beside(x: Tensor, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Apply a record that makes a tensor out of numbers, on the device of another tensor."""
    return made_on(x.device, op, args, attrs)


def _called(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Apply a record as gradient rules do: what they make of numbers is where their gradients are."""
    if op.twin is not None and state.gradients_on_gpu:
        op = op.twin
    return apply(op, args, attrs)


def attach(op: Op, source: Tensor, step: tuple[Any, ...], out: Tensor) -> None:
    """Note that `out` is a view of the memory of `source`, if it is one and not a copy; where nobody has `source`, that
    what is saved of it changes with `out`. The step has numbers of the run before the operation's attributes.
    """
    if op.plain is not None:
        out._cell = source._share()
        return
    if op.name == "reshape" and not source._array.flags.c_contiguous and not np.shares_memory(
        source._array, out._array
    ):
        return
    show(source, ((op, step),), out)


def show(source: Tensor, steps: tuple[Any, ...], out: Tensor) -> None:
    """Note that `out` is the view of the memory of `source` to which some steps lead."""
    cell = source._cell
    if cell is None:
        cell = source._cell = [0]
    out._cell = cell
    base = source._base
    if base is None:
        out._base = source
        out._view = steps
    else:
        out._base = base
        out._view = source._view + steps
    out._seen = cell[0]


install(_called)
