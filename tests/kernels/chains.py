"""What products and convolutions must give bit for bit: one scalar chain of fused multiply-adds per element."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.cpu import has_tiles
from tracejit.dtypes import bfloat16


@intrinsic
def fused(typingctx, x, y, z):  # type: ignore[no-untyped-def]
    """One scalar fused multiply-add."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = args[0].type
        name = "llvm.fma.f32" if kind == ir.FloatType() else "llvm.fma.f64"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), args
        )

    return x(x, x, x), codegen


@functools.cache
def _chains() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    def chains(a, b, c):  # type: ignore[no-untyped-def]
        for i in range(c.shape[0]):
            for j in range(c.shape[1]):
                total = c.dtype.type(0)
                for k in range(a.shape[1]):
                    total = fused(a[i, k], b[k, j], total)
                c[i, j] = total

    compiled: Callable[[np.ndarray, np.ndarray, np.ndarray], None] = numba.njit(chains)
    return compiled


def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product by scalar chains."""
    out = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    for batch in np.ndindex(a.shape[:-2]):
        _chains()(np.ascontiguousarray(a[batch]), np.ascontiguousarray(b[batch]), out[batch])
    return out


@functools.cache
def _gaps() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    def gaps(x, y, out):  # type: ignore[no-untyped-def]
        for i in range(out.shape[0]):
            for j in range(out.shape[1]):
                total = out.dtype.type(0)
                for k in range(x.shape[1]):
                    gap = x[i, k] - y[j, k]
                    total = fused(gap, gap, total)
                out[i, j] = np.sqrt(total)

    compiled: Callable[[np.ndarray, np.ndarray, np.ndarray], None] = numba.njit(gaps)
    return compiled


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The distances of rows by scalar chains."""
    out = np.empty((*x.shape[:-1], y.shape[-2]), x.dtype)
    for batch in np.ndindex(x.shape[:-2]):
        _gaps()(np.ascontiguousarray(x[batch]), np.ascontiguousarray(y[batch]), out[batch])
    return out


def _flushed(x: np.ndarray) -> np.ndarray:
    """Zeros in place of subnormal numbers, their signs kept."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def square_reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The float32 product of matrices of float32 or bfloat16 on tiles, or without any by vectors, step by step.

    A product of two bfloat16 is a float32 unless it is out of range, so a fused multiply-add is one addition.
    """
    with np.errstate(invalid="ignore"):
        a, b = (_flushed(np.asarray(x, np.float32)).astype(bfloat16.np).astype(np.float32) for x in (a, b))
    out = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, a.shape[-1], 32):
            if not has_tiles():
                for k in (k ^ 1 for k in range(start, start + 32)):
                    # Behind the end there are zeros.
                    inside = k < a.shape[-1]
                    product = a[..., k, None] * b[..., k, None, :] if inside else np.zeros_like(out)
                    out = _flushed(out + product)
                continue
            sums = [np.zeros_like(out), np.zeros_like(out)]
            for k in range(start, min(start + 32, a.shape[-1])):
                sums[k % 2] = _flushed(sums[k % 2] + a[..., k, None] * b[..., k, None, :])
            out = _flushed(out + _flushed(sums[0] + sums[1]))
    return out


@functools.cache
def _image() -> Callable[..., None]:
    def image(x, w, y, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        zero = x.dtype.type(0)
        for n, o, i, j in np.ndindex(y.shape):
            group = o // (w.shape[0] // groups)
            total = zero
            for c in range(w.shape[1]):
                for p in range(w.shape[2]):
                    for q in range(w.shape[3]):
                        row = i * stride[0] + p * dilation[0] - padding[0]
                        column = j * stride[1] + q * dilation[1] - padding[1]
                        inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
                        value = x[n, group * w.shape[1] + c, row, column] if inside else zero
                        total = fused(value, w[o, c, p, q], total)
            y[n, o, i, j] = total

    compiled: Callable[..., None] = numba.njit(image)
    return compiled


@functools.cache
def _input_grad() -> Callable[..., None]:
    def input_grad(ct, w, dx, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        zero = dx.dtype.type(0)
        each = w.shape[0] // groups
        for n, c, i, j in np.ndindex(dx.shape):
            group = c // w.shape[1]
            total = zero
            for o in range(each):
                for p in range(w.shape[2]):
                    for q in range(w.shape[3]):
                        row, column = i + padding[0] - p * dilation[0], j + padding[1] - q * dilation[1]
                        if row % stride[0] or column % stride[1]:
                            continue
                        row, column = row // stride[0], column // stride[1]
                        inside = 0 <= row < ct.shape[2] and 0 <= column < ct.shape[3]
                        value = ct[n, group * each + o, row, column] if inside else zero
                        total = fused(value, w[group * each + o, c - group * w.shape[1], p, q], total)
            dx[n, c, i, j] = total

    compiled: Callable[..., None] = numba.njit(input_grad)
    return compiled


@functools.cache
def _weight_grad() -> Callable[..., None]:
    def weight_grad(ct, x, dw, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        zero = x.dtype.type(0)
        for o, c, p, q in np.ndindex(dw.shape):
            group = o // (dw.shape[0] // groups)
            total = zero
            for n, i, j in np.ndindex((ct.shape[0], ct.shape[2], ct.shape[3])):
                row = i * stride[0] + p * dilation[0] - padding[0]
                column = j * stride[1] + q * dilation[1] - padding[1]
                inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
                value = x[n, group * dw.shape[1] + c, row, column] if inside else zero
                total = fused(value, ct[n, o, i, j], total)
            dw[o, c, p, q] = total

    compiled: Callable[..., None] = numba.njit(weight_grad)
    return compiled


Pair = tuple[int, int]


def convolution(x: np.ndarray, w: np.ndarray, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> np.ndarray:
    """The convolution, chains over (channel, tap row, tap column)."""
    sides = [
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (w.shape[2 + a] - 1) - 1) // stride[a] + 1 for a in (0, 1)
    ]
    y = np.empty((x.shape[0], w.shape[0], *sides), x.dtype)
    _image()(x, w, y, stride, padding, dilation, groups)
    return y


def input_gradient(
    ct: np.ndarray, w: np.ndarray, shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    """The gradient to the input, chains over (output channel, tap row, tap column)."""
    dx = np.empty(shape, ct.dtype)
    _input_grad()(ct, w, dx, stride, padding, dilation, groups)
    return dx


def weight_gradient(
    ct: np.ndarray, x: np.ndarray, shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    """The gradient to the weight, chains over (image, row, column)."""
    dw = np.empty(shape, ct.dtype)
    _weight_grad()(ct, x, dw, stride, padding, dilation, groups)
    return dw
