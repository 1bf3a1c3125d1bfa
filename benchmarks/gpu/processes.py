"""Sections of a script as processes of their own, with time limits: what one finds or breaks is not the others'.

In: a module, its arguments. Out: how it ended. Must not know: what a section does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def start(module: str, arguments: list[str], log: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a module in a process group of its own; what it prints goes to a file."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(settings)
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """Waits; ends the process and its children at the limit."""
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"ended after {limit:.0f} s"
    return "done" if status == 0 else f"status {status}"
