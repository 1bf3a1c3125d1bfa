"""Kernels lowered both ways: directly and through numba's front half."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tracejit.runtime import build, frontend, vectors


@contextmanager
def every_kernel_by(lower: Any, name: str) -> Iterator[None]:
    """Kernels that are built meanwhile are lowered by `lower`, also those that were built before."""
    with pytest.MonkeyPatch.context() as patch:
        before = build.environment()
        patch.setattr(build, "_built", {})
        patch.setattr(build, "_by_source", {})
        # Kernels of another way have other names, in memory and in the cache on disk.
        patch.setattr(build, "environment", lambda: f"{before} {name}")
        patch.setattr(frontend, "lower", lower)
        yield


def directly() -> Any:
    """Where every kernel is lowered directly, or raises Unsupported."""
    return every_kernel_by(frontend.lower_directly, f"directly, {vectors.TARGET}")


def through_numba() -> Any:
    """Where every kernel goes through numba's front half."""
    return every_kernel_by(lambda function, text: frontend.lower_by_numba(function), "through numba")
