"""The demo on a few steps, and its promise: compiled training equals eager training bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import tracejit as tj
from tracejit.tools.demo import __main__ as demo
from tracejit.tools.demo import digits
from tracejit.tools.demo.models import MODELS
from tracejit.tools.demo.training import BATCH, RECIPES, Run, make_step, same_bits, train

STEPS = 40


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = tj.get_num_threads()
    yield
    tj.set_num_threads(before)


def run(name: str, *, compiled: bool, threads: int) -> Run:
    tj.set_num_threads(threads)
    return train(MODELS[name], RECIPES[name], digits.load(), compiled=compiled, quiet=True, steps=STEPS)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_equals_eager_bit_for_bit(name: str) -> None:
    """Losses, parameters and the optimizer's state, with dropout; tests/trace/test_models.py does so at length."""
    eager = run(name, compiled=False, threads=2)
    assert len(eager.losses) == STEPS
    assert any(key.startswith("opt.") for key in eager.state)
    assert np.mean(eager.losses[-5:]) < np.mean(eager.losses[:5])
    for threads in (1, 2):
        assert same_bits(eager, run(name, compiled=True, threads=threads)), f"{threads} threads"


@pytest.mark.parametrize("name", MODELS)
def test_one_program_holds_the_whole_step(name: str) -> None:
    """Forward, backward and optimizer; nothing runs eagerly; every kernel shows its text."""
    tj.manual_seed(0)
    model = MODELS[name]()
    step = tj.compile(make_step(model, tj.optim.Adam(model.parameters())))
    for x, y in islice(digits.load().batches(1, BATCH, 0), 5):
        step(tj.from_numpy(x), tj.from_numpy(y))
    account = tj.explain(step)
    assert len(account.programs) == 1
    assert account.eager == []
    assert account.calls["followed"] == 3
    assert account.calls["side exits"] == account.calls["other sizes"] == account.calls["eager"] == 0
    units = account.programs[0]["units"]
    assert "cross_entropy" in units
    assert "backward" in units
    assert "adam" in units
    for kernel in account.kernels:
        assert "def " in account.kernel(kernel["name"])


def test_a_different_bit_is_noticed() -> None:
    run = Run(losses=[1.0], state={"w": np.float32([1.0])})
    assert same_bits(run, Run(losses=[1.0], state={"w": np.float32([1.0])}))
    assert not same_bits(run, Run(losses=[1.0 + 2**-52], state={"w": np.float32([1.0])}))
    assert not same_bits(run, Run(losses=[1.0], state={"w": np.nextafter(np.float32([1.0]), np.float32(2))}))
    assert not same_bits(run, Run(losses=[1.0]))


def test_demo_prints_its_table_and_saves_the_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--models", "mlp", "--epochs", "1", "--quiet", "--threads", "1", "--out", str(tmp_path)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mlp"))
    assert row.endswith("yes")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--models", "rnn"], ["--threads", "-1"]])
def test_wrong_use(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        demo.main(wrong)
    assert left.value.code == 2
    assert wrong[0] in capsys.readouterr().err
