"""To and from Python and NumPy, other types and memory of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.devices import CPU, device, require
from tracejit.dtypes import dtype
from tracejit.ops.record import ops
from tracejit.runtime.arrays import copied
from tracejit.runtime.cuda.driver import available
from tracejit.tensor.dispatch import apply, wrap
from tracejit.tensor.exposure import expose, note_owner
from tracejit.tensor.naming import named
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.shaping import ints
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Size, Tensor, alias, method, on_gpu
from tracejit.tensor.transfer import moved


@method("__array__")
def numpy(self: Tensor, dtype: Any = None, copy: Any = None, *, force: bool = False) -> Any:
    """The memory as a NumPy array, without a copy.

    Raises: RuntimeError for a tensor that requires gradients, TypeError for one on a GPU, unless `force` is set;
    TypeError for bfloat16, which NumPy does not have.
    """
    if self._dtype is dtypes.bfloat16:
        raise TypeError("Got unsupported ScalarType BFloat16")
    if on_gpu(self):
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        self = self.detach().cpu()
    if self._requires_grad and not force and dtype is None:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    array = self._data()
    self._share()
    if dtype is not None and array.dtype != dtype:
        return array.astype(dtype)
    if copy:
        return array.copy()
    return array if state.session is None else expose(self, array)


def from_numpy(array: Any) -> Tensor:
    """A tensor on the memory of a NumPy array, without a copy.

    Raises: TypeError for something else or an element type that has no counterpart, ValueError for negative strides.

    >>> import numpy as np
    >>> from_numpy(np.float32([1, 2]))
    tensor([1., 2.])
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    if not array.dtype.isnative:
        raise ValueError("given numpy array has byte order different from the native byte order. Conversion between "
                         "byte orders is currently not supported.")
    dtypes.from_numpy(array.dtype)
    if any(s < 0 for s in array.strides):
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative strides are not "
            "currently supported. (You can probably work around this by making a copy of your array with array.copy().)"
        )
    if any(s % array.itemsize for s in array.strides):
        raise ValueError("given numpy array strides not a multiple of the element byte size.")
    t = wrap(array.view(np.ndarray))
    t._share()
    note_owner(t)
    return t


@method()
@named(data="size")
def __init__(self: Tensor, *size: Any, device: Any = None) -> None:
    """An unset tensor of the sizes given, or one of the elements of a sequence, in the default float type.

    Edge: of a tensor one on the same memory. Raises: TypeError for anything else, RuntimeError for a negative size,
    NotImplementedError for a tensor that gradients go to.
    """
    data: Any = size[0] if len(size) == 1 else None
    kind = dtypes.get_default_dtype()
    cell = None
    if isinstance(data, Tensor):
        if data.requires_grad and state.grad_enabled:
            raise NotImplementedError("Tensor(x): x requires gradients; use x.view_as(x), or x.detach() without them")
        array, cell = data._memory(), data._share()
    elif isinstance(data, list) or (type(data) is tuple and data) or _is_of_elements(data):
        array = _array_of(data, kind)
    elif not size or len(size) > 1 or isinstance(data, Size) or (hasattr(data, "__index__") and type(data) is not bool):
        sizes = ints(size, "new") if size else (0,)
        if sizes and min(sizes) < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {min(sizes)}: {list(sizes)}")
        array = np.zeros(sizes, kind.np)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (dict, str)):
        array = _array_of(list(data), kind)
    else:
        raise TypeError(f"new(): data must be a sequence (got {type(data).__name__})")
    made = wrap(array)
    if cell is None:
        made = moved(made, require(device))
    self._array, self._dtype, self._requires_grad = made._array, made._dtype, False
    self._node = self._grad = self._base = self._hooks = None
    self._cell = cell


def _is_of_elements(data: Any) -> bool:
    """Whether something is an array, but for a whole number in one."""
    return isinstance(data, np.ndarray) and (data.ndim > 0 or data.dtype.kind not in "iu")


def of_class(*size: Any, device: Any = None) -> Tensor:
    """What the class makes of sizes or elements, as a function."""
    return Tensor(*size, device=device)


