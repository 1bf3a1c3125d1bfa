"""Attention: softmax(q @ k.T * scale) @ v without the matrix of weights, and its gradients.

Beside the result there are two numbers for each row of weights, its maximum and its sum, from which the gradients
compute the weights again.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.contraction import transposed
from tracejit.ops.record import ops, record

_TURN = (0, 2, 1, 3)
"""Heads and positions change places: results lie as (batch, position, head, element), like PyTorch's, so that the
heads of a position are one row."""


def _avals(q: Aval, k: Aval, v: Aval, *rest: Any) -> tuple[Aval, Aval]:
    batch, heads, length, _ = q.shape
    kind = dtypes.widened(q.dtype)
    return Aval((batch, length, heads, v.shape[3]), q.dtype), Aval((batch, heads, length, 2), kind)


def _grad_avals(ct: Aval, q: Aval, k: Aval, v: Aval, *rest: Any) -> tuple[Aval, Aval, Aval]:
    dq, dk, dv = (Aval(tuple(x.shape[d] for d in _TURN), x.dtype) for x in (q, k, v))
    return dq, dk, dv


def _wide(*arrays: Any) -> list[Any]:
    return [a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays]


def _scores(q: Any, k: Any, mask: Any, scale: float, causal: bool) -> Any:
    scores = np.matmul(q, k.swapaxes(2, 3)) * q.dtype.type(scale)
    if causal:
        mask = np.tri(*scores.shape[2:], dtype=bool)
    if mask is None:
        return scores
    return np.where(mask, scores, -np.inf).astype(scores.dtype) if mask.dtype == bool else scores + mask


def _attend(q: Any, k: Any, v: Any, mask: Any, scale: float, causal: bool) -> tuple[Any, Any]:
    kind = q.dtype
    q, k, v = _wide(q, k, v)
    scores = _scores(q, k, None if mask is None else _wide(mask)[0], scale, causal)
    top = scores.max(3, initial=-np.inf)
    if mask is not None:
        top[top == -np.inf] = 0
    grown = np.exp(scores - top[..., None])
    total = grown.sum(3)
    share = 1 / np.where(total == 0, 1, total)[..., None]
    out = np.matmul(grown * share, v).astype(kind)
    return np.ascontiguousarray(out.transpose(_TURN)), np.stack([top, total], 3).astype(q.dtype)


def _attend_back(
    ct: Any, q: Any, k: Any, v: Any, mask: Any, stats: Any, scale: float, causal: bool
) -> tuple[Any, Any, Any]:
    kind = q.dtype
    ct, q, k, v = _wide(ct, q, k, v)
    ct = ct.transpose(_TURN)
    scores = _scores(q, k, None if mask is None else _wide(mask)[0], scale, causal)
    total = np.where(stats[..., 1:] == 0, 1, stats[..., 1:])
    weights = np.exp(scores - stats[..., :1]) / total
    rising = np.matmul(ct, v.swapaxes(2, 3))
    steps = weights * (rising - (rising * weights).sum(3, keepdims=True)) * q.dtype.type(scale)
    found = (np.matmul(steps, k), np.matmul(steps.swapaxes(2, 3), q), np.matmul(weights.swapaxes(2, 3), ct))
    dq, dk, dv = (np.ascontiguousarray(g.transpose(_TURN)).astype(kind) for g in found)
    return dq, dk, dv


def _turned(*gradients: Any) -> tuple[Any, ...]:
    return tuple(ops.permute(g, dims=_TURN) for g in gradients)


def _written_out(
    ct: Any, q: Any, k: Any, v: Any, mask: Any, stats: Any, q_aval: Aval, k_aval: Aval, scale: float, causal: bool,
    taking: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """The gradients by operations that have gradients themselves; `taking` says that the mask is a bool."""
    (batch, heads, length, _), source = q_aval.shape, k_aval.shape[2]
    kind = q_aval.dtype

    def flat(x: Any) -> Any:
        x = ops.cast(x, dtype=dtypes.float32) if kind in dtypes.HALVES else x
        return ops.reshape(x, shape=(batch * heads, *tuple(x.shape)[2:]))

    ct, q, k, v = flat(ops.permute(ct, dims=_TURN)), flat(q), flat(k), flat(v)
    scores = ops.mul(ops.matmul(q, transposed(k, 3)), scale)
    if causal:
        place = ops.reshape(ops.iota(size=length), shape=(length, 1))
        scores = ops.where(ops.le(ops.iota(size=source), place), scores, -math.inf)
    elif mask is not None:
        shape = (batch * heads, length, source)
        if taking:
            scores = ops.where(ops.reshape(mask, shape=shape), scores, -math.inf)
        else:
            scores = ops.add(scores, flat(mask))
    # What is subtracted from a row changes nothing, so it may as well be a constant.
    column = {"start": (0, 0, 0), "length": (batch * heads, length, 1), "step": (1, 1, 1)}
    top = ops.slice(ops.reshape(stats, shape=(batch * heads, length, 2)), **column)
    grown = ops.exp(ops.sub(scores, top))
    total = ops.reshape(ops.sum(grown, dim=2), shape=(batch * heads, length, 1))
    if mask is not None:
        total = ops.where(ops.eq(total, 0), 1, total)
    weights = ops.div(grown, total)
    rising = ops.matmul(ct, transposed(v, 3))
    mean = ops.reshape(ops.sum(ops.mul(rising, weights), dim=2), shape=(batch * heads, length, 1))
    steps = ops.mul(ops.mul(weights, ops.sub(rising, mean)), scale)
    back = transposed(steps, 3)
    found = (ops.matmul(steps, k), ops.matmul(back, q), ops.matmul(transposed(weights, 3), ct))
    out = [ops.reshape(g, shape=(batch, heads, *tuple(g.shape)[1:])) for g in found]
    return tuple(ops.cast(g, dtype=kind) if kind in dtypes.HALVES else g for g in out)


def _gradients(
    ct: Any, q: Any, k: Any, v: Any, stats: Any, q_aval: Aval, k_aval: Aval, scale: float, causal: bool,
    create_graph: bool,
) -> tuple[Any, ...]:  # fmt: skip
    if create_graph:
        return _written_out(ct, q, k, v, None, stats, q_aval, k_aval, scale, causal)
    return _turned(*ops.attention_grad(ct, q, k, v, stats, scale=scale, causal=causal))


def _masked_gradients(
    ct: Any, q: Any, k: Any, v: Any, mask: Any, stats: Any, q_aval: Aval, k_aval: Aval, mask_aval: Aval, scale: float,
    create_graph: bool,
) -> tuple[Any, ...]:  # fmt: skip
    if create_graph:
        taking = mask_aval.dtype is dtypes.bool
        found = _written_out(ct, q, k, v, mask, stats, q_aval, k_aval, scale, False, taking)
    else:
        found = _turned(*ops.masked_attention_grad(ct, q, k, v, mask, stats, scale=scale))
    return (*found, None)


_SECOND = "its second derivatives are those of the written-out gradients"


@record(
    family="library",
    infer=_avals,
    numpy=lambda q, k, v, scale, causal: _attend(q, k, v, None, scale, causal),
    kinds="f",
    results=("out", "stats"),
    vjp=dict.fromkeys(("q", "k", "v"), _gradients),
    joint=True,
)
def attention(q, k, v, *, scale, causal):
    """softmax(q @ k.T * scale) @ v; with `causal` position i sees positions up to i.

    Shape: (b, h, l, e), (b, h, s, e), (b, h, s, d) to (b, l, h, d), and (b, h, l, 2): a row's maximum and sum.
    DType: that of `q`; of the second float32 for half precision.
    Cost: 2 * b * h * l * s * (e + d) floating point operations, half of them if `causal`.
    """


@record(
    family="library",
    infer=_grad_avals,
    numpy=lambda ct, q, k, v, stats, scale, causal: _attend_back(ct, q, k, v, None, stats, scale, causal),
    kinds="f",
    results=("dq", "dk", "dv"),
    nograd=_SECOND,
)
def attention_grad(ct, q, k, v, stats, *, scale, causal):
    """The gradients of `attention` in its operands, with the weights computed again from `stats`.

    Shape: `ct` like the result; (b, l, h, e), (b, s, h, e), (b, s, h, d).
    """


@record(
    family="library",
    infer=_avals,
    numpy=lambda q, k, v, mask, scale: _attend(q, k, v, mask, scale, False),
    kinds="f",
    results=("out", "stats"),
    vjp=dict.fromkeys(("q", "k", "v"), _masked_gradients),
    joint=True,
)
def masked_attention(q, k, v, mask, *, scale):
    """`attention` with a mask: a bool says who takes part, a number is added to the scores.

    Shape: the mask (b, h, l, s).
    Edge: 0 where nothing takes part.
    """


@record(
    family="library",
    infer=_grad_avals,
    numpy=lambda ct, q, k, v, mask, stats, scale: _attend_back(ct, q, k, v, mask, stats, scale, False),
    kinds="f",
    results=("dq", "dk", "dv"),
    nograd=_SECOND,
)
def masked_attention_grad(ct, q, k, v, mask, stats, *, scale):
    """The gradients of `masked_attention` in `q`, `k` and `v`."""
