"""Cheap values are computed where they are read, if what they are made of is in memory anyway."""

from __future__ import annotations

from collections.abc import Callable

import tracejit as tj
from tracejit.trace.compiled import region_of


def groups(f: Callable[..., object], *args: tj.Tensor) -> list[tuple[str, ...]]:
    """The operations of each group of a compiled function, which equals eager."""
    g = tj.compile(f)
    expected = [x.numpy().tobytes() for x in f(*args)]
    for _ in range(4):
        assert [x.numpy().tobytes() for x in g(*args)] == expected
    return [info.ops for info in region_of(g).executables()[0][1].compiled.groups]


def operands() -> tuple[tj.Tensor, tj.Tensor]:
    tj.manual_seed(0)
    return tj.randn(8, 8), tj.randn(8, 8)


def test_a_derivative_is_computed_where_it_is_read() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        t = x.tanh()
        return ((t @ w) * (1 - t * t),)

    assert groups(f, *operands()) == [("tanh",), ("matmul",), ("mul", "sub", "mul")]


def test_what_would_need_another_load_stays() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        a, b = x.tanh(), x.exp()
        return (a @ w) * (a * b), (b @ w) + w.sin()

    # a * b is one array, a and b would be two.
    assert ("tanh", "exp", "mul") in groups(f, *operands())


def test_results_and_dear_values_stay() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        t = x.tanh()
        d, e = 1 - t, t.exp()
        return (t @ w) * d * e, d

    assert ("tanh", "sub", "exp") in groups(f, *operands())


def test_rows_compute_what_they_read() -> None:
    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        t = x.tanh()
        return (((t @ w) * (1 - t * t)).sum(1),)

    assert groups(f, *operands())[0] == ("tanh",)
