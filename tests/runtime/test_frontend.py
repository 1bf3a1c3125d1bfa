"""Kernel text on its way to LLVM: what a kernel asks of its loops arrives there and changes no bit."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tracejit.errors import KernelBuildError
from tracejit.runtime.build import build
from tracejit.runtime.team import launch

TEXT = """
def {name}(p, lo, hi):
{hint}    a = load_arg(p, 0)
    b = load_arg(p, 1)
    for j in range(lo, hi):
        store_f32_s(b, j, tanh_f32(load_f32_s(a, j, 0, 2)), 1, 2)
    return 0
"""


def divisions(name: str, hint: str) -> tuple[int, np.ndarray]:
    """Vector divisions in the kernel, of which each vector of a loop has one, and what it computes."""
    kernel = build(TEXT.format(name=name, hint=hint), name)
    x = np.linspace(-3, 3, 1003, dtype=np.float32)
    y = np.zeros_like(x)
    assert launch(kernel.address, x.size, 1.0, x, y) == 0
    return widest(kernel.llvm_text(), "float"), y


def widest(text: str, kind: str) -> int:
    """How many divisions of the widest vectors a turn has: what a loop leaves over may be done in narrower ones."""
    turns = [[int(width) for width in re.findall(rf"fdiv <(\d+) x {kind}>", part)] for part in text.split("\n\n")]
    most = max(map(max, filter(None, turns)), default=0)
    return max(turn.count(most) for turn in turns)


def test_interleaved_loops_have_more_vectors_and_the_same_bits() -> None:
    plain, expected = divisions("hintless", "")
    wide, found = divisions("hinted", "    interleave(4)\n")
    assert plain >= 1
    assert wide >= 4 * plain
    assert found.tobytes() == expected.tobytes()


def test_the_number_of_vectors_is_a_literal() -> None:
    with pytest.raises(KernelBuildError, match="interleave"):
        build(TEXT.format(name="open_hint", hint="    interleave(hi)\n"), "open_hint")


TWO_LOOPS = """
def {name}(p, lo, hi):
    x, y = load_arg(p, 0), load_arg(p, 1)
    for i in range(lo, hi):
{first}        store_f32_s(y, i, tanh_f32(load_f32_s(x, i, 0, 2)), 1, 2)
    for i in range(lo, hi):
{second}        store_f64_s(y, i, tanh_f64(load_f64_s(x, i, 0, 2)), 1, 2)
    return 0
"""


def test_a_wish_for_vectors_counts_in_its_own_loop_only() -> None:
    found = {}
    for name, first, second in (("neither", "", ""), ("first", "interleave(4)", ""), ("second", "", "interleave(4)")):
        lines = {key: f"        {line}\n" if line else "" for key, line in (("first", first), ("second", second))}
        text = build(TWO_LOOPS.format(name=name, **lines), name).llvm_text()
        found[name] = [widest(text, kind) for kind in ("float", "double")]
    floats, doubles = found["neither"]
    assert found["first"][0] >= 4 * floats
    assert found["first"][1] == doubles
    assert found["second"][0] == floats
    assert found["second"][1] >= 4 * doubles
