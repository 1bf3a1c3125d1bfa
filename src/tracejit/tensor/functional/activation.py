"""Activation functions."""

from __future__ import annotations

import math
import warnings
from typing import Any

from tracejit import dtypes
from tracejit.dtypes import dtype as dtype_
from tracejit.ops.record import ops
from tracejit.shapes import normalize_dim
from tracejit.tensor.arithmetic import binary
from tracejit.tensor.casting import SHORT, call_cast
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, apply_single, shaped
from tracejit.tensor.inplace import in_place
from tracejit.tensor.naming import named
from tracejit.tensor.promote import floating, in_single, to_dtype
from tracejit.tensor.reducing import amax, sum
from tracejit.tensor.scalar import NUMBERS, Scalar, plain
from tracejit.tensor.shaping import narrow
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, method

# Source: Klambauer et al., Self-normalizing neural networks (2017): the fixed point of zero mean and unit variance.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def floats(x: Any, name: str) -> None:
    """Raise what PyTorch raises for an operand that is no tensor of a floating point type."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {type(x).__name__}")
    if not x._dtype.is_floating_point:
        raise NotImplementedError(f"\"{name}\" not implemented for '{x._dtype.title}'")


def number(x: Any, name: str) -> Any:
    """A number as it is, but NumPy's as Python's. Raises: TypeError for anything else."""
    if not isinstance(x, NUMBERS):
        raise TypeError(f"argument '{name}' must be a number, not {type(x).__name__}")
    return x if isinstance(x, Scalar) else plain(x)


def wide(x: Tensor) -> Any:
    """A half precision tensor in single precision, in which chains of operations are computed."""
    return to_dtype(x, dtypes.widened(x._dtype))


@method()
def relu(input: Tensor) -> Any:
    """The positive part. Edge: NaN stays. Raises: RuntimeError for bools."""
    if not isinstance(input, Tensor):
        raise TypeError(f"relu(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    if input._dtype is dtypes.bool:
        raise RuntimeError("Boolean inputs not supported for relu")
    return apply_single(ops.relu, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Any:
    """`x` above zero, `negative_slope * x` below."""
    floats(input, "leaky_relu_cpu")
    return _leaky_relu(input, slope=number(negative_slope, "negative_slope"))


@composite
def _leaky_relu(x: Tensor, *, slope: Any) -> Any:
    return apply(ops.where, (apply(ops.gt, (x, 0)), x, apply(ops.mul, (x, slope))))


def elu(input: Tensor, alpha: float = 1.0) -> Any:
    """`x` above zero, `alpha * (exp(x) - 1)` below.

    Source: Clevert et al., Fast and accurate deep network learning by exponential linear units (2015).
    """
    floats(input, "elu_cpu")
    return _elu(input, alpha=number(alpha, "alpha"))


@composite
@in_single
def _elu(x: Tensor, *, alpha: Any) -> Any:
    above = apply(ops.gt, (x, 0))
    # The branch that is not taken must stay finite, or its zero gradient times infinity is NaN.
    low = apply(ops.expm1, (apply(ops.where, (above, 0, x)),))
    return apply(ops.where, (above, x, apply(ops.mul, (low, alpha))))


def celu(input: Tensor, alpha: float = 1.0) -> Any:
    """`x` above zero, `alpha * (exp(x / alpha) - 1)` below.

    Source: Barron, Continuously differentiable exponential linear units (2017).
    """
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    floats(input, "celu")
    return _celu(input, alpha=number(alpha, "alpha"))


@composite
@in_single
def _celu(x: Tensor, *, alpha: Any) -> Any:
    above = apply(ops.gt, (x, 0))
    low = apply(ops.expm1, (apply(ops.div, (apply(ops.where, (above, 0, x)), alpha)),))
    return apply(ops.where, (above, x, apply(ops.mul, (low, alpha))))


@composite
@in_single
def _selu(x: Tensor) -> Any:
    above = apply(ops.gt, (x, 0))
    low = apply(ops.expm1, (apply(ops.where, (above, 0, x)),))
    high = apply(ops.mul, (x, _SELU_SCALE))
    return apply(ops.where, (above, high, apply(ops.mul, (low, _SELU_ALPHA * _SELU_SCALE))))


def selu(input: Tensor) -> Any:
    """`elu` scaled so that it normalises itself."""
    floats(input, "selu")
    return _selu(input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """`x` limited to an interval; at its ends the gradient is 0. Raises: ValueError for an empty interval."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input._dtype is dtypes.bool:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    return _hardtanh(input, low=number(min_val, "min_val"), high=number(max_val, "max_val"))


