"""Recipes of programs on disk: another process runs the same program without planning it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.programs import graph_of, make, run_compiled
from tracejit import compiler, dtypes
from tracejit.aval import Aval
from tracejit.codegen.library import planner
from tracejit.compiler import Compiled, compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, const, input, scalar
from tracejit.ops import ops
from tracejit.runtime import build, bytecode
from tracejit.runtime.cache import CODE, KERNEL, RECIPE, Store

F32 = dtypes.float32
RNG = np.random.default_rng(3)
X, W = RNG.standard_normal((33, 40)).astype(np.float32), RNG.standard_normal((40, 24)).astype(np.float32)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A cache of this test's own, and a process that has built nothing yet."""
    store = Store(tmp_path / "kernels", limit=1 << 30)
    for module in (compiler, build):
        monkeypatch.setattr(module, "STORE", store)
    monkeypatch.setattr(build, "_built", {})
    monkeypatch.setattr(build, "_by_source", {})
    return store


def network() -> Graph:
    """A product, a loop, folds, random numbers, a scalar and an output that lives in an input."""

    def step(x: Node, w: Node, p: Node) -> tuple[Node, ...]:
        h = make("tanh", make("matmul", x, w))
        mask = make("lt", make("uniform", 11, 4, shape=h.shape, dtype=F32), p)
        kept = make("where", mask, h, 0)
        return make("sum", kept, dim=1), make("amax", kept, dim=0), make("mul", x, 0.5)

    return graph_of(step, X, W, scalars="f", homes={2: 0})


def results(compiled: Compiled, graph: Graph) -> list[bytes]:
    return [a.tobytes() for a in run_compiled(compiled, graph, [X.copy(), W], (0.6,))]


def forget_kernels() -> None:
    """As in another process."""
    build._built.clear()
    build._by_source.clear()


def files(store: Store, kind: str) -> list[Path]:
    return sorted(store.directory.glob(f"*/*.{kind}"))


def test_a_graph_is_planned_once(store: Store) -> None:
    graph = network()
    first = compile_graph(graph)
    assert "passes" in first.seconds
    forget_kernels()
    second = compile_graph(graph)
    assert set(second.seconds) == {"recall", "program"}
    assert results(second, graph) == results(first, graph)
    assert [(k.name, k.doc, k.text, k.launches) for k in second.kernels] == [
        (k.name, k.doc, k.text, k.launches) for k in first.kernels
    ]
    assert (second.launches, second.stages, second.arena_bytes) == (first.launches, first.stages, first.arena_bytes)
    # What planning decided is worked out again for whoever asks.
    assert second.groups == first.groups
    assert second.graph == first.graph
    assert [run.name for run in second.report.runs] == [run.name for run in first.report.runs]


def test_kernels_that_were_recalled_can_be_looked_at(store: Store) -> None:
    graph = network()
    first = {k.name: k.kernel.llvm_text() for k in compile_graph(graph).kernels}
    forget_kernels()
    assert {k.name: k.kernel.llvm_text() for k in compile_graph(graph).kernels} == first


@pytest.mark.parametrize("kind", [KERNEL, RECIPE])
def test_what_is_missing_or_damaged_is_made_again(store: Store, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    graph = network()
    expected = results(compile_graph(graph), graph)
    files(store, kind)[0].unlink()
    forget_kernels()
    again = compile_graph(graph)
    assert "passes" in again.seconds
    assert results(again, graph) == expected
    for path in files(store, kind):
        path.write_bytes(path.read_bytes()[:-3])
    forget_kernels()
    with caplog.at_level(logging.WARNING):
        again = compile_graph(graph)
    assert "is damaged" in caplog.text
    assert results(again, graph) == expected
    forget_kernels()
    assert "passes" not in compile_graph(graph).seconds


def test_without_a_cache_programs_are_planned_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (compiler, build):
        monkeypatch.setattr(module, "STORE", Store(tmp_path / "none", limit=1, enabled=False))
    graph = network()
    for _ in range(2):
        assert "passes" in compile_graph(graph).seconds


def test_graphs_that_differ_have_recipes_of_their_own(store: Store) -> None:
    x = input(0, Aval((4, 3), F32))
    turned = input(0, Aval((4, 3), F32), (1, 4))
    f, i = scalar(0, "f"), scalar(0, "i")
    graphs = [Graph((x,), (), (apply(ops.add, x, value),)) for value in (0.0, -0.0, 1, 1.0, float("nan"), float("inf"))]
    graphs += [
        Graph((x,), (), (apply(ops.add, x, 1.0),), {0: 0}),
        Graph((turned,), (), (apply(ops.add, turned, 1.0),)),
        Graph((x,), ("f",), (apply(ops.add, x, f),)),
        Graph((x,), ("i",), (apply(ops.add, x, i),)),
        Graph((x, input(1, Aval((2,), F32))), (), (apply(ops.add, x, 1.0),)),
        Graph((x,), (), (apply(ops.add, x, 1.0), x)),
        Graph((x,), (), (apply(ops.add, const(1.0), x),)),
    ]
    for graph in graphs:
        compile_graph(graph)
    assert len(files(store, RECIPE)) == len(graphs)
    # A name and lines are no difference.
    lines = {graphs[0].outputs[0]: "train.py:1"}
    compile_graph(Graph(graphs[0].inputs, (), graphs[0].outputs, name="another", lines=lines))
    assert len(files(store, RECIPE)) == len(graphs)


def test_every_operation_of_the_library_has_a_planner() -> None:
    assert all(planner(op.name) for op in ops.family("library"))


WORK = """
import sys
import tracejit as tj
from tracejit.runtime import cache
tj.manual_seed(0)
model = tj.nn.Sequential(tj.nn.Linear(8, 16), tj.nn.Tanh(), tj.nn.Linear(16, 2))
optimizer = tj.optim.Adam(model.parameters(), lr=0.01)
x, y = tj.randn(32, 8), tj.randn(32, 2)

@tj.compile
def step(x, y):
    optimizer.zero_grad()
    loss = tj.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss

losses = [step(x, y).item().hex() for _ in range(8)]
planned = [name for name in sys.modules if name in ("tracejit.kernels.conv", "tracejit.kernels.gemm")]
print(losses, planned, cache.stats().misses)
"""


def test_a_new_process_loads_no_kernel_library_and_compiles_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        outputs.append(done.stdout.split("] "))
    (cold, loaded, misses), (warm, nothing, none) = outputs
    assert warm == cold
    # Of the library a process loads what its operations need.
    assert loaded == "['tracejit.kernels.gemm'"
    assert int(misses) > 0
    assert nothing == "["
    assert int(none) == 0


def test_long_texts_are_compiled_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "STORE", store)
    text = "def f(x):\n" + "".join(f"    x = x + {k}\n" for k in range(1000)) + "    return x\n"
    for _ in range(2):
        scope: dict[str, object] = {}
        exec(bytecode.compile_text(text, "<sum>"), scope)
        assert scope["f"](1) == 1 + sum(range(1000))  # type: ignore[operator]
        assert len(files(store, CODE)) == 1
    monkeypatch.setattr("builtins.compile", None)
    assert bytecode.compile_text(text, "<sum>").co_filename == "<sum>"
    with pytest.raises(TypeError):
        bytecode.compile_text(text, "<another>")
