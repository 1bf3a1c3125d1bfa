"""Traces: what a region did, kept as a tree, and the sessions that record and follow it.

In: the calls that tensors make inside a compiled function. Out: graphs for the compiler, programs run in place of
eager kernels, and an account of what happened and why.
Must not know: how a graph is scheduled or generated; modules and optimizers.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tracejit.tensor.diagonals import trace


class Package(ModuleType):
    """This package, called as the function that has its name in PyTorch: `tracejit.trace(matrix)`."""

    def __call__(self, input: Any) -> Any:
        """The sum of the diagonal of a matrix."""
        return trace(input)


sys.modules[__name__].__class__ = Package
