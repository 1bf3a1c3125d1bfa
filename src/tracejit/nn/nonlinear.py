"""Functions of nn.functional that can overwrite their input: the tensor package's, with PyTorch's ``inplace``."""

from __future__ import annotations

from collections.abc import Callable

from tracejit.tensor import Tensor
from tracejit.tensor import functional as TF

__all__ = [
    "alpha_dropout",
    "celu",
    "dropout",
    "elu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "relu",
    "relu6",
    "selu",
    "silu",
    "threshold",
]


def _over(input: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    # The copy is what backward looks at; the input itself is overwritten.
    return input.copy_(function(input.clone()))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``."""
    return _over(input, TF.relu) if inplace else TF.relu(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``."""
    return _over(input, TF.silu) if inplace else TF.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(softplus(x))``. Source: Misra 2019."""
    return _over(input, TF.mish) if inplace else TF.mish(input)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """``elu`` scaled so that it normalises itself. Source: Klambauer et al. 2017."""
    return _over(input, TF.selu) if inplace else TF.selu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return _over(input, TF.relu6) if inplace else TF.relu6(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``relu6(x + 3) / 6``."""
    return _over(input, TF.hardsigmoid) if inplace else TF.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * relu6(x + 3) / 6``. Source: Howard et al. 2019."""
    return _over(input, TF.hardswish) if inplace else TF.hardswish(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``negative_slope * x`` below."""
    if inplace:
        return _over(input, lambda x: TF.leaky_relu(x, negative_slope))
    return TF.leaky_relu(input, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``alpha * (exp(x) - 1)`` below. Source: Clevert et al. 2015."""
    return _over(input, lambda x: TF.elu(x, alpha)) if inplace else TF.elu(input, alpha)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above zero, ``alpha * (exp(x / alpha) - 1)`` below. Source: Barron 2017."""
    return _over(input, lambda x: TF.celu(x, alpha)) if inplace else TF.celu(input, alpha)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` limited to an interval; at its ends the gradient is 0. Raises: ValueError for an empty interval."""
    if inplace:
        return _over(input, lambda x: TF.hardtanh(x, min_val, max_val))
    return TF.hardtanh(input, min_val, max_val)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``x`` where it exceeds ``threshold``, else ``value``."""
    if inplace:
        return _over(input, lambda x: TF.threshold(x, threshold, value))
    return TF.threshold(input, threshold, value)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set each element to 0 with probability ``p`` and scale the others by ``1 / (1 - p)``.

    Raises: ValueError for ``p`` outside [0, 1].
    """
    if inplace and training:
        return _over(input, lambda x: TF.dropout(x, p, True))
    return TF.dropout(input, p, training)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Set each element to ``selu``'s limit with probability ``p``, and keep mean 0 and variance 1.

    Raises: ValueError for ``p`` outside [0, 1].
    """
    if inplace and training:
        return _over(input, lambda x: TF.alpha_dropout(x, p, True))
    return TF.alpha_dropout(input, p, training)
