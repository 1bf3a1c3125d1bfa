"""Checks what runs on a GPU against the CPU, and times it beside PyTorch: `make gpu`, or

    PYTHONPATH=src:. python -m benchmarks.gpu.suite

Each section is a process of its own with a time limit; what it finds is kept as it comes, so that neither a fault nor
a limit loses the rest. The table is printed last, the most important lines first; all figures go to
benchmarks/results/gpu-NAME.json. The exit status is 1 if a check failed or a section did not end well.

`--stand-in` runs the sections that need no PyTorch on a machine that has no GPU, on tiny sizes: the tests do it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import start, wait

RESULTS = Path(__file__).parents[1] / "results"
SECTIONS = {"machine": 20, "models": 170, "kernels": 170, "checks": 90}
"""Seconds of each."""
SECONDS = 470.0
_GRACE = 5.0
_SHOWN = 11_000
"""Characters of the table: more than that nobody may see."""


def _start(section: str, out: Path, seconds: float, stand_in: bool) -> subprocess.Popen[bytes]:
    arguments = ["--section", section, "--out", str(out), "--seconds", str(seconds)]
    arguments += ["--stand-in"] if stand_in else []
    return start("benchmarks.gpu.suite", arguments, out / f"{section}.log", {})


def collect(out: Path, outcomes: dict[str, str]) -> dict[str, Any]:
    """All figures that the sections noted."""
    found: dict[str, Any] = {"outcomes": outcomes}
    for section in SECTIONS:
        file = out / f"{section}.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            figures: dict[str, Any] = {}
            for line in lines:
                name, value = json.loads(line)
                # Figures of one name are noted one after another: ours, PyTorch's.
                if isinstance(value, dict) and isinstance(figures.get(name), dict):
                    figures[name] |= value
                else:
                    figures[name] = value
            found[section] = figures
    return found


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    return str(value)


def failures(found: dict[str, Any]) -> list[str]:
    """What went wrong, a line each."""
    lines = [f"section {name}: {outcome}" for name, outcome in found["outcomes"].items() if outcome != "done"]
    for section in SECTIONS:
        for name, value in found.get(section, {}).items():
            wrong = value.get("wrong") if isinstance(value, dict) else None
            if wrong:
                lines.append(f"{section}: {name}: {wrong}")
    return lines


def table(found: dict[str, Any], log_tails: dict[str, str]) -> str:
    """What to read: failures, then models and kernels with their ratio to the best of PyTorch, then the rest."""
    lines = ["== failures", *(failures(found) or ["none"])]
    for section, tail in log_tails.items():
        lines += [f"-- end of the log of {section}", tail]
    for section in ("models", "kernels"):
        lines.append(f"== {section}")
        for name, value in found.get(section, {}).items():
            lines.append(f"{name}: {_rated(value)}" if isinstance(value, dict) else f"{name}: {_short(value)}")
    for section in ("machine", "checks"):
        lines.append(f"== {section}")
        lines += [f"{name}: {_short(value)}" for name, value in found.get(section, {}).items()]
    return "\n".join(lines)[:_SHOWN]


def _rated(value: dict[str, Any]) -> str:
    """A figure with how many times faster it is than the best of the others."""
    peers = [v for key, v in value.items() if key.startswith("torch") and isinstance(v, float)]
    ours = value.get("us")
    ratio = f"{min(peers) / ours:.2f}x | " if peers and ours else ""
    return ratio + _short({key: v for key, v in value.items() if key != "wrong"})


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _target(found: dict[str, Any]) -> Path:
    name = str(found.get("machine", {}).get("device", "unknown"))
    return RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def _log_tail(out: Path, section: str) -> str:
    text = (out / f"{section}.log").read_text(encoding="utf-8", errors="replace")
    return text[-900:]


def run(out: Path, seconds: float, stand_in: bool, only: list[str], results: Path | None) -> int:
    """Runs the sections one after another; gives the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    outcomes: dict[str, str] = {}
    for section in only:
        (out / f"{section}.jsonl").unlink(missing_ok=True)
    for section in only:
        left = begin + seconds - time.monotonic()
        if left < _GRACE:
            outcomes[section] = "left out, there was no time"
            continue
        limit = min(left, SECTIONS[section])
        outcomes[section] = wait(_start(section, out, limit - _GRACE, stand_in), limit + _GRACE)
        found = collect(out, outcomes)
        _write(out / "suite.json", found)
        print(f"{time.monotonic() - begin:.0f} s: {section}: {outcomes[section]}", flush=True)
    found = collect(out, outcomes)
    if not stand_in or results is not None:
        _write(results or _target(found), found)
    tails = {name: _log_tail(out, name) for name, outcome in outcomes.items() if outcome.startswith("status")}
    print(table(found, tails))
    return 1 if failures(found) else 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-suite"))
    parser.add_argument("--results", type=Path, help="the JSON file; by default named after the device")
    parser.add_argument("--only", nargs="*", choices=SECTIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="what is not done by then is left out")
    parser.add_argument("--stand-in", action="store_true", help="tiny sizes on a machine without a GPU")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section is not None:
        # Only now: what a section needs may be what fails.
        importlib.import_module("benchmarks.gpu.suite_sections").run(
            options.section, options.out, options.seconds, options.stand_in
        )
        return 0
    return run(options.out, options.seconds, options.stand_in, options.only or list(SECTIONS), options.results)


if __name__ == "__main__":
    sys.exit(main())
