"""The command line: what it prints, its exit codes, and its answers to wrong use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracejit.cli import main
from tracejit.runtime import cache
from tracejit.tools import doctor

SCRIPT = """
import tracejit as tj

@tj.compile
def double(x):
    return x * 2 + 1

def plain(x):
    return x - 3

def maker():
    double(tj.ones(4))
    return double

def lost():
    return 5

number = 3

def example_inputs():
    return (tj.ones(8),)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "user_script.py"
    file.write_text(SCRIPT)
    return file


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("python", "numba", "llvmlite", "cpu", "features", "tiles", "threads", "cache", "gpu"):
        assert any(line.startswith(word) for line in printed.splitlines()), word
    assert printed.splitlines()[-1].split(maxsplit=1) == ["self-test", "one kernel built and run: ok"]


def test_doctor_finds_a_wrong_kernel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KERNEL", doctor.KERNEL.replace(" + ", " - "))
    assert main(["doctor"]) == 1
    assert "FAILED: element 0 is -1.0 instead of 1.0" in capsys.readouterr().out


def test_doctor_reports_a_kernel_that_cannot_be_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "KERNEL", "def other(p, lo, hi):\n    return 0\n")
    assert main(["doctor"]) == 1
    assert "FAILED: the kernel cannot be built" in capsys.readouterr().out


def test_cache_list_and_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = cache.Store(tmp_path, limit=1 << 20)
    store.put("00ff" * 16, "ew_add", "def ew_add(p, lo, hi): ...", b"code")
    monkeypatch.setattr(cache, "STORE", store)
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert "ew_add  00ff00ff00ff00ff" in listed
    assert "1 kernels" in listed
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 kernels")
    assert store.entries() == []


def test_bench_names_its_workloads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert main(["bench", "--list"]) == 0
    assert "mlp-tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--only", "nothing"], "no workload nothing; there are mlp-tiny"),
        (["bench", "--workloads", "/nowhere"], "/nowhere has no workloads.py"),
        (["bench", "--compare", "/nowhere.json"], "/nowhere.json: [Errno 2]"),
        (["explain", "no_colon"], "expected SCRIPT.py:FUNCTION, got 'no_colon'"),
        (["explain", "/nowhere.py:step"], "there is no file /nowhere.py"),
    ],
)
def test_wrong_use(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "user_script has no 'missing'; it has double, example_inputs, lost, maker, plain"),
        ("number", "number is int, not a function"),
        ("lost", "lost() returned int, not a compiled function"),
    ],
)
def test_explain_says_what_is_wrong(
    script: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", f"{script}:{name}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["double", "plain", "maker"])
def test_explain(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{script}:{name}"]) == 0
    shown = capsys.readouterr().out
    assert ("plain" if name == "plain" else "double") in shown


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["bench", "--threads", "0"], ["cache"]])
def test_usage_errors_leave_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: tracejit" in capsys.readouterr().err
