"""Matrix products as GPU kernels: the CPU's bits, for all layouts, sizes and types."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda.running import check, kernels_of
from tests.programs import graph_of, make
from tracejit.runtime import ptx

RNG = np.random.default_rng(17)


def matrix(*shape: int, kind: str = "float32") -> np.ndarray:
    values = RNG.standard_normal(shape) * (1 if kind.startswith("float") else 30)
    return np.abs(values).astype(kind) if kind == "uint8" else values.astype(kind)


SIZES = [(3, 16, 5), (65, 33, 70), (5, 1, 3)]


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "uint8"])
def test_products(kind: str) -> None:
    for m, k, n in SIZES if kind == "float32" else [(18, 17, 9)]:
        arrays = [matrix(m, k, kind=kind), matrix(k, n, kind=kind)]
        execution = check(graph_of(lambda a, b: make("matmul", a, b), *arrays), arrays)
        assert any("matmul" in kernel.name for kernel in execution.kernels) or k == 1


def test_layouts() -> None:
    a, b = matrix(20, 17), matrix(17, 21)
    for left in (a, np.asfortranarray(a), matrix(40, 34)[::2, 1::2], matrix(20, 17)[::-1]):
        for right in (b, np.asfortranarray(b)):
            check(graph_of(lambda a, b: make("matmul", a, b), left, right), [left, right])


def test_batches() -> None:
    a, b = matrix(3, 20, 17), matrix(3, 17, 9)
    check(graph_of(lambda a, b: make("matmul", a, b), a, b), [a, b])
    check(
        graph_of(lambda a, b: make("matmul", a, make("permute", b, dims=(0, 2, 1))), a, matrix(3, 9, 17)),
        [a, b.transpose(0, 2, 1).copy()],
    )


def test_a_product_is_added_to_what_was_there() -> None:
    arrays = [matrix(30, 20), matrix(20, 40), matrix(30, 40)]
    graph = graph_of(lambda a, b, c: make("matmul_add", a, b, c), *arrays)
    check(graph, arrays)


def test_ptx() -> None:
    for kind, capabilities in (("float32", ptx.CAPABILITIES), ("float64", (90,))):
        (kernel,) = kernels_of(
            graph_of(lambda a, b: make("matmul", a, b), matrix(65, 20, kind=kind), matrix(20, 65, kind=kind)),
            library=True,
        )
        assert (kernel.blocks, kernel.threads) == (4, 256)
        for capability in capabilities:
            text = ptx.translate(kernel, capability)
            assert ".local" not in text
            assert ".extern" not in text
            # Four rows and four columns of a step are a vector each, or two.
            assert re.search(r"ld\.shared\.v4\.b32" if kind == "float32" else r"ld\.shared\.v2\.b64", text)
            # 16 steps of 16 chains, and once more for the rest.
            assert text.count(f"fma.rn.f{8 * np.dtype(kind).itemsize}") == 16 * 17
