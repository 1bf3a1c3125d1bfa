"""One operation on NumPy arrays, computed with the same kernels as compiled programs.

In: a record, arrays and numbers, attributes. Out: new arrays.
Must not know: tensors, autograd, traces.

Operations that are exact, so that NumPy cannot differ from a kernel, run in NumPy: always if they are one loop of its,
else at their first uses; so do short reductions, step by step in the order of the kernels, and elementary functions of
few elements, by their formulas. Else these run as one flat loop; reductions, library operations and random numbers as
programs of one operation, kept by operand layout, or from what is planned once for layouts that change (`eager_open`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tracejit import kernels
from tracejit.aval import Aval
from tracejit.codegen.generate import generate
from tracejit.codegen.library import plan_call
from tracejit.codegen.text import Place, Scalar
from tracejit.dtypes import FROM_NUMPY, bfloat16, widened
from tracejit.eager_open import is_new, kind_of
from tracejit.eager_single import (
    MAX_PROGRAMS,
    NO_SCALARS,
    Single,
    change,
    is_written_over,
    number_kind,
    programs,
    word,
)
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.kernels.fold import STEPS_IN_NUMPY, fold_in_numpy
from tracejit.kernels.template import lanes
from tracejit.kernels.vmath.in_numpy import FORMULAS, by_formula
from tracejit.ops import Op, ops
from tracejit.ops.index import CHANGING
from tracejit.runtime.arrays import SMALL_BYTES, copied, empty, placed
from tracejit.runtime.build import build
from tracejit.runtime.cuda.array import DeviceArray, OnGpu
from tracejit.runtime.team import launch
from tracejit.schedule.cost import BLOCK, COLUMN_ROWS
from tracejit.schedule.plan import make_plan
from tracejit.shapes import broadcast_all

silence: Any = None
restore: Any = None
try:
    from numpy._core._ufunc_config import _extobj_contextvar, _make_extobj  # type: ignore[attr-defined]
except ImportError:  # a NumPy that keeps this elsewhere: the public way, 0.8 us dearer
    SILENT: Any = None
else:
    # Setting the context variable by hand costs 0.1 us, `np.errstate` 0.9 us.
    SILENT = _make_extobj(all="ignore")
    silence, restore = _extobj_contextvar.set, _extobj_contextvar.reset

_FLOATS = "fV"
"""NumPy's letters for floating point types; the second is that of bfloat16, which is not NumPy's own."""
_SAMPLE, _FEW_ROWS = 1 << 10, 32
"""Length of the arrays that a flat kernel is generated for, and rows for sums of columns; texts hold no length."""


def _numpy(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """The record's NumPy function, without NumPy's floating point warnings."""
    if SILENT is None:
        with np.errstate(all="ignore"):
            result = op.on_arrays(args, attrs)
    else:
        token = silence(SILENT)
        try:
            result = op.on_arrays(args, attrs) if bfloat16.loaded else op.numpy(*args, *attrs)
        finally:
            restore(token)
    if type(result) is np.ndarray:
        # What is made of numbers alone is kept, as parameters and the states of optimizers are.
        return result if result.nbytes < SMALL_BYTES or np.ndarray in map(type, args) else placed(result)
    if type(result) is tuple:
        return tuple(map(np.asarray, result))
    return np.asarray(result)


# --- elementary functions: flat loops ---------------------------------------------------------------------------------


class _Flat:
    """The kernel of an elementwise operation over vectors of any length, with what its argument slots hold."""

    __slots__ = ("address", "cost", "dtype", "plain", "slots")

    def __init__(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...] = ()) -> None:
        inputs: list[Node] = []
        scalars: list[str] = []
        operands: list[Node] = []
        for a in args:
            if type(a) is np.ndarray:
                inputs.append(nodes.input(len(inputs), Aval((_SAMPLE,), FROM_NUMPY[a.dtype])))
                operands.append(inputs[-1])
            else:
                scalars.append(number_kind(a))
                operands.append(nodes.scalar(len(scalars) - 1, scalars[-1]))
        out = nodes.make(op, tuple(operands), attrs)
        plan = make_plan(Graph(tuple(inputs), tuple(scalars), (out,), name=op.name), plan_call)
        ((text,),) = generate(plan.groups[0], plan)
        arrays = [i for i, a in enumerate(args) if type(a) is np.ndarray]
        numbers = [i for i, a in enumerate(args) if type(a) is not np.ndarray]
        self.slots: list[int] = []
        """Places among the operands; the result is at -1."""
        for slot in text.slots:
            if isinstance(slot, Place):
                self.slots.append(-1 if slot.buffer.kind == "output" else arrays[slot.buffer.index])
            else:
                assert isinstance(slot, Scalar)
                self.slots.append(numbers[slot.index])
        self.plain = self.slots == [*range(len(args)), -1]
        self.address = build(text.text, text.name).address
        self.cost = text.unit_cost
        self.dtype = out.dtype.np


flat_kernels: dict[Any, _Flat] = {}


def build_flat(name: str) -> None:
    """Builds the kernel of an elementwise operation on float32, for whoever runs it later."""
    op = getattr(ops, name)
    _Flat(op, tuple(np.zeros(1, np.float32) for _ in op.params))


def build_library(name: str) -> None:
    """Builds a kernel of the library, for whoever runs it later."""
    module = kernels.defining(name)
    assert module is not None
    build(getattr(module, name))


def build_column_sums() -> None:
    """Builds the kernel of sums along the first dimension of a float32 matrix, for whoever runs it later."""
    Single(ops.sum, (np.zeros((_FEW_ROWS, _SAMPLE), np.float32),), (0,), {})


_NUMPY_WORK, _USE_WORK = 1 << 24, 1 << 13
"""Elements that uses of an exact operation go through from which on a kernel, 10 to 30 ms to build, is worth it: NumPy
takes up to half a nanosecond longer for each. What it takes longer for a use counts as so many."""
_SLOW = 8
"""What an element counts where it is not one of NumPy's loops: choices take it 4 ns, if they are not foreseeable."""
_SORTED = 64
"""The same where rows are put in order."""
REDUCTION_WORK = 1 << 20
"""The same for a use of a short reduction, which is many of NumPy's loops."""
_NUMPY_ELEMENTS = 1 << 18
"""Elements of operands up to which NumPy takes less time at these uses than building a kernel."""
_NUMPY_MOVES = 1 << 20
"""The same for exact operations on elements as they lie, whose kernel there is: a new layout is a program to plan."""
_FORMULA_WORK, _FORMULA_ELEMENTS = 1 << 20, 1 << 10
"""The same for a use of an elementary function, which is hundreds of NumPy's loops; the most elements it may have."""
_MOVES = ("elementwise", "place")
"""Families of such operations."""
_REDUCING = ("reduction", "contraction")
"""Families of what is many of NumPy's loops if it is short."""
_uses: dict[Any, int] = {}
LARGE = 1 << 15
"""Elements of an operand from which on threads share an exact operation, and NumPy, which has but one, does it only at
its first uses."""


