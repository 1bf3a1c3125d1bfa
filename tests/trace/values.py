"""Tensors for tests of regions, and values in a form that compares bit for bit."""

from __future__ import annotations

import numpy as np

import tracejit as tj


def arr(seed, *shape):
    return tj.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def bits(x):
    """A value in a form that compares bit for bit."""
    if isinstance(x, tj.Tensor):
        a = x.detach().numpy()
        return (a.shape, a.dtype.str, np.ascontiguousarray(a).tobytes(), x.requires_grad, x.is_contiguous())
    if isinstance(x, (list, tuple)):
        return type(x), [bits(e) for e in x]
    if isinstance(x, dict):
        return {k: bits(v) for k, v in x.items()}
    return x
