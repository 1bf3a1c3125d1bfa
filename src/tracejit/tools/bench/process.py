"""A worker process: how the runner sees it, and how it answers over a pipe of JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TRACEJIT_NUM_THREADS")


class WorkerError(Exception):
    """A worker answered with an error or died."""


class Process:
    """A module at work in its own process with its own kernel caches, for instance one framework on one workload.

    `cache` is the folder for those caches: an empty one makes the first calls cold, a used one makes them warm.
    """

    def __init__(self, module: str, options: Sequence[str], threads: int, cache: Path) -> None:
        environment = os.environ | {name: str(threads) for name in THREAD_VARIABLES}
        environment |= {
            "TRACEJIT_CACHE_DIR": str(cache / "tracejit"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "JAX_PLATFORMS": "cpu",
        }
        # Installed packages have their bytecode beside them; so shall this one, also where it runs from its sources.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-m", module, *options, "--threads", str(threads)]
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self.child = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises: WorkerError when the command fails or the process is gone.
        """
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.child.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:] or ["no message"]
            raise WorkerError(f"exit code {self.child.returncode}: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        self.errors.close()


def keep_to_cpus(count: int) -> None:
    """Limit this process to the first so many of its CPUs, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def serve(worker: object, commands: TextIO, answers: TextIO) -> None:
    """Answer commands with a worker's methods until there are no more; a failed one is answered with its error."""
    for line in commands:
        request = json.loads(line)
        name = request.pop("command")
        try:
            answer = getattr(worker, name)(**request)
        except Exception as error:  # noqa: BLE001 - whatever a framework raises goes to the runner, which reports it
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
