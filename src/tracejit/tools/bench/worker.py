"""The process that runs one workload in one framework, as the runner tells it to over a pipe of JSON lines."""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tracejit.tools.bench.process import keep_to_cpus, serve

MODULES = {
    "eager": "in_tracejit",
    "compiled": "in_tracejit",
    "torch": "in_torch",
    "torch-compile": "in_torch",
    "jax": "in_jax",
}
MEMORY_STEPS = 8
MOST_STEPS = 5000
"""Steps of a round. Many more on one batch end among subnormal gradients, and only the fastest would get there."""
BLOCKS = 20
"""Parts of a round. Fast steps wait between them: slow moments of the machine shall meet them as they meet others."""
COMPILING = ("compiled", "torch-compile", "jax")


class Worker:
    """One workload in one framework; each method answers one command of the runner."""

    def __init__(self, folder: Path, framework: str, workload: str, threads: int) -> None:
        self.workload = workload
        self.compiled = framework in COMPILING
        start = time.perf_counter()
        sys.path.insert(0, str(folder.parent))
        self.module = importlib.import_module(f"{folder.name}.{MODULES[framework]}")
        self.module.set_threads(threads)
        self.import_seconds = time.perf_counter() - start
        self.base = _resident("VmRSS")
        self.calls = importlib.import_module(f"{folder.name}.workloads").WORKLOADS[workload].calls
        self.case: Any = None

    def cold(self, calls: int, limit: float) -> dict[str, Any]:
        """Build the case and make its first calls, each timed, until there are `calls` or `limit` seconds are over."""
        self.case = self.module.build(self.workload, self.compiled, False)
        seconds: list[float] = []
        begin = time.perf_counter()
        while len(seconds) < calls and (len(seconds) < 8 or time.perf_counter() - begin < limit):
            start = time.perf_counter()
            self.case.step()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "import": self.import_seconds, "versions": self.module.versions()}

    def check(self, steps: int, deterministic: bool, file: str) -> dict[str, Any]:
        """Make a fresh case, do some steps and keep every result and the final state as an npz file."""
        case = self.module.build(self.workload, self.compiled, deterministic)
        results = [case.value(case.step()) for _ in range(steps)]
        np.savez(file, result=np.stack(results), **case.state())
        return {}

    def time(self, seconds: float) -> dict[str, Any]:
        """Steps for about so many seconds; the median of a step, or of one of the calls that it repeats."""
        step, clock = self.case.step, time.perf_counter
        step()
        gc.collect()
        gc.disable()
        spent: list[float] = []
        begin = now = clock()
        for block in range(1, BLOCKS + 1):
            while len(spent) < block * MOST_STEPS // BLOCKS and (now < begin + seconds or len(spent) < 3):
                start = clock()
                step()
                now = clock()
                spent.append(now - start)
            while now < begin + seconds * block / BLOCKS:
                now = clock()  # Not asleep: a processor that wakes up is slow at first.
        gc.enable()
        return {"median": float(np.median(spent)) / self.calls, "steps": len(spent)}

    def info(self) -> dict[str, Any]:
        """Peak memory of the process, and how many kernels and launches a step has.

        `step_mib` is what steps need at their peak, and what building left behind, beyond the imported framework.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "peak_mib": round(peak, 1),
            "step_mib": self._step_memory(),
            **(self.case.counts() if self.compiled else {}),
        }

    def _step_memory(self) -> float | None:
        gc.collect()
        # What the compilers gave back to malloc is no memory of the step.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        for _ in range(MEMORY_STEPS):
            self.case.step()
        peak = _resident("VmHWM")
        return None if peak is None or self.base is None else round(peak - self.base, 1)


def _resident(field: str) -> float | None:
    """The memory that is in RAM now (VmRSS) or was at most since the mark was set back (VmHWM), in MiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def main() -> None:
    """Take the place of the runner's child: nothing that a framework prints may reach the pipe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--framework", choices=MODULES, required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_to_cpus(chosen.threads)
    serve(Worker(chosen.folder, chosen.framework, chosen.workload, chosen.threads), sys.stdin, answers)


if __name__ == "__main__":
    main()
