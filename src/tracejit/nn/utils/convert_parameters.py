"""Parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable

from tracejit.tensor import Tensor, cat

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of the parameters, one after the other.

    >>> import tracejit as tj
    >>> tj.nn.utils.parameters_to_vector([tj.ones(2, 2), tj.zeros(1)]).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make each parameter's data the vector's next elements. Raises: TypeError for no tensor."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor, but got: {type(vec).__name__}")
    start = 0
    for parameter in parameters:
        count = parameter.numel()
        parameter.data = vec[start : start + count].reshape(tuple(parameter.shape)).data  # type: ignore[attr-defined]
        start += count
