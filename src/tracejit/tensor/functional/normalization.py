"""Normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.shapes import SHORT_RUN, normalize_dim
from tracejit.symbols import real
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.functional.activation import floats, number, wide
from tracejit.tensor.inplace import assign
from tracejit.tensor.padding import pad
from tracejit.tensor.promote import in_single, to_dtype
from tracejit.tensor.reducing import mean, norm, sum
from tracejit.tensor.shaping import expand_as, narrow, reshape
from tracejit.tensor.tensor import Tensor


def _trailing(input: Tensor, normalized_shape: Sequence[int], name: str) -> tuple[int, ...]:
    """The dimensions that are normalised over."""
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError("Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one "
                           f"element, but got normalized_shape = {shape}")  # fmt: skip
    if len(shape) > len(input._shape) or input._shape[len(input._shape) - len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but "
            f"got input of size{list(input._shape)}"
        )
    return tuple(range(len(input._shape) - len(shape), len(input._shape)))


def _affine(what: str, x: Tensor | None, shape: tuple[int, ...]) -> None:
    if x is not None and x._shape != shape:
        raise RuntimeError(
            f"Expected {what} to be of same shape as normalized_shape, but got {what} of shape {list(x._shape)} and "
            f"normalized_shape = {list(shape)}"
        )


def centred(x: Tensor, dims: tuple[int, ...], n: int, eps: Any) -> Any:
    """x less its mean over some dimensions, divided by the root of its variance and eps."""
    still = x.detach()
    centre = apply(ops.div, (sum(still, dims, True), real(n)))
    variance = apply(ops.div, (_squares(still, centre, dims), real(n)))
    return apply(ops.standardize, (x, centre, _inverse_root(variance, eps), 1.0, eps))


def _inverse_root(variance: Tensor, eps: Any) -> Any:
    return apply(ops.div, (1.0, apply(ops.sqrt, (apply(ops.add, (variance, eps)),))))


def _scaled(out: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...] | None = None) -> Any:
    """Times a weight, plus a bias, each given a shape that broadcasts."""
    for op, x in ((ops.mul, weight), (ops.add, bias)):
        if x is not None:
            x = to_dtype(x, out._dtype)
            out = apply(op, (out, x if shape is None else apply(ops.reshape, (x,), (shape,))))
    return out


@composite
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Mean 0 and variance 1 over the last dimensions, then scale and shift.

    Raises: RuntimeError where the last dimensions are not `normalized_shape`.
    Source: Ba et al., Layer normalization (2016).
    """
    floats(input, "LayerNormKernelImpl")
    dims = _trailing(input, normalized_shape, "layer_norm")
    shape = tuple(normalized_shape)
    _affine("weight", weight, shape)
    _affine("bias", bias, shape)
    return _layer_norm(input, weight, bias, dims, eps=number(eps, "eps"))


@composite
def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: tuple[int, ...], *, eps: Any) -> Any:
    n = prod(x._shape[d] for d in dims)
    return to_dtype(_scaled(centred(wide(x), dims, n, eps), weight, bias), x._dtype)


@composite
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """Divided by the root of the mean square over the last dimensions, then scaled.

    Edge: `eps` is that of the type if none is given. Raises: RuntimeError where the last dimensions are not
    `normalized_shape`. Source: Zhang and Sennrich, Root mean square layer normalization (2019).
    """
    floats(input, "rms_norm")
    dims = _trailing(input, normalized_shape, "rms_norm")
    _affine("weight", weight, tuple(normalized_shape))
    least = dtypes.finfo(wide(input)._dtype).eps if eps is None else number(eps, "eps")
    return _rms_norm(input, weight, dims, eps=least)


@composite
def _rms_norm(x: Tensor, weight: Tensor | None, dims: tuple[int, ...], *, eps: Any) -> Any:
    w = wide(x)
    n = prod(x._shape[d] for d in dims)
    square = apply(ops.div, (sum(apply(ops.mul, (w, w)), dims, True), real(n)))
    return to_dtype(_scaled(apply(ops.mul, (w, _inverse_root(square, eps))), weight, None), x._dtype)


def _per_channel(what: str, x: Tensor | None, channels: int) -> None:
    if x is not None and x.numel() != channels:
        raise RuntimeError(f"{what} should contain {channels} elements not {x.numel()}")


