"""Operands that lie across their rows go through shared memory in tiles, with the bits of eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda.running import check, kernels_of
from tests.programs import graph_of, make
from tracejit.ir.node import Node
from tracejit.runtime import ptx

SIZES = [(1, 5), (32, 32), (33, 65)]


def _turned(x: Node) -> Node:
    return make("permute", x, dims=(1, 0))


def _in_the_middle(x: Node, y: Node) -> Node:
    n, m = x.shape
    first = make("expand", make("reshape", x, shape=(1, n, m, 1)), shape=(2, n, m, 3))
    turned = make("permute", first, dims=(0, 2, 3, 1))
    return make("add", turned, turned)


CASES: dict[str, Any] = {
    "transposed": lambda x, y: make("copy", _turned(x)),
    "beside a straight operand": lambda x, y: make("add", y, _turned(x)),
    "twice": lambda x, y: make("sub", make("mul", _turned(x), _turned(make("flip", x, dims=(1,)))), y),
    "flipped": lambda x, y: make("add", _turned(make("flip", x, dims=(0,))), y),
    "in the middle": _in_the_middle,
}


@pytest.mark.parametrize("case", CASES)
def test_tiles_have_the_bits_of_eager(case: str) -> None:
    rng = np.random.default_rng(3)
    for n, m in SIZES:
        for kind in ("float32",) if (n, m) != (33, 65) else ("float32", "float64", "float16", "int32"):
            x, y = ((rng.standard_normal(shape) * 50).astype(kind) for shape in ((n, m), (m, n)))
            check(graph_of(CASES[case], x, y), [x, y])


def test_what_lies_across_is_read_and_written_along_memory() -> None:
    x, y = np.ones((64, 96), np.float32), np.ones((96, 64), np.float32)
    (kernel,) = kernels_of(graph_of(CASES["beside a straight operand"], x, y))
    text = ptx.translate(kernel, 90)
    assert text.count("st.shared") == text.count("ld.shared") == 4
    assert ".local" not in text
    assert (kernel.blocks, kernel.threads) == (6, 256)
