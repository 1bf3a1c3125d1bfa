"""Linear maps, tables and masks of classes."""

from __future__ import annotations

from typing import Any

from tracejit import dtypes
from tracejit.ops.record import ops
from tracejit.tensor.casting import SHORT
from tracejit.tensor.composite import composite
from tracejit.tensor.dispatch import apply, beside, shaped
from tracejit.tensor.host import host
from tracejit.tensor.products import contracted, matmul
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.shaping import permute, reshape
from tracejit.tensor.tensor import Tensor


@composite(operands=SHORT)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """input @ weight.T + bias.

    Shape: (*, in) by (out, in) or (in,). Raises: RuntimeError if sizes or types do not fit.

    >>> import tracejit as tj
    >>> linear(tj.ones(2, 3), tj.ones(4, 3), tj.ones(4)).shape
    tracejit.Size([2, 4])
    """
    for name, x in (("input", input), ("weight", weight)):
        if not isinstance(x, Tensor):
            raise TypeError(f"linear(): argument '{name}' must be Tensor, not {type(x).__name__}")
    shape, to = input._shape, weight._shape
    if bias is not None and bias._dtype is not input._dtype:
        raise RuntimeError(f"linear(): input has type {input._dtype.name} but bias has type {bias._dtype.name}")
    if bias is not None and len(to) != 2:
        raise RuntimeError(f"mat2 must be a matrix, got {len(to)}-D tensor")
    if len(to) > 2:
        raise RuntimeError(f"linear(): weight must be a vector or a matrix, but has shape {list(to)}")
    if shape and to and shape[-1] != to[-1]:
        rows = input.numel() // shape[-1] if shape[-1] else 0
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{shape[-1]} and {'x'.join(map(str, reversed(to)))})"
        )
    return _linear(input, weight, bias)


@composite
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    matrix = permute(weight, (1, 0)) if len(weight._shape) == 2 else weight
    if bias is None:
        return matmul(x, matrix)
    kind = x._dtype
    if kind not in dtypes.HALVES:
        return apply(ops.add, (matmul(x, matrix), bias))
    # Rounded once, behind the bias.
    return to_dtype(apply(ops.add, (contracted(x, matrix, single=True), to_dtype(bias, dtypes.float32))), kind)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """x1 @ weight[k] @ x2 + bias[k] for every k.

    Shape: (*, in1), (*, in2), (out, in1, in2). Raises: RuntimeError if sizes do not fit.
    """
    if len(weight._shape) != 3 or input1._shape[:-1] != input2._shape[:-1]:
        raise RuntimeError("bilinear(): input batch dimensions do not match, or weight is not of three dimensions")
    a, b = weight._shape[1:]
    if input1._shape[-1] != a or input2._shape[-1] != b:
        raise RuntimeError(f"bilinear(): inputs of sizes {input1._shape[-1]}, {input2._shape[-1]} for weights {a}x{b}")
    return _bilinear(input1, input2, weight, bias)


@composite
def _bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    out_size, a, b = weight._shape
    flat1, flat2 = reshape(x1, (-1, a)), reshape(x2, (-1, 1, b))
    # (n, a) @ (a, out * b), then the product with x2 summed over b.
    left = matmul(flat1, reshape(permute(weight, (1, 0, 2)), (a, out_size * b)))
    out = apply(ops.sum, (apply(ops.mul, (reshape(left, (-1, out_size, b)), flat2)),), (2,))
    out = out if bias is None else apply(ops.add, (out, bias))
    return reshape(out, (*x1._shape[:-1], out_size))


@composite
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Rows of a table.

    Shape: of the indices, then that of a row. Edge: the row `padding_idx` gets no gradient.
    Raises: IndexError for a row that does not exist, NotImplementedError for `max_norm`, `scale_grad_by_freq` and
    `sparse`.
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding(): max_norm, scale_grad_by_freq and sparse are not supported")
    if len(weight._shape) != 2:
        raise RuntimeError("'weight' must be 2-D")
    rows = weight._shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    if input._dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got "
            f"{input._dtype.name} instead (while checking arguments for embedding)"
        )
    return _embedding(input, weight, padding_idx)


@composite
def _embedding(index: Tensor, weight: Tensor, padding: int | None) -> Any:
    flat = reshape(to_dtype(index, dtypes.int64), -1)
    out = apply(ops.take, (weight, flat), (0,))
    if padding is not None:
        blank = apply(ops.eq, (reshape(flat, (-1, 1)), padding))
        out = apply(ops.where, (blank, out.detach(), out))
    return shaped(out, (*index._shape, weight._shape[1]))


@host
def _count_of_classes(x: Tensor) -> int:
    array = x._data()
    if array.size and int(array.min()) < 0:
        raise RuntimeError("Class values must be non-negative.")
    return int(array.max()) + 1


def one_hot(tensor: Tensor, num_classes: int = -1) -> Any:
    """1 at the place of the class, 0 elsewhere, along a new last dimension.

    DType: int64. Edge: without `num_classes` the largest class is read.
    Raises: RuntimeError for another type than int64, IndexError for a class out of range.
    """
    if tensor._dtype is not dtypes.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if tensor.numel() == 0:
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        return beside(tensor, ops.full, (0,), ((*tensor._shape, num_classes), dtypes.int64))
    if num_classes == -1:
        num_classes = _count_of_classes(tensor)
    elif num_classes < 1:
        raise RuntimeError("num_classes should be positive")
    return to_dtype(is_class(tensor, num_classes), dtypes.int64)


def checked_classes(index: Tensor, count: int) -> Any:
    """Classes of [0, count), itself: taking them from a list of all raises IndexError for any other."""
    flat = reshape(index, -1)
    return reshape(apply(ops.take, (beside(index, ops.iota, (), (count,)), flat), (0,)), index._shape)


@composite
def is_class(index: Tensor, count: int) -> Any:
    """Whether each class is the one that an index names, along a new last dimension."""
    checked = reshape(checked_classes(index, count), (*index._shape, 1))
    return apply(ops.eq, (beside(index, ops.iota, (), (count,)), checked))
