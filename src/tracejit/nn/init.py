"""Filling tensors with starting values, in place and without gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracejit.tensor import Tensor, from_numpy, no_grad

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_UNIT_GAIN = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity asks weights to be larger.

    Raises: ValueError for an unknown name or a slope that is no number.
    Source: He et al. 2015 (relu, leaky_relu), Klambauer et al. 2017 (selu).

    >>> calculate_gain("relu") == 2 ** 0.5
    True
    """
    if nonlinearity in _UNIT_GAIN:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is None:
            slope = 0.01
        elif isinstance(param, int | float) and not isinstance(param, bool):
            slope = param
        else:
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with draws from ``[a, b)``."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with draws from the normal distribution."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Fill with draws from the normal distribution restricted to ``[a, b]``.

    Cost: values outside are drawn again until none is left.
    Raises: ValueError where ``a`` is not below ``b``.
    """
    if not a < b:
        raise ValueError(f"trunc_normal_: a={a} must be below b={b}")
    low, high = (a - mean) / std, (b - mean) / std
    inside = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    with no_grad():
        if inside >= 0.25:
            tensor.normal_(mean, std, generator=generator)
            while True:
                outside = (tensor < a) | (tensor > b)
                if not bool(outside.any()):
                    return tensor
                fresh = tensor.detach().clone().normal_(mean, std, generator=generator)
                tensor.copy_(fresh.where(outside, tensor))
        # The interval holds little of the normal's mass: draw uniformly from the part of it that lies within 40
        # standard deviations (nothing is left beyond in any dtype), keep a draw with the density's ratio to its peak.
        low, high = max(low, min(high, 0.0) - 40.0), min(high, max(low, 0.0) + 40.0)
        peak = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
        result = tensor.detach().clone().fill_(math.nan)
        while bool((pending := result.isnan()).any()):
            draw = tensor.detach().clone().uniform_(low, high, generator=generator)
            accept = tensor.detach().clone().uniform_(0.0, 1.0, generator=generator)
            kept = pending & (accept <= ((peak * peak - draw * draw) * 0.5).exp())
            result = (draw * std + mean).clamp(a, b).where(kept, result)
        return tensor.copy_(result)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity. Raises: ValueError unless it has 2 dimensions."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _take(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution weight so that the convolution gives back its input channels.

    Raises: ValueError unless it has 3, 4 or 5 dimensions and ``groups`` divides the first.
    """
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    sizes = tuple(tensor.shape)
    if sizes[0] % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    values = np.zeros(sizes)
    per_group = sizes[0] // groups
    centre = tuple(size // 2 for size in sizes[2:])
    for group in range(groups):
        for channel in range(min(per_group, sizes[1])):
            values[(group * per_group + channel, channel, *centre)] = 1
    return _take(tensor, values)


def _take(tensor: Tensor, values: np.ndarray[Any, Any]) -> Tensor:
    with no_grad():
        return tensor.copy_(from_numpy(np.ascontiguousarray(values)))


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = math.prod(tuple(tensor.shape)[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform, scaled by both fans. Source: Glorot and Bengio 2010."""
    fan_in, fan_out = _fans(tensor)
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / float(fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal, scaled by both fans. Source: Glorot and Bengio 2010."""
    fan_in, fan_out = _fans(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(fan_in + fan_out)), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = _fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform, scaled by one fan and the nonlinearity's gain. Source: He et al. 2015.

    Edge: a tensor without elements is returned as it is.
    """
    if tensor.numel() == 0:
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal, scaled by one fan and the nonlinearity's gain. Source: He et al. 2015.

    Edge: a tensor without elements is returned as it is.
    """
    if tensor.numel() == 0:
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fill with a (semi-)orthogonal matrix of the rows and all other dimensions. Source: Saxe et al. 2013.

    Raises: ValueError for fewer than 2 dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0:
        return tensor
    rows = tensor.shape[0]
    with no_grad():
        drawn = tensor.detach().clone().normal_(0.0, 1.0, generator=generator)
    flat = drawn.double().cpu().numpy().reshape(rows, -1)
    tall = flat if flat.shape[0] >= flat.shape[1] else flat.T
    q, r = np.linalg.qr(tall)
    # The signs of r's diagonal make the distribution uniform over all orthogonal matrices.
    q = q * np.sign(np.diag(r))
    if flat.shape[0] < flat.shape[1]:
        q = q.T
    return _take(tensor, (gain * q).reshape(tuple(tensor.shape)))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Fill a matrix with normal draws, of which a share of each column is set to 0. Source: Martens 2010.

    Raises: ValueError unless it has 2 dimensions.
    """
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)
    with no_grad():
        tensor.normal_(0.0, std, generator=generator)
        order = tensor.detach().clone().uniform_(0.0, 1.0, generator=generator).double().numpy().argsort(axis=0)
        keep = np.ones((rows, columns), dtype=bool)
        np.put_along_axis(keep, order[:zeros], False, axis=0)
        return tensor.mul_(from_numpy(keep))
