"""Composites that an earlier process made programs for are programs from the second call on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

import tracejit as tj
from tests.tensor.fusing import built, operands, step
from tracejit.config import SETTINGS
from tracejit.nn import functional as F
from tracejit.runtime.cache import UNIT, Store
from tracejit.tensor import remembered
from tracejit.tensor.fused_step import FusedStep
from tracejit.tensor.tape import TapeNode


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """What is remembered is kept in a folder of the test's own."""
    store = Store(tmp_path, limit=1 << 30)
    monkeypatch.setattr(remembered, "STORE", store)
    monkeypatch.setattr(remembered, "SETTINGS", dataclasses.replace(SETTINGS, trees=True))
    return store


def test_the_second_call_is_one_program(store: Store) -> None:
    x = operands(tj.float32, 0)[0]
    with built(inf):
        assert [step(F.softmax(x, 1)) for _ in range(3)] == [TapeNode] * 3
    with built(-1):
        assert step(F.softmax(x, 1)) is FusedStep
    assert store.usage()[UNIT][0] == 1
    with built(inf):
        assert [step(F.softmax(x, 1)) for _ in range(3)] == [TapeNode, FusedStep, FusedStep]


def test_what_is_in_use_is_kept_and_written_once(store: Store) -> None:
    x = operands(tj.float32, 0)[0]
    with built(-1):
        F.softmax(x, 1)
    (file,) = store.directory.glob(f"*/*.{UNIT}")
    os.utime(file, (0, 0))
    made = file.stat().st_ino
    with built(-1):
        F.softmax(x, 1)
    assert file.stat().st_ino == made
    assert file.stat().st_mtime > 0


def test_other_kinds_of_calls_have_to_earn_theirs(store: Store) -> None:
    x = operands(tj.float32, 0)[0]
    with built(-1):
        F.softmax(x, 1)
    others = [lambda: F.softmax(x, 0), lambda: F.softmax(x[1:], 1), lambda: F.log_softmax(x, 1)]
    with built(inf):
        for other in others:
            assert [step(other()) for _ in range(3)] == [TapeNode] * 3


def test_nothing_is_remembered_where_traces_are_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SETTINGS", dataclasses.replace(SETTINGS, trees=False))
    with built(-1):
        F.softmax(operands(tj.float32, 0)[0], 1)
    assert store.usage()[UNIT][0] == 0


SCRIPT = """
import sys
import tracejit as tj
from tracejit.tensor import fused
fused.WORK = float(sys.argv[1])
layer = tj.nn.Linear(3, 4)
opt = tj.optim.Adam(layer.parameters(), lr=0.5)
for _ in range(3):
    loss = tj.nn.functional.cross_entropy(layer(tj.ones(2, 3)), tj.tensor([1, 2]))
    print(loss.grad_fn.fused, end=" ")
    opt.zero_grad()
    loss.backward()
    opt.step()
"""


def test_other_processes_remember(tmp_path: Path) -> None:
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(tmp_path), "TRACEJIT_TREES": "1", "TRACEJIT_CACHE": "1"}
    said = []
    for work in ("inf", "-1", "inf"):
        command = [sys.executable, "-c", SCRIPT, work]
        said.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split())
    assert said == [["False"] * 3, ["True"] * 3, ["False", "True", "True"]]
