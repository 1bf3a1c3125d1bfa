"""The orders of GPU folds, step by step in NumPy, and graphs run one operation after another with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.programs import run_eagerly
from tracejit.codegen.cuda.columns import WARPS
from tracejit.codegen.cuda.rows import COMBINING_THREADS, TOGETHER, TURNS, threads_for
from tracejit.eager import run_op
from tracejit.ir.graph import Graph
from tracejit.kernels.cuda.threads import WARP
from tracejit.kernels.fold import STEPS_IN_NUMPY
from tracejit.ops import Op
from tracejit.schedule import cost

_STARTS = {"sum": -0.0, "prod": 1.0, "amax": -np.inf, "amin": np.inf}


def _filled(name: str, rows: np.ndarray, size: int) -> np.ndarray:
    """Rows with what a fold starts from behind them, which changes nothing."""
    padded = np.full((rows.shape[0], size), _STARTS[name], rows.dtype)
    padded[:, : rows.shape[1]] = rows
    return padded


def _block(name: str, own: np.ndarray) -> np.ndarray:
    """The values of a block's threads put together: [rows, threads] to [rows]."""
    step = STEPS_IN_NUMPY[name]
    lanes = own.reshape(len(own), -1, WARP)
    distance = WARP // 2
    while distance:
        there = np.arange(WARP) + distance
        lanes = step(lanes, lanes[:, :, np.where(there < WARP, there, np.arange(WARP))])
        distance //= 2
    return _tree(name, lanes[:, :, 0])


def _tree(name: str, parts: np.ndarray) -> np.ndarray:
    while parts.shape[1] > 1:
        parts = STEPS_IN_NUMPY[name](parts[:, ::2], parts[:, 1::2])
    return parts[:, 0]


def _chain(name: str, turns: np.ndarray) -> np.ndarray:
    """Over axis 1, one after another."""
    sofar = np.full_like(turns[:, 0], _STARTS[name])
    for turn in range(turns.shape[1]):
        sofar = STEPS_IN_NUMPY[name](sofar, turns[:, turn])
    return sofar


def _row(name: str, rows: np.ndarray, threads: int) -> np.ndarray:
    places = _filled(name, rows, TURNS * threads * TOGETHER).reshape(len(rows), TURNS, threads, TOGETHER)
    turns = places.transpose(0, 1, 3, 2).reshape(len(rows), TURNS * TOGETHER, threads)
    return _block(name, _chain(name, turns))


def _down(name: str, columns: np.ndarray) -> np.ndarray:
    """Over axis 1 of [outer, rows, columns], as the warps of a block do it."""
    outer, rows, inner = columns.shape
    turns = -(-rows // WARPS)
    flat = _filled(name, columns.transpose(0, 2, 1).reshape(-1, rows), turns * WARPS).reshape(-1, turns, WARPS)
    return _tree(name, _chain(name, flat)).reshape(outer, inner)


def fold(name: str, array: np.ndarray, dim: int) -> np.ndarray:
    """A reduction of a float32 or float64 array over a dimension, in the order of the GPU kernels."""
    with np.errstate(all="ignore"):
        return _fold(name, array, dim)


def _fold(name: str, array: np.ndarray, dim: int) -> np.ndarray:
    size, rest = array.shape[dim], (*array.shape[:dim], *array.shape[dim + 1 :])
    outer = int(np.prod(array.shape[:dim], dtype=int))
    inner = int(np.prod(array.shape[dim + 1 :], dtype=int))
    if inner > 1:
        columns = np.ascontiguousarray(array).reshape(outer, size, inner)
        blocks = [_down(name, columns[:, k : k + cost.COLUMN_ROWS]) for k in range(0, size, cost.COLUMN_ROWS)]
        whole = blocks[0] if len(blocks) == 1 else _down(name, np.stack(blocks, axis=1))
        return whole.reshape(rest)
    rows = np.ascontiguousarray(array).reshape(outer, size)
    if size <= cost.BLOCK:
        return _row(name, rows, threads_for(size)).reshape(rest)
    parts = np.stack(
        [_row(name, rows[:, k : k + cost.BLOCK], threads_for(cost.BLOCK)) for k in range(0, size, cost.BLOCK)], axis=1
    )
    turns = -(-parts.shape[1] // COMBINING_THREADS)
    filled = _filled(name, parts, turns * COMBINING_THREADS).reshape(outer, turns, COMBINING_THREADS)
    return _block(name, _chain(name, filled)).reshape(rest)


def _run(op: Op, operands: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """An operation; reductions in the order of the GPU kernels."""
    if op.family != "reduction" or op.name not in _STARTS or operands[0].dtype.kind not in "fV" or not operands[0].size:
        return run_op(op, operands, attrs)
    (array,) = operands
    wide = array.astype(np.float32) if array.dtype.itemsize == 2 else array
    return np.asarray(fold(op.name, wide, attrs[op.attrs.index("dim")])).astype(array.dtype)


def run_in_order(graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = ()) -> list[np.ndarray]:
    """The outputs of a graph, one operation after another; reductions in the order of the GPU kernels."""
    return run_eagerly(graph, arrays, scalars, _run)
