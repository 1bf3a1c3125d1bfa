"""Losses of classes: cross entropies and what they are made of."""

from __future__ import annotations

from math import prod
from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.symbols import real
from tracejit.tensor.casting import SINGLE
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside
from tracejit.tensor.functional.activation import log_of_sigmoid, log_probabilities, wide
from tracejit.tensor.functional.linear import checked_classes
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.reducing import sum
from tracejit.tensor.tensor import Tensor


def check_reduction(reduction: str) -> None:
    """Raise ValueError for a reduction that does not exist."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")


def everything(x: Tensor) -> Any:
    """The sum of all elements."""
    return sum(x)


def reduced(loss: Tensor, reduction: str) -> Any:
    """The loss of each element, its sum or its mean."""
    if reduction == "none":
        return loss
    total = everything(loss)
    return total if reduction == "sum" else apply(ops.div, (total, real(loss.numel())))


def _check_target(input: Tensor, target: Tensor, weight: Tensor | None) -> int:
    """The dimension of the classes.

    Raises: ValueError for another number of examples, RuntimeError for other sizes or types that do not fit.
    """
    shape = input._shape
    dim = 0 if len(shape) == 1 else 1
    if not input._dtype.is_floating_point:
        raise NotImplementedError(f"\"nll_loss\" not implemented for '{input._dtype.title}'")
    if target._dtype not in (dtypes.int64, dtypes.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target._dtype.title}")
    if dim == 1:
        if not target._shape or shape[0] != target._shape[0]:
            raise ValueError(
                f"Expected input batch_size ({shape[0]}) to match target batch_size "
                f"({target._shape[0] if target._shape else 1})."
            )
        if len(shape) == 2 and len(target._shape) != 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    elif target._shape not in ((), (1,)):
        raise RuntimeError(f"size mismatch (got input: {list(shape)}, target: {list(target._shape)})")
    want = shape[:dim] + shape[dim + 1 :]
    if dim == 1 and target._shape != want:
        raise RuntimeError(f"Expected target size {list(want)}, got {list(target._shape)}")
    _check_weight(weight, shape[dim])
    return dim


def _check_weight(weight: Tensor | None, classes: int) -> None:
    if weight is not None and weight._shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of "
            f"shape: {list(weight._shape)}"
        )


@composite(operands=SINGLE)
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """Negative log likelihood of the target classes, from log probabilities along dimension 1.

    Shape: (C), (N, C) or (N, C, *). Edge: examples of class `ignore_index` do not count.
    Raises: IndexError for a class out of range, ValueError for another number of examples, RuntimeError for sizes and
    types that do not fit.
    """
    check_reduction(reduction)
    if not input._shape:
        raise ValueError("Expected input to have at least 1 dimension")
    dim = _check_target(input, target, weight)
    return _nll_loss(input, target, weight, ignore_index, reduction, dim)


@composite
def _nll_loss(
    logp: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, dim: int
) -> Any:
    return to_dtype(_of_classes(wide(logp), target, weight, ignore_index, reduction, dim), logp._dtype)


def _of_classes(
    logp: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    dim: int,
    keep: Any = None,
    share: Any = None,
) -> Any:
    """The loss of class indices; with `share` so much of every class's, and `keep` of the target's.

    The target's entry of each row is chosen by comparison, not read by index: that runs inside the kernels that make
    the log probabilities and their gradient, where an index would need kernels of its own and memory in between. Of log
    probabilities that are in memory already, passes make a read by index of it.
    """
    shape = logp._shape
    classes = shape[dim]
    rows = shape[:dim] + shape[dim + 1 :]
    target = apply(ops.reshape, (to_dtype(target, dtypes.int64),), (rows,))
    ignored = apply(ops.eq, (target, ignore_index))
    chosen = checked_classes(apply(ops.where, (ignored, 0, target)), classes)
    counted = apply(ops.cast, (apply(ops.bitwise_not, (ignored,)),), (logp._dtype,))
    along = (*shape[:dim], 1, *shape[dim + 1 :])
    column = tuple(classes if d == dim else 1 for d in range(len(shape)))
    hit = apply(
        ops.eq,
        (
            apply(ops.reshape, (beside(logp, ops.iota, (), (classes,)),), (column,)),
            apply(ops.reshape, (chosen,), (along,)),
        ),
    )
    loss = apply(ops.neg, (sum(apply(ops.where, (hit, logp, 0)), dim),))
    weights = counted
    if weight is not None:
        weight = to_dtype(weight, logp._dtype)
        picked = apply(ops.take, (weight, apply(ops.reshape, (chosen,), ((prod(rows),),))), (0,))
        weights = apply(ops.mul, (apply(ops.reshape, (picked,), (rows,)), counted))
    loss = apply(ops.where, (ignored, 0, apply(ops.mul, (loss, weights)) if weight is not None else loss))
    if share is not None:
        spread = logp if weight is None else apply(ops.mul, (logp, apply(ops.reshape, (weight,), (column,))))
        every = apply(ops.where, (ignored, 0, apply(ops.neg, (sum(spread, dim),))))
        loss = apply(ops.add, (apply(ops.mul, (loss, keep)), apply(ops.mul, (every, share))))
    if reduction == "none":
        return loss
    total = everything(loss)
    return total if reduction == "sum" else apply(ops.div, (total, everything(weights)))


@composite(operands=SINGLE)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Negative log likelihood of the targets under the softmax of the input along dimension 1.

    Shape: (C), (N, C) or (N, C, *); a target of the input's shape holds probabilities.
    Raises: IndexError for a class out of range, ValueError for another number of examples, RuntimeError for sizes and
    types that do not fit.

    >>> import tracejit as tj
    >>> cross_entropy(tj.zeros(1, 2), tj.tensor([1]))
    tensor(0.6931)
    """
    check_reduction(reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if input._shape == target._shape:
        if not target._dtype.is_floating_point:
            raise RuntimeError(
                "Expected floating point type for target with class probabilities, got "
                f"{target._dtype.title}"
            )
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        if not input._shape:
            raise RuntimeError("cross_entropy(): the input needs at least 1 dimension")
        dim = 0 if len(input._shape) == 1 else 1
        _check_weight(weight, input._shape[dim])
        smooth = {"keep": 1.0 - label_smoothing, "share": label_smoothing / max(input._shape[dim], 1)}
        return _of_probabilities(input, target, weight, reduction, dim, **(smooth if label_smoothing else {}))
    if not input._shape:
        raise RuntimeError("cross_entropy(): the input needs at least 1 dimension")
    if not input._dtype.is_floating_point:
        raise NotImplementedError(f"\"log_softmax_kernel_impl\" not implemented for '{input._dtype.title}'")
    dim = _check_target(input, target, weight)
    if not label_smoothing:
        return _cross_entropy(input, target, weight, ignore_index, reduction, dim)
    keep, share = 1.0 - label_smoothing, label_smoothing / max(input._shape[dim], 1)
    return _cross_entropy(input, target, weight, ignore_index, reduction, dim, keep=keep, share=share)


@composite
def _cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    dim: int,
    *,
    keep: Any = None,
    share: Any = None,
) -> Any:
    logp = log_probabilities(wide(x), dim)
    return to_dtype(_of_classes(logp, target, weight, ignore_index, reduction, dim, keep, share), x._dtype)


