"""Compiled graphs: the same bits as the operations one by one, and what is fused."""

from __future__ import annotations

import gc
import random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import RandomGraph, check, graph_of, make, random_array, run_compiled, run_eagerly
from tracejit import compiler, dtypes
from tracejit.aval import Aval
from tracejit.codegen.library import plan_call
from tracejit.compiler import compile_graph, supports
from tracejit.ir.node import Node
from tracejit.ops import ops
from tracejit.runtime.build import Begun
from tracejit.runtime.crew import Crew
from tracejit.schedule.plan import make_plan
from tracejit.schedule.values import Value

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def keep(value: Node, like: Node) -> Node:
    """A value reduced over the last dimension beside what it was reduced from."""
    return make("reshape", value, shape=(*like.shape[:-1], 1))


def softmax(x: Node) -> Node:
    e = make("exp", make("sub", x, keep(make("amax", x, dim=len(x.shape) - 1), x)))
    return make("div", e, keep(make("sum", e, dim=len(x.shape) - 1), x))


def layer_norm(x: Node, gamma: Node, beta: Node) -> Node:
    last = len(x.shape) - 1
    n = x.shape[-1]
    d = make("sub", x, keep(make("div", make("sum", x, dim=last), n), x))
    var = make("div", make("sum", make("mul", d, d), dim=last), n)
    scale = make("div", 1.0, make("sqrt", make("add", var, 1e-5)))
    return make("add", make("mul", make("mul", d, keep(scale, x)), gamma), beta)


def adam(p: Node, g: Node, m: Node, v: Node, lr: Node) -> tuple[Node, ...]:
    m = make("add", make("mul", m, 0.9), make("mul", g, 0.1))
    v = make("add", make("mul", v, 0.999), make("mul", make("mul", g, g), 0.001))
    step = make("div", m, make("add", make("sqrt", v), 1e-8))
    return make("sub", p, make("mul", step, lr)), m, v


# --- random graphs ----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.integers(0, 1 << 30))
def test_random_graphs_have_the_bits_of_eager(seed: int) -> None:
    drawn = RandomGraph(seed)
    check(drawn.graph, drawn.arrays, (0.75 if drawn.scalars == "f" else 3,))


@pytest.mark.parametrize("fold", ["sum", "amax"])
def test_rows_that_are_read_in_another_order_are_folded_apart(fold: str) -> None:
    """A group that folds its rows does not fold them for whoever wants them in another order."""

    def both(x: Node) -> tuple[Node, ...]:
        y = make("mul", x, 2.0)
        return make("amax", y, dim=1), make(fold, make("flip", y, dims=(0, 1)), dim=1)

    arrays = [np.arange(35, dtype=np.float32).reshape(7, 5)]
    check(graph_of(both, *arrays), arrays)


def test_what_float16_keeps_small_stays() -> None:
    arrays = [np.array([2e-5, 6e-8, 0.0, -1e-5, 1.0], np.float16)]
    check(graph_of(lambda x: make("flush_denormal", x), *arrays), arrays)


LAYOUTS = [("contiguous", ()), ("sliced", (0, 3)), ("contiguous", (37,)), ("transposed", (5, 7))]


def _sampled(op: Any, array: np.ndarray) -> np.ndarray:
    """Values where a function of positive numbers is defined."""
    if op.sample[0] <= 0:
        return array
    return np.asarray(np.clip(np.abs(array), *op.sample)).astype(array.dtype)


WRITTEN = [op for op in ops.family("elementwise") if op.expr not in (None, "cast")]
KINDS = {"b": ["bool"], "i": ["int32", "uint8"], "f": ["float32", "float64", "float16", "bfloat16"]}


@pytest.mark.parametrize("op", WRITTEN, ids=lambda op: op.name)
def test_each_elementwise_operation(op: Any) -> None:
    rng = random.Random(3)
    for letter in op.kinds:
        if isinstance(op.expr, dict) and letter not in op.expr:
            continue
        for kind in KINDS[letter]:
            for layout, shape in LAYOUTS:
                arrays = [random_array(rng, shape, kind, layout) for _ in op.params]
                if op.name == "where":
                    arrays[0] = np.asarray(arrays[0] > 0)
                if letter == "f":
                    arrays = [_sampled(op, a) for a in arrays]
                graph = graph_of(lambda *nodes: make(op.name, *nodes), *arrays)
                check(graph, arrays)


REDUCED = [((7,), 0), ((3, 40), 1), ((300, 5), 0), ((4, 300, 3), 1), ((2, 9000), 1), ((9000,), 0), ((2, 1), 1)]


