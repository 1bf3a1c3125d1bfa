"""Subscripts that are assigned to by the shortest way give what the general way does, and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.tensor import indexing

torch = pytest.importorskip("torch")

SUBSCRIPTS: list[Any] = [
    3,
    -1,
    ...,
    (slice(1, 3),),
    (slice(None), 2),
    (..., 1),
    (2, 3),
    (slice(None, None, 2), slice(1, 4)),
    (None, 1),
    slice(2, 2),
    9,
    (1, 2, 3),
]
VALUES: list[Any] = [
    *(0, -3, 7, 1 << 31, 1 << 40, True, 2.5, -0.0, 1e39, 1e300, float("inf"), float("nan"), 1e-50),
    *("like", "row", "one", "column", "wide", "other type", "too many"),
]
OTHERWISE = {("float32", 1e39), ("float32", 1e300), ("float64", 1e39), ("float16", 1e39), ("float16", 1e300)}
OTHERWISE |= {("uint8", -3)}
"""PyTorch refuses floats that a type has not, of which an infinity is made here, and takes negative bytes."""
KINDS = ("float32", "float64", "float16", "int64", "int32", "bool", "uint8")


def put(m: Any, kind: str, at: Any, value: Any) -> Any:
    x = m.zeros(5, 6, dtype=getattr(m, kind))
    if isinstance(value, str):
        shape = tuple(x[at].shape)
        a = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)
        if value == "row":
            a = a[0] if a.ndim > 1 and len(a) else a
        elif value == "one":
            a = np.float32(4)
        elif value == "column":
            a = a[:, :1] if a.ndim > 1 else a[:1]
        elif value == "wide":
            a = a[None]
        elif value == "too many":
            a = np.ones((*shape, 2), np.float32)
        value = m.tensor(a)
        value = value.to(getattr(m, kind)) if kind != "bool" and "type" not in str(value) else value
    x[at] = value
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_as_in_pytorch(kind: str) -> None:
    for at, value in itertools.product(SUBSCRIPTS, VALUES):
        if (kind, value) in OTHERWISE:
            continue
        outcomes = []
        for m in (torch, tj):
            try:
                outcomes.append(put(m, kind, at, value).double().numpy().tolist())
            except (RuntimeError, IndexError, OverflowError) as e:
                outcomes.append("error" if m is torch or not isinstance(e, OverflowError) else repr(e))
        np.testing.assert_array_equal(*outcomes, err_msg=f"{kind} {at} {value}")


@pytest.mark.parametrize("kind", KINDS)
def test_as_by_the_general_way(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcomes() -> list[Any]:
        found: list[Any] = []
        for at, value in itertools.product(SUBSCRIPTS, VALUES):
            try:
                x = put(tj, kind, at, value)
                found.append((x.numpy().tobytes(), x._version))
            except (RuntimeError, IndexError) as e:
                found.append(str(e))
        return found

    short = outcomes()
    monkeypatch.setattr(indexing, "_put_now", lambda *_: False)
    assert short == outcomes()


def test_what_is_put_overlaps_its_place() -> None:
    x, y = tj.arange(12.0).reshape(3, 4), torch.arange(12.0).reshape(3, 4)
    for t in (x, y):
        t[1:] = t[:-1].clone()
        t[:, 1:] = t[:, :1] * 2
        t[0] = t[2]
        t[2, 1:] += t[0, :3]
    assert x.tolist() == y.tolist()
    x[:, :3] = x[:, 1:]
    assert x.tolist() == np.concatenate([y.numpy()[:, 1:], y.numpy()[:, 3:]], 1).tolist()


def test_changes_are_seen_by_the_tape() -> None:
    w = tj.ones(3, 2, requires_grad=True)
    h = w * w
    y = h * h
    v = h.detach()
    v[1] = 0.5
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        w[0] = 1.0
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        w[1:][0] = 1.0
    with tj.no_grad():
        w[0] = 3.0
    assert w.tolist()[0] == [3.0, 3.0]


def test_a_view_whose_base_has_a_history() -> None:
    x, w = tj.zeros(3, 2), tj.ones(2, requires_grad=True)
    view = x[1]
    x[0] = w * 3
    view.mul_(2.0)
    view.add_(w)
    (x * x).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [20.0, 20.0]
    other = tj.zeros(3)
    tail = other[1:]
    tail.add_(tj.ones(2))
    tail[0] = 5
    assert other.tolist() == [0.0, 5.0, 1.0]
    assert other._version == tail._version == 2


def test_read_only_memory() -> None:
    x = tj.zeros(3).expand(2, 3)
    with pytest.raises(RuntimeError, match="more than one element"):
        x[0] = 1.0
