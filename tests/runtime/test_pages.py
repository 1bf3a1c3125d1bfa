"""Memory in large pages, and where there are none."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from tracejit.runtime.pages import LARGE, pages


@pytest.mark.parametrize("nbytes", [1, LARGE - 1, LARGE, 3 * LARGE + 5])
def test_memory_is_zero_and_can_be_written(nbytes: int) -> None:
    memory = pages(nbytes)
    assert (memory.dtype, memory.shape, memory.ctypes.data % LARGE) == (np.uint8, (nbytes,), 0)
    assert not memory.any()
    memory[:] = 7
    assert int(memory.sum(dtype=np.int64)) == 7 * nbytes


def test_a_system_may_refuse_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, os.strerror(22))

    monkeypatch.setattr(mmap, "mmap", Refusing)
    assert not pages(5).any()