@pytest.mark.parametrize("name", ["sum", "prod", "amax", "amin"])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int64", "uint8"])
def test_each_reduction(name: str, kind: str) -> None:
    rng = random.Random(5)
    is_float = "float" in kind
    tolerance = {"float16": 1e-2, "bfloat16": 4e-2}.get(kind, 2e-4)
    for shape, dim in REDUCED:
        for layout in ("contiguous", "transposed", "reversed"):
            x = random_array(rng, shape, kind, layout)
            graph = graph_of(lambda x, dim=dim: make(name, x, dim=dim), x)
            check(graph, [x])
            wide = x.astype(np.float64) if is_float else x
            with np.errstate(all="ignore"):
                if name[0] == "a":
                    expected = getattr(np, name[1:])(wide, axis=dim)
                else:
                    expected = getattr(np, name)(wide, axis=dim, dtype=wide.dtype)
                expected = expected.astype(x.dtype)
            result = run_eagerly(graph, [x])[0]
            result, expected = (a.astype(np.float64) if is_float else a for a in (result, expected))
            np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def test_reductions_of_nothing() -> None:
    x = np.zeros((3, 0), np.float32)
    for name, value in (("sum", 0.0), ("prod", 1.0)):
        graph = graph_of(lambda x, name=name: make(name, x, dim=1), x)
        (result,) = run_compiled(compile_graph(graph), graph, [x])
        assert result.tobytes() == np.full(3, value, np.float32).tobytes()
    with pytest.raises(ValueError, match="amax"):
        compile_graph(graph_of(lambda x: make("amax", x, dim=1), x))


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_softmax_is_one_kernel() -> None:
    x = floats(6, 5, 33)
    compiled = check(graph_of(softmax, x), [x])
    assert [g.kind for g in compiled.groups] == ["row"]
    assert compiled.arena_bytes == 0


