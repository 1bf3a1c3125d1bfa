"""The table in docs/soundness.md says what the programs show."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from harness import KINDS

HERE = Path(__file__).parent
TEXT = (HERE.parent.parent / "docs" / "soundness.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "`" in line.rsplit("|", 2)[1]]


def programs() -> dict[str, Any]:
    """All programs of the folder by name."""
    found: dict[str, Any] = {}
    for file in sorted(HERE.glob("test_*.py")):
        topic = getattr(importlib.import_module(file.stem), "topic", None)
        for name, program in topic.programs.items() if topic else ():
            assert name not in found
            found[name] = program
    return found


def test_every_row_says_what_its_programs_do():
    known = programs()
    assert len(ROWS) > 80
    for row in ROWS:
        *_, names, _ = row.split("|")
        shown = [known[name] for name in re.findall(r"`(\w+)`", names)]
        assert shown, row
        happens = [kind for kind in KINDS if any(p.how == kind and not p.known for p in shown)]
        if any(p.known for p in shown):
            happens.append("differs")
        assert f"| {', '.join(happens)} |" in row, row


def test_known_differences_are_in_the_limits():
    limits = TEXT.split("## Known limits")[1]
    for name, program in programs().items():
        if program.known:
            assert f"`{name}`" in limits


def test_there_are_enough_programs():
    assert len(programs()) >= 150
