"""`tracejit.backends`, with PyTorch's names: switches of libraries that compute elsewhere.

In: what programs set. Out: the same when they read it. Of all switches one changes anything: whether products of
float32 may be TF32 on a GPU; every operation is deterministic. Must not know: anything but the settings.

>>> cudnn.benchmark = True
>>> cudnn.is_available(), mps.is_available()
(False, False)
"""

from __future__ import annotations

from tracejit.config import PRODUCTS

__all__ = ["are_deterministic_algorithms_enabled", "cuda", "cudnn", "mps", "use_deterministic_algorithms"]

_deterministic = False


class _Cudnn:
    """Switches of cuDNN, which is not there."""

    __slots__ = ("allow_tf32", "benchmark", "deterministic", "enabled")

    def __init__(self) -> None:
        self.allow_tf32 = self.enabled = True
        self.benchmark = self.deterministic = False

    def is_available(self) -> bool:
        """Whether convolutions can run on a GPU: no."""
        return False

    def version(self) -> None:
        """The version of cuDNN: none."""
        return


class _Products:
    """Which shorter numbers products on a GPU may use."""

    __slots__ = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")

    def __init__(self) -> None:
        self.allow_fp16_reduced_precision_reduction = self.allow_bf16_reduced_precision_reduction = True

    @property
    def allow_tf32(self) -> bool:
        """Whether a GPU may round the operands of float32 products to 10 bits; off at first."""
        return PRODUCTS.tf32

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        PRODUCTS.tf32 = bool(allowed)


class _Cuda:
    """Switches of CUDA, which is not there."""

    __slots__ = ("matmul",)

    def __init__(self) -> None:
        self.matmul = _Products()

    def is_built(self) -> bool:
        """Whether there is a CUDA backend: no."""
        return False


class _Mps:
    """Apple's GPUs, which are not computed on."""

    __slots__ = ()

    def is_available(self) -> bool:
        """Whether tensors can be on such a GPU: no."""
        return False

    def is_built(self) -> bool:
        """Whether there is a backend for it: no."""
        return False


cudnn, cuda, mps = _Cudnn(), _Cuda(), _Mps()


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask that equal calls give equal bits: they do, whatever is set.

    >>> use_deterministic_algorithms(True)
    >>> are_deterministic_algorithms_enabled()
    True
    """
    global _deterministic  # noqa: PLW0603 - a setting of the process, as in PyTorch
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """What `use_deterministic_algorithms` was last asked for."""
    return _deterministic
