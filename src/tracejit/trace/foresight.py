"""Kernels that a function will need, foreseen by the words of its text before it is called.

In: a function and the arguments of its first call. Out: jobs, each of which builds a kernel, in the order of need.
Must not know: who does the jobs, and when.

A word stands for an operation, a function, a module or an optimizer of the library, whoever else may have the name:
what is built in vain costs another process some milliseconds. Only kernels for float32 on a CPU are foreseen.
"""

from __future__ import annotations

import dis
from functools import partial
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from tracejit.compiler import compile_kernels
from tracejit.config import PRODUCTS
from tracejit.dtypes import float32
from tracejit.eager import build_column_sums, build_flat, build_library
from tracejit.ops import ops
from tracejit.runtime.ahead import Job
from tracejit.runtime.recipe import Origin
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, on_gpu
from tracejit.trace.fingerprint import Walk, is_of_library

_Kernel = str | Origin
"""The name of an elementwise operation, of a kernel of the library, or a call that has one."""


class _Need(NamedTuple):
    """Kernels that come with a word: those of the value, of gradients, and what a program of both needs besides."""

    value: tuple[_Kernel, ...] = ()
    gradient: tuple[_Kernel, ...] = ()
    program: tuple[_Kernel, ...] = ()


def _of_places(name: str, kind: str, *steps: int) -> tuple[Origin, ...]:
    """Kernels of calls that go by int64 places, along the first dimension, to rows of a matrix."""
    matrix, rows, places = (kind, (4, 2), (2, 1)), (kind, (3, 2), (2, 1)), ("int64", (3,), (1,))
    operands = (matrix, places, rows) if name == "take" else (matrix, places, rows, matrix)
    return tuple((name, operands, (0,), step) for step in steps)


_LONGEST = "gemm_panel_f32"
"""What comes first if it is needed: it takes longest, and few gradients do without."""
# A product by itself may be one of few rows, which has another kernel; those of gradients are large.
_PRODUCT = _Need((), (_LONGEST, "gemm_strips_f32"))
_CONVOLUTION = _Need(("conv_channels_f32", "conv_pack_f32"), ("conv_weight_f32",))
_ATTENTION = _Need(("attention_pack_f32", "attention_f32"), ("attention_grad_f32",))
_PICK = _of_places("take", "int64", 0, 1)
_LOSS = _Need(("exp", "log"), (), _PICK)
_EMBEDDING = _Need((), (), (*_of_places("take", "float32", 1), *_of_places("index_add", "float32", 1, 2)))
_GELU = _Need(("gelu",), ("erf", "exp"))
_GATES = _Need(("sigmoid", "tanh"), _PRODUCT.gradient)
_NEEDS = {op.name: _Need((op.name,)) for op in ops.family("elementwise") if not (op.exact or op.attrs)} | {
    "Linear": _PRODUCT,
    "linear": _PRODUCT,
    "matmul": _PRODUCT,
    "Conv2d": _CONVOLUTION,
    "conv2d": _CONVOLUTION,
    "scaled_dot_product_attention": _ATTENTION,
    "MultiheadAttention": _ATTENTION,
    "cross_entropy": _LOSS,
    "CrossEntropyLoss": _LOSS,
    "log_softmax": _Need(("exp", "log")),
    "softmax": _Need(("exp",)),
    "gelu": _GELU,
    "GELU": _GELU,
    "Sigmoid": _Need(("sigmoid",)),
    "Tanh": _Need(("tanh",)),
    "LSTM": _GATES,
    "GRU": _GATES,
    "RNN": _Need(("tanh",), _PRODUCT.gradient),
    "Embedding": _EMBEDDING,
}
_STEPS = _Need((), ("column_sum",), ("gemm_pack_f32", "gemm_sums_f32"))
"""What comes with products that are made again and again: sums of their gradients."""
_RECURRENT = {"LSTM", "GRU", "RNN"}
_BACK = dis.opmap["JUMP_BACKWARD"]


def foreseen(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Job]:
    """Jobs that build what a call of a function, and the program that it becomes, will need.

    Cost: some microseconds for each object that the function can reach.
    """
    words = _Words()
    words.see((function, args, kwargs))
    if not words.is_plain or state.autocast is not None or PRODUCTS.bfloat16:
        return []
    needs = [_NEEDS[word] for word in words.found if word in _NEEDS]
    if words.goes_in_steps and any(_LONGEST in need.gradient for need in needs):
        needs.append(_STEPS)
    found = [kernel for need in needs for kernel in need.value]
    if "backward" in words.found:
        found += [kernel for need in needs for kernel in need.gradient]
        found += [kernel for need in needs for kernel in need.program]
    return [_job(kernel) for kernel in sorted(dict.fromkeys(found), key=lambda kernel: kernel != _LONGEST)]


def _job(kernel: _Kernel) -> Job:
    if isinstance(kernel, tuple):
        return partial(compile_kernels, (), (kernel,))
    if kernel == "column_sum":
        return build_column_sums
    return partial(build_library if kernel.endswith("_f32") else build_flat, kernel)


class _Words(Walk):
    """Names in the code that a function reaches, and in that of modules it can call."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self.goes_in_steps = False
        self._has_float32 = self._is_elsewhere = False

    @property
    def is_plain(self) -> bool:
        """Whether there are tensors of float32, all are on the CPU, and none is cast."""
        return self._has_float32 and not self._is_elsewhere and "autocast" not in self.found

    def _parts(self, x: Any, kind: type) -> list[Any]:
        if kind is CodeType:
            self.found.update(dict.fromkeys(x.co_names))
            self.goes_in_steps = self.goes_in_steps or ("range" in x.co_names and _BACK in x.co_code[::2])
        elif issubclass(kind, Tensor):
            self._has_float32 = self._has_float32 or x._dtype is float32
            self._is_elsewhere = self._is_elsewhere or on_gpu(x)
        parts = super()._parts(x, kind)
        forward = next((vars(c)["forward"] for c in kind.__mro__ if "forward" in vars(c)), None)
        if is_of_library(kind) or (kind is FunctionType and is_of_library(x)):
            # A function of the library may have another name in the text.
            self.found[getattr(x, "__name__", kind.__name__)] = None
            self.goes_in_steps = self.goes_in_steps or kind.__name__ in _RECURRENT
        elif isinstance(forward, FunctionType):
            parts = [*parts, forward]
        return parts
