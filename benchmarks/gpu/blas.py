"""cuBLAS through ctypes: products of row-major matrices at given addresses, on a given stream."""

from __future__ import annotations

import ctypes
from typing import Any

from cuda.pathfinder import load_nvidia_dynamic_lib

_HANDLE = ctypes.c_void_p
_INT = ctypes.c_int
# (cudaDataType, cublasComputeType)
_KINDS = {"f32": (0, 68), "tf32": (0, 77), "bf16": (14, 68)}
WORKSPACE_BYTES = 32 << 20


class BlasError(RuntimeError):
    """A call of cuBLAS that did not succeed."""


class Blas:
    """A handle of cuBLAS."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
        self.handle = _HANDLE()
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        self._gemm = self.library.cublasGemmEx

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise BlasError(f"{name}: {status}")

    def version(self) -> int:
        """The library's version."""
        value = _INT()
        self._call("cublasGetVersion_v2", self.handle, ctypes.byref(value))
        return value.value

    def use(self, stream: int, workspace: int | None = None) -> None:
        """Later products go on `stream`; `workspace`, if given, is the address of WORKSPACE_BYTES for them."""
        self._call("cublasSetStream_v2", self.handle, _HANDLE(stream))
        if workspace is not None:
            self._call("cublasSetWorkspace_v2", self.handle, _HANDLE(workspace), ctypes.c_size_t(WORKSPACE_BYTES))

    def product(self, m: int, k: int, n: int, a: int, b: int, c: int, kind: str) -> None:
        """c[m, n] = a[m, k] b[k, n], all row-major and of one type."""
        data, compute = _KINDS[kind]
        # cuBLAS counts columns first: it sees the transposed product b.T a.T.
        status = self._gemm(
            self.handle, _INT(0), _INT(0), _INT(n), _INT(m), _INT(k), ctypes.byref(self._one),
            _HANDLE(b), _INT(data), _INT(n), _HANDLE(a), _INT(data), _INT(k), ctypes.byref(self._zero),
            _HANDLE(c), _INT(data), _INT(n), _INT(compute), _INT(-1),
        )  # fmt: skip
        if status:
            raise BlasError(f"cublasGemmEx: {status}")
