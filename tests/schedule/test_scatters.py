"""Rows that are added up at places that an index says, inside the kernels that compute them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tracejit as tj
from tests.programs import RandomGraph, check, graph_of, make, run_compiled, same_bits
from tracejit import compiler, dtypes
from tracejit.compiler import Compiled, compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.runtime import program
from tracejit.schedule import cost
from tracejit.schedule.spaces import SCATTERS
from tracejit.trace.compiled import region_of

RNG = np.random.default_rng(15)
WIDTHS = (2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130, 200)


def operand(*shape: int, kind: str = "float32") -> np.ndarray:
    found = RNG.standard_normal(shape)
    found.flat[::5] = -0.0
    return found.astype(kind)


def places_of(count: int, size: int, kind: str = "int64") -> np.ndarray:
    return RNG.integers(0, size, count).astype(kind)


def kinds(compiled: Compiled) -> list[tuple[str, ...]]:
    return [(group.kind, *group.ops) for group in compiled.groups]


def added(index: Node, rows: Node, size: int, start: float = 0.0) -> Node:
    """The sums of rows at the places of an index."""
    ground = make("full", start, shape=(size, *rows.shape[1:]), dtype=rows.dtype)
    return make("index_add", ground, index, rows, dim=0)


@pytest.fixture
def of_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows are as long ones, and launches are shared; programs made so are kept under names of their own."""
    monkeypatch.setattr(cost, "SHORT_PICKED", 2)
    monkeypatch.setattr(program, "sharing_threshold", lambda launches, single: 0.0)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} no sum is short")


@pytest.mark.usefixtures("of_any_width")
@pytest.mark.parametrize("index", ["int64", "int32"])
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 5), (40, 1), (40, 11), (7, 300)])
def test_computed_rows(count: int, size: int, width: int, kind: str, index: str) -> None:
    x, y, places = operand(count, width, kind=kind), operand(count, 1, kind=kind), places_of(count, size, index)

    def function(x: Node, y: Node, i: Node) -> Node:
        return added(i, make("mul", make("abs", x), make("expand", y, shape=(count, width))), size, 0.5)

    compiled = check(graph_of(function, x, y, places), [x, y, places])
    assert kinds(compiled) == [("call", "check_index"), ("scatter", "abs", "mul", "index_add")]


