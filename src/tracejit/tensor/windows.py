"""Window functions of signal processing."""

from __future__ import annotations

import math
from typing import Any

from tracejit import dtypes
from tracejit.dtypes import dtype as dtype_
from tracejit.tensor.arithmetic import add, cos, mul
from tracejit.tensor.creation import arange, ones, zeros
from tracejit.tensor.shaping import narrow
from tracejit.tensor.tensor import Tensor


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """alpha - beta * cos(2 * pi * n / N) for n from 0 to `window_length` - 1.

    N is `window_length` if it is `periodic`, else one less. Edge: a window of length 1 is 1.
    Raises: RuntimeError for a negative length or a type without fractions.
    """
    return _window("hamming_window", window_length, periodic, alpha, beta, dtype, device, requires_grad)


def hann_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """(1 - cos(2 * pi * n / N)) / 2 for n from 0 to `window_length` - 1.

    N is `window_length` if it is `periodic`, else one less. Edge: a window of length 1 is 1.
    Raises: RuntimeError for a negative length or a type without fractions.

    >>> hann_window(4)
    tensor([0.0000, 0.5000, 1.0000, 0.5000])
    """
    return _window("hann_window", window_length, periodic, 0.5, 0.5, dtype, device, requires_grad)


def _window(
    name: str, length: int, periodic: bool, alpha: float, beta: float, dtype: dtype_ | None, device: Any, grad: bool
) -> Tensor:
    if not isinstance(length, int):
        raise TypeError(f"{name}(): argument 'window_length' (position 1) must be int, not {type(length).__name__}")
    if length < 0:
        raise RuntimeError(f"{name} requires non-negative window_length, got window_length={length}")
    d = dtypes.get_default_dtype() if dtype is None else dtype
    if not d.is_floating_point:
        raise RuntimeError(f"{name} expects floating point dtypes, got: {d.name}")
    if length < 2:
        return (ones if length else zeros)(length, dtype=d, device=device, requires_grad=grad)
    points = length + 1 if periodic else length
    angles = mul(arange(points, dtype=d, device=device), 2.0 * math.pi / (points - 1))
    whole: Tensor = add(mul(cos(angles), -beta), alpha)
    out: Tensor = narrow(whole, 0, 0, length).clone() if periodic else whole
    return out.requires_grad_() if grad else out
