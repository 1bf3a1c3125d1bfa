"""What a function will need is foreseen by the words of its text, and is what it asks for."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tracejit as tj
from tracejit import nn
from tracejit.eager import build_column_sums
from tracejit.optim import Adam
from tracejit.trace import foresight
from tracejit.trace.foresight import foreseen

cross_entropy = nn.functional.cross_entropy


def names(jobs: list[Any]) -> list[str]:
    """What jobs are about: operations, kernels of the library, or calls."""
    found = []
    for job in jobs:
        if not isinstance(job, functools.partial):
            found.append("column_sum")
            continue
        what = job.args[-1]
        found.append(what if isinstance(what, str) else what[0][0])
    return found


def training(model: Any) -> Any:
    optimizer = Adam(model.parameters())

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.hidden = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        h = tj.zeros(x.shape[0], 8)
        for t in range(x.shape[1]):
            h = (self.inputs(x[:, t]) + self.hidden(h)).tanh()
        return h


def test_what_layers_a_loss_and_an_optimizer_need_is_foreseen() -> None:
    step = training(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    found = names(foreseen(step, (tj.ones(2, 4), tj.zeros(2, dtype=tj.int64)), {}))
    # What takes longest comes first, then what a value needs.
    assert found[0] == "gemm_panel_f32"
    assert set(found[1:4]) == {"exp", "log", "tanh"}
    assert found[4:] == ["gemm_strips_f32", "take", "take"]


def test_without_gradients_only_values_are_foreseen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
    assert names(foreseen(lambda x: model(x).softmax(-1), (tj.ones(2, 4),), {})) == ["exp", "sigmoid"]


def test_a_loop_over_steps_adds_gradients_up() -> None:
    found = names(foreseen(training(Cell()), (tj.ones(2, 3, 8), tj.zeros(2, dtype=tj.int64)), {}))
    assert {"tanh", "column_sum", "gemm_pack_f32", "gemm_sums_f32"} < set(found)
    plain = names(foreseen(training(nn.Linear(8, 8)), (tj.ones(2, 8), tj.zeros(2, dtype=tj.int64)), {}))
    assert not {"tanh", "column_sum", "gemm_pack_f32", "gemm_sums_f32"} & set(plain)


def test_recurrent_layers_are_loops_of_products() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(8, 8, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.layer(x)[0][:, -1]

    found = names(foreseen(training(Last()), (tj.ones(2, 3, 8), tj.zeros(2, dtype=tj.int64)), {}))
    assert {"sigmoid", "tanh", "gemm_panel_f32", "gemm_sums_f32"} < set(found)


def test_nothing_is_foreseen_for_other_types() -> None:
    step = training(nn.Linear(4, 3).double())
    assert foreseen(step, (tj.ones(2, 4, dtype=tj.float64), tj.zeros(2, dtype=tj.int64)), {}) == []


def test_nothing_is_foreseen_where_operands_are_cast() -> None:
    step, batch = training(nn.Linear(4, 3)), (tj.ones(2, 4), tj.zeros(2, dtype=tj.int64))
    assert foreseen(step, batch, {})
    with tj.autocast("cpu"):
        assert foreseen(step, batch, {}) == []

    def cast(x: Any, y: Any) -> Any:
        with tj.autocast("cpu"):
            return step(x, y)

    assert foreseen(cast, batch, {}) == []


@pytest.mark.parametrize("word", sorted(foresight._NEEDS))
def test_every_word_stands_for_kernels_that_can_be_built(word: str) -> None:
    for kernel in (kernel for kernels in foresight._NEEDS[word] for kernel in kernels):
        foresight._job(kernel)()


def test_sums_of_columns_can_be_built() -> None:
    for kernel in (kernel for kernels in foresight._STEPS for kernel in kernels):
        foresight._job(kernel)()
    assert foresight._job("column_sum") is build_column_sums


FIRST_WEIGHTS = """
import sys, time
import tracejit as tj
from tracejit.runtime import ahead

ahead.may_fork = lambda: True
layer = tj.nn.{layer}
begun = ahead.AHEAD._process is not None
end = time.monotonic() + 60
while begun and len(ahead.AHEAD._made) < {kernels} and time.monotonic() < end:
    ahead.AHEAD.look()
    time.sleep(0.01)
print(begun, len(ahead.AHEAD._made), layer.weight.sum().item())
"""


@pytest.mark.parametrize(("layer", "kernels"), [("Linear(64, 64)", 1), ("Conv2d(2, 4, 3)", 2), ("Linear(8, 8)", 0)])
def test_first_weights_begin_with_what_takes_longest(layer: str, kernels: int, tmp_path: Path) -> None:
    text = FIRST_WEIGHTS.format(layer=layer, kernels=kernels)
    begun, made, total = run(text, tmp_path / "ahead")
    assert (begun, made) == (str(kernels > 0), str(kernels))
    assert run(text, tmp_path / "alone", TRACEJIT_BUILD_WORKERS="1") == ["False", "0", total]


def run(text: str, cache: Path, **settings: str) -> list[str]:
    """The words that a program prints in a process of its own."""
    environment = {
        **os.environ,
        "TRACEJIT_CACHE_DIR": str(cache),
        "TRACEJIT_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **settings,
    }
    command = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.split()


FIRST_CALLS = """
import sys
import tracejit as tj
from tracejit.runtime import ahead, build
from tests.trace.test_foresight import Cell, training

ahead.may_fork = lambda: True
tj.manual_seed(0)
step = tj.compile(training(Cell()))
x, y = tj.randn(64, 20, 8), tj.randint(0, 8, (64,))
losses = [step(x, y).item() for _ in range(3)]
ahead.AHEAD.look()
used = {digest for digest, kernel in build._built.items() if not kernel.cached}
print(*losses, len(ahead.AHEAD._made & used), build.STORE.stats.hits)
"""


def test_a_first_call_finds_what_was_foreseen_and_computes_the_same(tmp_path: Path) -> None:
    ahead, alone = (
        [float(word) for word in run(FIRST_CALLS, tmp_path / name, **settings)]
        for name, settings in (("ahead", {}), ("alone", {"TRACEJIT_BUILD_WORKERS": "1"}))
    )
    assert ahead[:3] == alone[:3]
    # What the other process compiled was asked for here, and counts as compiled.
    used, hits = ahead[3:]
    assert used >= 1
    assert hits == 0
    assert alone[3:] == [0, 0]
