"""Convolutions of images and of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.casting import SHORT, call_cast
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.functional.activation import floats
from tracejit.tensor.padding import pad
from tracejit.tensor.promote import in_single
from tracejit.tensor.shaping import unsqueeze
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor

Pair = tuple[int, int]


def pair(x: Any, name: str) -> Pair:
    """An int twice, or two ints.

    Raises: RuntimeError for another count, TypeError for things that are not ints.
    """
    if hasattr(x, "__index__"):
        return (x.__index__(),) * 2
    try:
        values = tuple(v.__index__() for v in x)
    except (TypeError, AttributeError):
        raise TypeError(f"{name} must be an int or a pair of ints, but got {type(x).__name__}") from None
    if len(values) == 1:
        values *= 2
    if len(values) != 2:
        raise RuntimeError(f"expected {name} to be a single integer value or a list of 2 values, got {list(values)}")
    return values


def _single(x: Any, name: str) -> int:
    if hasattr(x, "__index__"):
        return int(x.__index__())
    values = tuple(x)
    if len(values) != 1:
        raise RuntimeError(f"expected {name} to be a single integer value or a list of 1 values, got {list(values)}")
    return int(values[0].__index__())


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, dims: int, transposed: bool) -> None:
    name = f"conv{dims}d"
    for what, x in (("input", input), ("weight", weight), ("bias", bias)):
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"{name}(): argument '{what}' must be Tensor, not {type(x).__name__}")
    floats(input, name)
    if weight._dtype is not input._dtype or (bias is not None and bias._dtype is not input._dtype):
        raise RuntimeError(f"Input type ({input._dtype.name}) and weight or bias type should be the same")
    shape, filters = input._shape, weight._shape
    if len(filters) != dims + 2:
        raise RuntimeError(f"expected weight to be {dims + 2}-dimensional, but got shape {list(filters)}")
    if len(shape) not in (dims + 1, dims + 2):
        raise RuntimeError(
            f"Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input to {name}, but got input of size: "
            f"{list(shape)}"
        )
    if groups < 1:
        raise RuntimeError("non-positive groups is not supported")
    channels = shape[-dims - 1]
    expected = filters[0] if transposed else filters[1] * groups
    if channels != expected:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(filters)}, expected input{list(shape)} to have {expected} "
            f"channels, but got {channels} channels instead"
        )
    if filters[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size {list(filters)} instead"
        )
    outputs = filters[1] * groups if transposed else filters[0]
    if bias is not None and bias._shape != (outputs,):
        raise RuntimeError(
            f"Given weight of size {list(filters)}, expected bias to be 1-dimensional with {outputs} elements, but got "
            f"bias of size {list(bias._shape)} instead"
        )


def _check_steps(stride: Pair, padding: Pair, dilation: Pair) -> None:
    if min(padding) < 0:
        raise RuntimeError("negative padding is not supported")
    if min(stride) < 1:
        raise RuntimeError("non-positive stride is not supported")
    if min(dilation) < 1:
        raise RuntimeError("dilation should be greater than zero")


def _check_kernel(size: Sequence[int], kernel: Sequence[int], padding: Pair, dilation: Pair) -> None:
    padded = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    spread = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(k > s for s, k in zip(padded, spread, strict=True)) or 0 in kernel:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: "
            f"({spread[0]} x {spread[1]}). Kernel size can't be greater than actual input size"
        )


@composite(operands=SHORT)
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation of images with filters, plus a bias for each filter.

    Shape: (N, C, H, W) or (C, H, W) by (out, C / groups, KH, KW). `padding` may be "valid" or "same".
    Raises: RuntimeError for sizes and types that do not fit.
    """
    _check(input, weight, bias, groups, 2, False)
    return _conv2d(input, weight, bias, pair(stride, "stride"), padding, pair(dilation, "dilation"), groups)


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> Any:
    low: Pair = (0, 0)
    extra: Pair = (0, 0)
    if isinstance(padding, str):
        if padding == "same":
            if stride != (1, 1):
                raise RuntimeError("padding='same' is not supported for strided convolutions")
            total = tuple(d * (k - 1) for d, k in zip(dilation, weight._shape[2:], strict=True))
            low = (total[0] // 2, total[1] // 2)
            extra = (total[0] % 2, total[1] % 2)
        elif padding != "valid":
            raise RuntimeError(f"Invalid padding string: '{padding}'")
    else:
        low = pair(padding, "padding")
    _check_steps(stride, low, dilation)
    size = [s + e for s, e in zip(input._shape[-2:], extra, strict=True)]
    _check_kernel(size, weight._shape[2:], low, dilation)
    return _convolved(input, weight, bias, stride, low, extra, dilation, groups)


@composite
@in_single
def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    extra: Pair,
    dilation: Pair,
    groups: int,
) -> Any:
    batched = len(x._shape) == 4
    if not batched:
        x = unsqueeze(x, 0)
    if extra != (0, 0):
        # An even kernel needs one more at the end than at the start.
        x = pad(x, (0, extra[1], 0, extra[0]))
    out = apply(ops.conv2d, (x, weight), (stride, padding, dilation, groups))
    return _finished(out, bias, batched)