@composite
def _hardtanh(x: Tensor, *, low: Any, high: Any) -> Any:
    capped = apply(ops.where, (apply(ops.ge, (x, high)), high, x))
    return apply(ops.where, (apply(ops.le, (x, low)), low, capped))


def relu6(input: Tensor) -> Any:
    """`min(max(x, 0), 6)`."""
    return hardtanh(input, 0.0, 6.0) if input._dtype.is_floating_point else hardtanh(input, 0, 6)


@composite
@in_single
def _hardsigmoid(x: Tensor) -> Any:
    lifted = apply(ops.add, (x, 3.0))
    capped = apply(ops.where, (apply(ops.ge, (lifted, 6.0)), 6.0, lifted))
    return apply(ops.div, (apply(ops.where, (apply(ops.le, (lifted, 0.0)), 0.0, capped)), 6.0))


def hardsigmoid(input: Tensor) -> Any:
    """`relu6(x + 3) / 6`."""
    floats(input, "hardsigmoid_cpu")
    return _hardsigmoid(input)


@composite
@in_single
def _hardswish(x: Tensor) -> Any:
    middle = apply(ops.div, (apply(ops.mul, (x, apply(ops.add, (x, 3.0)))), 6.0))
    upper = apply(ops.where, (apply(ops.ge, (x, 3.0)), x, middle))
    return apply(ops.where, (apply(ops.le, (x, -3.0)), 0.0, upper))


def hardswish(input: Tensor) -> Any:
    """`x * relu6(x + 3) / 6`. Source: Howard et al., Searching for MobileNetV3 (2019)."""
    floats(input, "hardswish_cpu")
    return _hardswish(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """`log(1 + exp(beta * x)) / beta`; `x` itself where `beta * x` exceeds `threshold`."""
    floats(input, "softplus_cpu")
    return _softplus(input, beta=number(beta, "beta"), threshold=number(threshold, "threshold"))


@composite
@in_single
def _softplus(x: Tensor, *, beta: Any, threshold: Any) -> Any:
    scaled = apply(ops.mul, (x, beta))
    large = apply(ops.gt, (scaled, threshold))
    low = apply(ops.log1p, (apply(ops.exp, (apply(ops.where, (large, 0, scaled)),)),))
    return apply(ops.where, (large, x, apply(ops.div, (low, beta))))


@composite
@in_single
def _mish(x: Tensor) -> Any:
    large = apply(ops.gt, (x, 20.0))
    low = apply(ops.log1p, (apply(ops.exp, (apply(ops.where, (large, 0, x)),)),))
    return apply(ops.mul, (x, apply(ops.tanh, (apply(ops.where, (large, x, low)),))))


def mish(input: Tensor) -> Any:
    """`x * tanh(softplus(x))`. Source: Misra, Mish: a self regularized activation function (2019)."""
    floats(input, "mish_cpu")
    return _mish(input)


def log_of_sigmoid(x: Tensor) -> Any:
    """log(sigmoid(x)) without overflow, as operations of the caller's composite."""
    tail = apply(ops.log1p, (apply(ops.exp, (apply(ops.neg, (apply(ops.abs, (x,)),)),)),))
    return apply(ops.sub, (apply(ops.minimum, (x, 0)), tail))


@composite
@in_single
def _logsigmoid(x: Tensor) -> Any:
    return log_of_sigmoid(x)


def logsigmoid(input: Tensor) -> Any:
    """`log(sigmoid(x))` without overflow."""
    floats(input, "log_sigmoid_cpu")
    return _logsigmoid(input)


@composite
@in_single
def _softsign(x: Tensor) -> Any:
    return apply(ops.div, (x, apply(ops.add, (apply(ops.abs, (x,)), 1.0))))


def softsign(input: Tensor) -> Any:
    """`x / (1 + abs(x))`."""
    return _softsign(floating(input))


@composite
@in_single
def _tanhshrink(x: Tensor) -> Any:
    return apply(ops.sub, (x, apply(ops.tanh, (x,))))


def tanhshrink(input: Tensor) -> Any:
    """`x - tanh(x)`."""
    return _tanhshrink(floating(input))


@method()
def hardshrink(input: Tensor, lambd: float = 0.5) -> Any:
    """0 where the input is within `lambd` of 0, else the input."""
    floats(input, "hardshrink_cpu")
    return _hardshrink(input, lambd=number(lambd, "lambd"))


@composite
def _hardshrink(x: Tensor, *, lambd: Any) -> Any:
    within = apply(ops.le, (apply(ops.abs, (x,)), lambd))
    return apply(ops.where, (within, 0, x))


def softshrink(input: Tensor, lambd: float = 0.5) -> Any:
    """The input moved by `lambd` towards 0, and 0 within. Raises: RuntimeError for a negative `lambd`."""
    floats(input, "softshrink_check")
    lambd = number(lambd, "lambd")
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}.")
    return _softshrink(input, high=lambd, low=-lambd)


