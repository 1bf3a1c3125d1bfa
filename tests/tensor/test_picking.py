"""Subscripts with index tensors by the shortest way give what the general way does, and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.tensor import indexing

torch = pytest.importorskip("torch")

SHAPES = ((5,), (4, 6), (3, 4, 5))
Build = Callable[[Any], Any]


def subscript(rng: random.Random, shape: tuple[int, ...]) -> Build:
    """What makes a subscript for either library, mostly one that is right."""
    if rng.random() < 0.2:
        mask = np.random.default_rng(rng.randrange(99)).random(shape) < rng.choice((0.0, 0.4, 1.0))
        return lambda m: m.tensor(mask)
    width = rng.choice((1, 3, (2, 3), 0))
    items: list[Build] = []
    dims = list(range(rng.randrange(1, len(shape) + 1)))
    dots = rng.randrange(len(dims) + 1) if rng.random() < 0.3 else None
    at = 0 if dots is None else len(shape) - len(dims)
    for k in dims:
        size = shape[k + (at if dots is not None and k >= dots else 0)]
        kind = rng.choice(("index", "index", "slice", "list", "array", "number"))
        low, high = (-size, size) if rng.random() < 0.95 else (-size - 1, size + 1)
        values = np.random.default_rng(rng.randrange(999)).integers(low, high, width)
        if kind == "index":
            items.append(lambda m, v=values: m.tensor(v))
        elif kind == "list" and type(width) is int:
            items.append(lambda m, v=values: v.tolist())
        elif kind == "array":
            items.append(lambda m, v=values: v)
        elif kind == "number":
            number = rng.randrange(-size, size)
            items.append(lambda m, v=number: v)
        else:
            cut = slice(rng.choice((None, 1)), rng.choice((None, size - 1, -1)), rng.choice((None, 1, 2)))
            items.append(lambda m, v=cut: v)
    if dots is not None:
        items.insert(dots, lambda m: ...)
    if len(items) == 1 and rng.random() < 0.5:
        return items[0]
    return lambda m: tuple(item(m) for item in items)


def outcome(f: Callable[[], Any]) -> Any:
    try:
        found = f()
    except (RuntimeError, IndexError) as e:
        return type(e).__name__, str(e)
    return list(found.shape), np.asarray(found.numpy()).tobytes(), found.is_contiguous()


def read(m: Any, a: np.ndarray, build: Build) -> Any:
    return m.tensor(a)[build(m)]


def written(m: Any, a: np.ndarray, build: Build, how: str, seed: int) -> Any:
    x = m.tensor(a)
    at = build(m)
    picked = x[at]
    if how == "number":
        value: Any = 2.5
    elif how == "whole":
        value = m.tensor(np.random.default_rng(seed).standard_normal(tuple(picked.shape)).astype(np.float32))
    elif how == "row":
        shape = tuple(picked.shape)[-1:] if picked.dim() > 1 else ()
        value = m.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    elif how == "itself":
        value = picked * 2
    else:
        value = m.ones(7, 1, 9)
    x[at] = value
    return x


def compare(seed: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Compares reading and writing; whether the short way was taken."""
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    a = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    build = subscript(rng, shape)
    how = rng.choice(("number", "whole", "row", "itself", "wrong"))

    def both(m: Any) -> list[Any]:
        return [outcome(lambda: read(m, a, build)), outcome(lambda: written(m, a, build, how, seed))]

    found = both(tj)
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "pick_now", lambda *_: None)
        patch.setattr(indexing, "place_now", lambda *_: False)
        assert found == both(tj)
    for mine, theirs in zip(found, both(torch), strict=True):
        if isinstance(theirs[0], str):
            assert isinstance(mine[0], str)
        else:
            assert mine[:2] == theirs[:2]
    return indexing.pick_now(tj.tensor(a), build(tj)) is not None


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_random_subscripts(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    short = sum(compare(seed, monkeypatch) for seed in range(first, first + 100))
    assert short > 30


def test_nothing_is_changed_where_one_index_is_wrong() -> None:
    x = tj.zeros(4, 3)
    for at in (tj.tensor([0, 4]), (tj.tensor([1, 1]), tj.tensor([0, 3]))):
        with pytest.raises(IndexError):
            x[at] = 1.0
        with pytest.raises(IndexError):
            x[at]
    assert x.sum().item() == 0
    assert x._version == 0


def test_the_last_of_several_values_stays() -> None:
    x = tj.zeros(3)
    x[tj.tensor([1, 1, 2, 1])] = tj.tensor([1.0, 2.0, 3.0, 4.0])
    assert x.tolist() == [0.0, 4.0, 3.0]
    y = tj.arange(4.0)
    y[tj.tensor([0, 1, 2])] = y[1:]
    assert y.tolist() == [1.0, 2.0, 3.0, 3.0]


def test_histories_are_kept() -> None:
    w = tj.ones(4, requires_grad=True)
    i = tj.tensor([0, 2, 2])
    picked = w[i]
    assert picked.requires_grad
    picked.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, 0.0, 2.0, 0.0]
    with tj.no_grad():
        assert not w[i].requires_grad
        w[i] = 5.0
    assert w.tolist() == [5.0, 1.0, 5.0, 1.0]
    x = tj.zeros(4)
    x[i] = w[i] * 2
    assert x.requires_grad
    h = w * 1
    p = h * h
    h.detach()[i] = 0.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        p.sum().backward()


def test_masks() -> None:
    x = tj.arange(6.0).reshape(2, 3)
    x[x > 2] *= 2
    assert x.tolist() == [[0.0, 1.0, 2.0], [6.0, 8.0, 10.0]]
    x[x > 7] = tj.tensor([1.0, 2.0])
    assert x.masked_select(x < 3).tolist() == [0.0, 1.0, 2.0, 1.0, 2.0]
    with pytest.raises(RuntimeError):
        x[x > 1] = tj.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    y = tj.ones(3, 200, 200)
    assert y[y > 0].shape == (120000,)
