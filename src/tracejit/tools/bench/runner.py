"""Runs workloads: cold start, comparison of results, interleaved timing, warm start."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracejit.tools import timing
from tracejit.tools.bench import report, roofline
from tracejit.tools.bench.equality import bit_difference, far_difference
from tracejit.tools.bench.process import Process, WorkerError

FRAMEWORKS = ("eager", "compiled", "torch", "torch-compile", "jax")
PACKAGES = {"torch": "torch", "torch-compile": "torch", "jax": "jax"}
WARM = ("compiled", "torch-compile")
CHECK_STEPS = 6
COLD_CALLS = 40
COLD_LIMIT = 15.0
PAUSE = 0.05
BUSY = 0.5
"""Load of the machine above which a warning is due."""
BETWEEN = 6
"""Workloads after which the machine's best rates are measured again: a slow moment shall not pass for its best."""
MACHINE = "machine"
"""Who takes a turn among the frameworks, to show what could be done in these moments."""


@dataclass(frozen=True)
class Plan:
    """What to run and how."""

    folder: Path
    workloads: Sequence[Any]
    frameworks: Sequence[str]
    threads: int
    rounds: int
    seconds: float
    say: Callable[[str], None] = field(default=lambda line: None)


def find_folder(start: Path) -> Path | None:
    """The nearest folder `benchmarks` with workloads, looking from `start` upwards."""
    for folder in (start, *start.parents):
        if (folder / "benchmarks" / "workloads.py").is_file():
            return folder / "benchmarks"
    return None


def load_workloads(folder: Path) -> dict[str, Any]:
    """The table WORKLOADS of `folder`/workloads.py, by name."""
    sys.path.insert(0, str(folder.parent))
    try:
        return dict(importlib.import_module(f"{folder.name}.workloads").WORKLOADS)
    finally:
        sys.path.remove(str(folder.parent))


def installed(framework: str) -> bool:
    """Whether the package that a framework needs is there."""
    return framework not in PACKAGES or importlib.util.find_spec(PACKAGES[framework]) is not None


def run(plan: Plan) -> dict[str, Any]:
    """Run every workload of the plan; the result is what the JSON file holds."""
    versions: dict[str, str] = {}
    results = {}
    facts = machine()
    if facts["load"] > BUSY:
        plan.say(f"the machine is busy (load {facts['load']}): expect wrong figures, above all for spinning threads")
    plan.say("measuring what the machine can do at best")
    moments = [roofline.in_process(plan.threads)]
    with tempfile.TemporaryDirectory(prefix="tracejit-bench-") as cache:
        meter = _start_meter(plan.threads, Path(cache))
        try:
            for done, workload in enumerate(plan.workloads, 1):
                frameworks = [f for f in plan.frameworks if f in workload.frameworks and installed(f)]
                with tempfile.TemporaryDirectory(prefix="tracejit-bench-") as scratch:
                    found = _Session(plan, workload, frameworks, Path(scratch), versions, meter).run()
                results[workload.name] = found | _expectations(workload, found)
                plan.say(report.line(workload.name, results[workload.name]))
                if done % BETWEEN == 0 or done == len(plan.workloads):
                    moments.append(roofline.in_process(plan.threads))
        finally:
            meter.close()
    rates = roofline.best(moments)
    return {
        "machine": facts,
        "rates": rates,
        "threads": plan.threads,
        "rounds": plan.rounds,
        "versions": {"python": platform.python_version(), **versions},
        "workloads": results,
    }


def _start_meter(threads: int, cache: Path) -> Process:
    """The process that measures the machine in each round, once it has imported and compiled what it needs.

    That takes both CPUs for a second or two, in which nobody else may be timed.
    """
    meter = Process(roofline.MODULE, ["--serve"], threads, cache)
    try:
        meter.ask("time")
    except WorkerError:
        meter.close()
        raise
    return meter


def _expectations(workload: Any, result: dict[str, Any]) -> dict[str, Any]:
    """A workload's floor in seconds in each of the rounds that it ran in, and its target, where it has them."""
    work, target = getattr(workload, "work", None), getattr(workload, "target", None)
    floors = [roofline.floor(work.flops, work.nbytes, rates, work.way) for rates in result["rates"] if work is not None]
    return ({"floors": floors} if floors else {}) | ({} if target is None else {"target": target})


