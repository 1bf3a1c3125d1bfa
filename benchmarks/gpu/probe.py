"""Measures what a CUDA backend would stand on; prints a short table and writes all figures as JSON.

`python -m benchmarks.gpu.probe --out DIR` runs every section in a process of its own with a time limit, on the first
GPU. PyTorch, CuPy, numba-cuda and JAX are compared where they are installed. Further forms, for a machine without a
GPU and for a GPU's machine without this project's packages:

* `--build DIR` writes the PTX of all trial kernels and what tracejit's CPU kernels give for the numerical checks;
* `--built DIR` takes both from there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import start, wait

CAPABILITIES = (75, 80, 90)
# Name and seconds; the first two run while PyTorch's compiler fills its cache in another process.
SECTIONS = {
    "numerics": 25, "compiling": 45, "ceilings": 35, "launching": 25, "graphs": 25, "streaming": 60, "optimizers": 35,
    "training": 110,
}  # fmt: skip
BESIDE_WARMING = ("numerics", "compiling")
WARMING_SECONDS = 60
COMPILED = ("peers", "sections.training", "sections.optimizers")


def build(folder: Path) -> None:
    """Writes what a machine without this project's packages needs."""
    print(_module("library").write_all(folder, CAPABILITIES))
    expected = _module("sections.numerics").expected_of_formulas()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1), encoding="utf-8")


def _module(name: str) -> Any:
    """A module that only some forms need: one of them runs where tracejit cannot be imported."""
    return importlib.import_module(f"benchmarks.gpu.{name}")


def _capability() -> int:
    """The newest that the trial kernels are compiled for and the device has."""
    major, minor = importlib.import_module("torch").cuda.get_device_capability()
    return max(capability for capability in CAPABILITIES if capability <= 10 * major + minor)


def _source_of_ptx(built: Path | None, capability: int) -> Callable[[str], str]:
    if built is not None:
        return lambda name: (built / str(capability) / f"{name}.ptx").read_text(encoding="ascii")
    library = _module("library")
    return lambda name: str(library.ptx(name, capability))


def run_section(name: str, out: Path, built: Path | None) -> None:
    """Runs one section in this process."""
    module = _module(f"sections.{name}")
    capability = _capability()
    session = _module("session").Session(name, out, capability, _source_of_ptx(built, capability))
    start = time.perf_counter()
    if name == "numerics" and built is not None:
        module.run(session, built / "expected.json")
    else:
        module.run(session)
    session.note("seconds", time.perf_counter() - start)


def warm() -> None:
    """Fills the cache of PyTorch's compiler."""
    for name in COMPILED:
        _module(name).compile_all()


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    return start("benchmarks.gpu.probe", arguments, log, {"CUDA_CACHE_DISABLE": "1"})


def collect(out: Path, outcomes: dict[str, str]) -> dict[str, Any]:
    """All figures that the sections noted."""
    found: dict[str, Any] = {"outcomes": outcomes}
    for file in sorted(out.glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines()
        found[file.stem] = dict(json.loads(line) for line in lines)
    return found


def table(found: dict[str, Any]) -> str:
    """The figures, one a line, floats shortened."""

    def short(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, dict):
            return ", ".join(f"{key} {short(inner)}" for key, inner in value.items())
        return str(value)

    lines = []
    for section, figures in found.items():
        lines.append(f"== {section}")
        lines += [f"{name}: {short(value)}" for name, value in figures.items()]
    return "\n".join(lines)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-probe"))
    parser.add_argument("--build", type=Path)
    parser.add_argument("--built", type=Path)
    parser.add_argument("--only", nargs="*", choices=SECTIONS)
    parser.add_argument("--seconds", type=float, default=600.0, help="what is not done by then is left out")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        build(options.build)
        return
    if options.warm:
        warm()
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.section is not None:
        run_section(options.section, options.out, options.built)
        return
    built = [] if options.built is None else ["--built", str(options.built)]
    wanted = options.only or list(SECTIONS)
    needs_warming = bool({"streaming", "optimizers", "training"} & set(wanted))
    warming = _start(["--warm"], options.out / "warming.log") if needs_warming else None
    begin = time.monotonic()
    outcomes: dict[str, str] = {}
    for name in wanted:
        if warming is not None and name not in BESIDE_WARMING:
            outcomes["warming"] = wait(warming, max(1.0, begin + WARMING_SECONDS - time.monotonic()))
            warming = None
        left = begin + options.seconds - time.monotonic()
        print(f"{time.monotonic() - begin:.0f} s: {name}", flush=True)
        if left < 1.0:
            outcomes[name] = "left out"
            continue
        arguments = ["--section", name, "--out", str(options.out), *built]
        outcomes[name] = wait(_start(arguments, options.out / f"{name}.log"), min(left, SECTIONS[name]))
        (options.out / "probe.json").write_text(json.dumps(collect(options.out, outcomes), indent=1), encoding="utf-8")
    print(table(collect(options.out, outcomes)))


if __name__ == "__main__":
    main()
