"""The benchmark runner, on workloads that need nothing but NumPy, and its report on made-up figures."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tracejit.runtime.build import build
from tracejit.runtime.team import launch
from tracejit.tools.bench import page, report, roofline, runner
from tracejit.tools.bench.command import select
from tracejit.tools.bench.equality import bit_difference, far_difference

WORKLOADS = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Work:
    flops: float = 1e6
    nbytes: float = 4e6
    way: str = "triad"

@dataclass(frozen=True)
class Workload:
    name: str
    about: str = "sum"
    frameworks: tuple = ("eager", "compiled")
    calls: int = 1
    random: bool = False
    tolerance: float = 1e-6
    work: Work = Work()

WORKLOADS = {name: Workload(name) for name in ("right", "wrong", "broken")}
"""

BUILDS = """
import time
from types import SimpleNamespace
import numpy as np

def set_threads(count):
    assert count == 1

def versions():
    return {"fake": "1"}

def build(name, compiled, deterministic):
    print("noise that must not reach the pipe")
    if name == "broken" and compiled:
        raise ValueError("cannot build")
    offset = 2.0**-20 if name == "wrong" and compiled else 0.0
    def step():
        time.sleep(0.001 if compiled else 0.004)
        return np.float32(1.0 + offset)
    return SimpleNamespace(step=step, value=np.asarray, state=dict, counts=lambda: {"kernels": 3, "launches": 5})
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("suite") / "fake_benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "workloads.py").write_text(WORKLOADS)
    (folder / "in_tracejit.py").write_text(BUILDS)
    workloads = list(runner.load_workloads(folder).values())
    plan = runner.Plan(folder, workloads, ("eager", "compiled"), threads=1, rounds=2, seconds=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "in_process", functools.cache(roofline.in_process))
        return runner.run(plan)


def test_workloads_aside_run_where_they_are_named() -> None:
    known = {"one": SimpleNamespace(), "two": SimpleNamespace(aside=True), "three": SimpleNamespace(aside=False)}
    one, two, three = known.values()
    assert select(known, None) == [one, three]
    assert select(known, ["two", "one"]) == [one, two]


def test_times_and_counts(result: dict[str, Any]) -> None:
    found = result["workloads"]["right"]["frameworks"]
    assert found["eager"]["median"] >= 0.004
    assert 0.001 <= found["compiled"]["median"] < found["eager"]["median"]
    assert (found["compiled"]["kernels"], found["compiled"]["launches"]) == (3, 5)
    assert "kernels" not in found["eager"]
    assert found["compiled"]["cold"] >= 0
    assert found["compiled"]["warm"] >= 0
    assert found["compiled"]["differs"] is None
    assert result["versions"]["fake"] == "1"


def test_whoever_measures_the_machine_is_ready_before_anybody_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its imports and compilers took both CPUs in the first rounds, and steps took twice their time."""
    said: list[str] = []
    answers = {
        "cold": {"seconds": [1e-3], "versions": {}},
        "info": {"step_mib": 1.0},
        "check": {},
    }

    class Child:
        def __init__(self, module: str, options: Any, threads: int, cache: Path) -> None:
            self.who = "meter" if module == roofline.MODULE else "framework"

        def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
            if command == "time":
                said.append(self.who)
            if command == "check":
                np.savez(arguments["file"], result=np.zeros(1))
            rates = {"gflops": 1.0, "copy": 1.0, "triad": 1.0}
            return answers.get(command) or (rates if self.who == "meter" else {"median": 1e-3})

        def close(self) -> None:
            said.append(f"{self.who} closed")

    monkeypatch.setattr(runner, "Process", Child)
    monkeypatch.setattr(roofline, "in_process", lambda threads: {"gflops": 1.0})
    workload = SimpleNamespace(name="one", about="", frameworks=("compiled",), calls=1, random=False, tolerance=0)
    runner.run(runner.Plan(Path(), [workload], ("compiled",), threads=1, rounds=2, seconds=0.0))
    assert said[0] == "meter"
    assert said.count("meter") == 3
    assert said.index("framework") > said.index("meter")
    assert said[-1] == "meter closed"


def test_the_floor_is_that_of_the_rounds(result: dict[str, Any]) -> None:
    found = result["workloads"]["right"]
    assert len(found["rates"]) == len(found["floors"]) == len(found["frameworks"]["compiled"]["rounds"]) == 2
    for rates, floor in zip(found["rates"], found["floors"], strict=True):
        assert set(rates) == {"gflops", "copy", "triad"}
        assert min(rates.values()) > 0.01
        assert floor == pytest.approx(max(1e-3 / rates["gflops"], 4e-3 / rates["triad"]))


def test_a_wrong_bit_is_found(result: dict[str, Any]) -> None:
    assert "6 of 6 elements differ" in result["workloads"]["wrong"]["frameworks"]["compiled"]["differs"]
    assert report.wrong(result)


def test_what_cannot_be_built_is_reported_and_the_rest_goes_on(result: dict[str, Any]) -> None:
    found = result["workloads"]["broken"]["frameworks"]
    assert found["compiled"]["error"] == "ValueError: cannot build"
    assert "median" in found["eager"]
    assert "broken: compiled failed: ValueError: cannot build" in report.text(result)


