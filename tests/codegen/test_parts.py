"""Parts of one result that a kernel writes side by side."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.programs import check, graph_of, make
from tracejit.compiler import compile_graph
from tracejit.ir.node import Node

RNG = np.random.default_rng(11)


def side_by_side(x: Node, y: Node) -> Node:
    e = make("exp", x)
    return make("cat", make("mul", e, y), make("sub", e, y), make("add", e, y), dim=1)


def scopes(text: str) -> list[str]:
    return re.findall(r"store_\w+_s\(.*, (\d+), \d+\)", text)


def test_parts_that_do_not_overlap_are_made_of_vectors() -> None:
    x, y = (RNG.standard_normal((32, 128)).astype(np.float32) for _ in range(2))
    (kernel,) = compile_graph(graph_of(side_by_side, x, y)).kernels
    assert len(set(scopes(kernel.text))) == len(scopes(kernel.text)) == 3
    # No look at addresses decides between vectors and single elements.
    assert not re.search("memcheck|diff.check|conflict", kernel.kernel.llvm_text())


@pytest.mark.parametrize("shape", [(32, 128), (5, 1), (1, 7), (3, 33)])
@pytest.mark.parametrize("dim", [0, 1])
def test_parts_side_by_side_and_one_below_the_other(shape: tuple[int, int], dim: int) -> None:
    x, y = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    check(graph_of(lambda x, y: make("cat", make("mul", x, y), make("sub", x, y), dim=dim), x, y), [x, y])


@pytest.mark.parametrize("size", [(30, 100), (32, 128)])
def test_parts_that_cover_others_share_a_scope(size: tuple[int, int]) -> None:
    x, y = (RNG.standard_normal(shape).astype(np.float32) for shape in ((32, 128), size))
    covered = graph_of(lambda x, y: make("place", make("exp", x), make("neg", y), start=(0, 0), step=(1, 1)), x, y)
    check(covered, [x, y])
    for info in compile_graph(covered).kernels:
        assert set(scopes(info.text)) == {scopes(info.text)[0]}
