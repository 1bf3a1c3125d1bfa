"""Lets the tests of this folder import the modules beside them, and programs that collect garbage do it soon."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

COLLECTING = ("weak_references", "finalizer")
"""What the names of programs begin with that collect garbage in each call."""


@pytest.fixture(autouse=True)
def _soon_collected(request: pytest.FixtureRequest) -> None:
    if any(word in request.node.name for word in COLLECTING):
        request.getfixturevalue("small_heap")
