"""One operation on arrays in a GPU's memory.

In: a record, arrays and numbers, attributes. Out: new arrays there.
Must not know: tensors, autograd, traces.

An operation is a program of one, kept by its operands' layouts. One that has no GPU kernels is computed by the CPU's,
on the same memory once the GPU has done what was asked of it: slow, and right.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracejit.eager import run_op
from tracejit.eager_single import graph_of, lying, number_kind, word
from tracejit.errors import CudaError
from tracejit.gpu_compiler import GpuCompiled, compile_for_gpu
from tracejit.gpu_compiler import compile_region as _compile_region
from tracejit.ir.graph import Graph
from tracejit.ops import Op, ops
from tracejit.runtime.cuda.array import DeviceArray, host_view
from tracejit.runtime.cuda.gpu import Gpu, gpu
from tracejit.runtime.cuda.program import DeviceProgram
from tracejit.runtime.team import address_of
from tracejit.shapes import view_strides

__all__ = ["compile_region", "copy_into", "download", "gpu", "laid_out_copy", "run_on_gpu", "upload"]

_MAX_PROGRAMS = 1024


class _Single:
    """The program of one operation on operands of one layout, and what its results are."""

    __slots__ = ("program", "results")

    def __init__(self, machine: Gpu, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> None:
        graph, self.results = graph_of(op, map(lying, args), attrs, {})
        self.program = compile_for_gpu(graph, machine.context, machine.pool)


_programs: OrderedDict[Any, _Single | None] = OrderedDict()
"""By operation, attributes, and the operands' layouts; None where there are no GPU kernels."""


