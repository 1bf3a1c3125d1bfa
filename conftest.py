"""Doctests meet the package as its users do."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _front_door() -> None:
    """pytest sets modules that it imports as attributes of their packages; `tracejit.tensor` is a function to users."""
    front, made = sys.modules.get("tracejit"), sys.modules.get("tracejit.tensor.conversion")
    if front is not None and made is not None:
        vars(front)["tensor"] = made.tensor
