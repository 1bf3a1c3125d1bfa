"""Parameter: the tensor that a Module counts as its own to train."""

from __future__ import annotations

from typing import cast

from tracejit.tensor import Tensor, tensor_alias

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A tensor that becomes a module's parameter when it is assigned to one of its attributes.

    The new object shares the memory of ``data``; it is a leaf, whatever ``data`` was.

    Edge: without ``data`` the parameter is empty (0 elements).
    Raises: TypeError for data that is no tensor.

    >>> import tracejit as tj
    >>> tj.nn.Parameter(tj.ones(2)).requires_grad
    True
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            # Bare: whoever aliases a tensor fills it in, or __init__ does.
            return super().__new__(cls)
        if not isinstance(data, Tensor):
            raise TypeError(
                f"Parameter: 'data' must be a Tensor, not {type(data).__name__}; make one with tracejit.tensor(...)"
            )
        return cast(Parameter, tensor_alias(cls, data, requires_grad))

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        if data is None:
            super().__init__()
            self._requires_grad = requires_grad

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
