"""Products on tiles: every layout, size and split gives the bits of the steps that the instruction is said to do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.chains import square_reference
from tests.kernels.launching import fenced, launch, operand, run, same, sample
from tests.kernels.test_gemm import laid_out
from tracejit.cpu import multiplies_bfloat16
from tracejit.dtypes import bfloat16
from tracejit.kernels import square
from tracejit.kernels.launch import Operand
from tracejit.kernels.square import plan_bfloat16_matmul

needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="the CPU has neither AMX nor AVX512-BF16, or the settings switch them off"
)
TYPES = ("float32", "bfloat16")
LAYOUTS = ("rows", "columns", "gaps", "reversed")
SHAPES = [
    (1, 1, 1), (16, 16, 32), (32, 32, 32), (48, 40, 64), (31, 17, 33), (5, 100, 31), (100, 5, 7), (33, 65, 129),
    (1, 70, 96), (70, 1, 64), (128, 64, 256), (160, 96, 32), (50, 70, 700),
]  # fmt: skip


def kind(name: str) -> np.dtype:
    return bfloat16.np if name == "bfloat16" else np.dtype(name)


def expected(a: np.ndarray, b: np.ndarray, result: str) -> np.ndarray:
    return square_reference(a, b).astype(kind(result))


def product(a: np.ndarray, b: np.ndarray, result: str) -> np.ndarray:
    return run(plan_bfloat16_matmul, [a, b], np.empty((*a.shape[:-1], b.shape[-1]), kind(result)))


@needs_bfloat16
@pytest.mark.parametrize("types", list(itertools.product(TYPES, repeat=3)), ids="-".join)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_every_layout_gives_the_bits_of_the_steps(types: tuple[str, str, str], m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m * n * k)
    a, b = sample(rng, types[0], m, k), sample(rng, types[1], k, n)
    wanted = expected(a, b, types[2])
    for left, right in itertools.product(LAYOUTS, repeat=2):
        same(product(laid_out(a, left), laid_out(b, right), types[2]), wanted)


@needs_bfloat16
@settings(max_examples=60, deadline=None)
@given(
    types=st.tuples(*[st.sampled_from(TYPES)] * 3),
    batch=st.integers(1, 4),
    sizes=st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(0, 140)),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    shared=st.sampled_from(("neither", "a", "b", "both")),
    spread=st.sampled_from((0, 3, 12)),
    seed=st.integers(0, 99),
)
def test_any_batched_product(
    types: tuple[str, str, str],
    batch: int,
    sizes: tuple[int, int, int],
    layouts: tuple[str, str],
    shared: str,
    spread: int,
    seed: int,
) -> None:
    m, n, k = sizes
    rng = np.random.default_rng(seed)
    a, b = sample(rng, "float32", batch, m, k), sample(rng, "float32", batch, k, n)
    a, b = (
        (x * np.exp(spread * rng.standard_normal(x.shape))).astype(kind(t)) for x, t in zip((a, b), types, strict=False)
    )
    a, b = (
        np.broadcast_to(x[:1], x.shape) if shared in (name, "both") else laid_out(x, layout)
        for x, name, layout in ((a, "a", layouts[0]), (b, "b", layouts[1]))
    )
    same(product(a, b, types[2]), expected(a, b, types[2]))


@needs_bfloat16
@pytest.mark.parametrize("shapes", [(2, 3, 0), (40, 50, 0)])
def test_a_sum_of_nothing_is_zero(shapes: tuple[int, int, int]) -> None:
    m, n, k = shapes
    for types in itertools.product(TYPES, repeat=3):
        found = product(np.ones((m, k), kind(types[0])), np.ones((k, n), kind(types[1])), types[2])
        same(found, np.zeros((m, n), kind(types[2])))


@needs_bfloat16
def test_nothing_to_compute_needs_no_launch() -> None:
    for m, n, batch in ((0, 5, ()), (5, 0, ()), (5, 5, (0,))):
        a, b, c = (np.zeros((*batch, *shape), np.float32) for shape in ((m, 3), (3, n), (m, n)))
        assert plan_bfloat16_matmul(*map(operand, (a, b, c))) == ()


@needs_bfloat16
@pytest.mark.parametrize("types", list(itertools.product(TYPES, repeat=3)), ids="-".join)
@pytest.mark.parametrize("end", [False, True])
def test_nothing_is_read_or_written_outside_of_the_operands(types: tuple[str, str, str], end: bool) -> None:
    rng = np.random.default_rng(5)
    for (m, n, k), turned in itertools.product([(33, 35, 37), (7, 9, 5), (16, 16, 64), (64, 96, 33)], (False, True)):
        a, b = sample(rng, types[0], m, k), sample(rng, types[1], k, n)
        left, right = (
            fenced(np.ascontiguousarray(x.T), end=end).T if turned else fenced(x, end=end) for x in (a, b)
        )
        c = fenced(np.zeros((m, n), kind(types[2])), end=end)
        launch(plan_bfloat16_matmul(*map(operand, (left, right, c))), [left, right, c])
        same(c, expected(a, b, types[2]))


@needs_bfloat16
def test_rows_of_a_wider_result_are_all_that_is_written() -> None:
    rng = np.random.default_rng(1)
    for name, (m, n) in itertools.product(TYPES, ((32, 64), (37, 41), (50, 16))):
        a, b = sample(rng, "float32", m, 50), sample(rng, "float32", 50, n)
        wide = np.full((m, n + 9), 7, kind(name))
        launch(plan_bfloat16_matmul(operand(a), operand(b), operand(wide[:, 4 : 4 + n])), [a, b, wide[:, 4 : 4 + n]])
        same(wide[:, 4 : 4 + n].copy(), expected(a, b, name))
        assert (wide[:, :4] == 7).all()
        assert (wide[:, 4 + n :] == 7).all()


@needs_bfloat16
def test_infinities_and_nans_go_where_they_belong() -> None:
    a, b = np.ones((40, 40), np.float32), np.ones((40, 40), np.float32)
    # Not all NaNs have a bit that bfloat16 has room for.
    a[3, 5], a[7, 39], a[9, 2] = np.inf, np.nan, np.uint32(0x7F800001).view(np.float32)
    b[5, 8], b[39, 39] = 0, -np.inf
    for types in itertools.product(TYPES, repeat=3):
        with np.errstate(invalid="ignore"):
            left, right = a.astype(kind(types[0])), b.astype(kind(types[1]))
        found = product(left, right, types[2]).astype(np.float32)
        wanted = square_reference(left, right)
        assert (np.isnan(found) == np.isnan(wanted)).all()
        same(np.nan_to_num(found), np.nan_to_num(wanted.astype(kind(types[2])).astype(np.float32)))
        assert np.isnan(found[7]).all()
        assert np.isnan(found[9]).all()
        assert np.isnan(found[3, 8])
        assert np.isinf(found[3, 0])


@needs_bfloat16
def test_subnormal_numbers_count_as_zero() -> None:
    tiny = np.finfo(np.float32).tiny
    a, b = np.zeros((16, 32), np.float32), np.zeros((32, 16), np.float32)
    a[0, 0], b[0, 0] = tiny / 4, 2**20
    a[1, 0], a[1, 1] = tiny, -tiny * 1.5
    b[0:2, 1] = 1
    # The largest subnormal number would be rounded up to one that is not.
    a[2, 0], b[0, 2] = tiny * (1 - 2**-23), 1
    found = product(a, b, "float32")
    same(found, expected(a, b, "float32"))
    assert found[0, 0] == 0
    assert found[1, 1] == 0
    assert found[2, 2] == 0


@needs_bfloat16
@pytest.mark.parametrize("block", [1, 1 << 13, 1 << 30])
@pytest.mark.parametrize("units", [1, 7, 1000])
@pytest.mark.parametrize("run_length", [1, 3, 1000])
def test_no_plan_changes_a_bit(block: int, units: int, run_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = sample(rng, "float32", 2, 610, 170), sample(rng, "bfloat16", 2, 170, 130)
    monkeypatch.setattr(square, "_BLOCK_BYTES", block)
    monkeypatch.setattr(square, "_UNITS", units)
    monkeypatch.setattr(square, "_RUN", run_length)
    for name in TYPES:
        same(product(a, b, name), expected(a, b, name))


@needs_bfloat16
@pytest.mark.parametrize("k", [64, 1000])
def test_the_error_is_within_the_bound_of_the_steps(k: int) -> None:
    rng = np.random.default_rng(k)
    a, b = sample(rng, "bfloat16", 200, k), sample(rng, "bfloat16", k, 150)
    wide, size = (f(a.astype(np.float64)) @ f(b.astype(np.float64)) for f in (np.asarray, np.abs))
    # 16 additions along a step, one of both sums, then one for each step.
    bound = (16 + 1 + k // 32 + 1) * 2.0**-24 * size
    assert (np.abs(product(a, b, "float32") - wide) <= bound).all()


def test_types_and_shapes_that_do_not_fit_are_refused() -> None:
    def matrix(dtype: str, *shape: int) -> Operand:
        return operand(np.zeros(shape, dtype))

    with pytest.raises(NotImplementedError, match="no kernel for float64"):
        plan_bfloat16_matmul(matrix("float64", 2, 3), matrix("float32", 3, 4), matrix("float32", 2, 4))
    with pytest.raises(ValueError, match="do not fit"):
        plan_bfloat16_matmul(matrix("float32", 2, 3), matrix("float32", 2, 4), matrix("float32", 2, 4))


def test_without_tiles_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(square, "multiplies_bfloat16", lambda: False)
    x = operand(np.zeros((3, 3), np.float32))
    with pytest.raises(NotImplementedError, match="neither tiles"):
        plan_bfloat16_matmul(x, x, x)