def tensor(data: Any, *, dtype: dtype | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of the data: nested sequences of numbers, arrays, tensors.

    DType: of the data; Python floats the default float type, whole numbers int64, bools bool.
    Raises: ValueError for ragged sequences, TypeError for things that are not numbers.

    >>> tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    where = require(device)
    if device is None and isinstance(data, Tensor):
        where = data.device
    t = moved(wrap(_array_of(data, dtype)), where)
    if requires_grad:
        t.requires_grad = True
    return t


def _array_of(data: Any, d: dtype | None) -> Any:
    if isinstance(data, Tensor):
        return copied(data._data(), d.np if d else None)
    if isinstance(data, (np.ndarray, np.generic)):
        kind = d or dtypes.from_numpy(data.dtype)
        return copied(data, kind.np)
    if isinstance(data, (list, tuple)):
        data = _plain(data)
    elif not isinstance(data, (bool, int, float)):
        if not hasattr(data, "__array__") and not hasattr(data, "__len__"):
            raise TypeError(f"Could not infer dtype of {type(data).__name__}")
    try:
        array = np.array(data)
    except ValueError as e:
        raise ValueError(f"expected sequences of equal length at every depth: {e}") from None
    if array.dtype.kind == "O" and all(isinstance(v, int) for v in array.flat):
        raise ValueError("Overflow when unpacking long long: a whole number is in [-2**63, 2**63)")
    letter = "f" if dtypes.FROM_NUMPY.get(array.dtype) is dtypes.bfloat16 else array.dtype.kind
    if letter not in "biuf" and array.size:
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'; tensors hold numbers and bools")
    if d is None:
        if letter == "f" or not array.size:
            d = dtypes.get_default_dtype() if not _typed(data) else dtypes.from_numpy(array.dtype)
        else:
            d = dtypes.bool if letter == "b" else dtypes.int64 if not _typed(data) else dtypes.from_numpy(array.dtype)
    if d.category != 2 and letter == "f":
        return array.astype(d.np)
    return copied(array, d.np)


def _typed(data: Any) -> bool:
    """Whether the innermost items bring an element type of their own."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, (np.ndarray, np.generic))


def _plain(data: Any) -> Any:
    if isinstance(data, Tensor):
        return data._data()
    if isinstance(data, (list, tuple)):
        return [_plain(d) for d in data]
    return data


def as_tensor(data: Any, dtype: dtype | None = None, device: Any = None) -> Tensor:
    """The data as a tensor, sharing memory if it is an array or tensor of that type already."""
    if isinstance(data, Tensor):
        there = data if device is None else moved(data, require(device))
        return to_dtype(there, dtype) if dtype else there  # type: ignore[no-any-return]
    if isinstance(data, np.ndarray) and (dtype is None or dtype.np == data.dtype):
        return moved(from_numpy(data), require(device))
    return tensor(data, dtype=dtype, device=device)


@method("__copy__")
def _shallow(self: Tensor) -> Tensor:
    """A tensor on the same memory."""
    out = alias(type(self), self, self._requires_grad)
    out._node = self._node
    if self._node is not None:
        out._index = self._index
    out.__dict__.update(self.__dict__)
    return out


@method()
def __deepcopy__(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """A leaf of the same class on a copy of the memory, its gradient copied too."""
    if id(self) in memo:
        return memo[id(self)]  # type: ignore[no-any-return]
    if self._node is not None:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment."
        )
    fresh = apply(ops.copy, (self.detach(),)) if on_gpu(self) else wrap(copied(self._data()))
    out = alias(type(self), fresh, self._requires_grad)
    memo[id(self)] = out
    if self._grad is not None:
        out._grad = __deepcopy__(self._grad, memo)
    out.__dict__.update(self.__dict__)
    return out


def _rebuild(
    cls: type[Tensor], array: Any, requires_grad: bool, extra: dict[str, Any], where: device = CPU
) -> Tensor:
    # A process that unpickles may not have used the element type so far.
    dtypes.from_numpy(array.dtype)
    out = alias(cls, moved(wrap(array), require(where)), requires_grad)
    out.__dict__.update(extra)
    return out


@method()
def __reduce_ex__(self: Tensor, protocol: Any) -> Any:
    """Pickle the elements; the history is not kept."""
    array = np.array(self._data())
    return _rebuild, (type(self), array, self._requires_grad, dict(self.__dict__), self.device)


@method()
def item(self: Tensor) -> Any:
    """The only element as a Python number.

    Raises: RuntimeError for more than one element.
    """
    array = self._data()
    if array.size != 1:
        raise RuntimeError(f"a Tensor with {array.size} elements cannot be converted to Scalar")
    return array.item()


@method()
def tolist(self: Tensor) -> Any:
    """The elements as nested lists of Python numbers."""
    return self._data().tolist()


@method()
def __float__(self: Tensor) -> float:
    """The only element as a float."""
    return float(item(self))


@method()
def __int__(self: Tensor) -> int:
    """The only element as an int."""
    return int(item(self))


@method()
def __index__(self: Tensor) -> int:
    """The only element as an index.

    Raises: TypeError for floats.
    """
    if self._dtype.category == 2 or self.numel() != 1:
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(item(self))


@method()
def __bool__(self: Tensor) -> bool:
    """Whether the only element is not zero.

    Raises: RuntimeError for more than one element.
    """
    n = self.numel()
    if n == 0:
        raise RuntimeError("Boolean value of Tensor with no values is ambiguous")
    if n > 1:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
    return bool(item(self))


@method()
def clone(self: Tensor, *, memory_format: Any = None) -> Any:
    """The same elements in memory of its own; gradients flow through."""
    return apply(ops.copy, (self,))


@method()
def contiguous(self: Tensor, *, memory_format: Any = None) -> Any:
    """The tensor itself if its elements lie in row-major order, else such a copy."""
    return self if self.is_contiguous() else apply(ops.copy, (self,))


@method()
def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Any:
    """The tensor in another type or on another device; itself if nothing changes and `copy` is not set.

    Raises: RuntimeError for a device that is not there.
    """
    for a in args:
        if isinstance(a, dtypes.dtype):
            dtype = a
        elif isinstance(a, Tensor):
            dtype, device = a._dtype, a.device
        elif not isinstance(a, bool):
            device = a
    x = self if dtype is None else to_dtype(self, dtype)
    if device is not None:
        x = moved(x, require(device))
    return apply(ops.copy, (self,)) if copy and x is self else x


@method("type")
def _named_type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the type, or the tensor in another type."""
    if dtype is None:
        return f"tracejit.{self._dtype.title}Tensor"
    return to_dtype(self, dtype)


@method()
def type_as(self: Tensor, other: Tensor) -> Any:
    """The tensor in the type of another."""
    return to_dtype(self, other._dtype)


@method()
def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor on the CPU: itself if it is there."""
    return moved(self, CPU)


@method()
def cuda(self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """The tensor on the GPU: itself if it is there.

    Raises: RuntimeError if there is none.
    """
    where = require("cuda" if device is None else device)
    if where is CPU:
        raise RuntimeError(f"cuda(): expected a GPU, got device '{device}'")
    return moved(self, where)


@method()
def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """The tensor: any memory can be copied from, through a buffer of the driver's that is pinned.

    Raises: RuntimeError for a tensor on a GPU, and if there is no GPU to copy to.
    """
    if on_gpu(self):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    if available() is None:
        raise RuntimeError("pin_memory(): there is no GPU to copy to; tracejit.cuda.is_available() says so")
    return self


@method()
def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the memory is kept in place for copies to a GPU: no."""
    return False


@method()
def get_device(self: Tensor) -> int:
    """The number of the GPU that the tensor is on, -1 on the CPU."""
    return 0 if on_gpu(self) else -1


def _caster(name: str, d: dtype) -> Any:
    def function(self: Tensor) -> Any:
        return to_dtype(self, d)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"The tensor as {d.name}."
    return method()(function)


CASTS = tuple(
    _caster(name, d)
    for name, d in (
        *(("float", dtypes.float32), ("double", dtypes.float64), ("half", dtypes.float16)),
        *(("bfloat16", dtypes.bfloat16), ("long", dtypes.int64)),
        *(("int", dtypes.int32), ("short", dtypes.int16), ("char", dtypes.int8), ("byte", dtypes.uint8)),
        ("bool", dtypes.bool),
    )
)
