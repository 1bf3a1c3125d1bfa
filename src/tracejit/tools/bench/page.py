"""The benchmark's table in a Markdown page, between two marks that stand there."""

from __future__ import annotations

from pathlib import Path

from tracejit.tools.bench import report

START, END = "<!-- table: tracejit bench --write -->", "<!-- end of the table -->"


def markdown(result: report.Result) -> str:
    """The table of `report.text`, and what belongs to it, in Markdown."""
    header, rows = report.rows(result)
    lines = [header, ["---"] * len(header), *rows]
    grid = [f"| {' | '.join(cells)} |" for cells in lines]
    found = [f"* {problem}" for problem in report.problems(result)]
    return "\n".join([*(f"{line}  " for line in report.head(result)), "", *grid, *(["", *found] if found else [])])


def write(result: report.Result, file: Path) -> None:
    """Put the table into a page.

    Raises: ValueError if the page lacks the marks.
    """
    text = file.read_text()
    if text.count(START) != 1 or END not in text.split(START)[1]:
        raise ValueError(f"{file} has no place for the table: {START} ... {END}")
    before, rest = text.split(START)
    file.write_text(f"{before}{START}\n{markdown(result)}\n{END}{rest.split(END, 1)[1]}")