def run_on_gpu(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What one operation gives on arrays in a GPU's memory and Python numbers: an array there, or a tuple of such.

    Edge: elementwise operations take arrays without dimensions from the host's memory, too.
    Raises: RuntimeError for other arrays of the host; what the record's NumPy function raises.
    Cost: some 50 us to start it. Waits for the GPU if it has no kernels, or ones that may raise.
    """
    if op.family == "transfer":
        return op.numpy(*args)
    op = op.origin or op.plain or op
    machine = gpu()
    args = tuple([_there(machine, op, a) if isinstance(a, np.ndarray) else a for a in args])
    if op.family == "view":
        return _view(op, args[0], (*args[1:], *attrs))
    args = _whole_numbers(args)
    key = (machine, op, attrs, *[_layout(a) for a in args])
    with machine.context.lock:
        if key in _programs:
            _programs.move_to_end(key)
            found = _programs[key]
        else:
            found = _programs[key] = _build(machine, op, args, attrs)
            if len(_programs) > _MAX_PROGRAMS:
                _programs.popitem(last=False)
    if found is None:
        return _on_the_cpu(machine, op, args, attrs)
    outs = [machine.empty(shape, kind) for shape, kind in found.results]
    try:
        failed = _run(machine, found.program, args, outs)
    except CudaError as error:
        error.add_note(f"found when {op.name} was asked for; it may be the fault of what was asked for before")
        raise
    if failed:
        # The record's function looks at the places again and says which is wrong.
        _on_the_cpu(machine, op, args, attrs)
        raise IndexError(f"{op.name}: index out of range")
    return outs[0] if len(outs) == 1 else tuple(outs)


def _run(machine: Gpu, program: DeviceProgram, args: tuple[Any, ...], outs: list[DeviceArray]) -> bool:
    """Starts a program; whether it found something wrong."""
    inputs = [address_of(a) for a in args if isinstance(a, np.ndarray)]
    scalars = np.array([word(a) for a in args if not isinstance(a, np.ndarray)], np.int64)
    return program.run(inputs, [address_of(a) for a in outs], scalars, capture=False) != 0


def _there(machine: Gpu, op: Op, array: np.ndarray) -> DeviceArray:
    """An operand as an array of the GPU."""
    if type(array) is DeviceArray:
        return array
    if array.ndim or op.family != "elementwise":
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"(when computing {op.name})"
        )
    return machine.upload(array)


def _whole_numbers(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, with whole numbers beyond 64 bits as floats beside floats.

    Raises: OverflowError beside whole numbers.
    """
    if not any(type(a) is int and not -(2**63) <= a < 2**64 for a in args):
        return args
    if not any(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in args):
        raise OverflowError("Python int too large to convert to C long")
    return tuple([float(a) if type(a) is int else a for a in args])


def _layout(a: Any) -> Any:
    return (a.shape, a.dtype.num, a.strides) if isinstance(a, np.ndarray) else number_kind(a)


def _build(machine: Gpu, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> _Single | None:
    if op.family in ("reduction", "contraction") and args[0].shape[attrs[0]] == 0:
        return None
    if op.family == "elementwise" and op.expr is None:
        return None
    try:
        return _Single(machine, op, args, attrs)
    except NotImplementedError:
        return None


def _on_the_cpu(machine: Gpu, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What the CPU's kernels give on the same memory, in the GPU's."""
    machine.wait()
    found = run_op(op, tuple([host_view(a) if isinstance(a, np.ndarray) else a for a in args]), attrs)
    return tuple(map(machine.upload, found)) if type(found) is tuple else machine.upload(found)


def _view(op: Op, array: DeviceArray, attrs: tuple[Any, ...]) -> DeviceArray:
    """A view, which touches no element; of a reshape that needs one, a copy."""
    if op is ops.reshape and not array.flags.c_contiguous:
        steps = view_strides(array.shape, tuple(s // array.itemsize for s in array.strides), attrs[0])
        if steps is not None:
            steps = tuple(step * array.itemsize for step in steps)
            return np.lib.stride_tricks.as_strided(host_view(array), attrs[0], steps).view(DeviceArray)
        array = run_on_gpu(ops.copy, (array,), ())
    return np.asarray(op.numpy(host_view(array), *attrs)).view(DeviceArray)


# --- memory -----------------------------------------------------------------------------------------------------------


def upload(array: np.ndarray) -> DeviceArray:
    """A copy of an array of the host in the GPU's memory."""
    return gpu().upload(array)


def download(array: DeviceArray) -> np.ndarray:
    """A copy of an array of the GPU in the host's memory."""
    return gpu().download(array)


def laid_out_copy(array: DeviceArray) -> DeviceArray:
    """A copy of an array with its strides."""
    machine = gpu()
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)
    made = machine.empty((high - low,), np.dtype(np.uint8))
    machine.context.copy(made.ctypes.data, low, high - low)
    first = host_view(made)[array.ctypes.data - low :] if array.size else host_view(made)
    start = np.ndarray((), array.dtype, first) if array.size else np.empty((), array.dtype)
    return np.lib.stride_tricks.as_strided(start, array.shape, array.strides).view(DeviceArray)


def copy_into(target: np.ndarray, value: np.ndarray) -> None:
    """Copies an array into another of its type and shape, wherever they are."""
    if type(target) is not DeviceArray:
        np.copyto(target, value.wait() if type(value) is DeviceArray else value)
        return
    machine = gpu()
    if target.flags.c_contiguous:
        if type(value) is not DeviceArray:
            machine.context.put(target.ctypes.data, np.ascontiguousarray(value))
            return
        if not value.flags.c_contiguous:
            value = run_on_gpu(ops.copy, (value,), ())
        machine.context.copy(target.ctypes.data, value.ctypes.data, value.nbytes)
        return
    np.copyto(target.wait(), value.wait() if type(value) is DeviceArray else value)


# --- regions ----------------------------------------------------------------------------------------------------------


def compile_region(graph: Graph, hosts: Sequence[bool]) -> GpuCompiled:
    """A graph compiled for the GPU that tensors are on; `hosts` says which inputs are the host's."""
    return _compile_region(graph, gpu(), hosts)
