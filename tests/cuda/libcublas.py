"""cuBLAS's library on the memory of the stand-in for the driver: products by NumPy, with all arguments checked."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

import numpy as np

from tests.cuda.libcuda import Library
from tracejit.runtime.cuda import cublas

HANDLE = 11
_KINDS = {0: np.float32, 1: np.float64, 2: np.float16}
"""NumPy's types by cuBLAS's numbers."""
_COMPUTE = {0: (68, 77), 1: (70,), 2: (68,)}
"""How each may be computed."""
INVALID_VALUE = 7


class Blas:
    """The library. `calls` counts what was asked for, `compute` lists how products were to be computed."""

    def __init__(self, driver: Library) -> None:
        self._driver = driver
        self.calls: Counter[str] = Counter()
        self.compute: list[int] = []
        self._is_ready = {"stream": False, "workspace": False}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cublas"):
            raise AttributeError(name)
        function = getattr(self, "_" + name.removeprefix("cublas").removesuffix("_v2"))

        def call(handle: Any, *arguments: Any) -> int:
            self.calls[name] += 1
            if name != "cublasCreate_v2":
                assert handle.value == HANDLE
            return function(handle, *arguments) or 0

        return call

    def _Create(self, out: Any) -> None:
        out._obj.value = HANDLE

    def _GetVersion(self, handle: Any, out: Any) -> None:
        out._obj.value = 130100

    def _SetStream(self, handle: Any, stream: Any) -> None:
        assert stream.value == 5
        self._is_ready["stream"] = True

    def _SetWorkspace(self, handle: Any, address: Any, size: Any) -> None:
        assert address.value
        assert address.value % 256 == 0
        assert size.value == cublas.WORKSPACE_BYTES
        self._is_ready["workspace"] = True

    def _SetMathMode(self, handle: Any, mode: Any) -> None:
        assert mode.value == 16

    def _matrix(self, address: Any, kind: int, rows: int, columns: int, pitch: int) -> np.ndarray:
        """A column-major matrix of the memory."""
        size = np.dtype(_KINDS[kind]).itemsize
        assert pitch >= max(rows, 1)
        # Between columns there may be memory of others.
        found = [self._driver.machine.get(address + j * pitch * size, rows * size) for j in range(columns)]
        return np.frombuffer(b"".join(found), _KINDS[kind]).reshape(columns, rows).T

    def _product(self, numbers: list[Any], batches: int, steps: tuple[int, int, int]) -> int:
        turns, sizes, (alpha, *left), right, (beta, *result), (compute, algorithm) = numbers
        m, n, k = sizes
        if min(m, n, k, batches) < 1:
            return INVALID_VALUE
        assert all(self._is_ready.values())
        kind = result[1]
        assert kind == left[1] == right[1]
        assert compute in _COMPUTE[kind]
        assert algorithm == -1
        scalar = ctypes.c_double if kind == 1 else ctypes.c_float
        assert isinstance(alpha, scalar)
        assert (alpha.value, beta.value) == (1.0, 0.0)
        assert all(turn in (0, 1) for turn in turns)
        self.compute.append(compute)
        wide = np.float64 if kind == 1 else np.float32
        size = np.dtype(_KINDS[kind]).itemsize

        def work() -> None:
            for b in range(batches):
                places = [x[0] + b * step * size for x, step in zip((left, right, result), steps, strict=True)]
                shapes = [(k, m) if turns[0] else (m, k), (n, k) if turns[1] else (k, n)]
                x, y = (
                    self._matrix(place, kind, *shape, matrix[2])
                    for place, shape, matrix in zip(places, shapes, (left, right), strict=False)
                )
                x, y = x.T if turns[0] else x, y.T if turns[1] else y
                product = (x.astype(wide) @ y.astype(wide)).astype(_KINDS[kind])
                for j in range(n):
                    column = np.ascontiguousarray(product[:, j]).tobytes()
                    self._driver.machine.put(places[2] + j * result[2] * size, column)

        self._driver._do(work)
        return 0

    def _GemmEx(self, handle: Any, *arguments: Any) -> int:
        assert len(arguments) == 18
        ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algorithm = map(_plain, arguments)
        groups = [(ta, tb), (m, n, k), (alpha, a, at, lda), (b, bt, ldb), (beta, c, ct, ldc), (compute, algorithm)]
        return self._product(groups, 1, (0, 0, 0))

    def _GemmStridedBatchedEx(self, handle: Any, *arguments: Any) -> int:
        assert len(arguments) == 22
        plain = [_plain(argument) for argument in arguments]
        ta, tb, m, n, k, alpha, a, at, lda, sa, b = plain[:11]
        bt, ldb, sb, beta, c, ct, ldc, sc, batches, compute, algorithm = plain[11:]
        groups = [(ta, tb), (m, n, k), (alpha, a, at, lda), (b, bt, ldb), (beta, c, ct, ldc), (compute, algorithm)]
        return self._product(groups, batches, (sa, sb, sc))


def _plain(argument: Any) -> Any:
    """A number of ctypes as one; what is pointed to as it is."""
    return argument._obj if hasattr(argument, "_obj") else argument.value