@pytest.mark.usefixtures("of_any_width")
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_numpy(width: int) -> None:
    x, places = operand(90, width), places_of(90, 13)
    x.flat[x.size // 2] = np.nan
    x.flat[-1] = np.inf
    expected = np.zeros((13, width), np.float32)
    np.add.at(expected, places, x)
    graph = graph_of(lambda x, i: added(i, x, 13), x, places)
    (found,) = run_compiled(compile_graph(graph), graph, [x, places])
    assert same_bits(found, expected)


def has_sums(seed: int) -> bool:
    return any(node.op in SCATTERS for node in RandomGraph(seed).graph.nodes())


@pytest.mark.usefixtures("of_any_width")
@pytest.mark.parametrize("seed", list(filter(has_sums, range(700))))
def test_random_graphs_have_the_bits_of_their_operations(seed: int) -> None:
    drawn = RandomGraph(seed)
    check(drawn.graph, drawn.arrays, (0.75 if drawn.scalars == "f" else 3,))


def test_rows_that_others_want_are_computed_once() -> None:
    x, places = operand(50, 40), places_of(50, 9)

    def function(x: Node, i: Node) -> tuple[Node, ...]:
        rows = make("neg", x)
        return added(i, rows, 9), rows, make("sum", make("mul", rows, x), dim=0)

    compiled = check(graph_of(function, x, places), [x, places])
    assert [group for group in kinds(compiled) if "neg" in group] == [("scatter", "neg", "index_add", "mul")]


def test_rows_of_several_dimensions_that_lie_elsewise() -> None:
    x, y = operand(50, 3, 20), np.ascontiguousarray(operand(20, 50, 3)).transpose(1, 2, 0)
    z, places = operand(100, 6, 40)[::2, ::-2, ::2], places_of(99, 9)[::2]

    def function(x: Node, y: Node, z: Node, i: Node) -> Node:
        return added(i, make("add", make("mul", x, y), z), 9)

    compiled = check(graph_of(function, x, y, z, places), [x, y, z, places])
    assert kinds(compiled)[-1][0] == "scatter"
    for rows in (y, z):
        check(graph_of(lambda r, i: added(i, r, 9), rows, places), [rows, places])


@pytest.mark.parametrize("rows", ["joined", "a number", "broadcast"])
def test_rows_that_nobody_computes(rows: str) -> None:
    x, y, places = operand(20, 30), operand(20, 10), places_of(20, 9)

    def function(x: Node, y: Node, i: Node) -> Node:
        made: dict[str, Callable[[], Node]] = {
            "joined": lambda: make("cat", x, y, dim=1),
            "a number": lambda: make("full", 0.1, shape=(20, 40), dtype=x.dtype),
            "broadcast": lambda: make("expand", make("reshape", make("sum", y, dim=1), shape=(20, 1)), shape=(20, 40)),
        }
        return added(i, made[rows](), 9)

    check(graph_of(function, x, y, places), [x, y, places])


def test_places_that_are_computed() -> None:
    x, places = operand(50, 40), places_of(50, 4)

    def function(x: Node, i: Node) -> tuple[Node, Node]:
        wrapped = make("wrap_index", make("sub", i, 4), size=9)
        return added(wrapped, make("neg", x), 9), added(make("mul", i, 2), make("abs", x), 9)

    compiled = check(graph_of(function, x, places), [x, places])
    assert [group[0] for group in kinds(compiled)].count("scatter") == 2


def test_elements_that_an_index_adds_as_rows() -> None:
    x, places = operand(50, 40), places_of(50, 9).reshape(50, 1)

    def function(x: Node, i: Node) -> Node:
        ground = make("full", 0, shape=(9, 40), dtype=x.dtype)
        return make("scatter_add", ground, make("expand", i, shape=(50, 40)), make("neg", x), dim=0)

    compiled = check(graph_of(function, x, places), [x, places])
    assert kinds(compiled) == [("call", "check_index"), ("scatter", "neg", "scatter_add")]


def test_elementary_functions_are_shared_by_all_threads() -> None:
    x, places = operand(50, 40), places_of(50, 9)
    compiled = check(graph_of(lambda x, i: added(i, make("exp", x), 9), x, places), [x, places])
    assert [group[0] for group in kinds(compiled)] == ["loop", "call", "scatter"]
    assert any("share elementary functions evenly" in cut for group in compiled.groups for cut in group.cuts)

    def function(x: Node, i: Node) -> tuple[Node, ...]:
        rows = make("neg", x)
        return added(i, rows, 9), make("exp", rows)

    compiled = check(graph_of(function, x, places), [x, places])
    assert sorted(group[0] for group in kinds(compiled)) == ["call", "loop", "scatter"]


def test_two_sums_are_two_kernels() -> None:
    x, first, second = operand(50, 40), places_of(50, 9), places_of(50, 9)

    def function(x: Node, i: Node, j: Node) -> tuple[Node, ...]:
        rows = make("neg", x)
        return added(i, rows, 9), added(j, rows, 9), added(i, make("abs", rows), 9), added(i, x, 9), rows

    compiled = check(graph_of(function, x, first, second), [x, first, second])
    assert [group[0] for group in kinds(compiled)].count("scatter") == 4
    assert any("their rows go to other places" in cut for group in compiled.groups for cut in group.cuts)


def test_sums_of_as_many_rows_are_complete_before_they_are_read() -> None:
    x, places = operand(50, 40), places_of(50, 50)

    def function(x: Node, i: Node) -> tuple[Node, ...]:
        sums = added(i, make("neg", x), 50)
        return make("mul", sums, x), make("sum", sums, dim=1), added(i, make("mul", sums, x), 50)

    check(graph_of(function, x, places), [x, places])


def test_sums_that_belong_where_an_input_is() -> None:
    x, old, places = operand(50, 40), operand(9, 40), places_of(50, 9)

    def function(x: Node, old: Node, i: Node) -> tuple[Node, ...]:
        rows = make("mul", x, make("take", old, i, dim=0))
        return added(i, rows, 9), make("exp", old)

    graph = graph_of(function, x, old, places)
    check(Graph(graph.inputs, (), graph.outputs, {0: 1}), [x, old, places])


def test_what_goes_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("FAR_BYTES", "FAR_ROW"):
        monkeypatch.setattr(cost, limit, 0)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} everything is far")
    for width in WIDTHS[3:]:
        x, places = operand(50, width), places_of(50, 9)

        def function(x: Node, i: Node) -> tuple[Node, ...]:
            rows = make("neg", x)
            return added(i, rows, 9), rows

        assert "end_streams()" in "".join(k.text for k in check(graph_of(function, x, places), [x, places]).kernels)


