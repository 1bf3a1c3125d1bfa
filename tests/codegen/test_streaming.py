"""Results of launches that no cache holds go past the caches: the same bits, wherever lines of memory begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import RandomGraph, check, graph_of, make
from tests.runtime.lowering_ways import directly
from tracejit import compiler, eager
from tracejit.codegen.generate import generate
from tracejit.compiler import compile_graph
from tracejit.ir.node import Node
from tracejit.runtime.build import build
from tracejit.runtime.team import launch
from tracejit.schedule import cost

RNG = np.random.default_rng(7)


@pytest.fixture
def everything_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a launch writes is far; programs made so are kept under names of their own."""
    limit = cost.FAR_BYTES
    monkeypatch.setattr(cost, "FAR_BYTES", 0)
    monkeypatch.setattr(cost, "FAR_TILED_BYTES", 0)
    monkeypatch.setattr(cost, "FAR_ROW", 0)
    monkeypatch.setattr(cost, "MIRRORED_BYTES", 0)

    def usual_flat_kernel(*of: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(cost, "FAR_BYTES", limit)
            return generate(*of)

    # Eager's loops over vectors of any length are planned for short ones.
    monkeypatch.setattr(eager, "generate", usual_flat_kernel)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} everything is far")


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_have_the_bits_of_their_operations(everything_far: None, seed: int) -> None:
    drawn = RandomGraph(seed)
    check(drawn.graph, drawn.arrays, (0.75 if drawn.scalars == "f" else 3,))


def softmax(x: Node) -> Node:
    row = (*x.shape[:-1], 1)
    e = make("exp", make("sub", x, make("reshape", make("amax", x, dim=1), shape=row)))
    return make("div", e, make("reshape", make("sum", e, dim=1), shape=row))


FORMULAS = {
    "loop": lambda x: make("add", make("mul", x, x), x),
    "elementary functions": lambda x: make("mul", make("tanh", x), make("exp", make("tanh", make("neg", x)))),
    "row of a broadcast": lambda x: make("add", x, make("cast", make("iota", size=x.shape[1]), dtype=x.dtype)),
    "softmax": softmax,
    "transposed": lambda x: make("add", make("permute", x, dims=(1, 0)), 1),
}


FLOATS = [(name, dtype) for name in FORMULAS for dtype in (np.float32, np.float64)]
WHOLE = [(name, np.int32) for name in ("loop", "row of a broadcast", "transposed")]


@pytest.mark.parametrize(("name", "dtype"), [*FLOATS, *WHOLE])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 16), (2, 1000), (70, 65), (65, 131), (9, 513)])
def test_any_shape(everything_far: None, name: str, dtype: type, shape: tuple[int, int]) -> None:
    x = (RNG.standard_normal(shape) * 5).astype(dtype)
    compiled = check(graph_of(FORMULAS[name], x), [x])
    assert all("stream(" in kernel.text and "end_streams()" in kernel.text for kernel in compiled.kernels)


@pytest.mark.parametrize("n", [1, 40, 64, 129, 400])
def test_squares_beside_their_mirror_images(everything_far: None, n: int) -> None:
    x = RNG.standard_normal((n, n)).astype(np.float32)
    compiled = check(graph_of(lambda x: make("sub", x, make("permute", x, dims=(1, 0))), x), [x])
    assert all("stream(" in kernel.text and "end_streams()" in kernel.text for kernel in compiled.kernels)


@pytest.mark.parametrize(("operands", "lines"), [(1, 1), (2, 2)])
def test_what_the_next_tile_reads_is_asked_for(everything_far: None, operands: int, lines: int) -> None:
    def function(x: Node, *others: Node) -> Node:
        turned = make("permute", x, dims=(1, 0))
        return make("sub", turned, *others) if others else make("neg", turned)

    arrays = [RNG.standard_normal((300, 300)).astype(np.float32) for _ in range(operands)]
    with directly():
        kernel = check(graph_of(function, *arrays), arrays).kernels[0].text
    assert kernel.count("ask_lines(") == lines


def test_nothing_is_asked_for_that_stays_in_the_caches() -> None:
    graph = graph_of(lambda x: make("sub", x, make("permute", x, dims=(1, 0))), np.empty((300, 300), np.float32))
    assert "ask_lines(" not in compile_graph(graph).kernels[0].text


def test_what_is_far_goes_past_the_caches_and_nothing_else() -> None:
    def texts(n: int) -> str:
        x = np.zeros(n, np.float32)
        return "".join(k.text for k in compile_graph(graph_of(lambda x: make("add", x, 1.0), x)).kernels)

    assert "stream(" in texts(cost.FAR_BYTES // 8)
    assert "stream(" not in texts(cost.FAR_BYTES // 8 - 1)


def test_results_of_tiles_may_be_far_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "FAR_BYTES", 2 * cost.FAR_TILED_BYTES)
    n = int((cost.FAR_TILED_BYTES // 8) ** 0.5) + 1
    x = np.zeros((n, n), np.float32)

    def kernel(*dims: int) -> str:
        graph = graph_of(lambda x: make("add", make("permute", x, dims=dims), 1.0), x)
        return compile_graph(graph).kernels[0].text

    assert "stream(" in kernel(1, 0)
    assert "stream(" not in kernel(0, 1)


def test_what_is_written_over_an_operand_is_not_far(everything_far: None) -> None:
    x = np.zeros((8, 100), np.float32)
    over = compile_graph(graph_of(lambda x: make("add", x, 1.0), x, homes={0: 0}))
    assert "stream(" not in over.kernels[0].text


def test_far_results_of_a_region_equal_eager() -> None:
    n = cost.FAR_BYTES // 8 + 5
    x, y = (tj.from_numpy(RNG.standard_normal(n).astype(np.float32)) for _ in range(2))
    f = tj.compile(lambda x, y: (x + 3 * y, x - y))
    expected = x + 3 * y, x - y
    for _ in range(4):
        assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(f(x, y), expected, strict=True))


@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 33, 64, 100])
def test_a_stream_writes_its_words_and_no_others(count: int) -> None:
    text = "def streams(p, lo, hi):\n    for k in range(lo, hi):\n"
    text += "        stream(load_arg(p, 0) + 4 * k, load_arg(p, 1), load_arg(p, 2))\n"
    text += "    end_streams()\n    return 0\n"
    kernel = build(text, "streams")
    source = np.arange(1, 129, dtype=np.int32)
    for start in range(20):
        target = np.zeros(160, np.int32)
        launch(kernel.address, 1, 1.0, target[start:], source, count)
        expected = np.zeros(160, np.int32)
        expected[start : start + count] = source[:count]
        assert target.tolist() == expected.tolist()
