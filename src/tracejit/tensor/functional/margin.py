"""Losses that ask for a distance between what belongs together and what does not."""

from __future__ import annotations

from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.arithmetic import add, eq, minimum, mul, ne, neg, sub, where
from tracejit.tensor.casting import SINGLE
from tracejit.tensor.clamping import clamp_min
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.functional.activation import floats, log_of_sigmoid, number, wide
from tracejit.tensor.functional.distance import pairwise_distance
from tracejit.tensor.functional.linear import checked_classes
from tracejit.tensor.functional.loss import check_reduction, reduced
from tracejit.tensor.promote import in_single, to_dtype, unify
from tracejit.tensor.reducing import sum
from tracejit.tensor.shaping import reshape
from tracejit.tensor.tensor import Tensor


@composite(operands=SINGLE)
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Any:
    """max(0, margin - target * (input1 - input2)): a target of 1 wants the first to be larger, -1 the second.

    Raises: RuntimeError for other numbers of dimensions.

    >>> import tracejit as tj
    >>> margin_ranking_loss(tj.tensor([1.0]), tj.tensor([3.0]), tj.tensor([1]))
    tensor(2.)
    """
    check_reduction(reduction)
    if not len(input1._shape) == len(input2._shape) == len(target._shape):
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: input1: "
            f"{list(input1._shape)}, input2: {list(input2._shape)}, target: {list(target._shape)}"
        )
    return _ranking(*unify(input1, input2, target), reduction, margin=number(margin, "margin"))


@composite
@in_single
def _ranking(x: Tensor, y: Tensor, target: Tensor, reduction: str, *, margin: Any) -> Any:
    return reduced(clamp_min(add(mul(neg(target), sub(x, y)), margin), 0), reduction)


@composite(operands=SINGLE)
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean") -> Any:
    """The input where the target is 1, max(0, margin - input) where it is -1."""
    check_reduction(reduction)
    floats(input, "hinge_embedding_loss")
    return _hinge(input, to_dtype(target, input._dtype), reduction, margin=number(margin, "margin"))


@composite
@in_single
def _hinge(x: Tensor, target: Tensor, reduction: str, *, margin: Any) -> Any:
    apart = where(ne(target, 1), clamp_min(sub(margin, x), 0), 0)
    return reduced(add(apart, where(ne(target, -1), x, 0)), reduction)


@composite(operands=SINGLE)
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Any:
    """1 - cos of two vectors where the target is 1, max(0, cos - margin) where it is -1.

    Shape: (D) with a target without dimensions, or (N, D) with (N). Raises: RuntimeError for others.
    """
    check_reduction(reduction)
    n = len(target._shape)
    if n > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if not len(input1._shape) == len(input2._shape) == n + 1:
        raise RuntimeError(
            f"{n}D target tensor expects {n + 1}D input tensors, but found inputs with sizes {list(input1._shape)} "
            f"and {list(input2._shape)}."
        )
    x, y = unify(input1, input2)
    floats(x, "cosine_embedding_loss")
    return _cosine_embedding(x, y, to_dtype(target, x._dtype), reduction, margin=number(margin, "margin"))


@composite
@in_single
def _cosine_embedding(x: Tensor, y: Tensor, target: Tensor, reduction: str, *, margin: Any) -> Any:
    def square(v: Tensor) -> Any:
        return add(sum(mul(v, v), -1), 1e-12)

    cosine = apply(ops.div, (sum(mul(x, y), -1), apply(ops.sqrt, (mul(square(x), square(y)),))))
    alike = where(eq(target, 1), sub(1, cosine), 0)
    return reduced(add(alike, where(eq(target, -1), clamp_min(sub(cosine, margin), 0), 0)), reduction)