def test_layer_norm_is_one_kernel() -> None:
    arrays = [floats(4, 9, 64), floats(64), floats(64)]
    compiled = check(graph_of(layer_norm, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["row"]


def test_layer_norm_backward_is_one_row_kernel() -> None:
    def backward(x: Node, gamma: Node, ct: Node) -> tuple[Node, ...]:
        n = x.shape[-1]

        def mean(t: Node) -> Node:
            return keep(make("div", make("sum", t, dim=1), n), x)

        d = make("sub", x, mean(x))
        scale = make("div", 1.0, make("sqrt", make("add", mean(make("mul", d, d)), 1e-5)))
        hat = make("mul", d, scale)
        g = make("mul", ct, gamma)
        inner = make("sub", make("sub", g, mean(g)), make("mul", hat, mean(make("mul", g, hat))))
        return (make("mul", inner, scale), make("sum", make("mul", ct, hat), dim=0), make("sum", ct, dim=0))

    arrays = [floats(70, 48), floats(48), floats(70, 48)]
    compiled = check(graph_of(backward, *arrays), arrays)
    assert sorted(g.kind for g in compiled.groups) == ["column", "column", "row"]


def test_bias_gradient_goes_with_its_producer() -> None:
    def backward(h: Node, ct: Node) -> tuple[Node, ...]:
        g = make("mul", ct, make("sub", 1, make("mul", h, h)))
        return g, make("sum", g, dim=0)

    arrays = [floats(64, 128), floats(64, 128)]
    compiled = check(graph_of(backward, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["column"]


def test_loss_is_one_row_kernel_and_a_mean() -> None:
    def loss(x: Node, target: Node) -> Node:
        shifted = make("sub", x, keep(make("amax", x, dim=1), x))
        total = make("log", make("sum", make("exp", shifted), dim=1))
        picked = make("reshape", make("gather", shifted, make("reshape", target, shape=(64, 1)), dim=1), shape=(64,))
        return make("div", make("sum", make("sub", total, picked), dim=0), 64)

    arrays = [floats(64, 10), RNG.integers(0, 10, 64)]
    compiled = check(graph_of(loss, *arrays), arrays)
    assert [g.kind for g in compiled.groups] == ["row", "call", "row"]


def test_adam_updates_in_place_in_one_stage() -> None:
    arrays = [floats(40, 30) for _ in range(4)] + [floats(30) for _ in range(4)]
    arrays[3], arrays[7] = abs(arrays[3]), abs(arrays[7])

    def step(*nodes: Node) -> tuple[Node, ...]:
        *given, lr = nodes
        return (*adam(*given[:4], lr), *adam(*given[4:], lr))

    homes = {0: 0, 1: 2, 2: 3, 3: 4, 4: 6, 5: 7}
    compiled = check(graph_of(step, *arrays, scalars="f", homes=homes), arrays, (0.01,))
    assert [g.kind for g in compiled.groups] == ["loop", "loop"]
    assert (compiled.stages, len(compiled.kernels), compiled.arena_bytes) == (1, 1, 0)


def test_batch_norm_statistics() -> None:
    def norm(x: Node) -> Node:
        n, c, h, w = x.shape
        count = n * h * w

        def total(t: Node) -> Node:
            rows = make("sum", make("reshape", t, shape=(n, c, h * w)), dim=2)
            return make("reshape", make("div", make("sum", rows, dim=0), count), shape=(c, 1, 1))

        d = make("sub", x, total(x))
        return make("div", d, make("sqrt", make("add", total(make("mul", d, d)), 1e-5)))

    x = floats(5, 3, 8, 8)
    compiled = check(graph_of(norm, x), [x])
    assert [g.kind for g in compiled.groups] == ["row", "strip", "row", "strip", "loop"]


def test_a_cut_says_why() -> None:
    x = floats(8, 8)

    def both_ways(x: Node) -> Node:
        e = make("exp", x)
        return make("add", e, make("permute", e, dims=(1, 0)))

    compiled = check(graph_of(both_ways, x), [x])
    assert [g.kind for g in compiled.groups] == ["loop", "loop"]
    assert compiled.groups[1].cuts == ("exp -> add: add reads exp at other places than its own",)


def test_a_copy_for_the_caller_is_of_the_line_that_made_the_output() -> None:
    x = random_array(random.Random(1), (3, 4), "float32", "contiguous")
    graph = graph_of(lambda x: (make("permute", x, dims=(1, 0)), make("exp", x)), x)
    turned, exponential = graph.outputs
    graph.lines.update({turned: "file.py:1", exponential: "file.py:2"})  # type: ignore[attr-defined]
    groups = compile_graph(graph).groups
    assert sorted((group.ops, group.lines) for group in groups) == [
        (("copy",), ("file.py:1",)),
        (("exp",), ("file.py:2",)),
    ]


def test_joining_writes_into_the_result() -> None:
    arrays = [floats(4, 6), floats(4, 3)]
    compiled = check(graph_of(lambda x, y: make("cat", make("exp", x), make("tanh", y), dim=1), *arrays), arrays)
    assert [g.ops for g in compiled.groups] == [("exp", "copy"), ("tanh", "copy")]
    assert (compiled.arena_bytes, compiled.stages) == (0, 1)


# --- structure --------------------------------------------------------------------------------------------------------


def test_sizes_and_numbers_are_not_in_the_text() -> None:
    def texts(rows: int, factor: float) -> list[str]:
        x, b = floats(rows, 12), floats(12)
        graph = graph_of(lambda x, b: softmax(make("mul", make("add", x, b), factor)), x, b)
        return [k.text for k in compile_graph(graph).kernels]

    assert texts(64, 0.1) == texts(17, 3.5)


def test_operations_without_text_are_named() -> None:
    x = np.arange(6)
    with pytest.raises(NotImplementedError, match="floor_divide"):
        compile_graph(graph_of(lambda x: make("floor_divide", x, 2), x))
    aval = Aval((6,), dtypes.int64)
    assert not supports(ops.floor_divide, (aval, None))
    assert supports(ops.add, (aval, None))
    assert supports(ops.matmul, (aval, aval))
    assert not supports(ops.bitwise_not, (Aval((6,), dtypes.float32),))


# --- homes ------------------------------------------------------------------------------------------------------------


def test_homes_that_exchange_their_values() -> None:
    arrays = [floats(9), floats(9)]
    graph = graph_of(lambda a, b: (make("add", b, 1.0), make("mul", a, 2.0)), *arrays, homes={0: 0, 1: 1})
    compiled = check(graph, arrays)
    assert compiled.arena_bytes > 0


def test_a_home_that_is_read_elsewhere_first() -> None:
    arrays = [floats(16, 16), floats(16, 16)]

    def step(w: Node, x: Node) -> tuple[Node, ...]:
        y = make("matmul", x, w)
        return make("sub", w, make("mul", make("matmul", make("permute", x, dims=(1, 0)), y), 0.1)), y

    compiled = check(graph_of(step, *arrays, homes={0: 0}), arrays)
    assert compiled.groups[-1].ops == ("mul", "sub")


def test_a_home_read_at_other_places() -> None:
    x = floats(12)
    check(graph_of(lambda x: make("add", x, make("flip", x, dims=(0,))), x, homes={0: 0}), [x])
    check(graph_of(lambda x: make("flip", x, dims=(0,)), x, homes={0: 0}), [x])
    check(graph_of(lambda x: x, x, homes={0: 0}), [x])
    square = floats(6, 6)
    check(graph_of(lambda x: softmax(make("permute", x, dims=(1, 0))), square, homes={0: 0}), [square])
    check(graph_of(softmax, square, homes={0: 0}), [square])


def test_outputs_that_are_inputs_views_or_equal() -> None:
    x = floats(6, 4)

    def outputs(x: Node) -> tuple[Node, ...]:
        e = make("exp", x)
        return x, e, e, make("permute", e, dims=(1, 0)), make("slice", x, start=(1, 0), length=(2, 2), step=(2, 3))

    check(graph_of(outputs, x), [x])


def test_a_failing_program_changes_nothing() -> None:
    x, index = floats(5, 3), np.array([0, 7])

    def step(x: Node, index: Node) -> tuple[Node, ...]:
        return make("mul", x, 2.0), make("take", x, index, dim=0)

    graph = graph_of(step, x, index, homes={0: 0})
    before = x.copy()
    with pytest.raises(IndexError):
        run_compiled(compile_graph(graph), graph, [x, index])
    assert x.tobytes() == before.tobytes()


def test_memory_that_launches_share_is_nobody_elses() -> None:
    x, w, z = floats(2, 5, 9, 9), floats(20, 5, 3, 3), floats(300, 300)

    def build(x: Node, w: Node, z: Node) -> tuple[Node, ...]:
        meeting = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        first = make("conv2d", make("exp", x), make("exp", w), **meeting)
        other = make("matmul", make("exp", z), make("sin", z))
        second = make("conv2d_input_grad", make("sin", first), make("exp", w), size=(9, 9), **meeting)
        return first, other, make("conv2d", second, make("exp", w), **meeting)

    graph = graph_of(build, x, w, z)
    plan = make_plan(graph, plan_call)
    assert [call.name for call in plan.scratch if "conv" in call.name] == ["conv2d", "conv2d_input_grad", "conv2d"]
    for shared in plan.scratch.values():
        assert shared.last > shared.first
        for other in plan.arena:
            apart = other.last < shared.first or shared.last < other.first
            beside = other.offset + other.nbytes <= shared.offset or shared.offset + shared.nbytes <= other.offset
            assert other is shared or apart or beside
    check(graph, [x, w, z])


def test_random_numbers_depend_on_their_place_alone() -> None:
    def drop(x: Node, p: Node) -> Node:
        mask = make("lt", make("uniform", 11, 4, shape=x.shape, dtype=dtypes.float32), p)
        return make("where", mask, make("div", x, p), 0)

    x = floats(33, 17)
    compiled = check(graph_of(drop, x, scalars="f"), [x], (0.7,))
    assert [g.kind for g in compiled.groups] == ["loop"]


def test_a_plan_that_fails_takes_back_the_kernels_that_were_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ends: list[str] = []

    class Taken:
        def dismiss(self) -> None:
            ends.append("dismissed")

    def begin(functions: list[Any]) -> Begun:
        asked.extend(function.__name__ for function in functions)
        return Begun(cast(Crew, Taken()), frozenset())

    def fail(assembly: Any) -> None:
        raise NotImplementedError("no text")

    monkeypatch.setattr(compiler, "begin", begin)
    monkeypatch.setattr(compiler, "_MANY_VALUES", 1)
    monkeypatch.setattr(compiler, "_identity", lambda graph: (None, ""))
    monkeypatch.setattr(compiler._Assembly, "generate", fail)
    x = floats(40, 40)
    with pytest.raises(NotImplementedError, match="no text"):
        compile_graph(graph_of(lambda a: make("matmul", a, make("exp", a)), x))
    assert asked == ["gemm_panel_f32"]
    assert ends == ["dismissed"]


def test_nothing_of_a_plan_waits_for_a_search_for_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_identity", lambda graph: (None, ""))
    # Values of plans that other tests hold, or left.
    before = {id(it) for it in gc.get_objects() if type(it) is Value}
    wanted = gc.isenabled()
    gc.disable()
    try:
        for seed in range(20):
            compile_graph(RandomGraph(seed, size=40).graph)
        left = [it for it in gc.get_objects() if type(it) is Value and id(it) not in before]
    finally:
        if wanted:
            gc.enable()
    assert not left