def _is_large(args: tuple[Any, ...]) -> bool:
    for a in args:  # noqa: SIM110 - a generator takes three times as long
        if type(a) is np.ndarray and a.size >= LARGE:
            return True
    return False


def _gives_much(args: tuple[Any, ...]) -> bool:
    """Whether an operand is large, or what small ones that are spread over each other give."""
    first = None
    spread = False
    for a in args:
        if type(a) is np.ndarray:
            if a.size >= LARGE:
                return True
            if first is None:
                first = a
            elif a.shape != first.shape and a.size * first.size >= LARGE:
                spread = True
    return spread and np.broadcast(*[a for a in args if type(a) is np.ndarray]).size >= LARGE


def is_rare(key: Any, elements: int) -> bool:
    """Notes a use of what `key` names; whether there was so little work so far that NumPy does it."""
    if len(_uses) >= MAX_PROGRAMS:
        _uses.clear()
    work = _uses[key] = _uses.get(key, 0) + elements + _USE_WORK
    return work <= _NUMPY_WORK


def _weight(op: Op) -> int:
    """What one of its elements counts for `is_rare`."""
    if op is ops.argsort or op is ops.topk:
        return _SORTED
    return _SLOW if op.family == "elementwise" and op not in UFUNCS else 1


def _elements(args: Iterable[Any]) -> int:
    return sum([a.size for a in args if type(a) is np.ndarray])


