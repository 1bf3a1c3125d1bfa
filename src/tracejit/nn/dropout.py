"""Dropout."""

from __future__ import annotations

from tracejit.nn import functional as F
from tracejit.nn.module import Module
from tracejit.tensor import Tensor

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]


class Dropout(Module):
    """In training, set each element to 0 with probability ``p`` and scale the others by ``1 / (1 - p)``.

    Edge: in evaluation it gives back its input. Raises: ValueError for ``p`` outside [0, 1].
    Source: Srivastava et al. 2014.

    >>> import tracejit as tj
    >>> tj.nn.Dropout(0.5).eval()(tj.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """Dropout of whole channels (dimension 1). Shape: ``(N, C, *)``. Source: Tompson et al. 2014."""

    def forward(self, input: Tensor) -> Tensor:
        out = F.dropout2d(input, self.p, self.training)
        return input.copy_(out) if self.inplace and self.training else out


class Dropout1d(Dropout2d):
    """Dropout of whole channels (dimension 1) of sequences. Shape: ``(N, C, L)``."""


class Dropout3d(Dropout2d):
    """Dropout of whole channels (dimension 1) of volumes. Shape: ``(N, C, D, H, W)``."""


class AlphaDropout(Dropout):
    """Dropout for ``SELU``: mean 0 and variance 1 stay. Source: Klambauer et al. 2017.

    Edge: as in PyTorch, ``inplace`` has no effect. Raises: ValueError for ``p`` outside [0, 1].
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training)
