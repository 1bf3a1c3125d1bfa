"""The random programs on the stand-in for a GPU, with some of their tensors on the CPU: compiled equals eager."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import tracejit as tj
from programs import programs
from test_random_programs import compare
from tests.cuda.libcuda import Library
from tests.cuda.standin import stand_in

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300")) // 100


@pytest.fixture(autouse=True, scope="module")
def devices() -> Iterator[None]:
    """Tensors are made on the GPU, and every seventh array of NumPy's stays on the CPU."""
    on_the_cpu = tj.from_numpy

    def from_numpy(array: np.ndarray[Any, Any]) -> tj.Tensor:
        made = on_the_cpu(array)
        return made.to("cuda") if zlib.crc32(array.tobytes()) % 7 else made

    with stand_in(Library(memory=1 << 22)), pytest.MonkeyPatch.context() as patch, tj.device("cuda"):
        patch.setattr(tj, "from_numpy", from_numpy)
        yield


@settings(
    max_examples=COUNT, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)  # fmt: skip
@given(programs)
def test_compiled_equals_eager_on_devices(program: Any) -> None:
    compare(program)
