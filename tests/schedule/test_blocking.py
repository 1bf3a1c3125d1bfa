"""What is done block by block, and that blocks of any size have the bits of the operations one by one."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import check, graph_of, input_of, make
from tracejit import compiler
from tracejit.codegen.library import panel_columns, plan_call, prepared
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, item
from tracejit.passes.pipeline import run_passes
from tracejit.runtime import program
from tracejit.schedule import cost
from tracejit.schedule.layout import arrange_products
from tracejit.schedule.plan import Plan, make_plan

RNG = np.random.default_rng(5)
F = tj.nn.functional
PLAIN = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.5).astype(dtype)


def plan_of(function: Any, *arrays: np.ndarray, **more: Any) -> Plan:
    graph = run_passes(graph_of(function, *arrays, **more))[0]
    return make_plan(arrange_products(graph, panel_columns), plan_call, preparing=prepared)


def names_of(plan: Plan) -> list[list[str]]:
    return [[group.members[-1].name if group.kind == "loop" else group.members[0].name for group in stages.groups]
            for stages in plan.blocked]


def along_channels(x: Node, bias: Node) -> Node:
    return make("add", x, make("reshape", bias, shape=(1, x.shape[1], 1, 1)))


def ended(x: Node, w: Node, bias: Node) -> Node:
    return make("relu", along_channels(make("conv2d", x, w, **PLAIN), bias))


def pooled(x: Node) -> Node:
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    return item(make("max_pool2d", x, **window), 0)


IMAGES = [floats(16, 4, 32, 32), floats(16, 4, 3, 3), floats(16)]


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2000, 40000], ids="blocks of {} bytes".format)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can go block by block does so, shared by threads; programs made so have names of their own."""
    monkeypatch.setattr(cost, "BLOCKED_BYTES", 0)
    monkeypatch.setattr(cost, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(program, "sharing_threshold", lambda launches, single: 0.0)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} blocks of {request.param}")


