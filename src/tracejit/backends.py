"""`tracejit.backends`, with PyTorch's names: switches of libraries that compute elsewhere.

In: what programs set. Out: the same when they read it. One switch changes how anything is computed: whether a GPU may
use TF32 for products of float32. Every operation is deterministic. Must not know: kernels.

>>> cudnn.benchmark = True
>>> cudnn.is_available(), mps.is_available()
(False, False)
"""

from __future__ import annotations

from tracejit.tensor import get_float32_matmul_precision, set_float32_matmul_precision

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
        """Whether operands may be rounded to TF32: `set_float32_matmul_precision`, seen as a switch."""
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")


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