@pytest.mark.parametrize("why", ["short", "columns", "half", "integer", "a ground"])
def test_library_operations(why: str) -> None:
    kind = {"half": "float16", "integer": "int64"}.get(why, "float32")
    x, ground = (8 * operand(50, 4 if why == "short" else 40)).astype(dtypes.BY_NAME[kind].np), operand(9, 40)
    places = places_of(40 if why == "columns" else 50, 9)

    def function(x: Node, ground: Node, i: Node) -> Node:
        if why == "columns":
            zeros = make("full", 0, shape=(50, 9), dtype=x.dtype)
            return make("index_add", zeros, i, make("neg", x), dim=1)
        if why == "a ground":
            return make("index_add", ground, i, make("neg", x), dim=0)
        return added(i, make("neg", x), 9)

    assert ("call", "index_add") in kinds(check(graph_of(function, x, ground, places), [x, ground, places]))


def test_places_out_of_range_change_nothing() -> None:
    x, old, places = operand(50, 40), operand(9, 40), places_of(50, 9)
    graph = graph_of(lambda x, old, i: added(i, make("neg", x), 9), x, old, places)
    graph = Graph(graph.inputs, (), graph.outputs, {0: 1})
    compiled = compile_graph(graph)
    for wrong in (-1, 9, 1 << 40):
        given = places.copy()
        given[17] = wrong
        left = old.copy()
        with pytest.raises(IndexError):
            run_compiled(compiled, graph, [x, left, given])
        assert same_bits(left, old)


def message_passing(h: tj.Tensor, w: tj.Tensor, src: tj.Tensor, dst: tj.Tensor) -> tuple[tj.Tensor, ...]:
    h, w = h.detach().requires_grad_(), w.detach().requires_grad_()
    nodes = tj.zeros_like(h).index_add(0, dst, h[src] * w)
    (nodes * nodes).sum().backward()
    assert h.grad is not None
    assert w.grad is not None
    return nodes, h.grad, w.grad


@pytest.mark.parametrize("width", [8, 16, 64, 100])
def test_no_message_of_a_graph_is_kept(width: int) -> None:
    tj.manual_seed(0)
    h, w = tj.randn(20, width), tj.rand(3000, 1)
    edges = tj.randint(0, 20, (2, 3000))
    expected = message_passing(h, w, *edges)
    compiled = tj.compile(message_passing)
    for _ in range(3):
        found = compiled(h, w, *edges)
    for one, other in zip(found, expected, strict=True):
        assert same_bits(one.detach().numpy(), other.detach().numpy())
    ((_, executable),) = region_of(compiled).executables()
    assert executable.compiled is not None
    assert (executable.compiled.arena_bytes < 3000 * width) is (width >= cost.SHORT_PICKED)


def test_sizes_that_stay_open() -> None:
    tj.manual_seed(0)
    weight = tj.randn(24, 24).requires_grad_()

    def step(x: tj.Tensor, w: tj.Tensor, ends: tj.Tensor) -> tuple[tj.Tensor, ...]:
        weight.grad = None
        h = x @ weight
        nodes = tj.zeros_like(h).index_add(0, ends[1], h[ends[0]] * w)
        loss = (nodes * nodes).sum()
        loss.backward()
        assert weight.grad is not None
        return nodes.detach(), weight.grad

    compiled = tj.compile(step, mode="follow")
    for nodes, edges in (*[(20, 300)] * 3, (30, 500), (25, 170), (40, 41), (9, 900), (2, 5), (50, 2), (17, 260)):
        given = tj.randn(nodes, 24), tj.rand(edges, 1), tj.randint(0, nodes, (2, edges))
        expected = [t.numpy().copy() for t in step(*given)]
        for one, other in zip(compiled(*given), expected, strict=True):
            assert same_bits(one.numpy(), other)
    made = [executable.compiled for _, executable in region_of(compiled).executables()]
    assert len(made) > 4
    for program_of_a_size in made:
        names = [kernel.name for kernel in program_of_a_size.kernels]
        assert sum(name.startswith("scatter_") for name in names) == 2