class RandomImages:
    """A random program of convolutions, pooling and what comes between them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.dtype = self.rng.choice([np.float32, np.float32, np.float64])
        draw = self.rng.randrange
        self.arrays = [floats(draw(2, 9), draw(1, 40), draw(3, 40), draw(3, 40), dtype=self.dtype)]
        self.inputs = [input_of(0, self.arrays[0])]
        self.pool = [self.inputs[0]]
        for _ in range(draw(3, 9)):
            self.pool.append(self._grow(self.pool[-1] if draw(4) else self.rng.choice(self.pool)))
        outputs = {self.pool[-1], *self.rng.sample(self.pool[1:], k=draw(0, 2))}
        self.graph = Graph(tuple(self.inputs), (), tuple(outputs), {})

    def _input(self, *shape: int) -> Node:
        self.arrays.append(floats(*shape, dtype=self.dtype))
        self.inputs.append(input_of(len(self.inputs), self.arrays[-1]))
        return self.inputs[-1]

    def _grow(self, x: Node) -> Node:
        draw, (images, channels, height, width) = self.rng.randrange, x.shape
        way = draw(8)
        if way < 3:
            kernel = draw(1, min(4, height + 1)), draw(1, min(4, width + 1))
            groups = self.rng.choice([1, 1, channels, 2 if channels % 2 == 0 else 1])
            more = {"stride": (draw(1, 3), draw(1, 3)), "padding": (kernel[0] // 2, kernel[1] // 2)}
            out = groups * draw(1, 4) if groups > 1 and groups < channels else groups if groups > 1 else draw(1, 40)
            w = self._input(out, channels // groups, *kernel)
            return make("conv2d", x, w, **more, dilation=(1, 1), groups=groups)
        if way == 3 and min(height, width) > 3:
            return pooled(x)
        if way == 4:
            return make("mul", along_channels(x, self._input(channels)), self.rng.choice([2.0, -0.5]))
        if way == 5:
            same = [y for y in self.pool if y.shape == x.shape and y is not x]
            return make("add", x, self.rng.choice(same) if same else self._input(*x.shape))
        if way == 6:
            row = make("reshape", make("amax", x, dim=3), shape=(images, channels, height, 1))
            return make("sub", x, row)
        return make(self.rng.choice(["relu", "tanh", "neg", "abs"]), x)


@pytest.mark.parametrize("seed", range(40))
@np.errstate(all="ignore")
def test_random_programs_of_images_have_the_bits_of_their_operations(small_blocks: None, seed: int) -> None:
    drawn = RandomImages(seed)
    check(drawn.graph, drawn.arrays)


def test_random_programs_have_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BLOCKED_BYTES", 0)
    monkeypatch.setattr(cost, "BLOCK_BYTES", 1)
    plans = [make_plan(RandomImages(seed).graph, plan_call, preparing=prepared) for seed in range(40)]
    assert sum(bool(plan.blocked) for plan in plans) >= 20
    assert sum(len(stages.groups) > 2 for plan in plans for stages in plan.blocked) >= 10


def follow(product: tj.Tensor, bias: tj.Tensor, other: tj.Tensor) -> dict[str, tj.Tensor]:
    moved = product + bias
    return {
        "gelu": F.gelu(moved),
        "tanh": tj.tanh(moved),
        "sigmoid": tj.sigmoid(moved),
        "silu": F.silu(moved),
        "residual": F.relu(moved) + other,
        "two": F.gelu(moved) * moved,
    }


@pytest.mark.parametrize("name", ["gelu", "tanh", "sigmoid", "silu", "residual", "two"])
@pytest.mark.parametrize("shape", [(7, 5, 3), (33, 64, 17), (96, 31, 130), (3, 20, 9, 40)], ids=str)
def test_what_follows_a_product_has_the_bits_of_eager(small_blocks: None, name: str, shape: tuple[int, ...]) -> None:
    *batch, m, k, n = shape
    a, b, bias, other = tj.randn(*batch, m, k), tj.randn(*batch, k, n), tj.randn(n), tj.randn(*batch, m, n)

    def both(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, tj.Tensor]:
        product = a @ b
        return follow(product, bias, other)[name], follow(product.transpose(-1, -2), bias[:1], other[..., :1, :1])[name]

    compiled = tj.compile(both)
    expected = [x.numpy().tobytes() for x in both(a, b)]
    for _ in range(4):
        assert [x.numpy().tobytes() for x in compiled(a, b)] == expected


# --- what is done block by block --------------------------------------------------------------------------------------


def test_what_follows_a_convolution_is_done_while_its_images_are_in_a_cache() -> None:
    plan = plan_of(lambda x, w, b: pooled(ended(x, w, b)), *IMAGES)
    assert names_of(plan) == [["conv2d", "relu", "max_pool2d"]]
    (found,) = plan.blocked
    # An image has 64 KiB before it is pooled, then 16 and the places of these.
    assert (found.parts, found.block) == (16, cost.BLOCK_BYTES // (112 << 10))
    (inner,) = {group for group in found.groups if group.kind == "loop"}
    assert plan.soon == {found.groups[0].members[0].results[0], inner.members[-1]}


def test_blocks_have_equally_much_memory_whatever_the_batch() -> None:
    sizes = [plan_of(ended, floats(n, *IMAGES[0].shape[1:]), *IMAGES[1:]).blocked[0].block for n in (16, 32, 64)]
    assert len(set(sizes)) == 1


def test_what_a_cache_holds_is_done_at_once() -> None:
    small = plan_of(ended, floats(2, 4, 32, 32), *IMAGES[1:])
    assert small.strands
    assert not small.blocked


def test_a_product_that_packs_its_matrix_for_all_rows_is_done_for_all_of_them() -> None:
    plan = plan_of(lambda x, w, y: make("add", make("exp", make("matmul", x, w)), y),
                   floats(768, 128), floats(128, 512), floats(768, 512))
    assert plan.strands
    assert not plan.blocked


def test_batches_of_products_are_done_one_by_one() -> None:
    plan = plan_of(lambda x, y, z: make("add", make("matmul", x, y), z),
                   floats(64, 64, 32), floats(64, 32, 64), floats(64, 64))
    assert names_of(plan) == [["matmul", "add"]]


def test_sums_over_images_are_none_of_it() -> None:
    plan = plan_of(lambda x, w, b: make("sum", ended(x, w, b), dim=0), *IMAGES)
    assert not any("sum" in names for names in names_of(plan))


def test_who_has_no_strands_has_no_blocks() -> None:
    graph = graph_of(ended, *IMAGES)
    assert not make_plan(graph, plan_call, strands=False).blocked


# --- weights that are packed before -----------------------------------------------------------------------------------


def test_weights_are_packed_before_what_their_images_wait_for() -> None:
    plan = plan_of(lambda x, w, b: ended(make("exp", x), w, b), *IMAGES)
    packing, *_ = (group for group in plan.groups if group.kind == "call")
    assert plan.stage[packing] == 0
    assert [read.source.attrs for read in packing.members[0].reads] == [(1,)]
    assert not plan.scratch


def test_weights_that_are_much_are_packed_where_they_are_read() -> None:
    plan = plan_of(ended, floats(4, 128, 16, 16), floats(128, 128, 3, 3), floats(128))
    (call,) = (group for group in plan.groups if group.kind == "call")
    assert plan.scratch[call.members[0]].nbytes > cost.FIRST_BYTES


def test_a_weight_that_changes_is_packed_before() -> None:
    def step(x: Node, w: Node, b: Node) -> tuple[Node, ...]:
        return ended(make("exp", x), w, b), make("sub", w, 0.5)

    graph = graph_of(step, *IMAGES, homes={1: 1})
    check(graph, IMAGES)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_explain_says_what_is_done_block_by_block() -> None:
    x, w, b = tj.randn(64, 4, 32, 32), tj.randn(16, 4, 3, 3), tj.randn(16)
    f = tj.compile(lambda x: F.relu(F.conv2d(x, w, b, 1, 1)))
    for _ in range(3):
        f(x)
    told = tj.explain(f)
    blocks = [(g["block"], g["parts"]) for p in told.programs for g in p["groups"] if g["parts"]]
    assert blocks == [(6, 64)] * 2
    assert "6 of 64 parts at a time" in str(told)


def test_numbers_of_blocks_are_bounded() -> None:
    assert all(cost.block(total, total, parts) * cost.MOST_BLOCKS >= parts // 2
               for total, parts in itertools.product((1 << 22, 1 << 34), (5000, 1 << 20)))
