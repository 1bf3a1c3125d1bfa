"""The script for a GPU, without one: its kernels against PyTorch, its sections on the stand-in, its table."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from benchmarks.gpu import suite, suite_models, suite_sections
from benchmarks.gpu.timed import Timed, timed
from tests.programs import run_eagerly
from tracejit.ops import ops

ROOT = Path(__file__).parents[1]
NAMES = [one.name for one in timed(True)]


@pytest.mark.parametrize("name", NAMES)
def test_graphs_compute_what_pytorch_does(name: str) -> None:
    torch = pytest.importorskip("torch")
    one = next(one for one in timed(True) if one.name == name)
    ours = run_eagerly(one.graph, list(one.arrays))
    tensors = [torch.from_numpy(a) for a in one.arrays]
    if name.startswith("Adam"):
        # Its moments begin at zero, and it changes what it is given.
        count = len(tensors) // 4
        zero = [np.zeros_like(a) for a in one.arrays[2 * count :]]
        moved = run_eagerly(one.graph, [*one.arrays[: 2 * count], *zero])
        assert len(ours) == 3 * count
        assert all(np.isfinite(x).all() for x in moved)
        return
    theirs = one.peer(torch)(*tensors)
    np.testing.assert_allclose(ours[0], theirs.numpy(), rtol=2e-5, atol=2e-5)


def test_full_sizes_fit_one_gpu() -> None:
    tiny, names = timed(True), {one.name.split()[0] for one in timed(True)}
    assert all(isinstance(one, Timed) and (one.nbytes or one.flops) for one in tiny)
    assert {
        "chain",
        "softmax",
        "layer",
        "cross-entropy",
        "sum",
        "column",
        "Adam",
        "matmul",
        "conv",
        "attention",
    } <= names


class Notes:
    """Keeps what a section notes."""

    tiny = True
    left = 1e9

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        """Keeps a figure."""
        if isinstance(value, dict):
            self.found.setdefault(name, {}).update(value)
        else:
            self.found[name] = value

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Lets everything through."""
        yield


def test_kernels_are_timed_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = [one for one in timed(True) if one.name in ("sum", "cross-entropy", "matmul 5 x 6 x 7")]
    monkeypatch.setattr(suite_sections, "timed", lambda tiny: few)
    for section in ("machine", "kernels"):
        suite_sections.run(section, tmp_path, 100.0, True)
    found = suite.collect(tmp_path, {"machine": "done", "kernels": "done"})
    assert found["machine"]["device"] == "PTX machine"
    assert set(found["kernels"]) == {"sum", "cross-entropy", "matmul 5 x 6 x 7"}
    for figures in found["kernels"].values():
        assert figures["us"] > 0
        assert figures["off"] < 1e-5
    assert not suite.failures(found)


def test_operations_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite_sections, "ops", [ops.add, ops.matmul, ops.max_pool2d, ops.uniform])
    suite_sections.run("checks", tmp_path, 100.0, True)
    found = suite.collect(tmp_path, {"checks": "done"})["checks"]
    assert found["checked"] >= 8
    assert found["no kernels for"] == []
    monkeypatch.setattr(
        suite_sections, "run_eagerly", lambda graph, arrays: [np.zeros(n.shape, n.dtype.np) for n in graph.outputs]
    )
    suite_sections.run("checks", tmp_path, 100.0, True)
    found = suite.collect(tmp_path, {"checks": "done"})
    assert any("differs from the CPU's" in line for line in suite.failures(found))


def test_training_steps_agree_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for name, kind in (("cnn-demo", "TF32"), ("mlp-tiny", "")):
        losses = [
            suite_models.Training(framework, name, "cpu", lambda f: f, whole, kind).losses()
            for framework, whole in ((tj, True), (torch, False))
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
    assert not tj.backends.cuda.matmul.allow_tf32


def test_models_need_tensors_on_a_gpu() -> None:
    notes = Notes()
    suite_models.run_models(notes, None)
    assert notes.found == ({"tensors on a GPU": "none"} if not tj.cuda.is_available() else notes.found)
    assert {name for name, _ in suite_models.KINDS} <= set(suite_models.WORKLOADS)


def test_a_section_that_fails_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kernels.jsonl"
    lines = [("sum", {"us": 2.0}), ("sum", {"torch": 3.0}), ("chain", {"wrong": "ValueError: no"})]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = suite.collect(tmp_path, {"kernels": "ended after 3 s"})
    assert suite.failures(found) == ["section kernels: ended after 3 s", "kernels: chain: ValueError: no"]
    shown = suite.table(found, {"kernels": "Traceback"})
    assert "sum: 1.50x | us 2, torch 3" in shown
    assert "Traceback" in shown
    assert suite.run(tmp_path, 0.0, True, ["machine"], tmp_path / "result.json") == 1
    assert json.loads((tmp_path / "result.json").read_text())["outcomes"] == {"machine": "left out, there was no time"}
    assert "left out" in capsys.readouterr().out


def test_the_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.suite", "--stand-in", "--only", "machine", "--out", str(tmp_path)]
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1:3] == ["== failures", "none"]
    assert "device: PTX machine" in done.stdout
