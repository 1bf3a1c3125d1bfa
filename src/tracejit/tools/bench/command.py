"""`tracejit bench`: its options, its files and its exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracejit.config import SETTINGS, thread_budget
from tracejit.tools.bench import page, report, runner


class UsageError(Exception):
    """The command cannot be carried out as given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tracejit bench`."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workloads (default: all but those aside)")
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    parser.add_argument(
        "--frameworks", nargs="+", choices=runner.FRAMEWORKS, default=list(runner.FRAMEWORKS), help="default: all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a Markdown page with its marks")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with an earlier --json FILE; 1 if slower")
    parser.add_argument("--threads", type=_positive, help="threads for every framework (default: all CPUs allowed)")
    parser.add_argument("--rounds", type=_positive, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--seconds", type=float, default=0.4, help="time of a framework in a round (default: 0.4)")
    parser.add_argument("--workloads", type=Path, metavar="DIR", help="folder of workloads (default: ./benchmarks)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _folder(chosen: Path | None) -> Path:
    if chosen is not None:
        if not (chosen / "workloads.py").is_file():
            raise UsageError(f"{chosen} has no workloads.py")
        return chosen.resolve()
    folder = runner.find_folder(Path.cwd()) or runner.find_folder(Path(__file__).resolve().parent)
    if folder is None:
        raise UsageError("there is no folder benchmarks/ here or above; name one with --workloads DIR")
    return folder


def _earlier(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None


def select(known: Mapping[str, Any], only: Sequence[str] | None) -> list[Any]:
    """The workloads that are named, or else all but those that stand aside."""
    return [w for name, w in known.items() if (name in only if only else not getattr(w, "aside", False))]


def run(chosen: argparse.Namespace) -> int:
    """Time the chosen workloads; 1 if results are wrong or --compare finds something slower.

    Raises: UsageError for an unknown workload or a file that cannot be read.
    """
    before = None if chosen.compare is None else _earlier(chosen.compare)
    folder = _folder(chosen.workloads)
    known = runner.load_workloads(folder)
    if chosen.list:
        width = max(map(len, known))
        print("\n".join(f"{name.ljust(width)}  {workload.about}" for name, workload in known.items()))
        return 0
    unknown = [name for name in chosen.only or () if name not in known]
    if unknown:
        raise UsageError(f"no workload {', '.join(unknown)}; there are {', '.join(known)}")
    for framework in chosen.frameworks:
        if not runner.installed(framework):
            print(f"{framework} is left out: {runner.PACKAGES[framework]} is not installed", file=sys.stderr)
    result = runner.run(
        runner.Plan(
            folder=folder,
            workloads=select(known, chosen.only),
            frameworks=chosen.frameworks,
            threads=chosen.threads or thread_budget(SETTINGS, os.environ),
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.write is not None:
        page.write(result, chosen.write)
    print(report.text(result))
    slower = False
    if before is not None:
        body, slower = report.comparison(result, before)
        print(f"\nagainst {chosen.compare}:\n{body}")
    return 1 if slower or report.wrong(result) else 0
