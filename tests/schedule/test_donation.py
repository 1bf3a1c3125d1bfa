"""A library operation that begins with a copy of an operand works on its memory, if nobody else wants it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tracejit as tj
from tracejit.trace.region import region_of

N, M = 1000, 300


def run(f: Callable[..., tuple[tj.Tensor, ...]], *args: tj.Tensor) -> int:
    """Compares compiled with eager; the bytes of the program's arena."""
    g = tj.compile(f)
    expected = [x.numpy().tobytes() for x in f(*args)]
    for _ in range(4):
        assert [x.numpy().tobytes() for x in g(*args)] == expected
    return int(region_of(g).executables()[0][1].compiled.arena_bytes)


@pytest.fixture
def operands() -> tuple[tj.Tensor, tj.Tensor]:
    tj.manual_seed(0)
    return tj.randint(0, N, (M,)), tj.randn(M)


def test_a_ground_of_zeros_is_not_copied(operands: tuple[tj.Tensor, tj.Tensor]) -> None:
    assert run(lambda i, v: (tj.zeros(N).index_add(0, i, v),), *operands) == 0
    # What is read again by a sum needs memory once, not twice.
    assert run(lambda i, v: (tj.zeros(N).index_add(0, i, v) * 2,), *operands) <= 4 * N + 64


def test_what_others_read_stays_as_it_was(operands: tuple[tj.Tensor, tj.Tensor]) -> None:
    def twice(i: tj.Tensor, v: tj.Tensor) -> tuple[tj.Tensor, ...]:
        ground = (v.sum() + tj.arange(N)).exp()
        return ground.index_add(0, i, v), ground.index_add(0, i, v * 2), ground.cumsum(0)

    def after(i: tj.Tensor, v: tj.Tensor) -> tuple[tj.Tensor, ...]:
        ground = v.sum() + tj.arange(N)
        added = ground.scatter_add(0, i, v)
        return (added * ground,)

    def itself(i: tj.Tensor, v: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (tj.scatter_add(v * 2, 0, i % M, v * 2),)

    assert run(twice, *operands) >= 4 * N
    # The product takes the place of one of its factors, not of both.
    assert run(after, *operands) >= 4 * N
    run(itself, *operands)


def test_inputs_and_results_are_not_written(operands: tuple[tj.Tensor, tj.Tensor]) -> None:
    x = tj.randn(N)
    before = x.numpy().copy()

    def kept(i: tj.Tensor, v: tj.Tensor) -> tuple[tj.Tensor, ...]:
        ground = x * 2
        return ground, ground.index_add(0, i, v), x.index_add(0, i, v)

    run(kept, *operands)
    assert (x.numpy() == before).all()