def machine() -> dict[str, Any]:
    """The processor, the system and its load as the run begins: what the numbers belong to."""
    processor = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        names = [line.split(":", 1)[1].strip() for line in facts.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {"processor": processor, "system": platform.platform(), "load": round(os.getloadavg()[0], 2)}


class _Session:
    """One workload: a process for each framework, alive until all rounds are done."""

    def __init__(
        self,
        plan: Plan,
        workload: Any,
        frameworks: Sequence[str],
        scratch: Path,
        versions: dict[str, str],
        meter: Process,
    ) -> None:
        self.plan = plan
        self.workload = workload
        self.scratch = scratch
        self.versions = versions
        self.meter = meter
        self.found: dict[str, dict[str, Any]] = {framework: {} for framework in frameworks}
        self.live: dict[str, Process] = {}
        self.rates: list[dict[str, float]] = []

    def run(self) -> dict[str, Any]:
        try:
            for framework in self.found:
                self._attempt(framework, self._cold)
            self._compare()
            self._rounds()
            for framework in list(self.live):
                self._attempt(framework, lambda f: self.found[f].update(self.live[f].ask("info")))
        finally:
            for process in self.live.values():
                process.close()
        for framework in WARM:
            if framework in self.live:
                self._attempt(framework, self._warm)
        self._settle()
        return {"about": self.workload.about, "frameworks": self.found, "rates": self.rates}

    def _attempt(self, framework: str, action: Callable[[str], Any]) -> None:
        """Do something with a framework; if it fails, say so in the result and leave the framework out from there."""
        try:
            action(framework)
        except WorkerError as error:
            self.found[framework]["error"] = str(error)
            self.plan.say(f"{self.workload.name}: {framework} failed: {error}")
            gone = self.live.pop(framework, None)
            if gone is not None:
                gone.close()

    def _start(self, framework: str) -> Process:
        options = ["--folder", str(self.plan.folder), "--framework", framework, "--workload", self.workload.name]
        return Process("tracejit.tools.bench.worker", options, self.plan.threads, self._cache(framework))

    def _cache(self, name: str) -> Path:
        cache = self.scratch / name
        cache.mkdir(exist_ok=True)
        return cache

    def _cold(self, framework: str) -> None:
        self.plan.say(f"{self.workload.name}: {framework}: cold start")
        self.live[framework] = self._start(framework)
        answer = self.live[framework].ask("cold", calls=COLD_CALLS, limit=COLD_LIMIT)
        self.versions.update(answer["versions"])
        self.found[framework]["first_calls"] = answer["seconds"]

    def _warm(self, framework: str) -> None:
        process = self._start(framework)
        try:
            self.found[framework]["warm_calls"] = process.ask("cold", calls=COLD_CALLS, limit=COLD_LIMIT)["seconds"]
            # The memory of steps, without what a compiler touched before.
            self.found[framework]["step_mib"] = process.ask("info")["step_mib"]
        finally:
            process.close()

    def _states(self, deterministic: bool) -> dict[str, dict[str, Any]]:
        """The state that each live framework reaches after some steps from the same start."""
        states = {}

        def ask(framework: str) -> None:
            file = self.scratch / f"{framework}.npz"
            self.live[framework].ask("check", steps=CHECK_STEPS, deterministic=deterministic, file=str(file))
            with np.load(file) as arrays:
                states[framework] = dict(arrays)

        for framework in list(self.live):
            if deterministic or framework in ("eager", "compiled"):
                self._attempt(framework, ask)
        return states

    def _compare(self) -> None:
        """Note for each framework whether its results are right; timing goes on either way, the report says so."""
        self.plan.say(f"{self.workload.name}: comparing results")
        states = self._states(deterministic=True)
        exact = self._states(deterministic=False) if self.workload.random else states
        if "eager" in exact and "compiled" in exact:
            self.found["compiled"]["differs"] = bit_difference(exact["eager"], exact["compiled"])
        reference = next((f for f in ("eager", "compiled") if f in states), None)
        for framework in states:
            if reference and framework in PACKAGES:
                self.found[framework]["differs"] = far_difference(
                    states[framework], states[reference], self.workload.tolerance
                )

    def _rounds(self) -> None:
        """Time every framework, and the machine, once a round, each time starting with another one."""
        medians: dict[str, list[float]] = {framework: [] for framework in self.live}

        def take(framework: str) -> None:
            medians[framework].append(self.live[framework].ask("time", seconds=self.plan.seconds)["median"])

        for number in range(self.plan.rounds):
            self.plan.say(f"{self.workload.name}: round {number + 1} of {self.plan.rounds}")
            order = [*self.live, MACHINE]
            shift = number % len(order)
            for name in order[shift:] + order[:shift]:
                # Threads of the previous framework may still be spinning.
                time.sleep(PAUSE)
                if name == MACHINE:
                    self.rates.append(self.meter.ask("time"))
                else:
                    self._attempt(name, take)
        for framework in self.live:
            rounds = medians[framework]
            quarters = statistics.quantiles(rounds, n=4, method="inclusive") if len(rounds) > 1 else rounds * 3
            self.found[framework].update(median=quarters[1], low=quarters[0], high=quarters[2], rounds=rounds)

    def _settle(self) -> None:
        """Turn the first calls into cold and warm seconds, and say after how many steps compiling has paid."""
        for found in self.found.values():
            first, warm = found.pop("first_calls", None), found.pop("warm_calls", None)
            if "median" in found:
                pace = found["median"] * self.workload.calls
                found["cold"] = timing.cold_seconds(first, pace)
                if warm is not None:
                    found["warm"] = timing.cold_seconds(warm, pace)
        eager, compiled = self.found.get("eager", {}), self.found.get("compiled", {})
        if "median" in eager and "median" in compiled:
            compiled["break_even"] = timing.break_even(
                eager["median"], eager["cold"], compiled["median"], compiled["cold"]
            )
