"""A library operation that begins with a copy of an operand works on its memory, if nobody else wants it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tracejit as tj
from tracejit.trace.compiled import region_of

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
    # The product is written over the ground, which it is the last to read.
    assert 4 * N <= run(after, *operands) < 8 * N
    run(itself, *operands)


def test_inputs_and_results_are_not_written(operands: tuple[tj.Tensor, tj.Tensor]) -> None:
    x = tj.randn(N)
    before = x.numpy().copy()

    def kept(i: tj.Tensor, v: tj.Tensor) -> tuple[tj.Tensor, ...]:
        ground = x * 2
        return ground, ground.index_add(0, i, v), x.index_add(0, i, v)

    run(kept, *operands)
    assert (x.numpy() == before).all()


def rows() -> tuple[tj.Tensor, tj.Tensor]:
    tj.manual_seed(0)
    return tj.randn(1000, 300), tj.randn(1000, 300)


def test_a_loop_writes_over_what_nobody_else_reads() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        y = (x * w).exp()
        return (y - y.mean(0),)

    # The sums of blocks and the mean are all that needs memory.
    assert run(f, *rows()) < 4 * 300 * 16


def test_a_loop_does_not_write_over_what_is_read_again() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        y = (x * w).exp()
        z = y - y.mean(0)
        return z, (y * z.sum(0)).sum(1)

    assert run(f, *rows()) >= 4 * 1000 * 300


def test_a_loop_does_not_write_over_what_it_reads_at_other_places() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        y = (x * w).exp()
        y = y - y.mean(0)
        return (y + y.flip(0),)

    assert run(f, *rows()) >= 4 * 1000 * 300


@pytest.mark.parametrize("shape", [(7, 130), (1000, 300), (3, 40000), (1, 50)])
def test_elementary_functions_over_their_operand(shape: tuple[int, ...]) -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        y = (x * w).exp()
        y = y - y.mean(0)
        z = y.flip(1)
        return (y.tanh() * y.sigmoid() + y, z.exp() * z.tanh() - z)

    tj.manual_seed(0)
    run(f, tj.randn(*shape), tj.randn(*shape))
