"""How many programs, kernels and launches a compiled function uses."""

from __future__ import annotations

from typing import Any

from tracejit.tools.explain import explain
from tracejit.trace.compiled import region_of


def is_compiled(function: Any) -> bool:
    """Whether `tj.compile` made this.

    >>> is_compiled(print)
    False
    """
    try:
        region_of(function)
    except TypeError:
        return False
    return True


def counts(function: Any) -> dict[str, int]:
    """Programs in use, their distinct kernels, their launches, and segments that could not be compiled.

    Raises: TypeError for something that was not compiled.
    """
    account = explain(function)
    return {
        "programs": len(account.programs),
        "kernels": len(account.kernels),
        "launches": account.launches,
        "eager_segments": len(account.eager),
    }
