"""Rows of a table with the arguments of `torch.embedding`, whose table comes first."""

from __future__ import annotations

from typing import Any

from tracejit.tensor import functional
from tracejit.tensor.tensor import Tensor


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    """Rows of a table.

    Shape: of the indices, then that of a row. Edge: the row `padding_idx`, unless it is negative, gets no gradient.
    Raises: IndexError for a row that does not exist, NotImplementedError for `scale_grad_by_freq` and `sparse`.

    >>> import tracejit as tj
    >>> tj.embedding(tj.tensor([[1.0, 2.0], [3.0, 4.0]]), tj.tensor([1]))
    tensor([[3., 4.]])
    """
    padding = None if padding_idx < 0 else padding_idx
    return functional.embedding(indices, weight, padding, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
