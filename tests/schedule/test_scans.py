"""Running sums and the like, inside the kernels of what is around them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.programs import RandomGraph, check, graph_of, make, run_compiled, same_bits
from tracejit import compiler, dtypes
from tracejit.codegen.library import plan_call
from tracejit.compiler import Compiled, compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.ops import ops
from tracejit.schedule import cost
from tracejit.schedule.lower import RUNNING
from tracejit.schedule.plan import make_plan

RNG = np.random.default_rng(12)
SCANS = ["cumsum", "cumprod", "linear_recurrence"]
LINE = 16
SHAPES = [
    *[((n,), 0) for n in (2, 3, 17, cost.SCAN_PLACES + 1)],
    *[((rows, n), 1) for rows in (1, 2, 3, 4, 5, 15, 16, 17, 33) for n in (2, 7, LINE, LINE + 1, 40)],
    *[((5, cost.SCAN_PLACES * k + rest), 1) for k in (1, 2) for rest in (-1, 0, 1, 9)],
    *[((n, columns), 0) for n in (2, 19) for columns in (2, 7, 31, 32, 33, 100)],
    *[((3, 5, 9), dim) for dim in (0, 1, 2)],
    ((3, cost.SCAN_COLUMNS * cost.SCAN_STRIPS + 5), 0),
]


def operand(*shape: int, kind: str = "float32") -> np.ndarray:
    found = 1 + RNG.standard_normal(shape) / 8
    found.flat[::5] = -0.0
    return found.astype(kind)


def kinds(compiled: Compiled) -> list[tuple[str, ...]]:
    return [(group.kind, *group.ops) for group in compiled.groups]


def scan(what: str, dim: int, *operands: Node) -> Node:
    return make(what, *operands[: len(getattr(ops, what).params)], dim=dim)


def from_the_end(what: str, dim: int, *operands: Node) -> Node:
    return make("flip", scan(what, dim, *(make("flip", x, dims=(dim,)) for x in operands)), dims=(dim,))


@pytest.fixture
def of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short scans are as long ones; programs made so are kept under names of their own."""
    monkeypatch.setattr(cost, "SHORT_SCAN", 2)
    monkeypatch.setattr(cost, "NARROW_SCAN", 2)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} no scan is short")