def _run_flat(op: Op, args: tuple[Any, ...]) -> np.ndarray:
    try:
        return _launch_flat(op, args)
    except OverflowError:
        # An integer beyond 64 bits is a float beside floats; beside integers it is the error that it is in NumPy.
        if not any(type(a) is np.ndarray and a.dtype.kind in _FLOATS for a in args):
            raise
        return _launch_flat(op, tuple(float(a) if type(a) is int else a for a in args))


def _launch_flat(op: Op, args: tuple[Any, ...]) -> np.ndarray:
    # A type's number hashes in a tenth of the time of a NumPy type.
    x = args[0]
    if len(args) == 1:
        flat = flat_kernels.get((op, x.dtype.num))
        if flat is not None and (x.flags.c_contiguous or not op.exact):
            if not x.flags.c_contiguous:
                x = np.ascontiguousarray(x)
            out = empty(x.shape, flat.dtype)
            launch(flat.address, out.size, flat.cost, x, out)
            return out
    elif len(args) == 2 and type(x) is np.ndarray:
        y = args[1]
        kind = type(y)
        is_array = kind is np.ndarray
        flat = flat_kernels.get((op, x.dtype.num, y.dtype.num if is_array else kind))
        if flat is not None and flat.plain and x.flags.c_contiguous:
            fits = x.shape == y.shape and y.flags.c_contiguous if is_array else kind is float or kind is int
            if fits:
                out = empty(x.shape, flat.dtype)
                launch(flat.address, out.size, flat.cost, x, y, out)
                return out
    elif len(args) == 3 and type(x) is np.ndarray and x.flags.c_contiguous:
        _, y, z = args
        y_kind, z_kind = type(y), type(z)
        y_number, z_number = y_kind is float or y_kind is int, z_kind is float or z_kind is int
        if (y_number or (y_kind is np.ndarray and y.shape == x.shape and y.flags.c_contiguous)) and (
            z_number or (z_kind is np.ndarray and z.shape == x.shape and z.flags.c_contiguous)
        ):
            key = (op, x.dtype.num, y_kind if y_number else y.dtype.num, z_kind if z_number else z.dtype.num)
            flat = flat_kernels.get(key)
            if flat is not None and flat.plain:
                out = empty(x.shape, flat.dtype)
                launch(flat.address, out.size, flat.cost, x, y, z, out)
                return out
    return _run_any(op, args)


def _run_any(op: Op, args: tuple[Any, ...]) -> np.ndarray:
    """Operands of any layout, any number of them."""
    key: list[Any] = [op]
    shape: tuple[int, ...] | None = None
    alike = True
    for a in args:
        if type(a) is np.ndarray:
            key.append(a.dtype.num)
            if shape is None:
                shape = a.shape
            alike = alike and a.shape == shape and a.flags.c_contiguous
        else:
            key.append(type(a))
    if not alike and op.exact and _gives_much(args):
        # Where operands are spread over the result, or lie otherwise in memory, their strides are a program's matter.
        return _run_program(op, args, ())
    flat = flat_kernels.get(tuple(key))
    if flat is None:
        if op.exact and is_rare(tuple(key), _elements(args) * _weight(op)):
            return _as_a_kernel(op, args, ())
        result = None if op.exact else _run_formula(op, args, tuple(key))
        if result is not None:
            return result
        flat = flat_kernels[tuple(key)] = _Flat(op, args)
    given: list[Any] = list(args)
    if not alike or shape is None:
        shape = broadcast_all([a.shape for a in args if type(a) is np.ndarray])
        for k, a in enumerate(args):
            if type(a) is np.ndarray:
                # `broadcast_to` takes three times as long as a small copy.
                given[k] = np.ascontiguousarray(a if a.shape == shape else np.broadcast_to(a, shape))
    out = empty(shape, flat.dtype)
    given.append(out)
    launch(flat.address, out.size, flat.cost, *[_plain(given[k]) for k in flat.slots])
    return out


