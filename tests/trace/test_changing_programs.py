"""Programs that meet other sizes in each call, as users write them: losses and parameters in the bits of eager."""

from __future__ import annotations

from typing import Any

import pytest

import tracejit as tj
from benchmarks.programs import CHANGING
from tests.trace.values import bits
from tracejit.trace import pace


@pytest.mark.parametrize("soon", [False, True], ids=["growing", "soon eager"])
@pytest.mark.parametrize("name", CHANGING)
def test_other_sizes_in_each_call(name: str, soon: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if soon:
        for limit, value in (("FIRST", 1), ("_TRIED", 2), ("_SETTLING", 0)):
            monkeypatch.setattr(pace, limit, value)
    seen: list[list[Any]] = []
    for compiles in (False, True):
        tj.manual_seed(0)
        net, step, batch = CHANGING[name](tj)
        run = tj.compile(step) if compiles else step
        losses = [bits(run(*batch(k % 9))) for k in range(14)]
        seen.append([losses, bits(list(net.parameters()))])
    assert seen[0] == seen[1]