@composite(operands=SINGLE)
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """max(0, margin + distance to the positive - distance to the negative), by the p-norm along the last dimension.

    With `swap` the positive's distance to the negative counts where it is smaller than the anchor's.
    Raises: ValueError unless the margin is positive, RuntimeError for other numbers of dimensions.
    Source: Balntas et al., Learning shallow convolutional feature descriptors with triplet losses (2016).
    """
    check_reduction(reduction)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    sizes = [len(x._shape) for x in (anchor, positive, negative)]
    if len(set(sizes)) > 1:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {sizes[0]}D, positive {sizes[1]}D, and negative {sizes[2]}D inputs"
        )
    return _triplet(*unify(anchor, positive, negative), p, swap, reduction, margin=margin, eps=eps)


@composite(deep=2)
@in_single
def _triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, p: float, swap: bool, reduction: str, *, margin: Any, eps: Any
) -> Any:
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(clamp_min(sub(add(near, margin), far), 0), reduction)


@composite(operands=SINGLE)
def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Any:
    """log(1 + exp(-target * input)) for targets of 1 and -1. Edge: infinite where the exponential is."""
    check_reduction(reduction)
    floats(input, "soft_margin_loss")
    return _soft_margin(input, to_dtype(target, input._dtype), reduction)


@composite
@in_single
def _soft_margin(x: Tensor, target: Tensor, reduction: str) -> Any:
    return reduced(apply(ops.log1p, (apply(ops.exp, (mul(neg(target), x),)),)), reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Any:
    """The binary cross entropies of logits, their mean over the last dimension."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not valid")
    floats(input, "log_sigmoid_cpu")
    return _multilabel(input, target, weight, reduction)


@composite
def _multilabel(x: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Any:
    w = wide(x)
    target = to_dtype(target, w._dtype)
    loss = neg(add(mul(target, log_of_sigmoid(w)), mul(sub(1, target), log_of_sigmoid(neg(w)))))
    if weight is not None:
        loss = mul(loss, to_dtype(weight, w._dtype))
    each = apply(ops.div, (sum(loss, -1), float(x._shape[-1])))
    return to_dtype(reduced(each, reduction), x._dtype)


@composite(operands=SINGLE)
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Any:
    """The mean over all classes but the target of max(0, margin - input[target] + input) ** p.

    Shape: (C) or (N, C), with a target for each example. Raises: ValueError for `p` other than 1 or 2, RuntimeError
    for sizes that do not fit, IndexError for a class out of range (where PyTorch raises RuntimeError).
    """
    check_reduction(reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and len(weight._shape) != 1:
        raise ValueError("weight must be one-dimensional")
    shape = input._shape
    if len(shape) > 2 or (shape and not shape[-1]):
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(shape)}"
        )
    examples, classes = shape if len(shape) == 2 else (1, shape[0] if shape else 1)
    if len(target._shape) > 1 or target.numel() != examples:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{examples}], but got {list(target._shape)}. Input has shape {list(shape)}."
        )
    if weight is not None and weight._shape != (classes,):
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(weight._shape)}")
    if target._dtype is not dtypes.int64:
        raise RuntimeError(f"expected scalar type Long but found {target._dtype.title}")
    floats(input, "multi_margin_loss_cpu_kernel")
    rows = reshape(input, (examples, classes))
    loss = _multi_margin(rows, reshape(target, -1), weight, p, reduction, margin=number(margin, "margin"))
    return reshape(loss, target._shape) if reduction == "none" else loss


@composite
def _multi_margin(x: Tensor, target: Tensor, weight: Tensor | None, p: int, reduction: str, *, margin: Any) -> Any:
    w = wide(x)
    classes = w._shape[1]
    # The target's entry is chosen by comparison, as in the cross entropy: that needs no kernels of its own.
    hit = eq(beside(w, ops.iota, (), (classes,)), reshape(checked_classes(target, classes), (-1, 1)))
    gap = add(sub(margin, sum(where(hit, w, 0), 1, True)), w)
    gap = where(hit, 0, where(apply(ops.gt, (gap, 0)), gap, 0))
    if p == 2:
        gap = mul(gap, gap)
    if weight is not None:
        gap = mul(gap, sum(where(hit, to_dtype(weight, w._dtype), 0), 1, True))
    return to_dtype(reduced(apply(ops.div, (sum(gap, 1), float(classes))), reduction), x._dtype)
