"""Matrix products as GPU kernels: the CPU's bits, for all layouts, sizes and types."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda.running import Execution, assert_same, check, kernels_of
from tests.programs import graph_of, make
from tracejit.dtypes import BY_NAME
from tracejit.eager import run_op
from tracejit.kernels.cuda import gemm, product
from tracejit.ops import ops
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
    check(graph_of(lambda a, b, c: make("matmul_add", c, a, b), *arrays), arrays)
    check(graph_of(lambda a, b, c: make("matmul_add", c, a, b, make("neg", a), b, a, b), *arrays), arrays)


@pytest.mark.parametrize("tile", [product.LARGE, product.MEDIUM, product.SMALL], ids=lambda tile: str(tile.side))
def test_tiles(tile: product.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "tile_for", lambda *args: tile)
    kind = "float16" if tile is product.SMALL else "float32"
    for m, k, n in ((130, 11, 3), (36, 20, 40)):
        left, right = matrix(m, k, kind=kind), matrix(k, n, kind=kind)
        check(graph_of(lambda a, b: make("matmul", a, b), left, right), [left, right])
    left = np.asfortranarray(left)
    check(graph_of(lambda a, b: make("matmul", a, b), left, right), [left, right])


def test_operands_that_begin_in_the_middle_of_a_vector() -> None:
    arrays = [matrix(36, 40), matrix(40, 64)]
    graph = graph_of(lambda a, b: make("matmul", a, b), *arrays)
    aligned, anywhere = (check(graph, arrays, vectors=vectors) for vectors in (True, False))
    assert aligned.kernels[0].promises
    assert not anywhere.kernels[0].promises


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_long_sums_are_added_up_in_parts(kind: str) -> None:
    arrays = [matrix(3, 600, kind=kind), matrix(600, 5, kind=kind)]
    graph = graph_of(lambda a, b: make("matmul", a, b), *arrays)
    execution = Execution(graph, arrays, (), True)
    (result,) = execution.run()
    assert [k.name.rpartition("_")[0] for k in execution.kernels][1] == f"cuda_add_parts_{BY_NAME[kind].short}"
    wide = "float32" if kind == "float16" else kind
    span = 304
    a, b = (x.astype(wide) for x in arrays)
    first, second = (one_by_one(a[:, i : i + span], b[i : i + span]) for i in (0, span))
    assert_same(result, (first + second).astype(kind), execution.kernels)


def one_by_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A product of one chain of multiply-adds for each element: the CPU's."""
    return np.asarray(run_op(ops.matmul, (np.ascontiguousarray(a), np.ascontiguousarray(b)), ()))


def test_parts_are_added_to_what_was_there() -> None:
    arrays = [matrix(3, 600), matrix(600, 5), matrix(3, 5)]
    graph = graph_of(lambda a, b, c: make("matmul_add", c, a, b), *arrays)
    sums = graph_of(lambda a, b, c: make("add", c, make("matmul", a, b)), *arrays)
    results = [Execution(g, arrays, (), True).run()[0] for g in (graph, sums)]
    assert_same(*results, [])


def test_ptx() -> None:
    for kind, capabilities in (("float32", ptx.CAPABILITIES), ("float64", (90,))):
        for size, tile in ((65, product.SMALL), (1500, product.LARGE if kind == "float32" else product.MEDIUM)):
            arrays = [np.empty((size, 20), kind), np.empty((20, size), kind)]
            (kernel,) = kernels_of(graph_of(lambda a, b: make("matmul", a, b), *arrays), library=True)
            assert (kernel.blocks, kernel.threads) == (product.tiles_of(tile, size, size), tile.threads)
            for capability in capabilities if size == 65 else (75,):
                text = ptx.translate(kernel, capability)
                assert ".local" not in text
                assert ".extern" not in text
                # Four adjacent rows and columns of a step are a vector each, or two.
                assert re.search(r"ld\.shared\.v4\.b32" if kind == "float32" else r"ld\.shared\.v2\.b64", text)
                if size % 4 == 0:
                    assert re.search(r"ld\.global\.v4\.b32" if kind == "float32" else r"ld\.global\.v2\.b64", text)
                    assert re.search(r"st\.global\.v4\.b32" if kind == "float32" else r"st\.global\.v2\.b64", text)
                # All steps of all chains of a thread, and once more for the rest.
                chains = tile.each * tile.each * (tile.depth + 1)
                assert text.count(f"fma.rn.f{8 * np.dtype(kind).itemsize}") == chains
