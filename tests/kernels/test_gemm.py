"""Matrix products: every path gives each element as one chain of fused multiply-adds along k."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.chains import distances, reference
from tests.kernels.launching import fenced, launch, launch_part, operand, run, same, sample
from tracejit.kernels import gemm, gemm_kernels
from tracejit.kernels.gemm import (
    panel_columns,
    plan_distances,
    plan_matmul,
    plan_matmul_bias,
    plan_matmul_mask,
    plan_matmul_mul,
    plan_matmul_panels,
    plan_matmul_relu,
    plan_pack_panels,
)
from tracejit.kernels.gemm_kernels import NARROW, WIDE, Tile
from tracejit.kernels.launch import Launch, Operand
from tracejit.kernels.vectors import TARGET

FLOATS = ("float32", "float64")
SHAPES = [
    (1, 1, 1),
    (1, 64, 64),
    (1, 10, 33),
    (1, 200, 17),
    (1, 203, 211),
    (1, 40, 1024),
    (1, 37, 1029),
    (2, 33, 17),
    (3, 5, 16),
    (4, 100, 40),
    (5, 31, 3),
    (8, 32, 64),
    (17, 47, 130),
    (40, 20, 1100),
    (7, 9, 2100),
    (64, 10, 64),
    (33, 1, 70),
    (70, 70, 257),
]


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values: rows contiguous, columns contiguous, neither, or reversed."""
    if layout == "rows":
        return array
    if layout == "columns":
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "gaps":
        wide = np.zeros((*array.shape[:-2], array.shape[-2] * 2, array.shape[-1] * 3), array.dtype)
        view = wide[..., ::2, ::3]
    else:
        view = np.zeros_like(array)[..., ::-1, ::-1]
    view[...] = array
    return view


def names(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[str]:
    return [launch.function.__name__ for launch in plan_matmul(operand(a), operand(b), operand(c))]


@pytest.fixture(params=[NARROW, WIDE], ids=["narrow", "wide"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tile:
    """Each tile, whatever the sizes and the machine."""
    monkeypatch.setattr(gemm, "_tile_of", lambda problem: request.param)
    found: Tile = request.param
    return found


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_every_layout_gives_the_bits_of_scalar_chains(dtype: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m * n * k)
    a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
    expected = reference(a, b)
    for left, right in itertools.product(("rows", "columns", "gaps", "reversed"), repeat=2):
        result = run(plan_matmul, [laid_out(a, left), laid_out(b, right)], np.empty((m, n), dtype))
        same(result, expected)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    batch=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 80), st.integers(1, 80), st.integers(0, 90)),
    layouts=st.tuples(*[st.sampled_from(("rows", "columns", "gaps"))] * 2),
    shared=st.sampled_from(("neither", "a", "b")),
    shape=st.sampled_from((NARROW, WIDE)),
    seed=st.integers(0, 99),
)
def test_any_batched_product(
    dtype: str, batch: int, sizes: tuple[int, int, int], layouts: tuple[str, str], shared: str, shape: Tile, seed: int
) -> None:
    m, n, k = sizes
    rng = np.random.default_rng(seed)
    a, b = sample(rng, dtype, batch, m, k), sample(rng, dtype, batch, k, n)
    if shared == "a":
        a = np.broadcast_to(a[:1], a.shape)
    elif shared == "b":
        b = np.broadcast_to(b[:1], b.shape)
    left = a if shared == "a" else laid_out(a, layouts[0])
    right = b if shared == "b" else laid_out(b, layouts[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm, "_tile_of", lambda problem: shape)
        same(run(plan_matmul, [left, right], np.empty((batch, m, n), dtype)), reference(a, b))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "k"), [*SHAPES, (96, 64, 0), (40, 300, 1200)])
