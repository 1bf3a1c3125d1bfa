"""Attention."""

from __future__ import annotations

import math
from math import prod
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.shapes import broadcast, broadcast_all
from tracejit.tensor.casting import SHORT
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside, shaped
from tracejit.tensor.functional.activation import floats, wide
from tracejit.tensor.functional.dropout import noise, rates
from tracejit.tensor.products import matmul
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.reducing import amax, sum
from tracejit.tensor.repeating import repeat_interleave
from tracejit.tensor.shaping import transpose
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor


@composite(operands=SHORT)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value.

    Shape: (*, L, E), (*, S, E), (*, S, V) to (*, L, V). `attn_mask` is bool (True: takes part) or is added; with
    `is_causal` position i sees positions up to i. `scale` is 1 / sqrt(E) if none is given.
    Edge: where a mask leaves nothing the result is 0.
    Cost: memory like the operands, unless the weights are small, or there is dropout or a mask with a gradient.
    Raises: RuntimeError for a mask together with `is_causal`, or sizes and types that do not fit.
    Source: Vaswani et al., Attention is all you need (2017).
    """
    floats(query, "scaled_dot_product_attention")
    for name, x in (("query", query), ("key", key), ("value", value)):
        if len(x._shape) < 2:
            raise RuntimeError(f"{name} must have at least 2 dimensions, but has shape {list(x._shape)}")
        if x._dtype is not query._dtype:
            raise RuntimeError(
                f"Expected query, key, and value to have the same dtype, but got {query._dtype.name} and "
                f"{x._dtype.name}"
            )
    if attn_mask is not None:
        if is_causal:
            raise RuntimeError(
                "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
            )
        if attn_mask._dtype is not dtypes.bool and attn_mask._dtype is not query._dtype:
            raise RuntimeError(
                "Expected attn_mask dtype to be bool or to match query dtype, but got attn_mask.dtype: "
                f"{attn_mask._dtype.name} and query.dtype: {query._dtype.name}"
            )
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if enable_gqa:
        heads = query._shape[-3]
        key, value = (repeat_interleave(x, heads // x._shape[-3], -3) for x in (key, value))
    factor = 1.0 / math.sqrt(query._shape[-1]) if scale is None and query._shape[-1] else (scale or 0.0)
    if not dropout_p:
        found = _fused(query, key, value, attn_mask, bool(is_causal), float(factor))
        if found is not None:
            return found
        return _attention(query, key, value, attn_mask, None, is_causal, scale=factor)
    lead = broadcast(query._shape[:-2], key._shape[:-2])
    u = noise(query, (*lead, query._shape[-2], key._shape[-2]))
    keep, rise = rates(dropout_p)
    return _attention(query, key, value, attn_mask, u, is_causal, scale=factor, keep=keep, rise=rise)


_MOST_KEYS = {4: 32_736, 8: 16_352}
"""Keys up to which two rows of scores fit what a kernel has on its stack, by the bytes of an element."""
_SMALL_BYTES = 4 << 20
"""Weights of so many bytes in all stay in the caches: a backward pass may keep them instead of computing them again."""
_FEW, _SHORT, _LONG = 16, 32, 64
"""Rows from which one operation is faster; from which it is with gradients; and from which it is with gradients only if
half of the weights need not be computed at all (on a CPU with AVX-512; 0.5 to 0.9 of the time)."""


def _is_small(operands: tuple[Tensor, ...], weights: tuple[int, ...], size: int, is_causal: bool) -> bool:
    """Whether the operations one by one, which give the same bits, are as fast; `size` is that of an element."""
    if not 0 < prod(weights) * size <= _SMALL_BYTES:
        return False
    rows = weights[-2]
    if state.grad_enabled and any(x._requires_grad for x in operands):
        return rows < _SHORT or (rows >= _LONG and not is_causal)
    return rows < _FEW


def _fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float, small: bool = False
) -> Any:
    """Attention as one operation, which has no matrix of weights; None where it does not apply.

    It takes any mask that no gradient is asked for; small weights only if told to.
    """
    length, width = query._shape[-2:]
    source, depth = value._shape[-2:]
    size = max(query._dtype.itemsize, 4)
    if key._shape[-2:] != (source, width) or source > _MOST_KEYS[size]:
        return None
    lead = broadcast_all([x._shape[:-2] for x in (query, key, value)])
    weights = (*lead, length, source)
    if not small and _is_small((query, key, value), weights, size, is_causal):
        return None
    if mask is not None:
        if mask._shape[-1:] != (source,) or broadcast(mask._shape, weights) != weights:
            return None
        if mask._requires_grad and state.grad_enabled:
            return None
    # The record takes (batch, head, row, element).
    heads = (prod(lead[:-1]), lead[-1]) if len(lead) > 1 else (*lead, 1) if lead else (1, 1)

    def stacked(x: Tensor, rows: int, columns: int) -> Any:
        if x._shape != (*lead, rows, columns):
            x = apply(ops.expand, (x,), ((*lead, rows, columns),))
        return x if heads == lead else apply(ops.reshape, (x,), ((*heads, rows, columns),))

    operands = (stacked(query, length, width), stacked(key, source, width), stacked(value, source, depth))
    if mask is None:
        out, _ = apply(ops.attention, operands, (scale, is_causal))
    else:
        out, _ = apply(ops.masked_attention, (*operands, stacked(mask, length, source)), (scale,))
    out = apply(ops.permute, (out,), ((0, 2, 1, 3),))
    return shaped(out, (*lead, length, depth))


@composite
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    u: Tensor | None,
    is_causal: bool,
    *,
    scale: Any,
    keep: Any = None,
    rise: Any = None,
) -> Any:
    scores = apply(ops.mul, (wide(matmul(query, transpose(key, -2, -1))), scale))
    if is_causal:
        rows, cols = scores._shape[-2:]
        place = apply(ops.reshape, (beside(scores, ops.iota, (), (rows,)),), ((rows, 1),))
        scores = apply(ops.where, (apply(ops.le, (beside(scores, ops.iota, (), (cols,)), place)), scores, -math.inf))
    elif mask is not None and mask._dtype is dtypes.bool:
        scores = apply(ops.where, (mask, scores, -math.inf))
    elif mask is not None:
        scores = apply(ops.add, (scores, to_dtype(mask, scores._dtype)))
    top = amax(scores.detach(), -1, True)
    if mask is not None:
        top = apply(ops.where, (apply(ops.eq, (top, -math.inf)), 0, top))
    grown = apply(ops.exp, (apply(ops.sub, (scores, top)),))
    total = sum(grown, -1, True)
    if mask is not None:
        # Where nothing is seen all are 0, and stay so divided by 1.
        total = apply(ops.where, (apply(ops.eq, (total, 0)), 1, total))
    # One division a row, as in `softmax`: a sum of at least 1, so its reciprocal costs half an ulp and no range.
    weights = apply(ops.mul, (grown, apply(ops.div, (1.0, total))))
    if u is not None:
        weights = apply(ops.where, (apply(ops.lt, (u, keep)), apply(ops.mul, (weights, rise)), 0))
    return matmul(to_dtype(weights, value._dtype), value)