@composite
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Mean 0 and variance 1 for each channel (dimension 1), then scale and shift.

    In training by the statistics of the batch, which move the running ones in place; else by the running ones.
    Raises: ValueError for a single value for each channel in training, RuntimeError for sizes that do not fit.
    Source: Ioffe and Szegedy, Batch normalization (2015).
    """
    floats(input, "batch_norm")
    shape = input._shape
    if len(shape) < 2:
        raise RuntimeError(f"batch_norm(): expected at least 2 dimensions, but got an input of size {list(shape)}")
    channels = shape[1]
    for name, x in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        _per_channel(name, x, channels)
    n = prod(shape) // channels if channels else 0
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("running_mean and running_var must be defined in evaluation mode")
        return _by_running(input, running_mean, running_var, weight, bias, eps=number(eps, "eps"))
    if n == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(shape)}")
    if n == 0:
        return apply(ops.copy, (input,))
    m = 0.0 if momentum is None else momentum
    return _by_batch(input, running_mean, running_var, weight, bias, n, eps=eps, momentum=m, keep=1.0 - m)


@composite(mutates=("running_mean", "running_var"))
def _by_batch(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    *,
    eps: Any,
    momentum: Any,
    keep: Any,
) -> Any:
    w = wide(x)
    channels = w._shape[1]
    mean, variance = _of_channels(w.detach(), n)
    if running_mean is not None:
        _move(running_mean, mean, momentum, keep)
    if running_var is not None:
        _move(running_var, apply(ops.mul, (variance, real(n, n - 1))), momentum, keep)
    shape = (1, channels, *(1,) * (len(w._shape) - 2))
    factor = 1.0 if weight is None else apply(ops.reshape, (to_dtype(weight, w._dtype),), (shape,))
    out = apply(ops.standardize, (w, mean, _inverse_root(variance, eps), factor, eps))
    return to_dtype(_scaled(out, None, bias, shape), x._dtype)


def _of_channels(x: Tensor, n: int) -> tuple[Any, Any]:
    """Mean and variance of the n elements of each channel.

    Each image's squares are about its own mean, which is known when its elements have been met once.
    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
    """
    images, _, *places = x._shape
    dims = tuple(range(2, len(x._shape)))
    size = prod(places)
    if images == 1 or size < SHORT_RUN:
        dims = (0, *dims)
        mean = apply(ops.div, (sum(x, dims, True), real(n)))
        return mean, apply(ops.div, (_squares(x, mean, dims), real(n)))
    total = sum(x, dims, True)
    own, mean = apply(ops.div, (total, real(size))), apply(ops.div, (sum(total, 0, True), real(n)))
    within, between = sum(_squares(x, own, dims), 0, True), _squares(own, mean, (0,))
    return mean, apply(ops.div, (apply(ops.add, (within, apply(ops.mul, (between, real(size))))), real(n)))


def _squares(x: Tensor, mean: Tensor, dims: tuple[int, ...]) -> Any:
    """The sum over some dimensions of the squares of x less a mean."""
    low = apply(ops.sub, (x, mean))
    return sum(apply(ops.mul, (low, low)), dims, True)


def _move(running: Tensor, now: Tensor, momentum: Any, keep: Any) -> None:
    """Move running statistics towards those of a batch."""
    now = apply(ops.reshape, (to_dtype(now, running._dtype),), (running._shape,))
    assign(running, apply(ops.add, (apply(ops.mul, (running, keep)), apply(ops.mul, (now, momentum)))))


@composite
def _by_running(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: Any
) -> Any:
    w = wide(x)
    shape = (1, w._shape[1], *(1,) * (len(w._shape) - 2))
    mean, variance = (to_dtype(reshape(v, shape), w._dtype) for v in (mean, variance))
    out = apply(ops.mul, (apply(ops.sub, (w, mean)), _inverse_root(variance, eps)))
    return to_dtype(_scaled(out, weight, bias, shape), x._dtype)


@composite
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """Mean 0 and variance 1 over groups of channels within each example, then scale and shift of each channel.

    Raises: RuntimeError for fewer than 2 dimensions or channels that the groups do not divide.
    Source: Wu and He, Group normalization (2018).
    """
    floats(input, "group_norm")
    shape = input._shape
    if len(shape) < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {len(shape)}")
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if shape[1] % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(shape)} and num_groups={num_groups}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and x._shape != (shape[1],):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {list(x._shape)} and input of shape {list(shape)}"
            )
    return _group_norm(input, num_groups, weight, bias, eps=number(eps, "eps"))


@composite
def _group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, *, eps: Any) -> Any:
    shape = x._shape
    count = prod(shape[1:]) // groups
    out = centred(reshape(wide(x), (shape[0], groups, count)), (2,), count, eps)
    return to_dtype(_scaled(shaped(out, shape), weight, bias, (1, shape[1], *(1,) * (len(shape) - 2))), x._dtype)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`batch_norm` of each example by itself; running statistics move by the mean over the examples.

    Raises: ValueError for a single value for each channel.
    Source: Ulyanov et al., Instance normalization (2016).
    """
    shape = input._shape
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if len(shape) < 3 or prod(shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {list(shape)}")
    if running_mean is None and running_var is None:
        return group_norm(input, shape[1], weight, bias, eps)
    for name, x in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        _per_channel(name, x, shape[1])
    m = number(momentum, "momentum")
    return _by_example(
        input, running_mean, running_var, weight, bias, eps=number(eps, "eps"), momentum=m, keep=1.0 - m
    )


@composite(mutates=("running_mean", "running_var"))
def _by_example(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: Any,
    momentum: Any,
    keep: Any,
) -> Any:
    w = wide(x)
    shape = w._shape
    dims = tuple(range(2, len(shape)))
    n = prod(shape[2:])
    still = w.detach()
    centre = apply(ops.div, (sum(still, dims, True), real(n)))
    variance = apply(ops.div, (_squares(still, centre, dims), real(n)))
    if running_mean is not None:
        _move(running_mean, mean(centre, 0), momentum, keep)
    if running_var is not None:
        _move(running_var, apply(ops.mul, (mean(variance, 0), n / (n - 1))), momentum, keep)
    out = apply(ops.standardize, (w, centre, _inverse_root(variance, eps), 1.0, eps))
    return to_dtype(_scaled(out, weight, bias, (1, shape[1], *(1,) * len(dims))), x._dtype)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Divided by (k + alpha * the mean square of `size` neighbouring channels) ** beta; missing channels count as 0.

    Shape: (N, C, *). Raises: ValueError for fewer than 3 dimensions.
    Source: Krizhevsky et al., ImageNet classification with deep convolutional neural networks (2012).
    """
    dim = len(input._shape)
    if dim < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {dim} dimensions)")
    if input.numel() == 0:
        return input
    floats(input, "avg_pool2d_out_frame")
    return _local_response(input, size, alpha=number(alpha, "alpha"), beta=number(beta, "beta"), k=number(k, "k"))


@composite
@in_single
def _local_response(x: Tensor, size: int, *, alpha: Any, beta: Any, k: Any) -> Any:
    channels = x._shape[1]
    around = (0, 0) * (len(x._shape) - 2) + (size // 2, (size - 1) // 2)
    squares = pad(apply(ops.mul, (x, x)), around)
    total = narrow(squares, 1, 0, channels)
    for first in range(1, size):
        total = apply(ops.add, (total, narrow(squares, 1, first, channels)))
    spread = apply(ops.add, (apply(ops.mul, (apply(ops.div, (total, float(size))), alpha)), k))
    return apply(ops.div, (x, apply(ops.pow, (spread, beta))))


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """Divided by the p-norm along a dimension, or by `eps` where that is larger."""
    floats(input, "linalg_vector_norm")
    d = normalize_dim(dim, len(input._shape))
    if p == 2:
        return _normalize(input, d, least=eps * eps)
    size = norm(input, p, d, True)
    return apply(ops.div, (input, expand_as(apply(ops.maximum, (size, eps)), input)))


@composite
@in_single
def _normalize(x: Tensor, dim: int, *, least: Any) -> Any:
    # The square is limited, not the root: the root's slope at zero is infinite.
    square = sum(apply(ops.mul, (x, x)), dim, True)
    limited = apply(ops.where, (apply(ops.ge, (square, least)), square, least))
    return apply(ops.div, (x, apply(ops.sqrt, (limited,))))
