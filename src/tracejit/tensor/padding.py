"""Tensors with more around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.ops.record import ops
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.shaping import cat, narrow
from tracejit.tensor.tensor import Tensor

_MODES = ("reflect", "replicate", "circular")


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """More elements around the last dimensions: (left, right) of the last, then of the one before, ...; negative cuts.

    They are `value` or zeros, or with a mode "reflect" what lies inside of the edge, with "replicate" the edge, with
    "circular" what lies at the other end.

    Shape: with a mode other than "constant" pads of the last 1, 2 or 3 dimensions, of as many and one or two more.
    Raises: RuntimeError for sizes that do not fit, NotImplementedError for another mode or other dimensions.

    >>> import tracejit as tj
    >>> x = tj.tensor([[1, 2, 3]])
    >>> [tj.nn.functional.pad(x, (2, 1), mode)[0].tolist() for mode in ("constant", "reflect", "replicate", "circular")]
    [[0, 0, 1, 2, 3, 0], [3, 2, 1, 2, 3, 2], [1, 1, 1, 2, 3, 3], [2, 3, 1, 2, 3, 1]]
    """
    if mode not in ("constant", *_MODES):
        raise NotImplementedError(f"pad(): unrecognised padding mode '{mode}', must be 'constant' or one of {_MODES}")
    if len(pad) % 2 or len(pad) // 2 > len(input._shape):
        raise RuntimeError(f"Padding length should be even and at most twice the number of dimensions, got {len(pad)}")
    if mode == "constant":
        return _with_value(input, pad, value)
    if value:
        raise RuntimeError(f"pad(): padding mode '{mode}' doesn't take in value argument")
    count = len(pad) // 2
    n = len(input._shape)
    if count not in (1, 2, 3) or n - count not in (1, 2):
        raise NotImplementedError(
            f"pad(): mode '{mode}' pads the last 1, 2 or 3 dimensions of a tensor with one or two more, but got "
            f"{count} pairs for {n} dimensions"
        )
    if mode != "circular" and 0 in input._shape[n - count :]:
        raise RuntimeError(f"pad(): mode '{mode}' needs elements to repeat, but got a tensor of {list(input._shape)}")
    for k in range(count):
        _check_size(input._shape[n - 1 - k], pad[2 * k], pad[2 * k + 1], mode)
    return _repeated(input, tuple([side.__index__() for side in pad]), mode)


def _with_value(input: Tensor, pad: Sequence[int], value: Any) -> Any:
    x = input
    n = len(x._shape)
    low, high = [0] * n, [0] * n
    for k in range(len(pad) // 2):
        d = n - 1 - k
        left, right = pad[2 * k], pad[2 * k + 1]
        if left < 0 or right < 0:
            x = narrow(x, d, max(-left, 0), x._shape[d] - max(-left, 0) - max(-right, 0))
        low[d], high[d] = max(left, 0), max(right, 0)
    shape = tuple(s + a + b for s, a, b in zip(x._shape, low, high, strict=True))
    if shape == x._shape:
        return apply(ops.copy, (x,)) if x is input else x
    around = beside(x, ops.full, (0 if value is None else value,), (shape, x._dtype))
    return apply(ops.place, (around, x), (tuple(low), (1,) * n))


def _check_size(size: int, left: int, right: int, mode: str) -> None:
    most = {"reflect": size - 1, "circular": size}.get(mode)
    if most is not None and max(left, right) > most:
        raise RuntimeError(
            f"pad(): mode '{mode}' takes pads of at most {most} along a dimension of {size}, but got {(left, right)}"
        )
    if size + left + right < (0 if mode == "circular" else 1):
        raise RuntimeError(f"pad(): pads of {(left, right)} take more than there is of a dimension of {size}")


@composite
def _repeated(x: Tensor, pad: tuple[int, ...], mode: str) -> Any:
    fresh = False
    for k in range(len(pad) // 2):
        dim = len(x._shape) - 1 - k
        left, right = pad[2 * k], pad[2 * k + 1]
        low, high = max(-left, 0), max(-right, 0)
        if mode == "circular" and (low or high):
            # What is cut off does not come in again at the other end.
            x, fresh = narrow(x, dim, low, x._shape[dim] - low - high), False
        size = x._shape[dim]
        parts = [x]
        if left > 0:
            parts.insert(0, _beyond(x, dim, {"reflect": 1, "circular": size - left}.get(mode, 0), left, mode))
        if right > 0:
            parts.append(_beyond(x, dim, {"reflect": size - 1 - right, "circular": 0}.get(mode, size - 1), right, mode))
        if len(parts) > 1:
            x, fresh = cat(parts, dim), True
        if mode != "circular" and (low or high):
            x, fresh = narrow(x, dim, low, x._shape[dim] - low - high), False
    return x if fresh else apply(ops.copy, (x,))


def _beyond(x: Tensor, dim: int, start: int, count: int, mode: str) -> Any:
    """What comes beyond one end of a dimension; for its edge `start` is where that is."""
    if mode == "replicate":
        edge = narrow(x, dim, start, 1)
        return apply(ops.expand, (edge,), ((*x._shape[:dim], count, *x._shape[dim + 1 :]),))
    part = narrow(x, dim, start, count)
    return apply(ops.flip, (part,), ((dim,),)) if mode == "reflect" else part
