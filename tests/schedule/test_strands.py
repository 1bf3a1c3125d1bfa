"""Strands: what may be part of one, and that parts of it may be done in any order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import RandomGraph, copied, graph_of, input_of, make, run_compiled, run_eagerly, same_bits
from tracejit.codegen.library import panel_columns, plan_call
from tracejit.compiler import compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, item
from tracejit.passes.pipeline import run_passes
from tracejit.runtime import shares
from tracejit.runtime.shares import Segment, Task
from tracejit.schedule import cost, order
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, make_plan
from tracejit.schedule.strands import Partings, parting

RNG = np.random.default_rng(17)
ROWS, WIDTH = 32, 48


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32) * np.float32(0.3)


def plan_of(function: Callable[..., Any], *arrays: np.ndarray, homes: dict[int, int] | None = None) -> Plan:
    graph = run_passes(graph_of(function, *arrays, homes=homes))[0]
    return make_plan(arrange_products(graph, panel_columns), plan_call)


def swapped(x: Node) -> Node:
    return make("permute", x, dims=(1, 0))


def recurrence(h: Node, w: Node, *xs: Node) -> tuple[Node, Node]:
    """h = tanh(h @ w + x) again and again; the last h, and what the products of neighbours add up to."""
    states = [h]
    for x in xs:
        states.append(make("tanh", make("add", make("matmul", states[-1], w), x)))
    products = [make("matmul", swapped(a), b) for a, b in itertools.pairwise(states)]
    total = products[0]
    for p in products[1:]:
        total = make("add", total, p)
    return states[-1], total


def recurrent_arrays(steps: int = 6) -> list[np.ndarray]:
    return [floats(ROWS, WIDTH), floats(WIDTH, WIDTH), *[floats(ROWS, WIDTH) for _ in range(steps)]]


def layers(x: Node, *weights: Node) -> Node:
    for w in weights:
        x = make("relu", make("matmul", x, w))
        row = make("reshape", make("amax", x, dim=1), shape=(x.shape[0], 1))
        x = make("sub", x, row)
    return x


def slices(x: Node, w: Node) -> Node:
    """Halves of the columns go different ways and come together again."""
    y = make("matmul", x, w)
    width = y.shape[1] // 2
    left, right = (
        make("slice", y, start=(0, at), length=(y.shape[0], width), step=(1, 1)) for at in (0, width)
    )
    both = make("cat", make("exp", right), make("mul", left, right), dim=1)
    return make("tanh", make("matmul", both, w))


def below(x: Node, w: Node) -> Node:
    """Rows look at the rows above them."""
    y = make("exp", make("matmul", x, w))
    up = make("slice", y, start=(0, 0), length=(y.shape[0] - 1, y.shape[1]), step=(1, 1))
    down = make("slice", y, start=(1, 0), length=(y.shape[0] - 1, y.shape[1]), step=(1, 1))
    return make("matmul", make("add", up, down), w)


def turned(x: Node, w: Node) -> Node:
    y = make("exp", make("matmul", x, w))
    return make("matmul", make("add", make("matmul", swapped(y), y), w), w)


def squares(x: Node, w: Node) -> Node:
    """Squares of a batch are added to their transposes: parts are whole squares."""
    width = x.shape[1]
    y = make("reshape", make("exp", make("matmul", x, w)), shape=(x.shape[0] // width, width, width))
    both = make("add", make("permute", y, dims=(0, 2, 1)), y)
    return make("matmul", make("reshape", both, shape=x.shape), w)


def batched(a: Node, b: Node) -> Node:
    """Products of batches, both of whose operands are computed: each needs all rows of its second one."""
    return make("tanh", make("matmul", make("exp", a), make("tanh", b)))


BATCH, LENGTH, HEADS = 4, 20, 2


def attending(x: Node, w: Node, *weights: Node) -> Node:
    """Layers of attention: heads of a batch look at each other, batches do not."""
    width = x.shape[1]
    each = (BATCH, LENGTH, HEADS, width // HEADS)

    def part(qkv: Node, at: int) -> Node:
        start, length = (0, 0, at, 0, 0), (BATCH, LENGTH, 1, *each[2:])
        cut = make("slice", qkv, start=start, length=length, step=(1,) * 5)
        return make("permute", make("reshape", cut, shape=each), dims=(0, 2, 1, 3))

    for v in weights:
        qkv = make("reshape", make("matmul", x, w), shape=(BATCH, LENGTH, 3, *each[2:]))
        out = item(make("attention", *(part(qkv, at) for at in range(3)), scale=0.3, causal=True), 0)
        x = make("tanh", make("matmul", make("reshape", out, shape=x.shape), v))
    return x


def images(x: Node, *weights: Node) -> Node:
    """Convolutions of images, the last one's channels one by one, and what is added to all of them."""
    for w in weights:
        groups = x.shape[1] // w.shape[1]
        y = make("conv2d", x, w, stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=groups)
        x = make("relu", make("add", y, x) if y.shape == x.shape else y)
    return x