@composite
@in_single
def _softshrink(x: Tensor, *, high: Any, low: Any) -> Any:
    # Times 0 what lies within stays NaN where it is.
    rest = apply(ops.where, (apply(ops.lt, (x, low)), apply(ops.sub, (x, low)), apply(ops.mul, (x, 0.0))))
    return apply(ops.where, (apply(ops.gt, (x, high)), apply(ops.sub, (x, high)), rest))


@composite
@in_single
def _silu(x: Tensor) -> Any:
    return apply(ops.mul, (x, apply(ops.sigmoid, (x,))))


def silu(input: Tensor) -> Any:
    """`x * sigmoid(x)`."""
    floats(input, "silu_cpu")
    return _silu(input)


@composite
@in_single
def _gelu(x: Tensor) -> Any:
    return apply(ops.gelu, (x,))


@composite
@in_single
def _gelu_tanh(x: Tensor) -> Any:
    cube = apply(ops.mul, (apply(ops.mul, (x, x)), x))
    inner = apply(ops.mul, (apply(ops.add, (x, apply(ops.mul, (cube, 0.044715)))), math.sqrt(2.0 / math.pi)))
    return apply(ops.mul, (apply(ops.mul, (x, 0.5)), apply(ops.add, (apply(ops.tanh, (inner,)), 1.0))))


