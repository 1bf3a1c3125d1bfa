"""Rows that no cache holds: the next row is asked for while one is computed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.programs import check, graph_of, make
from tracejit.compiler import compile_graph
from tracejit.ir.node import Node
from tracejit.runtime.build import build
from tracejit.runtime.team import launch
from tracejit.schedule import cost

RNG = np.random.default_rng(5)


def softmax(x: Node) -> Node:
    row = (*x.shape[:-1], 1)
    e = make("exp", make("sub", x, make("reshape", make("amax", x, dim=1), shape=row)))
    return make("div", e, make("reshape", make("sum", e, dim=1), shape=row))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", [1000, 64, cost.AHEAD + 1])
def test_large_rows_give_the_bits_of_small_ones(dtype: type, columns: int) -> None:
    rows = cost.AHEAD_BYTES // columns // 4 + 7
    x = RNG.standard_normal((rows, columns)).astype(dtype)
    check(graph_of(softmax, x), [x])


def test_what_is_read_and_what_is_written_is_asked_for() -> None:
    x, w = RNG.standard_normal((40, 300)).astype(np.float32), RNG.standard_normal(300).astype(np.float32)
    (kernel,) = compile_graph(graph_of(lambda x, w: softmax(make("mul", x, w)), x, w)).kernels
    asked = re.findall(r"prefetch_to_(\w+)\((\w+) ", kernel.text)
    assert [purpose for purpose, _ in asked] == ["read", "write"]
    loaded = re.findall(r"load_f32_s\((\w+), b\d+ \+ j", kernel.text)
    stored = re.findall(r"store_f32_s\((\w+), b\d+ \+ j", kernel.text)
    # What all rows share stays in the cache anyway.
    assert [pointer for _, pointer in asked] == [loaded[0], stored[0]]


def test_rows_that_only_are_folded_ask_for_nothing() -> None:
    x = RNG.standard_normal((40, 300)).astype(np.float32)
    (kernel,) = compile_graph(graph_of(lambda x: make("sum", x, dim=1), x)).kernels
    assert "prefetch" not in kernel.text


def test_asking_for_what_is_no_memory_does_nothing() -> None:
    text = "def asks(p, lo, hi):\n"
    text += "    for k in range(lo, hi):\n"
    text += "        prefetch_to_read(load_arg(p, 0) + (k << 40))\n"
    text += "        prefetch_to_write(load_arg(p, 0) - (k << 40))\n"
    text += "    return 0\n"
    kernel = build(text, "asks")
    assert "prefetch" in kernel.llvm_text()
    assert launch(kernel.address, 1000, 1.0, np.zeros(1)) == 0


@pytest.mark.parametrize("n", [cost.BLOCK * 3 + 5, cost.AHEAD_BYTES // 4 + 3 * cost.BLOCK + 1])
def test_blocks_of_a_long_row_ask_for_the_next_block(n: int) -> None:
    x = RNG.standard_normal(n).astype(np.float32)
    compiled = check(graph_of(lambda x: make("sum", make("exp", x), dim=0), x), [x])
    first = compiled.kernels[0].text
    assert re.findall(r"prefetch_to_(\w+)\(.*\+ (\d+) \+ k\)", first) == [("read", str(cost.BLOCK))]