@composite
def _of_probabilities(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: str, dim: int, *, keep: Any = None, share: Any = None
) -> Any:
    w = wide(x)
    target = to_dtype(target, w._dtype)
    if share is not None:
        target = apply(ops.add, (apply(ops.mul, (target, keep)), share))
    each = apply(ops.mul, (log_probabilities(w, dim), target))
    if weight is not None:
        column = tuple(s if d == dim else 1 for d, s in enumerate(x._shape))
        each = apply(ops.mul, (each, apply(ops.reshape, (to_dtype(weight, w._dtype),), (column,))))
    return to_dtype(reduced(apply(ops.neg, (sum(each, dim),)), reduction), x._dtype)


@composite(operands=SINGLE)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Any:
    """The binary cross entropy of the input's sigmoid, without overflow.

    Raises: ValueError for a target of another shape.
    """
    check_reduction(reduction)
    if input._shape != target._shape:
        raise ValueError(
            f"Target size (torch.Size({list(target._shape)})) must be the same as input size "
            f"(torch.Size({list(input._shape)}))"
        )
    return _with_logits(input, target, weight, reduction, pos_weight)


@composite
def _with_logits(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: str, pos_weight: Tensor | None
) -> Any:
    w = wide(x)
    target = to_dtype(target, w._dtype)
    log = log_of_sigmoid(w)
    if pos_weight is not None:
        above = apply(ops.sub, (to_dtype(pos_weight, w._dtype), 1.0))
        log = apply(ops.mul, (log, apply(ops.add, (apply(ops.mul, (above, target)), 1.0))))
    loss = apply(ops.sub, (apply(ops.mul, (apply(ops.sub, (1.0, target)), w)), log))
    if weight is not None:
        loss = apply(ops.mul, (loss, to_dtype(weight, w._dtype)))
    return to_dtype(reduced(loss, reduction), x._dtype)


@composite(operands=SINGLE)
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Any:
    """-(target * log(input) + (1 - target) * log(1 - input)) with logarithms not below -100.

    Edge: an input outside [0, 1] gives NaN; where a logarithm is infinite its gradient is 0.
    Raises: ValueError for a target of another shape.
    """
    check_reduction(reduction)
    if input._shape != target._shape:
        raise ValueError(
            f"Using a target size ({list(target._shape)}) that is different to the input size ({list(input._shape)}) "
            "is deprecated. Please ensure they have the same size."
        )
    return _binary(input, target, weight, reduction)


def _limited_log(x: Tensor) -> Any:
    # At zero the infinite slope times the limit's zero would be NaN.
    zero = apply(ops.eq, (x, 0))
    log = apply(ops.log, (apply(ops.where, (zero, 1, x)),))
    return apply(ops.where, (zero, -100.0, apply(ops.where, (apply(ops.lt, (log, -100.0)), -100.0, log))))


@composite
def _binary(x: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Any:
    w = wide(x)
    target = to_dtype(target, w._dtype)
    low = apply(ops.mul, (apply(ops.sub, (target, 1.0)), _limited_log(apply(ops.sub, (1.0, w)))))
    loss = apply(ops.sub, (low, apply(ops.mul, (target, _limited_log(w)))))
    if weight is not None:
        loss = apply(ops.mul, (loss, to_dtype(weight, w._dtype)))
    return to_dtype(reduced(loss, reduction), x._dtype)
