"""Matrix products as calls of cuBLAS: which ones are, and with which arguments.

cuBLAS counts columns first. To it a row-major C = A B is the product C' = B' A', and a row-major matrix is its
transpose: so the operands change places, and one whose rows are contiguous is taken as it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracejit.dtypes import BY_NAME
from tracejit.kernels.launch import Operand, Ptr

SHORTS: Final = ("f16", "bf16", "f32", "f64")
_LEAST_WORK: Final = {"f16": 1 << 20, "bf16": 1 << 20, "f32": 1 << 23, "f64": 1 << 23}
"""Multiply-adds from which on a product is a call: what is smaller costs little but the launch."""
_LEAST_SIDE = 16
"""Rows and columns of the result, and steps of k, from which on it is one."""
_MOST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Gemm:
    """The arguments of a product in cuBLAS's own order, but for addresses: `left` is B, `right` is A.

    `rows` and `columns` are of the column-major result, `left_turned` says that an operand is to be transposed;
    a `stride` is the number of elements from matrix to matrix.
    """

    short: str
    left_turned: bool
    right_turned: bool
    rows: int
    columns: int
    steps: int
    left_pitch: int
    right_pitch: int
    pitch: int
    batches: int
    left_stride: int
    right_stride: int
    stride: int


@dataclass(frozen=True, slots=True)
class GemmLaunch:
    """A product that is planned as a call; its `slots` are the addresses of A, B and C."""

    gemm: Gemm
    slots: tuple[Ptr, ...] = (Ptr(0), Ptr(1), Ptr(2))
    units: int = 1
    unit_cost: float = 0.0
    fails: bool = False
    in_place: tuple[tuple[int, int], ...] = ()
    parts: int = 0
    along: tuple[int, ...] = ()
    loose: bool = False
    scratch: int = 0


def is_call(dtype: str, shape: tuple[int, ...], steps: int) -> bool:
    """Whether a product is a call where there is cuBLAS: by its type, its shape and the steps of k alone, so that all
    ways to it agree.
    """
    short = BY_NAME[dtype].short
    batches, rows, columns = shape if len(shape) == 3 else (1, *shape)
    if short not in SHORTS or min(rows, columns, steps) < _LEAST_SIDE or max(rows, columns, steps, batches) > _MOST:
        return False
    return rows * columns * steps * batches >= _LEAST_WORK[short]


def _lies(x: Operand) -> tuple[bool, int, int]:
    """Whether a matrix is column-major, the distance of its rows or columns, and of its matrices.

    Raises: ValueError if neither its rows nor its columns are contiguous.
    """
    batch, row, column = x.strides if len(x.shape) == 3 else (0, *x.strides)
    rows, columns = x.shape[-2:]
    if column == 1 and columns <= row <= _MOST:
        return False, row, batch
    if row == 1 and rows <= column <= _MOST:
        return True, column, batch
    raise ValueError(f"matmul: neither rows nor columns are contiguous, the strides are {x.strides}")


def plan_gemm(a: Operand, b: Operand, c: Operand) -> GemmLaunch:
    """The call for C = A @ B, where C is contiguous.

    Raises: ValueError if an operand must be copied first.

    >>> a, b = Operand("float32", (64, 128), (128, 1)), Operand("float32", (128, 32), (1, 128))
    >>> gemm = plan_gemm(a, b, Operand("float32", (64, 32), (32, 1))).gemm
    >>> gemm.left_turned, gemm.right_turned, gemm.rows, gemm.columns, gemm.left_pitch
    (True, False, 32, 64, 128)
    """
    (m, n), k = map(int, c.shape[-2:]), int(a.shape[-1])
    batches = int(c.shape[0]) if len(c.shape) == 3 else 1
    (left_turned, left_pitch, left_stride), (right_turned, right_pitch, right_stride) = _lies(b), _lies(a)
    return GemmLaunch(
        Gemm(
            BY_NAME[a.dtype].short,
            left_turned,
            right_turned,
            n,
            m,
            k,
            left_pitch,
            right_pitch,
            n,
            batches,
            left_stride,
            right_stride,
            m * n,
        )
    )