def test_the_result_is_json(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result)) == result


def figures(**medians: float) -> dict[str, Any]:
    frameworks = {
        name.replace("_", "-"): {"median": value, "low": value * 0.99, "high": value * 1.01, "cold": 0.0}
        for name, value in medians.items()
    }
    return {"about": "", "frameworks": frameworks}


def suite(**workloads: dict[str, Any]) -> dict[str, Any]:
    return {"machine": {"processor": "p"}, "threads": 2, "rounds": 7, "versions": {}, "workloads": workloads}


def test_losing_cases_come_first() -> None:
    made = suite(
        wins=figures(eager=4e-3, compiled=1e-3, torch=2e-3, torch_compile=3e-3),
        loses=figures(eager=4e-3, compiled=2e-3, torch=1e-3),
        alone=figures(eager=4e-3, compiled=2e-3),
    )
    lines = report.text(made).splitlines()
    assert lines[1] == "slower than a peer: loses"
    names = [line.split()[0] for line in lines if line.startswith(("wins", "loses", "alone"))]
    assert names == ["loses", "wins", "alone"]
    assert report.ratio(made["workloads"]["wins"]["frameworks"]) == 2.0
    assert not report.wrong(made)


@pytest.mark.parametrize(
    ("before", "now", "verdict", "slower"),
    [(1e-3, 1.2e-3, "slower", True), (1e-3, 0.8e-3, "faster", False), (1e-3, 1.03e-3, "same", False)],
)
def test_comparison(before: float, now: float, verdict: str, slower: bool) -> None:
    body, found = report.comparison(suite(mlp=figures(compiled=now)), suite(mlp=figures(compiled=before)))
    assert body.splitlines()[-1].endswith(verdict)
    assert found is slower


def test_comparison_does_not_trust_overlapping_ranges() -> None:
    noisy = figures(compiled=1.2e-3)
    noisy["frameworks"]["compiled"]["low"] = 0.9e-3
    body, slower = report.comparison(suite(mlp=noisy), suite(mlp=figures(compiled=1e-3)))
    assert body.splitlines()[-1].endswith("same")
    assert not slower


def test_bits() -> None:
    payload = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert bit_difference({"x": np.float32([np.nan])}, {"x": payload}) is None
    assert bit_difference({"x": np.float32([1])}, {"x": np.float64([1])}) == "x: float32(1,) and float64(1,)"
    assert bit_difference({"x": np.int64([1])}, {}) == "only one has x"
    assert bit_difference({"x": np.float32([1, 2])}, {"x": np.float32([1, 2])}) is None


def test_distance() -> None:
    near = {"result": np.float32([1.0]), "param.w": np.float32([5.0])}
    assert far_difference(near, {"result": np.float32([1.000001]), "param.w": np.float32([6.0])}, 1e-5) is None
    assert "nan" in str(far_difference(near, {"result": np.float32([np.nan])}, 1e-5))


def test_the_suite_of_this_repository_is_found() -> None:
    folder = runner.find_folder(Path(__file__).parent)
    assert folder is not None
    assert {"mlp-tiny", "mlp-small", "transformer-demo"} <= set(runner.load_workloads(folder))


def test_the_table_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    made = suite(wins=figures(eager=4e-3, compiled=1e-3, torch=2e-3) | {"target": 3.0, "floors": [5e-4]})
    made["workloads"]["wins"]["frameworks"]["compiled"]["rounds"] = [1e-3]
    made["rates"] = {"gflops": 100.0, "copy_4M": 20.0, "triad_4M": 21.0, "copy_32M": 10.0, "triad_32M": 11.0}
    file = tmp_path / "page.md"
    file.write_text(f"above\n{page.START}\nstale\n{page.END}\nbelow\n")
    for _ in range(2):
        page.write(made, file)
    text = file.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "stale" not in text
    assert "2.00x" in text
    assert "3x missed" in text
    assert "50%" in text
    file.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        page.write(made, file)


def test_rates_of_the_machine_are_measured() -> None:
    rates = roofline.in_process(1)
    assert set(rates) == {"gflops", "copy_4M", "triad_4M", "copy_32M", "triad_32M"}
    assert all(rate > 0.01 for rate in rates.values())


@pytest.mark.parametrize("what", roofline.WAYS)
def test_all_ways_of_moving_move_the_same(what: str) -> None:
    a, b = (np.random.default_rng(k).standard_normal(5003).astype(np.float32) for k in range(2))
    wanted = a if what == "copy" else a + np.float32(3) * b
    for kernel, text in roofline.WAYS[what][1].items():
        c = np.zeros_like(a)
        launch(build(text, kernel).address, len(c), 1.0, a, b, c)
        assert np.array_equal(c, wanted), kernel


def test_the_best_of_several_moments_counts() -> None:
    moments = [{"gflops": 2.0, "copy_4M": 1.0}, {"gflops": 1.0, "copy_4M": 3.0}]
    assert roofline.best(moments) == {"gflops": 2.0, "copy_4M": 3.0}