@composite
def gelu(input: Tensor, approximate: str = "none") -> Any:
    """`x` times the normal distribution's share below `x`; `approximate="tanh"` takes the formula with tanh.

    Raises: RuntimeError for another `approximate`. Source: Hendrycks and Gimpel, Gaussian error linear units (2016).
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    floats(input, "GeluKernelImpl")
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


def threshold(input: Tensor, threshold: float, value: float) -> Any:
    """`x` where it exceeds `threshold`, else `value`."""
    if input._dtype is dtypes.bool:
        raise RuntimeError("\"threshold_cpu\" not implemented for 'Bool'")
    return _threshold(input, threshold=number(threshold, "threshold"), value=number(value, "value"))


@composite
def _threshold(x: Tensor, *, threshold: Any, value: Any) -> Any:
    return apply(ops.where, (binary(ops.le, x, threshold), value, x))


@method()
def prelu(input: Tensor, weight: Tensor) -> Any:
    """`x` above zero, `weight * x` below, with one weight or one for each channel (dimension 1).

    Raises: RuntimeError where the count of weights is neither 1 nor that of the channels.
    """
    if state.autocast is not None:
        return call_cast(SHORT, prelu, (input, weight))
    floats(input, "prelu_cpu")
    if not isinstance(weight, Tensor):
        raise TypeError(f"prelu(): argument 'weight' (position 2) must be Tensor, not {type(weight).__name__}")
    if weight._dtype is not input._dtype:
        raise RuntimeError(
            f"prelu: Type promoting not supported. Got {input._dtype.name} and {weight._dtype.name}"
        )
    shape, w = input._shape, weight
    if len(w._shape) > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {len(w._shape)}")
    if weight.numel() != 1:
        channels = shape[1] if len(shape) > 1 else 1
        if weight._shape != (channels,):
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {weight.numel()} "
                f"and channel size = {channels}."
            )
    if w._shape:
        w = apply(ops.reshape, (w,), ((w.numel(), *(1,) * (len(shape) - 2)) if len(shape) >= 2 else w._shape,))
    out = _prelu(input, w)
    return shaped(out, shape)


@composite
def _prelu(x: Tensor, weight: Tensor) -> Any:
    return apply(ops.where, (apply(ops.gt, (x, 0)), x, apply(ops.mul, (weight, x))))


def glu(input: Tensor, dim: int = -1) -> Any:
    """One half of the input, gated by the sigmoid of the other. Raises: RuntimeError for an odd size."""
    floats(input, "glu_cpu")
    if not input._shape:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    d = normalize_dim(dim, len(input._shape))
    if input._shape[d] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {d} is size {input._shape[d]}")
    return _glu(input, d)


@composite
@in_single
def _glu(x: Tensor, dim: int) -> Any:
    size = x._shape[dim] // 2
    half, gate = narrow(x, dim, 0, size), narrow(x, dim, size, size)
    return apply(ops.mul, (half, apply(ops.sigmoid, (gate,))))


def _implicit_dim(name: str, x: Tensor) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        UserWarning,
        stacklevel=3,
    )
    return 0 if len(x._shape) in (0, 1, 3) else 1


def _prepared(input: Tensor, dim: int, dtype: dtype_ | None, name: str) -> tuple[Any, int]:
    x = input if dtype is None else to_dtype(input, dtype)
    d = normalize_dim(dim, len(x._shape))
    floats(x, name)
    return x, d


@method()
@composite
@named
def softmax(input: Tensor, dim: int | None = None, dtype: dtype_ | None = None) -> Any:
    """exp(x) divided by its sum along a dimension.

    Edge: a row that is -inf throughout gives NaN. Raises: NotImplementedError for whole numbers.

    >>> import tracejit as tj
    >>> softmax(tj.zeros(4), 0)
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    x, d = _prepared(input, _implicit_dim("softmax", input) if dim is None else dim, dtype, "softmax_kernel_impl")
    return _softmax(x, d) if x.numel() else apply(ops.copy, (x,))


@composite
def _softmax(x: Tensor, dim: int) -> Any:
    w = wide(x)
    grown = apply(ops.exp, (apply(ops.sub, (w, amax(w.detach(), dim, True))),))
    # One division a row: a sum of at least 1, so its reciprocal costs half an ulp and no range.
    share = apply(ops.div, (1.0, sum(grown, dim, True)))
    return to_dtype(apply(ops.mul, (grown, share)), x._dtype)


@method()
@composite
@named
def log_softmax(input: Tensor, dim: int | None = None, dtype: dtype_ | None = None) -> Any:
    """The logarithm of `softmax`, without overflow."""
    x, d = _prepared(
        input, _implicit_dim("log_softmax", input) if dim is None else dim, dtype, "log_softmax_kernel_impl"
    )
    return _log_softmax(x, d) if x.numel() else apply(ops.copy, (x,))


@composite
def _log_softmax(x: Tensor, dim: int) -> Any:
    return to_dtype(log_probabilities(wide(x), dim), x._dtype)


def log_probabilities(x: Tensor, dim: int) -> Any:
    """log(softmax(x)), as operations of the caller's composite."""
    low = apply(ops.sub, (x, amax(x.detach(), dim, True)))
    return apply(ops.sub, (low, apply(ops.log, (sum(apply(ops.exp, (low,)), dim, True),))))


def softmin(input: Tensor, dim: int | None = None, dtype: dtype_ | None = None) -> Any:
    """`softmax` of the negative."""
    x, d = _prepared(input, _implicit_dim("softmin", input) if dim is None else dim, dtype, "softmax_kernel_impl")
    return _softmax(apply(ops.neg, (x,)), d) if x.numel() else apply(ops.copy, (x,))


IN_PLACE = (in_place(relu),)
