"""Elements that are picked by an index, inside the kernels of what is around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.programs import check, graph_of, input_of, make, run_compiled
from tracejit import dtypes
from tracejit.compiler import Compiled, compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node

RNG = np.random.default_rng(11)


def operand(*shape: int, kind: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtypes.BY_NAME[kind].np)


def kinds(compiled: Compiled) -> list[tuple[str, ...]]:
    return [(group.kind, *group.ops) for group in compiled.groups]


def scaled(x: Node) -> Node:
    return make("mul", make("tanh", x), 2)


def test_what_nobody_wants_is_looked_at_and_not_picked() -> None:
    x, places = operand(5, 70), np.array([0, 4, -1])
    plain = graph_of(lambda x, i: make("exp", x), x, places)
    wrapped = make("wrap_index", plain.inputs[1], size=5)
    compiled = compile_graph(replace(plain, checks=(make("take", plain.inputs[0], wrapped, dim=0),)))
    assert kinds(compiled) == [("loop", "exp"), ("call", "wrap_index")]
    compiled = compile_graph(replace(plain, checks=(make("take", *plain.inputs, dim=0),)))
    assert kinds(compiled) == [("loop", "exp"), ("call", "check_index")]
    with pytest.raises(IndexError):
        run_compiled(compiled, plain, [x, places])


WIDTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("index", ["int64", "int32"])
def test_rows_of_a_table(index: str, width: int) -> None:
    table, places = operand(11, width), RNG.integers(0, 11, 19).astype(index)
    compiled = check(graph_of(lambda t, i: scaled(make("take", t, i, dim=0)), table, places), [table, places])
    assert kinds(compiled) == [("call", "check_index"), ("loop", "take", "tanh", "mul")]


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_rows_of_every_type(kind: str) -> None:
    table = operand(11, 37, kind="float32").astype(dtypes.BY_NAME[kind].np)
    places = RNG.integers(0, 11, 19)

    def same_rows(t: Node, i: Node) -> Node:
        rows = make("take", t, i, dim=0)
        return make("where", make("eq", rows, rows), rows, 0)

    check(graph_of(same_rows, table, places), [table, places])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_slices_along_every_dimension(dim: int) -> None:
    x, places = operand(5, 6, 35), RNG.integers(0, 5, 40)
    compiled = check(graph_of(lambda x, i: scaled(make("take", x, i, dim=dim)), x, places), [x, places])
    assert ("loop", "take", "tanh", "mul") in kinds(compiled)


@pytest.mark.parametrize("index", ["int64", "int32"])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_elements_along_every_dimension(dim: int, index: str) -> None:
    x = operand(5, 6, 35)
    shape = [4, 6, 33]
    shape[dim] = 21
    places = RNG.integers(0, x.shape[dim], shape).astype(index)
    compiled = check(graph_of(lambda x, i: scaled(make("gather", x, i, dim=dim)), x, places), [x, places])
    assert kinds(compiled) == [("call", "check_index"), ("loop", "gather", "tanh", "mul")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int32", "uint8"])
def test_elements_of_a_vector(kind: str, width: int) -> None:
    x, places = operand(29).astype(dtypes.BY_NAME[kind].np), RNG.integers(0, 29, width)
    check(graph_of(lambda x, i: make("add", make("take", x, i, dim=0), 1), x, places), [x, places])


@pytest.mark.parametrize("layout", ["transposed", "sliced", "reversed", "broadcast"])
def test_what_is_picked_from_and_by_lies_anyhow(layout: str) -> None:
    def laid(array: np.ndarray) -> np.ndarray:
        if layout == "transposed":
            return array.T.copy().T
        if layout == "sliced":
            return np.repeat(array, 2, axis=-1)[..., ::2]
        return array[::-1] if layout == "reversed" else np.broadcast_to(array[:1], array.shape)

    x, places = laid(operand(24, 20)), laid(RNG.integers(0, 20, (24, 18)))
    check(graph_of(lambda x, i: scaled(make("gather", x, i, dim=1)), x, places), [x, places])
    rows = laid(RNG.integers(0, 24, 40))
    check(graph_of(lambda x, i: scaled(make("take", x, i, dim=0)), x, rows), [x, rows])
    check(graph_of(lambda x, i: scaled(make("take", x, i, dim=1)), x, rows % 20), [x, rows % 20])


def test_a_broadcast_index_is_looked_at_once() -> None:
    x, places = operand(30, 16), RNG.integers(0, 30, (50, 1))

    def f(x: Node, i: Node) -> tuple[Node, Node]:
        wide = make("expand", i, shape=(50, 16))
        return scaled(make("gather", x, wide, dim=0)), scaled(make("gather", make("neg", x), wide, dim=0))

    compiled = check(graph_of(f, x, places), [x, places])
    assert kinds(compiled).count(("call", "check_index")) == 1
    assert [units for name, units in _units(compiled) if name.startswith("check_index")] == [50]


def _units(compiled: Compiled) -> list[tuple[str, int]]:
    return [(launch.kernel.name, launch.units) for launch in compiled.program._launches]


def test_rows_are_folded_where_they_are_picked() -> None:
    table, places = operand(50, 96), RNG.integers(0, 50, 70)

    def softmax(t: Node, i: Node) -> Node:
        rows = make("take", t, i, dim=0)
        shifted = make("sub", rows, make("reshape", make("amax", rows, dim=1), shape=(70, 1)))
        e = make("exp", shifted)
        return make("div", e, make("reshape", make("sum", e, dim=1), shape=(70, 1)))

    compiled = check(graph_of(softmax, table, places), [table, places])
    assert [kind for kind, *_ in kinds(compiled)] == ["call", "row"]


@pytest.mark.parametrize("shape", [(3, 5000), (600, 40), (2, 300, 40)])
def test_long_rows_and_columns_of_what_is_picked(shape: tuple[int, ...]) -> None:
    x, places = operand(9, *shape[1:]), RNG.integers(0, 9, shape[0])

    def f(x: Node, i: Node) -> tuple[Node, Node]:
        rows = make("take", x, i, dim=0)
        return make("sum", make("mul", rows, rows), dim=len(shape) - 1), make("sum", make("mul", rows, 3), dim=0)

    check(graph_of(f, x, places), [x, places])
    along = RNG.integers(0, x.shape[-1], 9000)
    dim = len(shape) - 1
    check(graph_of(lambda x, i: make("sum", make("take", x, i, dim=dim), dim=dim), x, along), [x, along])


def test_what_is_picked_from_is_complete_before() -> None:
    x, places = operand(40, 33), RNG.integers(0, 40, (40, 33))

    def f(x: Node, i: Node) -> Node:
        y = make("mul", x, 3)
        return make("add", make("gather", y, i, dim=0), y)

    compiled = check(graph_of(f, x, places), [x, places])
    assert kinds(compiled) == [("loop", "mul"), ("call", "check_index"), ("loop", "gather", "add")]
    assert "mul -> gather: gather reads mul at other places than its own" in compiled.groups[-1].cuts


def test_an_index_is_complete_before_it_is_looked_at() -> None:
    x, places = operand(40, 33), RNG.integers(0, 20, 64)
    compiled = check(graph_of(lambda x, i: scaled(make("take", x, make("add", i, i), dim=0)), x, places), [x, places])
    assert [kind for kind, *_ in kinds(compiled)] == ["loop", "call", "loop"]


def test_places_of_a_list_of_all_places_are_themselves() -> None:
    places = RNG.integers(0, 9, 100)

    def f(i: Node) -> Node:
        return make("mul", make("take", make("iota", size=9), i, dim=0), 3)

    assert kinds(check(graph_of(f, places), [places])) == [("call", "check_index"), ("loop", "copy", "mul")]

    for shape, dim in (((3, 3), 0), ((3, 3), 1), ((1, 9), 1)):
        some = RNG.integers(0, shape[dim], (shape[0], 3))

        def g(i: Node, shape: Any = shape, dim: int = dim) -> tuple[Node, Node]:
            lists = make("reshape", make("iota", size=9), shape=shape)
            same = make("expand", make("full", 2, shape=(), dtype=dtypes.float32), shape=shape)
            return make("mul", make("gather", lists, i, dim=dim), 3), make("gather", same, i, dim=dim)

        check(graph_of(g, some), [some])


def test_places_counted_from_the_end_are_looked_at_once() -> None:
    x, places = operand(9, 20), RNG.integers(-9, 9, 40)
    graph = graph_of(lambda x, i: scaled(make("take", x, make("wrap_index", i, size=9), dim=0)), x, places)
    assert kinds(check(graph, [x, places])) == [("call", "wrap_index"), ("loop", "take", "tanh", "mul")]
    places[3] = 9
    with pytest.raises(IndexError):
        run_compiled(compile_graph(graph), graph, [x, places])


def test_a_row_that_is_written_where_others_are_picked_from() -> None:
    x, places = operand(64, 48), RNG.integers(0, 64, 64)
    graph = graph_of(lambda x, i: make("mul", make("take", x, i, dim=0), 2), x, places, homes={0: 0})
    check(graph, [x, places])
    graph = graph_of(lambda i: make("add", make("take", i, i, dim=0), 0), places, homes={0: 0})
    check(graph, [places])


@pytest.mark.parametrize("bad", [-1, 7, 1 << 40, -(1 << 40)])
@pytest.mark.parametrize("name", ["take", "gather"])
def test_nothing_is_changed_by_a_place_out_of_range(name: str, bad: int) -> None:
    x, other = operand(7, 40), operand(7, 40)
    places = RNG.integers(0, 7, 30 if name == "take" else (30, 40))
    places[17] = bad

    def f(x: Node, i: Node, o: Node) -> tuple[Node, Node]:
        return scaled(make(name, x, i, dim=0)), make("add", o, 1)

    graph = graph_of(f, x, places, other, homes={1: 2})
    before = other.copy()
    with pytest.raises(IndexError):
        run_compiled(compile_graph(graph), graph, [x, places, other])
    assert other.tobytes() == before.tobytes()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_of_nothing_nothing_is_picked(shape: tuple[int, int]) -> None:
    x, none = operand(*shape), np.zeros(0, np.int64)
    check(graph_of(lambda x, i: make("neg", make("take", x, i, dim=0)), x, none), [x, none])
    some: Any = np.zeros(3, np.int64)
    graph: Graph = graph_of(lambda x, i: make("neg", make("take", x, i, dim=0)), x, some)
    if shape[1]:
        check(graph_of(lambda x, i: make("neg", make("take", x, i, dim=1)), x, some), [x, some])
        return
    check(graph, [x, some])


def test_steps_of_a_loop_share_their_kernels() -> None:
    table = operand(30, 20)
    places = [RNG.integers(0, 30, 12) for _ in range(4)]

    def f(t: Node, *index: Node) -> tuple[Node, ...]:
        return tuple(make("exp", make("take", t, i, dim=0)) for i in index)

    graph = graph_of(f, table, *places)
    compiled = check(graph, [table, *places])
    assert len([k for k in compiled.kernels if k.name.startswith("loop_take_exp")]) == 1
    assert input_of(0, table) is graph.inputs[0]


@pytest.mark.parametrize("op", ["scatter", "scatter_add", "index_add", "index_copy"])
def test_where_places_are_written_they_are_looked_at_first(op: str) -> None:
    x, source = operand(9, 4), operand(5, 4)
    places = RNG.permutation(9)[:5] if op.startswith("index") else RNG.integers(0, 9, (5, 4))

    def f(x: Node, i: Node, source: Node) -> tuple[Node]:
        late = make("sum", make("exp", make("sum", source, dim=1)), dim=0)
        return (make(op, x, make("abs", i), make("mul", source, make("expand", late, shape=(5, 4))), dim=0),)

    graph = graph_of(f, x, places, source)
    compiled = check(graph, [x, places, source])
    stages = {launch.kernel.name: launch.stage for launch in compiled.program._launches}
    (looks,) = [stage for name, stage in stages.items() if name.startswith("check_index")]
    written = [stage for name, stage in stages.items() if name.startswith(op)]
    assert looks == 1
    assert min(written) > looks + 1
    with pytest.raises(IndexError):
        run_compiled(compiled, graph, [x, places + 9, source])
