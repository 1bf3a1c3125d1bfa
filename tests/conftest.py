"""Settings for all tests: a kernel cache of their own, and random tests that repeat themselves."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before the first import of tracejit, which reads its settings once. Kept between runs; `make clean` removes it.
os.environ.setdefault("TRACEJIT_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "kernels"))

# What a region says of its calls must not depend on the tests that ran before.
os.environ.setdefault("TRACEJIT_TREES", "0")


def pytest_configure(config: pytest.Config) -> None:
    """Random tests repeat themselves, but for those of `make random`."""
    repeats = config.getoption("--hypothesis-seed") is None
    hypothesis.settings.register_profile("house", deadline=None, derandomize=repeats, print_blob=True)
    hypothesis.settings.load_profile("house")


_HAS_TORCH = importlib.util.find_spec("torch") is not None
_COMPARES = re.compile(r"^(import torch$|from tests\.\w+\.parity import )", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out what compares with PyTorch where there is none."""
    if _HAS_TORCH or collection_path.suffix != ".py":
        return None
    return True if _COMPARES.search(collection_path.read_text(encoding="utf-8")) else None


@pytest.fixture(autouse=True, scope="session")
def _early_looks() -> None:
    """Replays look natively from the first call on that may: tests seldom call a function two hundred times."""
    from tracejit.trace.replay import arrivals

    arrivals.EARNED = 1


@pytest.fixture
def no_gpu() -> Iterator[None]:
    """A process without a GPU, also on a machine with one."""
    from tests.cuda.standin import without_gpu

    with without_gpu():
        yield


@pytest.fixture
def kept_trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Traces are kept on disk, in a folder of the test's own."""
    from tracejit.config import SETTINGS
    from tracejit.runtime.cache import Store
    from tracejit.trace import keeper, kept

    monkeypatch.setattr(keeper, "SETTINGS", dataclasses.replace(SETTINGS, trees=True))
    monkeypatch.setattr(kept, "STORE", Store(tmp_path / "trees", limit=1 << 30))
    return tmp_path / "trees"
