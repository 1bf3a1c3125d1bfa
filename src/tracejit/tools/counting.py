"""How many programs, kernels and launches a compiled function uses."""

from __future__ import annotations

from typing import Any

from tracejit.trace.region import region_of


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
    executables = [executable for _, executable in region_of(function).executables()]
    programs = [executable.compiled for executable in executables if executable.obstacle is None]
    return {
        "programs": len(programs),
        "kernels": len({info.kernel.symbol for program in programs for info in program.kernels}),
        "launches": sum(program.launches for program in programs),
        "eager_segments": sum(executable.obstacle is not None for executable in executables),
    }