SHAPES = {
    "images": (images, [floats(6, 5, 9, 8), floats(34, 5, 3, 3), floats(34, 34, 3, 3), floats(34, 1, 3, 3)]),
    "attending": (
        attending, [floats(BATCH * LENGTH, WIDTH), floats(WIDTH, 3 * WIDTH), *[floats(WIDTH, WIDTH) for _ in range(2)]]
    ),
    "recurrence": (recurrence, recurrent_arrays()),
    "layers": (layers, [floats(64, WIDTH), *[floats(WIDTH, WIDTH) for _ in range(3)]]),
    "slices": (slices, [floats(ROWS, WIDTH), floats(WIDTH, WIDTH)]),
    "below": (below, [floats(ROWS, WIDTH), floats(WIDTH, WIDTH)]),
    "turned": (turned, [floats(WIDTH, WIDTH), floats(WIDTH, WIDTH)]),
    "squares": (squares, [floats(6 * WIDTH, WIDTH), floats(WIDTH, WIDTH)]),
    "batched": (batched, [floats(3, 40, WIDTH), floats(3, WIDTH, 96)]),
}


@pytest.fixture(params=itertools.product(["first part first", "last part first"], ["near", "far"]), ids=" ".join)
def one_part_after_another(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs do all of a strand for one of its parts, then all of it for the next; all are near, or none is."""
    backwards = request.param[0] == "last part first"
    monkeypatch.setattr(cost, "NEAR_BYTES", (0, 1 << 60) if request.param[1] == "near" else (1, 0))

    def part(launches: Sequence[tuple[int, Any]], threads: int, threshold: float) -> Segment:
        parts = launches[0][1].parts
        tasks = [
            Task(k, launch.units * at // parts, launch.units * (at + 1) // parts)
            for at in (reversed(range(parts)) if backwards else range(parts))
            for k, launch in launches
        ]
        return ((tuple(tasks),), *[()] * (threads - 1))

    monkeypatch.setattr(shares, "part", part)


def check_bits(graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = ()) -> int:
    """Asserts that a program gives the right bits in memory that nobody has used; the parts of its strands."""
    expected = run_eagerly(graph, [copied(a) for a in arrays], scalars)
    compiled = compile_graph(graph)
    compiled.program.arena[:] = 77
    results = run_compiled(compiled, graph, [copied(a) for a in arrays], scalars)
    for result, wanted in zip(results, expected, strict=True):
        assert same_bits(result, wanted)
    return sum(launch.parts for launch in compiled.program._launches if launch.strand)


@pytest.mark.parametrize("name", SHAPES)
def test_parts_may_be_done_in_any_order(name: str, one_part_after_another: None) -> None:
    function, arrays = SHAPES[name]
    assert check_bits(graph_of(function, *arrays), arrays)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 1 << 30))
@np.errstate(all="ignore")
def test_parts_of_random_programs_may_be_done_in_any_order(one_part_after_another: None, seed: int) -> None:
    drawn = RandomGraph(seed, size=30)
    check_bits(drawn.graph, drawn.arrays, (0.75 if drawn.scalars == "f" else 3,))


class RandomRows:
    """A random program whose values mostly are [SIDE, SIDE], so that rows, columns and both may go into a product."""

    SIDE = 32

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        draw = np.random.default_rng(seed)
        shape = (self.SIDE, self.SIDE)
        self.arrays = [(draw.standard_normal(shape) * 0.2).astype(np.float32) for _ in range(3)]
        self.inputs = [input_of(k, a) for k, a in enumerate(self.arrays)]
        self.pool: list[Node] = list(self.inputs)
        for _ in range(self.rng.randrange(4, 16)):
            self.pool.append(self._grow(self._pick(), self._pick()))
        outputs = self.rng.sample(self.pool[3:], k=min(3, len(self.pool) - 3))
        homes = {k: k for k in range(len(outputs)) if self.rng.random() < 0.4}
        self.graph = Graph(tuple(self.inputs), (), tuple(outputs), homes)

    def _pick(self) -> Node:
        return self.rng.choice(self.pool[-3:] if self.rng.random() < 0.7 else self.pool)

    def _half(self, x: Node, dim: int, last: bool) -> Node:
        half = self.SIDE // 2
        length = tuple(half if d == dim else self.SIDE for d in range(2))
        start = tuple(half if d == dim and last else 0 for d in range(2))
        return make("slice", x, start=start, length=length, step=(1, 1))

    def _grow(self, x: Node, y: Node) -> Node:
        dim, last = self.rng.randrange(2), self.rng.random() < 0.5
        row = (self.SIDE, 1) if dim else (1, self.SIDE)
        return self.rng.choice(
            [
                lambda: make("matmul", x, y),
                lambda: make("matmul", x, self.rng.choice(self.inputs)),
                lambda: make("matmul", swapped(x), y),
                lambda: make("add", make("matmul", x, y), self._pick()),
                lambda: make("tanh", x),
                lambda: make("add", x, y),
                lambda: make("mul", x, make("reshape", make("amax", y, dim=dim), shape=row)),
                lambda: make("sub", x, make("reshape", make("sum", x, dim=1), shape=(self.SIDE, 1))),
                lambda: make("cat", self._half(x, dim, last), make("tanh", self._half(y, dim, not last)), dim=dim),
                lambda: make("place", x, make("tanh", self._half(y, dim, False)), start=(0, 0), step=(1, 1)),
                lambda: make("add", make("flip", x, dims=(dim,)), y),
                lambda: make("tanh", swapped(x)),
            ]
        )()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 1 << 30))
@np.errstate(all="ignore")
def test_parts_of_random_rows_may_be_done_in_any_order(one_part_after_another: None, seed: int) -> None:
    drawn = RandomRows(seed)
    check_bits(drawn.graph, drawn.arrays)


def test_most_random_rows_have_a_strand() -> None:
    plans = [make_plan(RandomRows(seed).graph, plan_call) for seed in range(40)]
    assert sum(bool(plan.strands) for plan in plans) > 20


def test_a_recurrence_is_one_strand_and_what_looks_at_all_rows_waits() -> None:
    plan = plan_of(recurrence, *recurrent_arrays())
    first, second = plan.strands
    assert [g.members[-1].name for g in plan.groups if g in first.groups].count("tanh") == 6
    # Then products and their sum, by its own rows.
    assert {g.members[0].name for g in second.groups} == {"matmul", "matmul_add"}
    # Rows of a tile, and so parts of a product, are not the same on every CPU.
    assert (first.parts, second.parts % 2) == (2, 0)
    assert max(plan.stage[g] for g in first.groups) < min(plan.stage[g] for g in second.groups)


def test_attention_is_part_of_a_strand() -> None:
    plan = plan_of(attending, *SHAPES["attending"][1])
    (strand,) = plan.strands
    assert strand.parts == BATCH
    assert len(strand.groups) == len(plan.groups)
    # Threads that are behind still use the scratch memory of a layer when others are in the next one.
    last = max(b.last for b in plan.scratch.values())
    assert [b.last for b in plan.scratch.values()] == [last, last]


def test_what_comes_and_goes_in_a_strand_has_little_memory() -> None:
    def sizes(steps: int) -> int:
        arrays = recurrent_arrays(steps)
        return plan_of(lambda *nodes: recurrence(*nodes)[0], *arrays).arena_bytes

    assert sizes(12) == sizes(6) > 0


def test_too_much_memory_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "HELD_BYTES", 4 * ROWS * WIDTH)
    # What is added up in one operation waits together.
    monkeypatch.setattr(cost, "CHAIN", 2)
    plan = plan_of(recurrence, *recurrent_arrays())
    steps = [[g.members[-1].name for g in strand.groups].count("tanh") for strand in plan.strands]
    assert max(steps) < 6


def test_a_matrix_is_written_over_when_all_threads_have_read_it() -> None:
    def update(x: Node, w: Node) -> tuple[Node, Node]:
        y = make("relu", make("matmul", make("relu", make("matmul", x, w)), w))
        return y, make("mul", w, 0.5)

    plan = plan_of(update, floats(ROWS, ROWS), floats(ROWS, ROWS), homes={1: 1})
    (strand,) = plan.strands
    (late,) = [g for g in plan.groups if g.members[0].name == "mul"]
    assert late not in strand.groups
    assert plan.stage[late] > max(plan.stage[g] for g in strand.groups)


@pytest.mark.parametrize(
    ("function", "along"),
    [
        (lambda x: make("exp", x), True),
        (lambda x: make("reshape", make("exp", x), shape=(WIDTH, ROWS)), True),
        (lambda x: make("exp", make("slice", x, start=(0, 3), length=(ROWS, 9), step=(1, 2))), True),
        (lambda x: make("exp", make("slice", x, start=(2, 0), length=(ROWS - 2, WIDTH), step=(1, 1))), False),
        (lambda x: make("exp", make("slice", x, start=(0, 0), length=(ROWS // 2, WIDTH), step=(2, 1))), True),
        (lambda x: make("exp", make("flip", x, dims=(0,))), False),
        (lambda x: make("exp", make("flip", x, dims=(1,))), True),
        (lambda x: make("exp", make("expand", make("reshape", x, shape=(1, *x.shape)), shape=(4, *x.shape))), False),
        (lambda x: make("amax", x, dim=1), True),
    ],
)
def test_which_operands_are_parted_with_the_units(function: Callable[[Node], Node], along: bool) -> None:
    plan = plan_of(function, floats(ROWS, WIDTH))
    (group,) = plan.groups
    way = parting(group)
    assert way is not None
    (source,) = (r.source for v in group.members for r in v.reads if r.source.kind == "input")
    assert (source in way.along) is along
    assert source in way.touched
    assert source not in way.writes


def test_what_is_turned_is_parted_by_whole_matrices() -> None:
    plan = plan_of(lambda x: make("exp", make("permute", x, dims=(0, 2, 1))), floats(6, ROWS, WIDTH))
    way = parting(plan.groups[0])
    assert way is not None
    assert (way.parts, len(way.along)) == (6, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: make("sum", x, dim=0),
        lambda x: make("cumsum", x, dim=0),
        # Units stand for shares of the blocks of a matrix, not for its rows.
        lambda x: make("exp", swapped(x)),
    ],
)
def test_what_cannot_be_parted(function: Callable[[Node], Node]) -> None:
    plan = plan_of(function, floats(ROWS, WIDTH))
    assert [parting(group) for group in plan.groups] == [None]


def products(x: Node, y: Node) -> tuple[Node, ...]:
    """Products whose operands lie alike, of which two read one value both by its rows and as a whole."""
    return tuple(make("matmul", a, b) for a, b in itertools.product((x, y), repeat=2))


@pytest.mark.parametrize("name", [*SHAPES, "products"])
def test_calls_that_are_alike_are_parted_as_each_by_itself(name: str) -> None:
    function, arrays = SHAPES.get(name, (products, [floats(WIDTH, WIDTH), floats(WIDTH, WIDTH)]))
    ways, plan = Partings(), plan_of(function, *arrays)
    assert [ways.of(group) for group in plan.groups] == [parting(group) for group in plan.groups]


def test_who_uses_no_strands_has_none() -> None:
    graph = graph_of(recurrence, *recurrent_arrays())
    plan = make_plan(graph, plan_call, strands=False)
    assert not plan.strands
    assert make_plan(graph, plan_call).strands


def layered(h: Node, *weights: Node) -> tuple[Node, ...]:
    """The gradients of the weights of layers, one behind another."""
    states = [h]
    for w in weights:
        states.append(make("tanh", make("matmul", states[-1], w)))
    ct, gradients = states[-1], []
    for w, state in zip(reversed(weights), reversed(states[:-1]), strict=True):
        gradients.append(make("mul", make("matmul", swapped(state), ct), 0.5))
        ct = make("mul", make("matmul", ct, swapped(w)), state)
    return (*gradients, ct)


def test_what_waits_is_not_looked_for_again_in_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    held_up = order._Ordering._held_up
    monkeypatch.setattr(order._Ordering, "_held_up", lambda self, group: looks.append(group) or held_up(self, group))
    counts = []
    for layers in (6, 12, 24):
        looks.clear()
        plan_of(layered, floats(3, 5), *[floats(5, 5) for _ in range(layers)])
        counts.append(len(looks))
    assert counts[2] - counts[1] <= 3 * (counts[1] - counts[0]) + 8