def _finished(out: Any, bias: Tensor | None, batched: bool) -> Any:
    if bias is not None:
        out = apply(ops.add, (out, apply(ops.reshape, (bias,), ((1, bias._shape[0], 1, 1),))))
    return out if batched else shaped(out, out._shape[1:])


@composite(operands=SHORT)
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation of sequences with filters, plus a bias for each filter.

    Shape: (N, C, L) or (C, L) by (out, C / groups, K). Raises: RuntimeError for sizes and types that do not fit.
    """
    _check(input, weight, bias, groups, 1, False)
    low = padding if isinstance(padding, str) else (0, _single(padding, "padding"))
    out = _conv2d(
        unsqueeze(input, -2),
        unsqueeze(weight, -2),
        bias,
        (1, _single(stride, "stride")),
        low,
        (1, _single(dilation, "dilation")),
        groups,
    )
    return shaped(out, (*out._shape[:-2], out._shape[-1]))


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The adjoint of `conv2d`: images spread by filters, plus a bias for each output channel.

    Shape: (N, C, H, W) or (C, H, W) by (C, out / groups, KH, KW). Raises: RuntimeError for sizes that do not fit.
    """
    if state.autocast is not None:
        args = (input, weight, bias, stride, padding, output_padding, groups, dilation)
        return call_cast(SHORT, conv_transpose2d, args)
    _check(input, weight, bias, groups, 2, True)
    steps, low, spread = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    _check_steps(steps, low, spread)
    more = pair(output_padding, "output_padding")
    if any(m < 0 or m >= max(s, d) for m, s, d in zip(more, steps, spread, strict=True)):
        raise RuntimeError(
            f"output padding must be smaller than either stride or dilation, but got output_padding={more}, "
            f"stride={steps}, dilation={spread}"
        )
    size = tuple(
        (s - 1) * st - 2 * p + d * (k - 1) + m + 1
        for s, st, p, d, k, m in zip(input._shape[-2:], steps, low, spread, weight._shape[2:], more, strict=True)
    )
    if min(size) < 1:
        raise RuntimeError(
            f"Given input size per channel: {list(input._shape[-2:])}. Calculated output size per channel: "
            f"{list(size)}. Output size is too small"
        )
    return _spread(input, weight, bias, size, steps, low, spread, groups)


@composite
@in_single
def _spread(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Any:
    batched = len(x._shape) == 4
    if not batched:
        x = unsqueeze(x, 0)
    out = apply(ops.conv2d_input_grad, (x, weight), (size, stride, padding, dilation, groups))
    return _finished(out, bias, batched)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The adjoint of `conv1d`.

    Shape: (N, C, L) or (C, L) by (C, out / groups, K). Raises: RuntimeError for sizes that do not fit.
    """
    if state.autocast is not None:
        args = (input, weight, bias, stride, padding, output_padding, groups, dilation)
        return call_cast(SHORT, conv_transpose1d, args)
    _check(input, weight, bias, groups, 1, True)
    return conv_transpose2d(
        unsqueeze(input, -2),
        unsqueeze(weight, -2),
        bias,
        (1, _single(stride, "stride")),
        (0, _single(padding, "padding")),
        (0, _single(output_padding, "output_padding")),
        groups,
        (1, _single(dilation, "dilation")),
    ).squeeze(-2)
