"""Groups that read the same memory, of which none needs another, are one group."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tracejit as tj
from tracejit.trace.region import region_of

Function = Callable[..., tuple[tj.Tensor, ...]]


def planned(f: Function, *args: tj.Tensor) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What each group of a compiled function is, its operations and its cuts; the function equals eager."""
    g = tj.compile(f)
    expected = [x.numpy().tobytes() for x in f(*args)]
    for _ in range(4):
        assert [x.numpy().tobytes() for x in g(*args)] == expected
    infos = region_of(g).executables()[0][1].compiled.groups
    return [(info.kind, tuple(sorted(info.ops)), info.cuts) for info in infos]


def groups(f: Function, *args: tj.Tensor) -> list[tuple[str, tuple[str, ...]]]:
    """The kinds and operations of the groups alone."""
    return [(kind, ops) for kind, ops, _ in planned(f, *args)]


def operand(*shape: int) -> tj.Tensor:
    tj.manual_seed(0)
    return tj.randn(*shape)


def test_sums_of_the_same_columns_are_one() -> None:
    a = operand(300, 200)
    assert groups(lambda a: (a.sum(0), (a * a).sum(0)), a) == [("column", ("mul", "sum", "sum"))]


def test_sums_of_the_same_rows_are_one() -> None:
    a = operand(500, 300)
    assert groups(lambda a: (a.sum(1), (a * a).sum(1)), a) == [("row", ("mul", "sum", "sum"))]


def test_sums_of_long_rows_are_one() -> None:
    a = operand(40, 5000)
    assert groups(lambda a: (a.sum(1), (a * a).sum(1)), a) == [("blocks", ("mul", "sum", "sum"))]


def test_more_than_two_become_one() -> None:
    def f(a: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return a.sum(0), (a * a).sum(0), a.abs().amax(0)

    assert groups(f, operand(300, 200)) == [("column", ("abs", "amax", "mul", "sum", "sum"))]


def test_chains_of_siblings_meet_in_one() -> None:
    def f(a: tj.Tensor, b: tj.Tensor, c: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * b).sum(0), (c * c).sum(0), (b * c).sum(0)

    a = operand(300, 200)
    assert groups(f, a, a + 1, a + 2) == [("column", ("mul", "mul", "mul", "sum", "sum", "sum"))]


@pytest.mark.parametrize("shape", [(16, 8), (3000, 40)])
def test_rows_that_caches_hold_and_short_ones_stay_apart(shape: tuple[int, int]) -> None:
    assert len(groups(lambda a: (a.sum(1), (a * a).sum(1)), operand(*shape))) == 2


def test_what_needs_the_other_stays_apart() -> None:
    def f(a: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (((a - a.mean(0)) * a).sum(0),)

    column = [cuts for kind, ops, cuts in planned(f, operand(300, 200)) if kind == "column" and "sub" in ops]
    assert "input -> sub: sum reads it too, but the one waits for the other" in column[0]


def test_what_can_begin_earlier_stays_apart() -> None:
    def f(a: tj.Tensor, b: tj.Tensor) -> tuple[tj.Tensor, ...]:
        return (a * a).sum(0), (a * (a @ b).exp()).sum(0)

    a = operand(300, 300)
    late = planned(f, a, a)[-1]
    assert late[:2] == ("column", ("exp", "mul", "sum"))
    assert "input -> mul: mul reads it too, but the one can begin before the other" in late[2]


def test_other_dimensions_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a.sum(0), a.sum(1), a.sum()), operand(1000, 300))
    assert [kind for kind, _, _ in found] == ["column", "row", "blocks"]
    assert found[1][2] == (
        "input -> sum: sum reads it too, but a column kernel and a row kernel do not go through memory alike",
    )


def test_other_places_stay_apart_with_a_reason() -> None:
    found = planned(lambda a: (a.abs().sum(0), a.T.exp().sum(0)), operand(300, 300))
    assert [kind for kind, _, _ in found] == ["column", "column"]
    assert found[1][2] == ("input -> exp: abs reads it too, but they read it in different order",)


def test_parameters_are_still_written_in_place() -> None:
    def f(p: tj.Tensor, g: tj.Tensor) -> tuple[tj.Tensor, ...]:
        first, second = p.sum(0), (p * p).sum(0)
        p.sub_(g * 0.5)
        return first, second, p.sum(0), (p * p).sum(0)

    c = tj.compile(f)
    g = operand(300, 200)
    p, q = g + 1, g + 1
    for _ in range(5):
        assert [x.numpy().tobytes() for x in c(p, g)] == [x.numpy().tobytes() for x in f(q, g)]
        assert p.numpy().tobytes() == q.numpy().tobytes()
    infos = region_of(c).executables()[0][1].compiled.groups
    assert [i.kind for i in infos].count("column") <= 2


def test_gradients_of_a_layer_norm_are_one_pass() -> None:
    norm = tj.nn.LayerNorm(128)

    def f(x: tj.Tensor, w: tj.Tensor) -> tuple[tj.Tensor, ...]:
        (norm(x) @ w).tanh().sum().backward()
        found = tuple(p.grad for p in norm.parameters())
        for p in norm.parameters():
            p.grad = None
        return found  # type: ignore[return-value]

    columns = [ops for kind, ops in groups(f, operand(768, 128), operand(128, 128)) if kind == "column"]
    assert [ops.count("sum") for ops in columns] == [2]
