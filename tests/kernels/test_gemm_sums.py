"""Sums of matrix products: each product is one chain of fused multiply-adds along k, which is then added."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.chains import reference
from tests.kernels.launching import launch, operand, same, sample
from tests.kernels.test_gemm import FLOATS, laid_out
from tracejit.kernels import gemm_sums
from tracejit.kernels.gemm_sums import plan_matmul_add, plan_matmul_add_both
from tracejit.kernels.launch import Operand
from tracejit.ops.contraction import LONGEST_ADDED

LAYOUTS = ("rows", "columns", "gaps", "reversed")


def check(added: list[np.ndarray], steps: list[list[np.ndarray]], *, in_place: bool = False) -> int:
    """Compares sums with scalar chains, whole and cut into parts; each step is a first factor and one for each sum.
    Gives the number of launches."""
    expected = [
        sum((reference(a, b[r]) for a, *b in steps), start=total.copy()) for r, total in enumerate(added)
    ]
    planner = plan_matmul_add if len(added) == 1 else plan_matmul_add_both
    factors = [x for step in steps for x in step]
    plan = planner(*map(operand, [*added, *factors, *added]))
    for pieces in (1, 2, 3, 7):
        totals = [total.copy() for total in added]
        results = totals if in_place else [np.full(total.shape, 77, total.dtype) for total in added]
        assert launch(plan, [*totals, *factors, *results], pieces) == 0
        for result, right in zip(results, expected, strict=True):
            same(result, right)
    return len(plan)


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    sizes=st.tuples(st.integers(1, 150), st.integers(1, 80), st.integers(0, LONGEST_ADDED)),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    steps=st.integers(1, 4),
    both=st.booleans(),
    in_place=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_product_is_rounded_before_it_is_added(
    dtype: str, sizes: tuple[int, int, int], layouts: tuple[str, str, str], steps: int, both: bool, in_place: bool,
    seed: int,
) -> None:  # fmt: skip
    m, n, k = sizes
    rng = np.random.default_rng(seed)
    results = 1 + both
    factors = [
        [laid_out(sample(rng, dtype, m, k), layouts[0])]
        + [laid_out(sample(rng, dtype, k, n), layout) for layout in layouts[1 : 1 + results]]
        for _ in range(steps)
    ]
    assert check([sample(rng, dtype, m, n) for _ in range(results)], factors, in_place=in_place) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_products_are_added(dtype: str) -> None:
    rng = np.random.default_rng(2)
    k = LONGEST_ADDED
    a, b, c = sample(rng, dtype, 900, k), sample(rng, dtype, k, 1300), sample(rng, dtype, 900, 1300)
    for left, right in itertools.product(("rows", "columns"), ("rows", "columns", "gaps")):
        check([c], [[laid_out(a, left), laid_out(b, right)]] * 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [*range(5, 20), 512])
def test_rows_that_fill_no_tile(dtype: str, m: int) -> None:
    rng = np.random.default_rng(m)
    a, b, c = sample(rng, dtype, m, 37), sample(rng, dtype, 37, 67), sample(rng, dtype, m, 67)
    for left, right in itertools.product(("rows", "columns"), repeat=2):
        check([c, c], [[laid_out(a, left), laid_out(b, right), b]] * 3)


def test_a_product_that_vanishes_keeps_the_sign_of_what_it_is_added_to() -> None:
    zeros = np.full((16, 64), -0.0, np.float32)
    tiny = np.full((16, 4), -1e-30, np.float32), np.full((4, 64), 1e-30, np.float32)
    check([zeros], [list(tiny)])


def test_products_that_lie_otherwise_have_a_launch_of_their_own() -> None:
    rng = np.random.default_rng(3)
    a, b, c = sample(rng, "float32", 64, 32), sample(rng, "float32", 32, 64), sample(rng, "float32", 64, 64)
    other = laid_out(b, "columns")
    assert check([c], [[a, b], [a, b], [a, other], [a, b]]) == 3
    assert check([c], [[a, b], [a, b], [a, other], [a, b]], in_place=True) == 3


def test_parts_of_a_gradient_are_equal_parts_of_its_rows() -> None:
    layouts = ((512, 32), (1, 512)), ((32, 64), (64, 1)), ((512, 64), (64, 1))
    a, b, c = (Operand("float32", *layout) for layout in layouts)
    (item,) = plan_matmul_add_both(c, c, a, b, b, a, b, b, c, c)
    assert item.parts == item.units >= 2
    assert 512 % item.parts == 0
    assert item.along == (0, 1, 2, 5, 8, 9)
    assert [[item.slots[slot].index for slot in pair] for pair in item.in_place] == [[0, 8], [1, 9]]  # type: ignore[union-attr]
    assert [gemm_sums._rows_of_part(m) for m in (5, 26, 512, 99)] == [5, 13, 64, 13]


def test_what_is_added_must_fit() -> None:
    a, c = Operand("float32", (4, 4), (4, 1)), Operand("float32", (4, 4), (1, 4))
    with pytest.raises(ValueError, match="must be contiguous"):
        plan_matmul_add(c, a, a, a)
    with pytest.raises(ValueError, match="must be contiguous"):
        plan_matmul_add_both(a, c, a, a, a, a, a)
    long = Operand("float32", (4, 99), (99, 1)), Operand("float32", (99, 4), (4, 1))
    with pytest.raises(NotImplementedError, match="no kernel"):
        plan_matmul_add(a, *long, a)
