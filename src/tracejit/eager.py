"""One operation on NumPy arrays, computed with the same kernels as compiled programs.

In: a record, arrays and numbers, attributes. Out: new arrays.
Must not know: tensors, autograd, traces.

Operations that are exact, so that NumPy cannot differ from a kernel, run in NumPy. Elementary functions run as one
flat loop; reductions, library operations and random numbers as programs of one operation, kept by operand layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.codegen.generate import generate
from tracejit.codegen.library import plan_call
from tracejit.codegen.text import Place, Scalar
from tracejit.compiler import Compiled, compile_graph
from tracejit.dtypes import FROM_NUMPY
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.ops import Op
from tracejit.runtime.build import build
from tracejit.runtime.team import address_of, launch
from tracejit.schedule.plan import make_plan
from tracejit.shapes import broadcast_all, contiguous_strides

try:
    from numpy._core._ufunc_config import _extobj_contextvar, _make_extobj
except ImportError:  # a NumPy that keeps this elsewhere: the public way, 0.8 us dearer
    _SILENT = None
else:
    # Setting the context variable by hand costs 0.1 us, `np.errstate` 0.9 us.
    _SILENT = _make_extobj(all="ignore")
    _set, _reset = _extobj_contextvar.set, _extobj_contextvar.reset

_MAX_PROGRAMS = 4096
_SAMPLE = 1 << 10
"""Length of the arrays that a flat kernel is generated for; its text holds no length."""


def _numpy(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """The record's NumPy function, without NumPy's floating point warnings."""
    if _SILENT is None:
        with np.errstate(all="ignore"):
            result = op.numpy(*args, *attrs)
    else:
        token = _set(_SILENT)
        try:
            result = op.numpy(*args, *attrs)
        finally:
            _reset(token)
    if type(result) is np.ndarray:
        return result
    if type(result) is tuple:
        return tuple(map(np.asarray, result))
    return np.asarray(result)


# --- elementary functions: flat loops ---------------------------------------------------------------------------------

Slots = tuple[tuple[str, int], ...]
_flat_kernels: dict[tuple[Any, ...], tuple[int, float, Slots, Any]] = {}


def _number_kind(value: Any) -> str:
    return "f" if isinstance(value, (float, np.floating)) else "i"


def _make_flat(op: Op, kinds: tuple[Any, ...], attrs: tuple[Any, ...]) -> tuple[int, float, Slots, Any]:
    """The kernel of an elementwise operation over long vectors: address, cost, what its slots are, result type."""
    inputs: list[Node] = []
    scalars: list[str] = []
    args: list[Node] = []
    for kind in kinds:
        if isinstance(kind, str):
            args.append(nodes.scalar(len(scalars), kind))
            scalars.append(kind)
        else:
            inputs.append(nodes.input(len(inputs), Aval((_SAMPLE,), kind)))
            args.append(inputs[-1])
    out = nodes.make(op, tuple(args), attrs)
    plan = make_plan(Graph(tuple(inputs), tuple(scalars), (out,), name=op.name), plan_call)
    ((text,),) = generate(plan.groups[0], plan)
    slots: list[tuple[str, int]] = []
    for slot in text.slots:
        if isinstance(slot, Place):
            slots.append(("out", 0) if slot.buffer.kind == "output" else ("array", slot.buffer.index))
        else:
            assert isinstance(slot, Scalar)
            slots.append(("number", slot.index))
    return build(text.text, text.name).address, text.unit_cost, tuple(slots), out.dtype.np


def _run_flat(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    kinds = tuple(FROM_NUMPY[a.dtype] if type(a) is np.ndarray else _number_kind(a) for a in args)
    key = (op, kinds, attrs)
    found = _flat_kernels.get(key)
    if found is None:
        found = _flat_kernels[key] = _make_flat(op, kinds, attrs)
    address, cost, slots, kind = found
    arrays = [a for a in args if type(a) is np.ndarray]
    shape = arrays[0].shape
    if len(arrays) > 1 and any(a.shape != shape for a in arrays):
        shape = broadcast_all([a.shape for a in arrays])
        arrays = [np.broadcast_to(a, shape) for a in arrays]
    arrays = [a if a.flags.c_contiguous else np.ascontiguousarray(a) for a in arrays]
    out = np.empty(shape, kind)
    if len(slots) == 2:
        launch(address, out.size, cost, arrays[0], out)
        return out
    numbers = [a for a in args if type(a) is not np.ndarray]
    given = [
        out if what == "out" else arrays[i] if what == "array" else _plain(numbers[i]) for what, i in slots
    ]
    launch(address, out.size, cost, *given)
    return out


def _plain(number: Any) -> int | float:
    return float(number) if isinstance(number, (float, np.floating)) else int(number)


def _run_elementwise(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    if op.exact or op.expr is None:
        return _numpy(op, args, attrs)
    for a in args:
        if type(a) is np.ndarray:
            if a.dtype.kind == "f" or op.kinds == "f":
                return _run_flat(op, args, attrs)
            break
    return _numpy(op, args, attrs)


# --- reductions, library operations, random numbers: programs ---------------------------------------------------------

_programs: dict[tuple[Any, ...], tuple[Compiled, tuple[tuple[tuple[int, ...], Any], ...]]] = {}
_NO_SCALARS = np.zeros(1, np.int64)


def _strides(array: np.ndarray) -> tuple[int, ...] | None:
    """Strides in elements, None for a contiguous array."""
    if array.flags.c_contiguous:
        return None
    size = array.itemsize
    return tuple(s // size for s in array.strides)


def _make_program(op: Op, key: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    inputs: list[Node] = []
    scalars: list[str] = []
    args: list[Node] = []
    for operand in key:
        if isinstance(operand, str):
            args.append(nodes.scalar(len(scalars), operand))
            scalars.append(operand)
        else:
            shape, kind, strides = operand
            if strides == contiguous_strides(shape):
                strides = None
            inputs.append(nodes.input(len(inputs), Aval(shape, FROM_NUMPY[kind]), strides))
            args.append(inputs[-1])
    out = nodes.make(op, tuple(args), attrs)
    outs = (out,) if isinstance(out.aval, Aval) else tuple(nodes.item(out, k) for k in range(len(out.aval or ())))
    compiled = compile_graph(Graph(tuple(inputs), tuple(scalars), outs, name=op.name))
    return compiled, tuple((o.shape, o.dtype.np) for o in outs)


def _run_program(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    operands: list[Any] = []
    arrays: list[np.ndarray] = []
    numbers: list[Any] = []
    for a in args:
        if type(a) is np.ndarray:
            arrays.append(a)
            operands.append((a.shape, a.dtype, _strides(a)))
        else:
            numbers.append(a)
            operands.append(_number_kind(a))
    key = tuple(operands)
    found = _programs.get((op, key, attrs))
    if found is None:
        if len(_programs) >= _MAX_PROGRAMS:
            _programs.clear()
        found = _programs[op, key, attrs] = _make_program(op, key, attrs)
    compiled, results = found
    outs = [np.empty(shape, kind) for shape, kind in results]
    pointers = np.array([address_of(a) for a in (*arrays, *outs)], np.int64)
    scalars = _NO_SCALARS
    if numbers:
        scalars = np.zeros(len(numbers), np.int64)
        for k, number in enumerate(numbers):
            if _number_kind(number) == "f":
                scalars[k : k + 1].view(np.float64)[0] = number
            else:
                scalars[k] = _signed(int(number))
    if compiled.program.run(pointers, scalars):
        # The record's function looks at the places again and says which is wrong.
        _numpy(op, args, attrs)
        raise IndexError(f"{op.name}: index out of range")
    return outs[0] if len(outs) == 1 else tuple(outs)


def _signed(number: int) -> int:
    """The int64 with the same 64 bits, for seeds from 2**63 on."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _run_reduction(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    if args[0].shape[attrs[0]] == 0:
        return _numpy(op, args, attrs)
    return _run_program(op, args, attrs)


_RUNNERS: dict[str, Callable[[Op, tuple[Any, ...], tuple[Any, ...]], Any]] = {
    "elementwise": _run_elementwise,
    "reduction": _run_reduction,
    "library": _run_program,
    "random": _run_program,
}


def run_op(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What one operation gives on arrays and Python numbers: an array, or a tuple of arrays.

    DType: as the record's typing rule says.
    Raises: what the record's NumPy function raises, such as IndexError for a place out of range.
    Cost: about 1 us beyond NumPy or the kernel; more at the first call with a new layout.

    >>> from tracejit.ops import ops
    >>> run_op(ops.add, (np.float32([1, 2]), 0.5), ())
    array([1.5, 2.5], dtype=float32)
    >>> run_op(ops.sum, (np.ones((2, 3), np.float32),), (1,))
    array([3., 3.], dtype=float32)
    """
    return _RUNNERS.get(op.family, _numpy)(op, args, attrs)
