"""The benchmark's table in a Markdown page, between two marks that stand there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracejit.tools import table
from tracejit.tools.bench.report import PEERS, of_floor, problems, ratio, target

START, END = "<!-- table: tracejit bench --write -->", "<!-- end of the table -->"
Result = Mapping[str, Any]


def markdown(result: Result) -> str:
    """The table and what belongs to it: the machine, its best rates, what differs or failed."""
    workloads = result["workloads"]
    columns = [f for f in ("eager", "compiled", *PEERS) if any(f in w["frameworks"] for w in workloads.values())]
    order = sorted(workloads, key=lambda name: ratio(workloads[name]["frameworks"]) or float("inf"))
    head = ["workload", *columns, "against the best peer", "target", "of the floor", "MiB (PyTorch)", "cold", "warm"]
    lines = [_machine(result), "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(workloads[name], columns)) for name in order]
    return "\n".join([*lines, *(["", *(f"* {problem}" for problem in problems(result))] if problems(result) else [])])


def _machine(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rates = result["rates"]
    return (
        f"{result['threads']} threads of an {result['machine']['processor']}; {versions}. Medians of "
        f"{result['rounds']} rounds ± half the interquartile range. The machine's best, measured in the same run: "
        f"{rates['gflops']:.0f} "
        f"GFLOP/s (float32); copy {rates['copy_4M']:.0f}, triad {rates['triad_4M']:.0f} GB/s with arrays of 16 MiB, "
        f"{rates['copy_32M']:.0f} and {rates['triad_32M']:.0f} GB/s with 128 MiB."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(workload: Result, columns: list[str]) -> list[str]:
    frameworks = workload["frameworks"]
    compiled = frameworks.get("compiled", {})
    times = ratio(frameworks)
    ours, theirs = (frameworks.get(name, {}).get("step_mib") for name in ("compiled", "torch"))
    return [
        workload["about"],
        *(_time(frameworks.get(column)) for column in columns),
        "-" if times is None else f"**{times:.2f}x**" if times < 1 else f"{times:.2f}x",
        target(workload),
        of_floor(workload),
        "-" if ours is None or theirs is None else f"{ours:.0f} ({theirs:.0f})",
        *(table.seconds(compiled[key]) if key in compiled else "-" for key in ("cold", "warm")),
    ]


def _time(found: Result | None) -> str:
    if found is None or "median" not in found:
        return "-" if found is None else "failed"
    spread = (found["high"] - found["low"]) / (2 * found["median"])
    return table.seconds(found["median"]) + (f" ±{spread:.0%}" if spread >= 0.1 else "")


def write(result: Result, file: Path) -> None:
    """Put the table into a page.

    Raises: ValueError if the page lacks the marks.
    """
    text = file.read_text()
    if text.count(START) != 1 or END not in text.split(START)[1]:
        raise ValueError(f"{file} has no place for the table: {START} ... {END}")
    before, rest = text.split(START)
    file.write_text(f"{before}{START}\n{markdown(result)}\n{END}{rest.split(END, 1)[1]}")
