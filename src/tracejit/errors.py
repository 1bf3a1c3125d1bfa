"""The exceptions that are tracejit's own; where PyTorch raises a built-in one, so does tracejit."""

from __future__ import annotations


class TracejitError(Exception):
    """The root of tracejit's own exceptions."""


class KernelBuildError(TracejitError):
    """A kernel's text could not be turned into native code: a fault in tracejit, never in the user's program."""


class ConfigError(TracejitError):
    """A TRACEJIT_* environment variable holds something that it cannot hold."""


class CompileLimitError(TracejitError, RuntimeError):
    """A call needs more compilations than `max_compiles` allows; the message says what differs from former calls."""


class VerificationError(TracejitError):
    """A compiled program computed other bits than eager: a fault in tracejit, never in the user's program.

    `op` is the first operation whose value differs, `line` the user's line of it, `index` the first element that does,
    `eager` and `compiled` its two values, `count` how many elements differ. `kernel` and `text` are the name and the
    text of the kernel that wrote it, `broken_pass` the pass after which the graph computes something else. What is
    unknown is None.
    """

    def __init__(
        self,
        message: str,
        *,
        op: str,
        line: str,
        index: tuple[int, ...] | None = None,
        eager: object = None,
        compiled: object = None,
        count: int = 0,
        kernel: str | None = None,
        text: str | None = None,
        broken_pass: str | None = None,
    ) -> None:
        super().__init__(message)
        self.op, self.line, self.index = op, line, index
        self.eager, self.compiled, self.count = eager, compiled, count
        self.kernel, self.text, self.broken_pass = kernel, text, broken_pass


class CudaError(TracejitError, RuntimeError):
    """The CUDA driver could not do what it was asked for; the message has its function and its name for the error."""


class CudaOutOfMemoryError(CudaError):
    """A GPU has not the memory that was asked for."""


class CudaNotReadyError(CudaError):
    """Something that was asked of a GPU is not done yet."""