def test_distances_are_roots_of_chains_of_differences(dtype: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m * n + k)
    x, y = sample(rng, dtype, m, k), sample(rng, dtype, n, k)
    y[0, ::2] = x[0, ::2]
    expected = distances(x, y)
    for left, right in itertools.product(("rows", "columns", "gaps", "reversed"), repeat=2):
        same(run(plan_distances, [laid_out(x, left), laid_out(y, right)], np.empty((m, n), dtype)), expected)
    stacks = [np.stack([z, z[::-1]]) for z in (x, y)]
    same(run(plan_distances, stacks, np.empty((2, m, n), dtype)), distances(*stacks))


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0, x.dtype.type(0), x)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1] + [(300, 260, 1200), (96, 64, 0), (1, 1000, 300)])
def test_a_bias_and_relu_behind_a_product(dtype: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    rng = np.random.default_rng(m)
    a, b, bias = sample(rng, dtype, m, k), sample(rng, dtype, k, n), sample(rng, dtype, n)
    bias[::3] = -0.0
    bias[1] = np.nan
    expected = relu(reference(a, b) + bias)
    for left, right in itertools.product(("rows", "columns", "gaps"), repeat=2):
        found = run(plan_matmul_relu, [laid_out(a, left), laid_out(b, right), bias], np.empty((m, n), dtype))
        same(found, expected)
        assert not np.signbit(found[found == 0]).any()


GATES: dict[str, tuple[Any, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "multiplied": (plan_matmul_mul, lambda x, gate: x * gate),
    "masked": (plan_matmul_mask, lambda x, gate: np.where(gate <= 0, x.dtype.type(0), x)),
    "moved": (plan_matmul_bias, lambda x, gate: x + gate),
}


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    "shape", [s for s in SHAPES if s[1] > 1] + [(300, 260, 1200), (96, 64, 0), (1, 1000, 300), (790, 530, 70)]
)
def test_a_product_goes_through_a_gate(dtype: str, gate: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    rng = np.random.default_rng(m)
    plan, through = GATES[gate]
    a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
    values = sample(rng, dtype, n) if gate == "moved" else sample(rng, dtype, m, n)
    values.flat[::3] = -0.0
    values.flat[1] = np.nan
    expected = through(reference(a, b), values)
    for left, right in itertools.product(("rows", "columns", "gaps"), repeat=2):
        same(run(plan, [laid_out(a, left), laid_out(b, right), values], np.empty((m, n), dtype)), expected)


def test_a_gate_must_fit() -> None:
    a = Operand("float32", (4, 4), (4, 1))
    with pytest.raises(ValueError, match="must be contiguous"):
        plan_matmul_mul(a, a, Operand("float32", (4, 4), (1, 4)), a)
    with pytest.raises(ValueError, match="like the result or a row of it"):
        plan_matmul_bias(a, a, a, a)
    whole = Operand("int32", (4, 4), (4, 1))
    with pytest.raises(NotImplementedError, match="no kernel"):
        plan_matmul_mask(whole, whole, whole, whole)


def test_a_bias_must_fit() -> None:
    a, bias = Operand("float32", (4, 4), (4, 1)), Operand("float32", (4,), (2,))
    with pytest.raises(ValueError, match="must be contiguous"):
        plan_matmul_relu(a, a, bias, a)
    with pytest.raises(ValueError, match="like a row of the result"):
        plan_matmul_relu(a, a, Operand("float32", (5,), (1,)), a)
    whole = Operand("int32", (4, 4), (4, 1))
    with pytest.raises(NotImplementedError, match="no kernel"):
        plan_matmul_relu(whole, whole, Operand("int32", (4,), (1,)), whole)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    sizes=st.tuples(st.integers(1, 150), st.integers(1, 80), st.integers(0, 300)),
    layouts=st.tuples(*[st.sampled_from(("rows", "columns", "gaps", "reversed"))] * 2),
    seed=st.integers(0, 99),
)
def test_a_product_with_panels(
    dtype: str, sizes: tuple[int, int, int], layouts: tuple[str, str], seed: int
) -> None:
    m, n, k = sizes
    rng = np.random.default_rng(seed)
    a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
    columns = panel_columns(dtype)
    packed = np.pad(b, ((0, 0), (0, -n % columns))).reshape(k, -(-n // columns), columns).swapaxes(0, 1)
    plan = functools.partial(plan_pack_panels, columns=columns)
    panels = run(plan, [laid_out(b, layouts[1])], np.empty(packed.shape, dtype))
    assert np.array_equal(panels, packed)
    same(run(plan_matmul_panels, [laid_out(a, layouts[0]), panels], np.empty((m, n), dtype)), reference(a, b))


def test_panels_must_be_those_of_this_machine() -> None:
    a, b = Operand("float32", (4, 4), (4, 1)), Operand("float32", (2, 4, 3), (12, 3, 1))
    with pytest.raises(NotImplementedError, match="3 columns"):
        plan_matmul_panels(a, b, a)
    with pytest.raises(NotImplementedError, match="3 columns"):
        plan_pack_panels(a, b, 3)
    columns = panel_columns("float32")
    with pytest.raises(ValueError, match="do not fit"):
        plan_matmul_panels(a, Operand("float32", (1, 5, columns), (5 * columns, columns, 1)), a)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_does_not_depend_on_the_batch_it_is_in(dtype: str) -> None:
    rng = np.random.default_rng(0)
    a, b = sample(rng, dtype, 50, 300), sample(rng, dtype, 300, 70)
    whole = run(plan_matmul, [a, b], np.empty((50, 70), dtype))
    for rows in (1, 2, 4, 9):
        part = run(plan_matmul, [a[:rows], laid_out(b, "columns")], np.empty((rows, 70), dtype))
        same(part, whole[:rows])


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
def test_large_product(dtype: str) -> None:
    rng = np.random.default_rng(1)
    a, b = sample(rng, dtype, 300, 1200), sample(rng, dtype, 1200, 260)
    expected = reference(a, b)
    for left, right in itertools.product(("rows", "columns", "gaps"), repeat=2):
        same(run(plan_matmul, [laid_out(a, left), laid_out(b, right)], np.empty((300, 260), dtype)), expected)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", range(5, 20))
def test_rows_that_fill_no_tile(dtype: str, m: int) -> None:
    rng = np.random.default_rng(m)
    n = 2 * panel_columns(dtype) + 3
    a, b = sample(rng, dtype, m, 37), sample(rng, dtype, 37, n)
    expected = reference(a, b)
    for left, right in itertools.product(("rows", "columns"), repeat=2):
        same(run(plan_matmul, [laid_out(a, left), laid_out(b, right)], np.empty((m, n), dtype)), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_columns_of_a_are_packed_once_unless_they_are_many(dtype: str) -> None:
    def launches(m: int, k: int) -> list[str]:
        a, c = Operand(dtype, (m, k), (1, m)), Operand(dtype, (m, 512), (512, 1))
        return [item.function.__name__[:-4] for item in plan_matmul(a, Operand(dtype, (k, 512), (512, 1)), c)]

    assert launches(512, 768) == ["gemm_strips", "gemm_panel"]
    assert launches(4096, 4096) == ["gemm_panel"]
    assert launches(32, 16) == ["gemm_panel"]


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("strip_bytes", [0, 1 << 20])
def test_results_that_are_written_once(dtype: str, strip_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "_STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(gemm, "_SLAB_BYTES", 0)
    monkeypatch.setattr(gemm, "_IN_PLACE_BYTES", 0)
    rng = np.random.default_rng(9)
    monkeypatch.setattr(gemm, "_RESULT_BYTES", 1 << 10)
    for height_bytes in (32 << 10, 0):
        monkeypatch.setattr(gemm, "_FAR_HEIGHT_BYTES", height_bytes)
        for m, n, k in ((203, 170, 301), (75, 40, 2100)):
            a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
            expected = reference(a, b)
            for left, right in itertools.product(("rows", "columns", "gaps"), repeat=2):
                same(run(plan_matmul, [laid_out(a, left), laid_out(b, right)], np.empty((m, n), dtype)), expected)


def test_threads_keep_panels_together_that_are_packed_together_for_a_large_result(
    monkeypatch: pytest.MonkeyPatch, tile: Tile
) -> None:
    def groups(m: int, k: int) -> tuple[int, int]:
        operands = (Operand("float32", (m, k), (k, 1)), Operand("float32", (k, 1024), (1024, 1)))
        (item,) = plan_matmul(*operands, Operand("float32", (m, 1024), (1024, 1)))
        assert item.units == 1024 // panel_columns("float32") * NARROW.vectors // tile.vectors
        group = item.slots[gemm_kernels.GROUP]
        assert isinstance(group, int)
        return item.grain, group

    monkeypatch.setattr(gemm, "_RESULT_BYTES", 2 << 20)
    for k in (1024, 4096):
        grain, group = groups(1024, k)
        assert grain == group >= 4 * NARROW.vectors // tile.vectors
    assert groups(256, 1024)[0] == 1


def test_a_small_matrix_is_packed_for_each_half_of_many_rows(tile: Tile) -> None:
    def units(m: int, n: int, k: int) -> int:
        a, b, c = (Operand("float32", shape, (shape[1], 1)) for shape in ((m, k), (k, n), (m, n)))
        (item,) = plan_matmul(a, b, c)
        return item.units

    width = panel_columns("float32") * tile.vectors // NARROW.vectors
    assert units(768, 16 * width, 128) == 2 * 16
    assert units(128, 16 * width, 16 * width) == 16


@pytest.mark.parametrize("dtype", FLOATS)
def test_columns_that_each_unit_packs(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "_STRIP_BYTES", 0)
    rng = np.random.default_rng(8)
    a, b = sample(rng, dtype, 203, 301), sample(rng, dtype, 301, 270)
    for right in ("rows", "columns"):
        result = run(plan_matmul, [laid_out(a, "columns"), laid_out(b, right)], np.empty((203, 270), dtype))
        same(result, reference(a, b))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layouts", list(itertools.product(("rows", "columns"), repeat=2)))
def test_batches_that_are_packed(dtype: str, layouts: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    a, b = sample(rng, dtype, 2, 151, 203), sample(rng, dtype, 2, 203, 173)
    left, right = laid_out(a, layouts[0]), laid_out(b, layouts[1])
    same(run(plan_matmul, [left, right], np.empty((2, 151, 173), dtype)), reference(a, b))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize(("batch", "m"), [(1, 40), (1, 768), (3, 40), (3, 17), (2, 96), (4, 768)])
@pytest.mark.parametrize("shared", ["neither", "a", "b"])
def test_a_part_needs_no_more_than_its_part_of_what_is_along(batch: int, m: int, shared: str) -> None:
    rng = np.random.default_rng(m)
    inputs = [sample(rng, "float32", batch, m, 40), sample(rng, "float32", batch, 40, 96)]
    if shared != "neither":
        inputs["ab".index(shared)] = np.broadcast_to(inputs["ab".index(shared)][:1], inputs["ab".index(shared)].shape)
    expected = reference(*inputs)
    plan = plan_matmul(*map(operand, inputs), operand(expected))
    parts = plan[-1].parts
    for part in range(parts if all(item.parts == parts for item in plan) else 0):
        arrays = [*inputs, np.full_like(expected, 77)]
        for index, x in enumerate(inputs):
            # A plan does not take for along what lies in memory but once.
            if index in plan[-1].along and x.flags.c_contiguous:
                # What another part of the threads may not have written yet.
                poisoned = np.full(x.size, np.nan, x.dtype)
                own = slice(part * x.size // parts, (part + 1) * x.size // parts)
                poisoned[own] = x.reshape(-1)[own]
                arrays[index] = poisoned.reshape(x.shape)
        assert launch_part(plan, arrays, part, parts) == 0
        own = slice(part * expected.size // parts, (part + 1) * expected.size // parts)
        same(arrays[2].reshape(-1)[own], expected.reshape(-1)[own])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 37, 530), (1, 9, 1024), (1, 40, 2048), (3, 21, 1029)])
def test_few_rows_with_contiguous_columns(dtype: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(6)
    a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
    for left in ("rows", "columns"):
        same(run(plan_matmul, [laid_out(a, left), laid_out(b, "columns")], np.empty((m, n), dtype)), reference(a, b))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
def test_result_rows_may_lie_apart_and_nothing_between_is_touched(dtype: str) -> None:
    rng = np.random.default_rng(2)
    a, b = sample(rng, dtype, 19, 23), sample(rng, dtype, 23, 21)
    wide = np.full((19, 40), 5, dtype)
    plan = plan_matmul(operand(a), operand(b), operand(wide[:, :21]))

    def planner(*_: Operand) -> tuple[Launch, ...]:
        return plan

    result = run(planner, [a, b], wide)
    same(result[:, :21].copy(), reference(a, b))
    assert (result[:, 21:] == 77).all()


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype: str) -> None:
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -3.0, 2.0], dtype)
    rng = np.random.default_rng(3)
    a, b = rng.choice(values, (20, 18)), rng.choice(values, (18, 35))
    expected = reference(a, b)
    for rows, right in itertools.product((1, 3, 20), ("rows", "columns", "gaps")):
        result = run(plan_matmul, [a[:rows], laid_out(b, right)], np.empty((rows, 35), dtype))
        wanted = expected[:rows]
        same(np.isnan(result), np.isnan(wanted))
        same(np.where(np.isnan(result), 0, result), np.where(np.isnan(wanted), 0, wanted))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_integers_wrap_like_numpy(dtype: str) -> None:
    rng = np.random.default_rng(4)
    a, b = sample(rng, dtype, 3, 9, 40), sample(rng, dtype, 3, 40, 13)
    same(run(plan_matmul, [laid_out(a, "columns"), laid_out(b, "gaps")], np.empty((3, 9, 13), dtype)), a @ b)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_empty_sizes(dtype: str) -> None:
    zeros = run(plan_matmul, [np.ones((3, 0), dtype), np.ones((0, 40), dtype)], np.empty((3, 40), dtype))
    same(zeros, np.zeros((3, 40), dtype))
    for batch, m, n in [(0, 2, 3), (2, 0, 3), (2, 3, 0)]:
        shapes = [(batch, m, 4), (batch, 4, n), (batch, m, n)]
        assert plan_matmul(*(operand(np.ones(shape, dtype)) for shape in shapes)) == ()


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 37, 61), (3, 21, 33), (11, 35, 9), (65, 77, 131), (300, 173, 203)])
def test_nothing_outside_of_the_operands_is_touched(dtype: str, end: bool, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(7)
    a, b = sample(rng, dtype, m, k), sample(rng, dtype, k, n)
    expected = reference(a, b)
    for left, right in itertools.product((False, True), repeat=2):
        first, second = fenced(a.T.copy() if left else a, end=end), fenced(b.T.copy() if right else b, end=end)
        result = fenced(np.full_like(expected, 77), end=end)
        arrays = [first.T if left else first, second.T if right else second, result]
        launch(plan_matmul(*map(operand, arrays)), arrays)
        same(result, expected)


def test_each_kernel_is_chosen_for_what_it_is_for() -> None:
    def chosen(m: int, n: int, k: int, left: str, right: str) -> tuple[str, tuple[int | float | object, ...]]:
        a, b, c = (np.ones(shape, "float32") for shape in ((m, k), (k, n), (m, n)))
        *before, launch = plan_matmul(operand(laid_out(a, left)), operand(laid_out(b, right)), operand(c))
        assert [item.function.__name__ for item in before] == ["gemm_strips_f32"] * len(before)
        modes = launch.slots[gemm_kernels.A_MODE : gemm_kernels.B_MODE + 1]
        assert (modes[:1] == (gemm_kernels.STRIPS,)) == bool(before)
        return launch.function.__name__, modes

    direct, copy, transpose, gather, strips = range(5)
    assert chosen(1, 64, 64, "rows", "columns")[0] == "gemm_dots_f32"
    assert chosen(1, 256, 200, "rows", "columns")[0] == "gemm_lines_f32"
    assert chosen(1, 64, 1024, "rows", "columns")[0] == "gemm_pages_f32"
    assert chosen(1, 64, 64, "rows", "rows")[0] == "gemm_thin_f32"
    assert chosen(64, 1, 64, "rows", "rows")[0] == "gemm_dots_f32"
    assert chosen(64, 64, 64, "rows", "rows") == ("gemm_panel_f32", (direct, direct))
    assert chosen(64, 64, 64, "columns", "rows") == ("gemm_panel_f32", (direct, direct))
    assert chosen(64, 64, 64, "rows", "columns") == ("gemm_panel_f32", (direct, transpose))
    assert chosen(64, 64, 64, "rows", "gaps") == ("gemm_panel_f32", (direct, gather))
    large = "gemm_wide_f32" if TARGET.vector_bytes == 64 else "gemm_panel_f32"
    assert chosen(512, 512, 512, "rows", "rows") == (large, (direct, copy))
    assert chosen(512, 512, 512, "columns", "rows") == ("gemm_panel_f32", (strips, copy))
    assert chosen(512, 512, 512, "gaps", "rows") == (large, (direct, copy))
    # Rows are few, or much of the last panel would be computed in vain.
    assert chosen(128, 512, 512, "rows", "rows")[0] == "gemm_panel_f32"
    assert chosen(768, 65, 512, "rows", "rows")[0] == "gemm_panel_f32"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layouts", list(itertools.product(("rows", "columns"), ("rows", "columns", "gaps"))))
@pytest.mark.parametrize(
    "shape", [(7, 1900, 9), (1900, 7, 300), (300, 300, 300), (5000, 5000, 1), (13, 900, 5000), (700, 600, 900)]
)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_what_is_packed_fits_the_buffer(
    dtype: str, layouts: tuple[str, str], shape: tuple[int, int, int], batch: tuple[int, ...], tile: Tile
) -> None:
    m, n, k = shape
    sizes = ((*batch, m, k), (*batch, k, n))
    a, b = (laid_out(np.empty(s, dtype), layout) for s, layout in zip(sizes, layouts, strict=True))
    launch = plan_matmul(operand(a), operand(b), operand(np.empty((*batch, m, n), dtype)))[-1]
    a_mode, b_mode, _, run, group, height = launch.slots[gemm_kernels.A_MODE : gemm_kernels.ADDED]
    size = np.dtype(dtype).itemsize
    is_wide = launch.function in (gemm_kernels.gemm_wide_f32, gemm_kernels.gemm_wide_f64)
    assert not is_wide or tile == WIDE
    panel = (WIDE if is_wide else NARROW).vectors * TARGET.vector_bytes
    packed_a = height * gemm_kernels.strip_strides(run)[0] * size if a_mode == gemm_kernels.COPY else 0
    packed_b = group * run * panel if b_mode != gemm_kernels.DIRECT else 0
    is_far = m * n * size >= 1 << 20 and k > 512
    assert packed_a + packed_b <= (gemm_kernels.FAR_BLOCK_BYTES if is_far else gemm_kernels.BLOCK_BYTES)
    if a_mode == gemm_kernels.COPY:
        assert height % gemm_kernels.strip_rows(size) == 0
    elif height < m and batch == () and height < launch.slots[gemm_kernels.ROWS]:
        assert height % (WIDE if is_wide else NARROW).rows == 0


def test_errors() -> None:
    f32 = np.ones((3, 4), "float32")
    with pytest.raises(ValueError, match="dtypes differ"):
        names(f32, np.ones((4, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="all 2-D or all 3-D"):
        names(f32, np.ones(4, "float32"), np.ones((3, 2), "float32"))
    with pytest.raises(ValueError, match="do not fit"):
        names(f32, np.ones((5, 2), "float32"), np.ones((3, 2), "float32"))
    with pytest.raises(ValueError, match="rows of the result"):
        names(f32, np.ones((4, 2), "float32"), np.ones((2, 3), "float32").T)
    with pytest.raises(NotImplementedError, match="float16"):
        names(*(np.ones((2, 2), "float16") for _ in range(3)))
