"""Gradients, as PyTorch's programs import them: `grad`, `backward`, grad modes, operations of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.tensor.autograd import grad, run
from tracejit.tensor.function import Function, FunctionCtx, once_differentiable
from tracejit.tensor.modes import enable_grad, inference_mode, no_grad, set_grad_enabled
from tracejit.tensor.tensor import Tensor

__all__ = [
    "Function",
    "FunctionCtx",
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "no_grad",
    "once_differentiable",
    "set_grad_enabled",
]


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of tensors to `.grad` of the leaves they were computed from.

    Raises: RuntimeError as `Tensor.backward`, or if there are not as many gradients as tensors.

    >>> import tracejit as tj
    >>> x = tj.ones(2, requires_grad=True)
    >>> tj.autograd.backward([x.sum(), (x * 2).sum()])
    >>> x.grad
    tensor([3., 3.])
    """
    roots: list[Any] = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given: list[Any] = [None] * len(roots)
    if grad_tensors is not None:
        given = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors)
    if len(given) != len(roots):
        raise RuntimeError(f"got {len(roots)} tensors and {len(given)} gradients")
    chosen = [inputs] if isinstance(inputs, Tensor) else None if inputs is None else list(inputs)
    if chosen == []:
        raise RuntimeError("'inputs' argument to backward() cannot be empty.")
    run((roots, given), retain_graph, create_graph, chosen, True)
