"""cuBLAS through ctypes: products at addresses of the device, on a context's stream, also while it is captured.

In: a context, the arguments of products. Out: what cuBLAS computes, in the order in which it was asked for.
Must not know: which products are cuBLAS's.

The library is looked for where the system has it, and among the packages that pip installs it with.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any, Final

from tracejit.config import PRODUCTS
from tracejit.errors import CudaError
from tracejit.kernels.cuda.blas import Gemm
from tracejit.runtime.cuda.driver import Context

_VERSIONS = (13, 12)
WORKSPACE_BYTES = 32 << 20
"""Memory for parts of sums: as much as cuBLAS wants on the GPUs that this is written for."""
_HANDLE, _INT, _SIZE, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_longlong
_NOT_TURNED, _TURNED = 0, 1
_DEFAULT_ALGORITHM = -1
_NO_SHORT_SUMS = 16
"""A mode of products: parts of sums of 16-bit numbers are added up in float32."""
_DATA: Final = {"f32": 0, "f64": 1, "f16": 2, "bf16": 14}
_COMPUTE: Final = {"f32": 68, "f64": 70, "f16": 68, "bf16": 68}
_TF32 = 77
_SCALARS: Final = {"f64": ctypes.c_double}


def _paths() -> list[str]:
    """Where the library may be, what the system knows first."""
    found = [f"libcublas.so.{version}" for version in _VERSIONS]
    packages = importlib.util.find_spec("nvidia")
    for root in packages.submodule_search_locations or () if packages is not None else ():
        for version in _VERSIONS:
            found += map(str, sorted(Path(root).glob(f"*/lib/libcublas.so.{version}")))
    return found


@functools.cache
def load() -> Any:
    """The library; None if there is none."""
    for path in _paths():
        # Its other half lies beside it, where the loader need not look.
        with contextlib.suppress(OSError):
            ctypes.CDLL(path.replace("libcublas.", "libcublasLt."), mode=ctypes.RTLD_GLOBAL)
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def is_there(context: Context) -> bool:
    """Whether a context's products can be cuBLAS's: a stand-in for the driver has no memory that it could reach."""
    return isinstance(context.driver.library, ctypes.CDLL) and load() is not None


class Cublas:
    """A handle of cuBLAS for a context: it works on the context's stream, with memory of its own."""

    def __init__(self, context: Context, library: Any) -> None:
        self._library = library
        self._handle = _HANDLE()
        context.enter()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, _HANDLE(context.stream))
        # Given to it, so that it asks for none while the stream is captured, and so that equal calls do the same.
        workspace = context.allocate(WORKSPACE_BYTES)
        self._call("cublasSetWorkspace_v2", self._handle, _HANDLE(workspace), _SIZE(WORKSPACE_BYTES))
        self._call("cublasSetMathMode", self._handle, _INT(_NO_SHORT_SUMS))

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises: CudaError with the function's name and the number of the error."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CudaError(f"{name}: error {status}")

    @property
    def version(self) -> int:
        """The library's version, as 130100."""
        value = _INT()
        self._call("cublasGetVersion_v2", self._handle, ctypes.byref(value))
        return value.value

    def product(self, gemm: Gemm, a: int, b: int, c: int) -> None:
        """Asks for C = A @ B at the given addresses; float32 by TF32 if that is allowed."""
        kind = _SCALARS.get(gemm.short, ctypes.c_float)
        one, zero = kind(1.0), kind(0.0)
        data = _INT(_DATA[gemm.short])
        compute = _INT(_TF32 if gemm.short == "f32" and PRODUCTS.tf32 else _COMPUTE[gemm.short])
        turns = (_INT(_TURNED if turned else _NOT_TURNED) for turned in (gemm.left_turned, gemm.right_turned))
        head = self._handle, *turns, _INT(gemm.rows), _INT(gemm.columns), _INT(gemm.steps), ctypes.byref(one)
        left, right, result = (
            (_HANDLE(address), data, _INT(pitch))
            for address, pitch in ((b, gemm.left_pitch), (a, gemm.right_pitch), (c, gemm.pitch))
        )
        how = compute, _INT(_DEFAULT_ALGORITHM)
        if gemm.batches == 1:
            self._call("cublasGemmEx", *head, *left, *right, ctypes.byref(zero), *result, *how)
            return
        steps = _LONG(gemm.left_stride), _LONG(gemm.right_stride), _LONG(gemm.stride)
        self._call(
            "cublasGemmStridedBatchedEx",
            *head,
            *(*left, steps[0]),
            *(*right, steps[1]),
            ctypes.byref(zero),
            *(*result, steps[2]),
            _INT(gemm.batches),
            *how,
        )


def handle_of(context: Context) -> Cublas:
    """The handle of a context, made when it is first asked for.

    Raises: CudaError if there is no library.
    """
    found = context.products
    if found is None:
        library = load()
        if library is None:
            raise CudaError("there is no cuBLAS library")
        found = context.products = Cublas(context, library)
    return found  # type: ignore[no-any-return]
