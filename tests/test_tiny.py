"""The README, run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_has_code() -> None:
    assert BLOCKS


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_code_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block stands alone; a comment `# prints ...` beside a print says what it must print."""
    block = BLOCKS[number]
    exec(compile(block, f"README block {number + 1}", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    for expected in re.findall(r"# prints (.*)", block):
        assert expected in printed