def _run_formula(op: Op, args: tuple[Any, ...], key: tuple[Any, ...]) -> np.ndarray | None:
    """What the kernel of an elementary function would give, bit for bit, at its first uses; None if NumPy cannot."""
    x = args[0]
    if len(args) > 1 or x.dtype != np.float32 or x.size > _FORMULA_ELEMENTS or op.name not in FORMULAS:
        return None
    if not is_rare(key, _FORMULA_WORK):
        return None
    result = by_formula(op.name, x)
    if np.isnan(result).any():
        # A formula does not say which nan it is.
        return None
    # Reshaped, an array without elements would have other strides than one that is made so.
    out = empty(x.shape, result.dtype)
    out[...] = result.reshape(x.shape)
    return out


def _as_a_kernel(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> np.ndarray:
    """NumPy's result like a kernel's: a number of NumPy's does not decide the type, and it is contiguous."""
    numbers = tuple(a.item() if isinstance(a, np.generic) else a for a in args)
    return placed(np.asarray(_numpy(op, numbers, attrs), order="C"))


def _plain(slot: Any) -> Any:
    """What a launch takes: an array, int or float; NumPy's numbers and bools become Python's."""
    kind = type(slot)
    if kind is np.ndarray or kind is float or kind is int:
        return slot
    return float(slot) if isinstance(slot, (float, np.floating)) else int(slot)


def _run_cast(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Elements in another type: NumPy has one thread, and takes 5 ns for one that becomes or was half a float."""
    x = args[0]
    if type(x) is not np.ndarray or x.size < LARGE or x.dtype == attrs[0].np:
        return _numpy(op, args, attrs)
    if not x.flags.c_contiguous:
        return _run_program(op, args, attrs)
    key = (op, x.dtype.num, attrs[0])
    flat = flat_kernels.get(key)
    if flat is None:
        if is_rare(key, x.size * _SLOW):
            return _as_a_kernel(op, args, attrs)
        flat = flat_kernels[key] = _Flat(op, args, attrs)
    out = empty(x.shape, flat.dtype)
    launch(flat.address, out.size, flat.cost, x, out)
    return out


def _run_elementwise(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    if op.expr is None:
        return _numpy(op, args, attrs)
    if attrs:
        # Casts alone have any.
        return _run_cast(op, args, attrs)
    if op.exact:
        # NumPy's own loops are as fast as a kernel of one thread; several of them one after another are not.
        if type(args[-1]) is np.ndarray or (len(args) > 1 and type(args[-2]) is np.ndarray):
            return _run_flat(op, args)
        return _numpy(op, args, attrs)
    for a in args:
        if type(a) is np.ndarray:
            return _run_flat(op, args) if a.dtype.kind in _FLOATS else _numpy(op, args, attrs)
    return _numpy(op, args, attrs)


# --- reductions, library operations, random numbers: programs ---------------------------------------------------------

def _refuse(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> None:
    """Raises what the record's function does, which looks at the places again and says which is wrong."""
    _numpy(op, args, attrs)
    raise IndexError(f"{op.name}: index out of range")


def _run_program(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    if op in CHANGING and is_written_over(args[0]):
        code = change(op, args, attrs)
        if code is not None:
            return args[0] if code == 0 else _refuse(op, args, attrs)
    numbers: list[Any] = []
    key: Any
    if len(args) == 1 and type(args[0]) is np.ndarray:
        arrays: list[Any] = [*args]
        (a,) = args
        key = op, attrs, a.shape, a.dtype.num, a.strides
    else:
        arrays, key = [], [op, attrs]
        for a in args:
            if type(a) is np.ndarray:
                arrays.append(a)
                key += (a.shape, a.dtype.num, a.strides)
            else:
                numbers.append(a)
                key.append(number_kind(a))
        key = tuple(key)
    found = programs.get(key)
    if found is None:
        kind, sizes = kind_of(op, args, attrs)
        lasts = bool(kind.ways) and not is_new(key)
        if not lasts:
            planned = kind.run(sizes, arrays, numbers)
            if planned is not None:
                return _looked_at(op, args, attrs, *planned)
            if (result := _run_rarely(op, args, attrs, key, arrays)) is not None:
                kind.meet(op, attrs, sizes, False)
                return result
            if kind.meet(op, attrs, sizes, True) and (planned := kind.run(sizes, arrays, numbers)) is not None:
                return _looked_at(op, args, attrs, *planned)
        if len(programs) >= MAX_PROGRAMS:
            programs.clear()
        found = programs[key] = Single(op, args, attrs, {})
    outs = [empty(shape, kind) for shape, kind in found.results]
    arrays += outs
    scalars = np.array([word(number) for number in numbers], np.int64) if numbers else NO_SCALARS
    return _looked_at(op, args, attrs, outs, found.run_on(scalars, *arrays))


def _run_rarely(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], key: Any, arrays: list[Any]) -> Any:
    """What the operation's program would give, at the first uses of a layout and if NumPy takes no longer; else None.
    """
    reduces = op.family in _REDUCING
    if not (op.exact or reduces):
        return None
    most = _NUMPY_MOVES if op.family in _MOVES else _NUMPY_ELEMENTS
    elements = np.broadcast(*arrays).size if op.family == "elementwise" else _elements(arrays)
    work = REDUCTION_WORK if reduces else elements * _weight(op)
    return _run_in_numpy(op, args, attrs) if elements <= most and is_rare(key, work) else None


def _looked_at(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], outs: list[np.ndarray], code: int) -> Any:
    """What kernels gave, unless they refused."""
    if code:
        _refuse(op, args, attrs)
    return outs[0] if len(outs) == 1 else tuple(outs)


def _run_in_numpy(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What the operation's program would give, bit for bit, without one; None if NumPy cannot give it."""
    if op.family == "reduction":
        return _reduce_in_numpy(op, args[0], attrs[0])
    if op.family == "contraction":
        return _contract_in_numpy(op, args[0], args[1], attrs[0])
    if op.family in _MOVES:
        return _as_a_kernel(op, args, attrs)
    # A fresh, contiguous array, as programs give it.
    return copied(np.asarray(_numpy(op, args, attrs), order="C"))


def _contract_in_numpy(op: Op, x: np.ndarray, y: np.ndarray, dim: int) -> np.ndarray | None:
    if x.dtype.kind not in _FLOATS:
        return np.array(_numpy(op, (x, y), (dim,)), order="C")
    wide = widened(FROM_NUMPY[x.dtype]).np
    with np.errstate(all="ignore"):
        found = _reduce_in_numpy(ops.sum, np.multiply(x, y, dtype=wide), dim)
        return None if found is None else found.astype(x.dtype)


def _reduce_in_numpy(op: Op, x: np.ndarray, dim: int) -> np.ndarray | None:
    if x.dtype.kind not in _FLOATS:
        return np.array(_numpy(op, (x,), (dim,)), order="C")
    outer, size, inner = lanes("reduce", x.shape, dim)
    if size > (BLOCK if inner == 1 else COLUMN_ROWS):
        return None
    folded = x.reshape(outer, size, inner).astype(widened(FROM_NUMPY[x.dtype]).np)
    with np.errstate(all="ignore"):
        if inner == 1:
            result = fold_in_numpy(op.name, folded[:, :, 0])
        else:
            result = functools.reduce(STEPS_IN_NUMPY[op.name], (folded[:, k] for k in range(size)))
        return np.array(result.reshape(x.shape[:dim] + x.shape[dim + 1 :]), x.dtype, order="C")


def _run_reduction(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    if args[0].shape[attrs[0]] == 0:
        return _numpy(op, args, attrs)
    return _run_program(op, args, attrs)


UFUNCS: dict[Op, Any] = {
    op: op.numpy
    for op in ops.family("elementwise")
    if op.exact and not op.attrs and type(op.numpy) is np.ufunc
}
"""The shortest way: operations that are one loop of NumPy's."""


def _ufuncs_beside_bfloat16() -> None:
    """From its first use on, bfloat16 goes another way: NumPy would compute in float32 beside a number."""
    for op, ufunc in UFUNCS.items():
        UFUNCS[op] = functools.partial(_run_ufunc, op, ufunc)


def _run_ufunc(op: Op, ufunc: Any, *args: Any) -> Any:
    for a in args:
        if type(a) is np.ndarray and a.dtype.kind == "V":
            return _run_flat(op, args)
    return ufunc(*args)


bfloat16.on_load.append(_ufuncs_beside_bfloat16)


def add_into(out: np.ndarray, x: Any) -> None:
    """Add an array or a number to an array of its type in place; the bits are those of `add`.

    Cost: one thread's, unless both are large and lie alike.

    >>> a = np.float32([1, 2, 3])
    >>> add_into(a[1:], 0.5)
    >>> a
    array([1. , 2.5, 3.5], dtype=float32)
    """
    if SILENT is None or out.dtype.kind == "V":
        out[...] = run_op(ops.add, (out, x), ())
        return
    if out.size >= LARGE and type(x) is np.ndarray and out.flags.c_contiguous and x.flags.c_contiguous:
        flat = flat_kernels.get((ops.add, out.dtype.num, x.dtype.num))
        if flat is not None and flat.plain and x.shape == out.shape:
            launch(flat.address, out.size, flat.cost, out, x, out)
            return
    token = silence(SILENT)
    try:
        np.add(out, x, out=out)
    finally:
        restore(token)


def _run_create(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> np.ndarray:
    if op is not ops.full or attrs[1].np.kind == "V":
        return _numpy(op, args, attrs)  # type: ignore[no-any-return]
    shape, kind = attrs
    out = empty(shape, kind.np)
    if type(args[0]) is int and 0 <= args[0] <= 1:
        # Every type has them.
        out.fill(args[0])
        return out
    if kind.np.kind in "iu" and args[0] != args[0]:
        raise OverflowError("cannot convert float NaN to integer")
    with np.errstate(all="ignore"):
        out[...] = args[0]
    return out


def _run_place(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    return _run_program(op, args, attrs) if _is_large(args) else _numpy(op, args, attrs)


def _run_view(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    # Nothing is computed, so there is nothing to warn of.
    result = op.numpy(*args, *attrs)
    return result if type(result) is np.ndarray else np.asarray(result)


_RUNNERS: dict[str, Callable[[Op, tuple[Any, ...], tuple[Any, ...]], Any]] = {
    "elementwise": _run_elementwise,
    "reduction": _run_reduction,
    "contraction": _run_reduction,
    "library": _run_program,
    "random": _run_program,
    "create": _run_create,
    "place": _run_place,
    "view": _run_view,
}


def run_op(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What one operation gives on arrays and Python numbers: an array, or a tuple of arrays.

    DType: as the record's typing rule says.
    Raises: what the record's NumPy function raises, such as IndexError for a place out of range; OnGpu where it is not
    for the CPU to do.
    Cost: about 1 us beyond NumPy or the kernel; more at the first call with a new layout.

    >>> from tracejit.ops import ops
    >>> run_op(ops.add, (np.float32([1, 2]), 0.5), ())
    array([1.5, 2.5], dtype=float32)
    >>> run_op(ops.sum, (np.ones((2, 3), np.float32),), (1,))
    array([3., 3.], dtype=float32)
    """
    ufunc = UFUNCS.get(op)
    if ufunc is not None and SILENT is not None and not _gives_much(args):
        token = silence(SILENT)
        try:
            result = ufunc(*args)
        finally:
            restore(token)
        return result if type(result) is np.ndarray else np.asarray(result)
    if DeviceArray.used and (op.origin is not None or DeviceArray in map(type, args)):
        raise OnGpu(op.name)
    return _RUNNERS.get(op.family, _numpy)(op, args, attrs)
