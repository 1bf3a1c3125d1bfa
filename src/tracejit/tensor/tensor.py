"""The tensor: an array with a gradient history.

Only what a tensor *is* stands here. What can be done with it is defined in the modules beside and entered as methods
with `method`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.devices import CPU, CUDA
from tracejit.devices import device as device_
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.shapes import contiguous_strides
from tracejit.tensor.state import state

F = TypeVar("F", bound=Callable[..., Any])

_BY_NUM = dtypes.BY_NUM


class Size(tuple[int, ...]):
    """A shape.

    >>> Size((2, 3)).numel()
    6
    """

    def numel(self) -> int:
        """Number of elements."""
        n = 1
        for s in self:
            n *= s
        return n

    def __repr__(self) -> str:
        return f"tracejit.Size({list(self)})"

    def __getitem__(self, item: Any) -> Any:
        out = tuple.__getitem__(self, item)
        return Size(out) if isinstance(item, slice) else out

    def __add__(self, other: Any) -> Size:
        return Size(tuple(self) + tuple(other))


class GpuAval(Aval):
    """What is known of a value that will be in a GPU's memory."""

    __slots__ = ()


class Tensor:
    """A multi-dimensional array of one element type that can record how it was computed.

    Shape: any, also () for a single number. DType: bool, integers, floats.
    Edge: `Tensor(2, 3)` has that shape, `Tensor([2, 3])` these elements, both in the default float type.

    >>> import tracejit as tj
    >>> x = tj.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_array",
        "_aval",
        "_base",
        "_cell",
        "_dtype",
        "_grad",
        "_hooks",
        "_index",
        "_node",
        "_requires_grad",
        "_seen",
        "_strides",
        "_view",
    )

    # NumPy's numbers leave their operators with a tensor to the tensor.
    __array_priority__ = 1000

    # _array: the memory, or None while the value is pending in a compiled region; _aval then says what it will be,
    # and by its class where: a `GpuAval` in a GPU's memory, as an `_array` there is a `DeviceArray`.
    # _node, _index: the step of the tape that made the tensor, and which of its results it is.
    # _cell: [version], shared by all tensors on the same memory; None means version 0 and not shared so far.
    # _base, _view: the tensor whose memory this is a view of, and the (op, attrs) steps that lead here from it.
    # _strides: of a pending value, in elements; None if it will be contiguous.
    # _seen: the version at which _node of a view was right.
    _array: Any
    _aval: Aval | None
    _dtype: dtypes.dtype
    _grad: Tensor | None
    _node: Any
    _index: int
    _cell: list[int] | None
    _base: Tensor | None
    _view: tuple[tuple[Any, Any], ...]
    _seen: int
    _strides: tuple[int, ...] | None
    _requires_grad: bool
    _hooks: Any

    # --- memory -------------------------------------------------------------------------------------------------------

    def _data(self) -> Any:
        """The elements for the host: a pending value is computed first, and a GPU is waited for."""
        array = self._memory()
        return array.wait() if type(array) is DeviceArray else array

    def _memory(self) -> Any:
        """The array, wherever it is; a pending value is computed first."""
        session = state.session
        if session is not None:
            return session.read(self)
        array = self._array
        if array is None:
            raise RuntimeError(
                "this tensor's value is pending in a compiled region that another thread is running; "
                "wait for that call to return before using the tensor here"
            )
        return array

    @property
    def _version(self) -> int:
        """How often the memory was changed in place."""
        cell = self._cell
        return 0 if cell is None else cell[0]

    def _bump(self) -> None:
        """Note a change in place."""
        if self._cell is None:
            self._cell = [1]
        else:
            self._cell[0] += 1

    def _share(self) -> list[int]:
        """The version cell, made if there is none."""
        if self._cell is None:
            self._cell = [0]
        return self._cell

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self._memory().ctypes.data)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _shape(self) -> tuple[int, ...]:
        array = self._array
        return array.shape if array is not None else self._aval.shape  # type: ignore[union-attr, no-any-return]

    @property
    def shape(self) -> Size:
        """Sizes of the dimensions."""
        return Size(self._shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        if dim is None:
            return self.shape
        shape = self._shape
        if not -len(shape) <= dim < len(shape):
            n = max(len(shape), 1)
            raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
        return shape[dim]

    # `attrgetter` instead of a Python function: these are read at every step of every loop.
    dtype = property(attrgetter("_dtype"), doc="Element type.")

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._shape)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self._shape)

    ndimension = dim

    def numel(self) -> int:
        """Number of elements."""
        n = 1
        for s in self._shape:
            n *= s
        return n

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel() * self._dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours along each dimension, in elements."""
        shape = self._shape
        if 0 in shape:
            # NumPy has other steps for arrays without elements, depending on how they were made.
            strides = contiguous_strides(shape)
        elif self._array is None:
            strides = self._strides or contiguous_strides(shape)
        else:
            strides = tuple(s // self._dtype.itemsize for s in self._array.strides)
        return strides if dim is None else strides[dim]

    def storage_offset(self) -> int:
        """Elements from the start of the memory to the first element."""
        if self._base is None:
            return 0
        return (self.data_ptr() - self._base.data_ptr()) // self._dtype.itemsize

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return self._strides is None if self._array is None else bool(self._array.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the element type is a floating point type."""
        return self._dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the element type is complex: never."""
        return False

    @property
    def device(self) -> device_:
        """Where the memory is."""
        return CUDA if on_gpu(self) else CPU

    @property
    def is_cuda(self) -> bool:
        """Whether the memory is on a GPU."""
        return on_gpu(self)

    @property
    def is_cpu(self) -> bool:
        """Whether the memory is on the CPU."""
        return not on_gpu(self)

    @property
    def is_sparse(self) -> bool:
        """Whether only some elements are stored: never."""
        return False

    # --- gradient state -----------------------------------------------------------------------------------------------

    def _switch_grad(self, value: bool) -> None:
        if not value and self._node is not None:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. "
                "If you want to use a computed variable in a subgraph that doesn't require differentiation use "
                "var_no_grad = var.detach()."
            )
        if value and not self._dtype.is_floating_point:
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        if self._requires_grad != bool(value) and state.session is not None:
            state.session.require(self, bool(value))
            return
        self._requires_grad = bool(value)

    def _wants_grad(self) -> bool:
        """Whether operations on the tensor are recorded for gradients."""
        # A change in place of what a view shows may have given it a history.
        return self._requires_grad if self._base is None else self._requires_grad or self.grad_fn is not None

    requires_grad = property(_wants_grad, _switch_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` in place."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made the tensor."""
        return self._node is None if self._base is None else self.grad_fn is None

    def _set_grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value._shape != self._shape:
                raise RuntimeError(
                    f"assigned grad has data of a different size: {list(value._shape)} for a tensor of "
                    f"{list(self._shape)}"
                )
            if value._dtype is not self._dtype:
                raise RuntimeError(f"assigned grad has data of a different type: {value._dtype} for {self._dtype}")
            if value is self:
                raise RuntimeError("can't assign Variable as its own grad")
            if on_gpu(value) is not on_gpu(self):
                raise RuntimeError("assigned grad has data located on a different device")
        self._grad = value

    def _drop_grad(self) -> None:
        self._grad = None

    grad = property(attrgetter("_grad"), _set_grad, _drop_grad, doc="The accumulated gradient, or None.")

    __hash__ = object.__hash__

    def __len__(self) -> int:
        shape = self._shape
        if not shape:
            raise TypeError("len() of a 0-d tensor")
        return shape[0]

    if TYPE_CHECKING:

        def __init__(self, *size: Any, device: Any = None) -> None: ...
        def __getattr__(self, name: str) -> Any:
            """Methods are entered by the modules beside."""

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __iter__(self) -> Any: ...


FIELDS = tuple(name for name in Tensor.__slots__ if not name.startswith("__"))
"""What a tensor is made of, as names of its slots."""


def set_requires_grad(tensor: Tensor, value: bool) -> None:
    """Let a leaf have the flag, or not."""
    tensor._requires_grad = value


def method(*names: str) -> Callable[[F], F]:
    """Enter a function as a method of Tensor under its own name and the ones given."""

    def enter(function: F) -> F:
        for name in (function.__name__, *names):
            setattr(Tensor, name, function)
        return function

    return enter


def pending(aval: Aval, requires_grad: bool, strides: tuple[int, ...] | None, node: Any) -> Tensor:
    """A tensor whose value a compiled region still owes; `node` stands for the step that made it."""
    t: Tensor = Tensor.__new__(Tensor)
    t._array = None
    t._aval = aval
    t._strides = strides
    t._dtype = aval.dtype
    t._requires_grad = requires_grad
    t._node = node
    t._grad = t._cell = t._base = t._hooks = None
    return t


def on_gpu(t: Tensor) -> bool:
    """Whether a tensor's memory is, or will be, a GPU's."""
    array = t._array
    return type(t._aval) is GpuAval if array is None else type(array) is DeviceArray


def aval_of(t: Tensor) -> Aval:
    """Shape and type of a tensor."""
    array = t._array
    return Aval(array.shape, t._dtype) if array is not None else t._aval  # type: ignore[return-value]


def alias(cls: type[Tensor], source: Tensor, requires_grad: bool) -> Tensor:
    """A leaf of class `cls` on the memory of `source`, with no history: what `Parameter(data)` makes.

    It is the root of that memory, so the source must not be used for in-place changes that gradients depend on.
    """
    t: Tensor = cls.__new__(cls)
    t._array = source._memory()
    t._dtype = source._dtype
    t._requires_grad = requires_grad
    t._node = t._grad = t._base = t._hooks = None
    t._cell = source._share()
    return t