@pytest.mark.usefixtures("of_any_length")
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("what", SCANS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_between_its_neighbours(shape: tuple[int, ...], dim: int, what: str, kind: str) -> None:
    x, y = operand(*shape, kind=kind), operand(*shape, kind=kind)

    def forth(x: Node, y: Node) -> Node:
        return make("add", make("mul", scan(what, dim, make("mul", x, y), make("neg", y)), 0.5), y)

    def back(x: Node, y: Node) -> Node:
        return make("add", make("mul", from_the_end(what, dim, make("mul", x, y), make("neg", y)), 0.5), y)

    for function, name in ((forth, "scan"), (back, "backscan")):
        (group,) = check(graph_of(function, x, y), [x, y]).groups
        assert group.kind == name
        assert what in group.ops


@pytest.mark.usefixtures("of_any_length")
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_equals_numpy(shape: tuple[int, ...], dim: int, kind: str) -> None:
    x = operand(*shape, kind=kind)
    x.flat[x.size // 2] = np.nan
    x.flat[-1] = np.inf
    for what in ("cumsum", "cumprod"):
        for back in (False, True):
            seen = np.flip(x, dim) if back else x
            with np.errstate(invalid="ignore"):
                expected = getattr(np, what)(seen, axis=dim)
            function = from_the_end if back else scan
            graph = graph_of(lambda x, what=what, function=function: function(what, dim, x), x)
            (found,) = run_compiled(compile_graph(graph), graph, [x])
            assert same_bits(found, np.ascontiguousarray(np.flip(expected, dim) if back else expected))


def has_a_scan(seed: int) -> bool:
    return any(node.op in RUNNING for node in RandomGraph(seed).graph.nodes())


@pytest.mark.usefixtures("of_any_length")
@pytest.mark.parametrize("seed", list(filter(has_a_scan, range(400))))
def test_random_graphs_have_the_bits_of_their_operations(seed: int) -> None:
    drawn = RandomGraph(seed)
    check(drawn.graph, drawn.arrays, (0.75 if drawn.scalars == "f" else 3,))


@pytest.mark.parametrize("dim", [0, 1])
def test_several_scans_in_one_kernel(dim: int) -> None:
    x, y = operand(21, 150), operand(21, 150)

    def function(x: Node, y: Node) -> tuple[Node, ...]:
        first = make("cumsum", make("mul", x, y), dim=dim)
        second = make("cumprod", make("add", first, 1.0), dim=dim)
        third = make("linear_recurrence", second, first, dim=dim)
        return first, make("sub", third, make("mul", x, second))

    (group,) = check(graph_of(function, x, y), [x, y]).groups
    assert group.kind == "scan"


@pytest.mark.parametrize("dim", [0, 1])
def test_operands_of_rows_and_of_columns(dim: int) -> None:
    x, row, column = operand(37, 140), operand(37, 1), operand(140)

    def function(x: Node, row: Node, column: Node) -> Node:
        rows, columns = (make("expand", y, shape=(37, 140)) for y in (row, column))
        sums = make("cumsum", make("mul", x, rows), dim=dim)
        return make("mul", make("linear_recurrence", sums, rows, dim=dim), columns)

    (group,) = check(graph_of(function, x, row, column), [x, row, column]).groups
    assert group.kind == "scan"


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_operands_that_lie_elsewise(dim: int) -> None:
    x, y = operand(7, 20, 33), np.ascontiguousarray(operand(33, 7, 20)).transpose(1, 2, 0)
    z = operand(14, 40, 66)[::2, ::-2, ::2]

    def function(x: Node, y: Node, z: Node) -> tuple[Node, ...]:
        back = make("flip", z, dims=(dim,))
        sums = make("neg", make("cumsum", make("mul", x, y), dim=dim)), make("cumsum", z, dim=dim)
        return *sums, make("linear_recurrence", z, x, dim=dim), make("linear_recurrence", back, y, dim=dim)

    check(graph_of(function, x, y, z), [x, y, z])


def test_rows_that_are_not_evenly_apart() -> None:
    x = operand(5, 9, 60)

    def function(x: Node) -> Node:
        part = make("slice", x, start=(0, 2, 3), length=(5, 6, 40), step=(1, 1, 1))
        return make("mul", make("cumsum", make("neg", part), dim=2), part)

    (group,) = check(graph_of(function, x), [x]).groups
    assert group.kind == "scan"


def test_what_is_one_element_of_a_number() -> None:
    x = operand(4, 70)

    def function(x: Node) -> Node:
        tenths = make("full", 0.1, shape=(4, 70), dtype=x.dtype)
        return make("mul", make("cumsum", tenths, dim=1), make("cumsum", make("mul", x, tenths), dim=1))

    check(graph_of(function, x), [x])


def test_a_part_of_what_is_joined() -> None:
    x, y = operand(6, 50), operand(6, 4)
    check(graph_of(lambda x, y: make("cat", y, make("cumsum", make("exp", x), dim=1), dim=1), x, y), [x, y])


def test_picked_operands() -> None:
    table, places = operand(11, 70), RNG.integers(0, 11, 24)
    rows = check(
        graph_of(lambda t, i: make("cumsum", make("neg", make("take", t, i, dim=0)), dim=1), table, places),
        [table, places],
    )
    assert kinds(rows)[1] == ("scan", "take", "neg", "cumsum")


def test_softmax_is_a_kernel_of_its_own() -> None:
    x = operand(40, 130)

    def function(x: Node) -> Node:
        shape = {"shape": (40, 130)}
        power = make("exp", x)
        share = make("div", power, make("expand", make("reshape", make("sum", power, dim=1), shape=(40, 1)), **shape))
        return make("sub", make("cumsum", share, dim=1), share)

    compiled = check(graph_of(function, x), [x])
    assert [group.kind for group in compiled.groups] == ["row", "scan"]
    assert any("do not go through memory alike" in cut for group in compiled.groups for cut in group.cuts)


def test_what_goes_other_ways_is_apart() -> None:
    x = operand(24, 40)

    def along_both(x: Node) -> Node:
        return make("cumsum", make("cumsum", make("neg", x), dim=0), dim=1)

    def there_and_back(x: Node) -> Node:
        return from_the_end("cumsum", 1, make("cumsum", make("neg", x), dim=1))

    for function, reason in ((along_both, "go over different dimensions"), (there_and_back, "do not go through")):
        compiled = check(graph_of(function, x), [x])
        assert len(compiled.groups) == 2
        assert any(reason in cut for cut in compiled.groups[1].cuts)


def test_the_end_of_what_is_read_from_the_end() -> None:
    x = operand(24, 40)

    def function(x: Node) -> tuple[Node, Node]:
        backwards = make("cumsum", make("flip", x, dims=(1,)), dim=1)
        return backwards, make("slice", backwards, start=(0, 3), length=(24, 20), step=(1, 1))

    check(graph_of(function, x), [x])


def test_factors_that_are_the_same_everywhere_are_read_from_the_end_as_well() -> None:
    x = operand(20, 70)

    def function(x: Node) -> Node:
        factor = make("expand", make("full", 0.9, shape=(), dtype=x.dtype), shape=(20, 70))
        return make("flip", make("linear_recurrence", make("flip", x, dims=(1,)), factor, dim=1), dims=(1,))

    assert [group.kind for group in check(graph_of(function, x), [x]).groups] == ["backscan"]


def test_gradients_of_products_are_one_kernel() -> None:
    x, ct = operand(20, 70), operand(20, 70)

    def function(x: Node, ct: Node) -> Node:
        back, factors = (make("flip", y, dims=(1,)) for y in (ct, x))
        return make("mul", x, make("flip", make("linear_recurrence", back, factors, dim=1), dims=(1,)))

    assert kinds(check(graph_of(function, x, ct), [x, ct])) == [("backscan", "linear_recurrence", "mul")]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int64"])
def test_other_types_are_library_operations(kind: str) -> None:
    x = (8 * operand(5, 40)).astype(dtypes.BY_NAME[kind].np)
    compiled = check(graph_of(lambda x: make("neg", make("cumsum", make("neg", x), dim=1)), x), [x])
    assert ("call", "cumsum") in kinds(compiled)


def test_an_input_that_is_written_in_place() -> None:
    x, y = operand(18, 40), operand(18, 40)
    for dim in (0, 1):
        graph = graph_of(lambda x, y, dim=dim: make("add", make("cumsum", make("mul", x, y), dim=dim), x), x, y)
        check(Graph(graph.inputs, (), graph.outputs, {0: 0}), [x, y])


def test_rows_are_parts_of_a_strand() -> None:
    x, w = operand(32, 64), operand(64, 64)

    def function(x: Node, w: Node) -> Node:
        return make("matmul", make("tanh", make("cumsum", make("matmul", x, w), dim=1)), w)

    plan = make_plan(graph_of(function, x, w), plan_call)
    scan = next(group for group in plan.groups if group.kind == "scan")
    assert any(scan in strand.groups for strand in plan.strands)
    check(graph_of(function, x, w), [x, w])


def test_results_go_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "FAR_BYTES", 0)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} scans are far")
    x = operand(20, 530)
    for dim in (0, 1):
        graph = graph_of(lambda x, dim=dim: make("neg", make("cumsum", make("mul", x, 0.5), dim=dim)), x)
        assert "stream(" in check(graph, [x]).kernels[0].text


def test_short_ones_are_library_operations() -> None:
    for shape, dim in (((100, cost.SHORT_SCAN - 1), 1), ((100, cost.NARROW_SCAN - 1), 0)):
        x = operand(*shape)
        compiled = check(graph_of(lambda x, dim=dim: make("neg", make("cumsum", x, dim=dim)), x), [x])
        assert [group.kind for group in compiled.groups] == ["call", "loop"]


def test_without_scans_they_are_library_operations() -> None:
    x = operand(18, 40)
    graph = graph_of(lambda x: make("neg", make("cumsum", x, dim=1)), x)
    assert [group.kind for group in make_plan(graph, plan_call, scans=False).groups] == ["call", "loop"]
