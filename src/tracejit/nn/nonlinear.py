"""Nonlinear functions of nn.functional that are a few tensor operations each."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from tracejit.tensor import Tensor, clamp, exp, expm1, log1p, minimum, sigmoid, tanh, where
from tracejit.tensor import functional as TF

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanhshrink",
    "threshold",
]

# Source: Klambauer et al. 2017, the fixed point of zero mean and unit variance.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _run(function: Callable[[Tensor], Tensor], input: Tensor, inplace: bool) -> Tensor:
    if not inplace:
        return function(input)
    # The copy is what backward looks at; the input itself is overwritten.
    return input.copy_(function(input.clone()))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``."""
    return _run(TF.relu, input, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x * Phi(x)`` with the normal distribution's Phi, or its tanh approximation. Source: Hendrycks 2016."""
    return TF.gelu(input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``."""
    return _run(TF.silu, input, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``negative_slope * x`` below."""
    return _run(lambda x: TF.leaky_relu(x, negative_slope), input, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``alpha * (exp(x) - 1)`` below. Source: Clevert et al. 2015."""
    # The branch that is not taken must stay finite, or its zero gradient times infinity is NaN.
    return _run(lambda x: where(x > 0, x, expm1(clamp(x, max=0)) * alpha), input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``alpha * (exp(x / alpha) - 1)`` below. Source: Barron 2017."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _run(lambda x: where(x > 0, x, expm1(clamp(x, max=0) / alpha) * alpha), input, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """``elu`` scaled so that it normalises itself. Source: Klambauer et al. 2017."""
    return _run(
        lambda x: where(x > 0, x * _SELU_SCALE, expm1(clamp(x, max=0)) * (_SELU_ALPHA * _SELU_SCALE)),
        input,
        inplace,
    )


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` limited to an interval; at its ends the gradient is 0. Raises: ValueError for an empty interval."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    # Not clamp, whose gradient at the ends is 1.
    return _run(lambda x: where(x <= min_val, min_val, where(x >= max_val, max_val, x)), input, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``relu6(x + 3) / 6``."""
    return _run(lambda x: relu6(x + 3.0) / 6.0, input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * relu6(x + 3) / 6``. Source: Howard et al. 2019."""
    return _run(lambda x: x * relu6(x + 3.0) / 6.0, input, inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta * x)) / beta``; ``x`` itself where ``beta * x`` exceeds ``threshold``."""
    scaled = input * beta
    large = scaled > threshold
    return where(large, input, log1p(exp(where(large, 0.0, scaled))) / beta)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(softplus(x))``. Source: Misra 2019."""
    return _run(lambda x: x * tanh(softplus(x)), input, inplace)


def logsigmoid(input: Tensor) -> Tensor:
    """``log(sigmoid(x))`` without overflow."""
    return minimum(input, input * 0.0) - log1p(exp(-input.abs()))


def softsign(input: Tensor) -> Tensor:
    """``x / (1 + abs(x))``."""
    return input / (input.abs() + 1)


def tanhshrink(input: Tensor) -> Tensor:
    """``x - tanh(x)``."""
    return input - tanh(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``x`` where it exceeds ``threshold``, else ``value``."""
    return _run(lambda x: where(x <= threshold, value, x), input, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``x`` above zero, ``weight * x`` below, with one weight or one for each channel (dimension 1).

    Raises: RuntimeError where the count of weights is neither 1 nor the channels'.
    """
    if weight.numel() != 1:
        channels = input.shape[1] if input.dim() > 1 else 1
        if weight.dim() != 1 or weight.shape[0] != channels:
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {weight.numel()} "
                f"and channel size = {channels}."
            )
        weight = weight.reshape(1, -1, *(1,) * (input.dim() - 2))
    return where(input > 0, input, weight * input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """One half of the input, gated by the sigmoid of the other. Raises: RuntimeError for an odd size."""
    if input.shape[dim] % 2 != 0:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {input.shape[dim]}")
    half, gate = input.chunk(2, dim)
    return half * sigmoid(gate)


def _implicit_dim(name: str, input: Tensor) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        UserWarning,
        stacklevel=3,
    )
    return 0 if input.dim() in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: object = None) -> Tensor:
    """``exp(x)`` divided by its sum along ``dim``."""
    return TF.softmax(input, _implicit_dim("softmax", input) if dim is None else dim, dtype=dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: object = None) -> Tensor:
    """``log(softmax(x))`` without overflow."""
    return TF.log_softmax(input, _implicit_dim("log_softmax", input) if dim is None else dim, dtype=dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: object = None) -> Tensor:
    """``softmax(-x)``."""
    return TF.softmax(-input, _implicit_dim("softmin", input) if dim is None else dim, dtype=dtype)
