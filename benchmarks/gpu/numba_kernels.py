"""Kernels as numba-cuda wants them, to compare with: for launches, compile times and speed."""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32, int64

COLUMNS = 1000
THREADS = 256


def one(a: Any) -> None:
    """A kernel of one array."""
    i = cuda.grid(1)
    if i < a.size:
        a[i] = a[i] + float32(1)


def three(a: Any, b: Any, c: Any) -> None:
    """A kernel of three arrays."""
    i = cuda.grid(1)
    if i < c.size:
        c[i] = a[i] + b[i]


def eight(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> None:
    """A kernel of eight arrays."""
    i = cuda.grid(1)
    if i < h.size:
        h[i] = a[i] + b[i] + c[i] + d[i] + e[i] + f[i] + g[i]


def words(a: Any, b: Any, c: Any) -> None:
    """A kernel of three integers, which does nothing for those that it is given."""
    if a + b < c:
        cuda.syncthreads()


def chain(x: Any, y: Any, out: Any) -> None:
    """exp(tanh(x y + 1) sigmoid(x) - y / 2) with CUDA's own functions."""
    i = cuda.grid(1)
    if i < out.size:
        a = x[i]
        b = y[i]
        t = math.tanh(a * b + float32(1))
        s = float32(1) / (float32(1) + math.exp(-a))
        out[i] = math.exp(t * s - b * float32(0.5))


def softmax(x: Any, out: Any) -> None:
    """Softmax of rows of COLUMNS, one block of THREADS a row, in shared memory."""
    shared = cuda.shared.array(THREADS, float32)
    row = int64(cuda.blockIdx.x) * COLUMNS
    thread = cuda.threadIdx.x
    top = float32(-math.inf)
    for j in range(thread, COLUMNS, THREADS):
        top = max(top, x[row + j])
    shared[thread] = top
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            shared[thread] = max(shared[thread], shared[thread + step])
        cuda.syncthreads()
        step //= 2
    top = shared[0]
    cuda.syncthreads()
    total = float32(0)
    for j in range(thread, COLUMNS, THREADS):
        total += math.exp(x[row + j] - top)
    shared[thread] = total
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            shared[thread] += shared[thread + step]
        cuda.syncthreads()
        step //= 2
    inverse = float32(1) / shared[0]
    for j in range(thread, COLUMNS, THREADS):
        out[row + j] = math.exp(x[row + j] - top) * inverse
