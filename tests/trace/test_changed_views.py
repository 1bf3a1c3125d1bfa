"""Changes of views, and of what others show, are part of a region's program: beside eager and PyTorch.

Each program is one for both libraries: `m` is the module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit.trace.compiled import region_of

CALLS = 14
Given = list[tuple[int, ...]]
PROGRAMS: dict[str, tuple[Callable[..., Any], Given]] = {}


def program(*shapes: tuple[int, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS[f.__name__] = f, list(shapes)
        return f

    return enter


@program((5, 4), (4,))
def rows_of_an_argument(m, x, v):
    x[1].add_(v)
    x[2:4].mul_(2.0)
    x[0] += v
    return x.sum(0)


@program((5, 4))
def boxes(m, b):
    b = b.clone()
    b[:, 2:] += b[:, :2]
    b[:, :2] *= 0.5
    return b


@program((3, 4))
def columns_of_a_result(m, x):
    out = m.empty(3, 6)
    for t in range(6):
        x = (x * 1.1).tanh()
        out[:, t].copy_(x[:, t % 4])
    return out


@program((4, 4))
def view_before_the_base_is_changed(m, x):
    y = x * 2
    v, w = y[1:], y.t()
    y.add_(1.0)
    y[0].zero_()
    return v * w[:3], y, v


@program((4, 4))
def a_view_twice(m, x):
    y = x + 1
    v = y[1]
    v.copy_(x[0])
    v.mul_(v)
    v += y[2]
    return v, y


@program((4, 6))
def views_of_views(m, x):
    y = x * 1.0
    y.t()[2:5][:, 1].add_(y[0, 3:])
    y.reshape(-1)[3:9] -= 2
    y.view(2, 2, 6)[1].transpose(0, 1)[4] = 5.0
    y.unsqueeze(0)[..., -1].neg_()
    return y.t() * 2, y.reshape(-1)[4]


@program((5, 5))
def diagonals(m, x):
    y = x.clone()
    y.diagonal().fill_(0.0)
    y.diagonal(1).add_(y.diagonal(-1))
    y.fill_diagonal_(3.0)
    return y


@program((8,))
def windows_beside_each_other(m, x):
    y = x * 1.0
    y.unfold(0, 2, 2)[:, 1].mul_(10.0)
    return y


@program((4, 3))
def detached(m, x):
    y = x * 2
    d = y.detach()
    d[1] += 5.0
    d.mul_(2)
    z = y + 1
    y.add_(d)
    return y, d, z


@program((4, 3))
def data_of_an_argument(m, x):
    x.data.clamp_(-0.5, 0.5)
    y = x * 3
    x.data[0].add_(1.0)
    return y, x + 1


@program((6, 4))
def even_and_odd(m, x):
    y = x.clone()
    a, b = y[0::2], y[1::2]
    a.add_(b)
    b.mul_(a)
    return y


@program((6, 4))
def pieces(m, x):
    y = x.clone()
    for k, part in enumerate(y.chunk(3)):
        part.mul_(k + 1)
    first, second = y.split([2, 4])
    second.copy_(first[:1])
    return y, first


@program((4, 3))
def onto_itself(m, x):
    y = x * 1
    y[0].copy_(y[3])
    y[1:].copy_(y[:-1].clone())
    return y


@program((4, 3), (4,))
def a_buffer_goes_round(m, x, v):
    for k in range(4):
        x[k] += v[k]
        x[k, k % 3] *= 2


@program((4, 3))
def with_gradients(m, x):
    x.grad = None
    h = x * 2
    h[1:3] *= x[:2]
    h[0].add_(x[3])
    h.t()[1].mul_(3.0)
    loss = (h * h).sum()
    loss.backward()
    return loss, x.grad, h


@program((4, 3))
def views_with_gradients(m, x):
    x.grad = None
    h = x * 1.5
    v = h[1]
    h.mul_(x)
    u = v * 2
    v.add_(u.detach())
    out = (v * h[0] + u).sum()
    out.backward()
    return x.grad, v.requires_grad, h[1]


@program((4, 3))
def without_gradients(m, x):
    x.grad = None
    with m.no_grad():
        x[1].mul_(2.0)
        x.view(-1)[3:].add_(1.0)
    (x * x).sum().backward()
    return x.grad


@program((3, 4))
def integers(m, x):
    n = (x * 10).int()
    n[:, 1:3] += n[:, 0:1]
    n[2].clamp_(-3, 3)
    mask = n > 0
    mask[:, 0].logical_not_() if hasattr(mask, "logical_not_") else None
    return n, mask


def plain(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return [plain(e) for e in x]
    return np.array(x.detach().numpy()) if hasattr(x, "detach") else x


def arrays(shapes: Given, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_program(name: str) -> None:
    f, shapes = PROGRAMS[name]
    compiled = tj.compile(lambda *args: f(tj, *args))
    for call in range(CALLS):
        given = arrays(shapes, call)
        one, other = ([tj.tensor(a, requires_grad="gradients" in name) for a in given] for _ in range(2))
        expected, found = f(tj, *one), compiled(*other)
        assert (bits(expected), bits(one)) == (bits(found), bits(other)), call
        assert [t._version for t in one] == [t._version for t in other]
    region = region_of(compiled)
    assert region is not None
    assert not [note.reason for note in region.notes if note.kind in ("cut", "eager")]
    assert region.calls.replayed


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    f, shapes = PROGRAMS[name]
    compiled = tj.compile(lambda *args: f(tj, *args))
    for call in range(4):
        given = arrays(shapes, call)
        one, other = ([m.tensor(a, requires_grad="gradients" in name) for a in given] for m in (torch, tj))
        expected, found = plain([f(torch, *one), one]), plain([compiled(*other), other])
        for a, b in zip(flat(expected), flat(found), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=f"call {call}")


def flat(x: Any) -> list[Any]:
    if isinstance(x, list):
        return [leaf for e in x for leaf in flat(e)]
    return [] if x is None else [x]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sizes_that_change(threads: int) -> None:
    def f(x: Any, v: Any) -> Any:
        y = x * 2
        first = y[0]
        for k in range(3):
            y[k].add_(v)
            y[:, k] *= 0.5
        return y, first, y[-1] * 2

    compiled = tj.compile(f)
    before = tj.get_num_threads()
    tj.set_num_threads(threads)
    try:
        for call, (n, m) in enumerate([(4, 5), (4, 5), (9, 3), (9, 3), (5, 30), (300, 200), (4, 5), (17, 9)] * 2):
            x, v = (tj.tensor(a) for a in arrays([(n, m), (m,)], call))
            assert bits(f(x, v)) == bits(compiled(x, v)), call
    finally:
        tj.set_num_threads(before)


def test_a_value_is_read_in_between() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        v = y[1]
        v.add_(1.0)
        if v.sum().item() > 0:
            y[0].mul_(2.0)
        v.sub_(y[0])
        return y, v

    compiled = tj.compile(f)
    for call in range(20):
        (x,) = (tj.tensor(a) for a in arrays([(3, 4)], call))
        assert bits(f(x)) == bits(compiled(x)), call


def test_another_way_is_taken_behind_a_change() -> None:
    def f(x: Any, k: int) -> Any:
        y = x * 2
        v = y[1:]
        v[0].add_(1.0)
        z = v * 3 if k % 5 else v.exp()
        v.copy_(z)
        return y, v, z

    compiled = tj.compile(f)
    for call in range(20):
        (x,) = (tj.tensor(a) for a in arrays([(3, 4)], call))
        assert bits(f(x, call)) == bits(compiled(x, call)), call


def test_a_view_outlives_its_base() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        v = y[1]
        v.add_(1.0)
        return v

    compiled = tj.compile(f)
    for call in range(12):
        (x,) = (tj.tensor(a) for a in arrays([(3, 4)], call))
        a, b = f(x), compiled(x)
        a.mul_(2.0)
        b.mul_(2.0)
        assert bits(a) == bits(b), call


def test_errors_are_those_of_eager() -> None:
    def leaf(x: Any) -> Any:
        w = x.detach().clone().requires_grad_()
        w[0].add_(1.0)

    def spread(x: Any) -> Any:
        (x * 2)[:1].expand(3, 4).add_(1.0)

    def stale(x: Any) -> Any:
        w = x.detach().clone().requires_grad_()
        h = w * 1.0
        p = h * h
        h[0].zero_()
        p.sum().backward()

    for f in (leaf, spread, stale):
        compiled = tj.compile(f)
        for call in range(4):
            (x,) = (tj.tensor(a) for a in arrays([(3, 4)], call))
            with pytest.raises(RuntimeError) as one:
                f(x)
            with pytest.raises(RuntimeError) as other:
                compiled(x)
            assert str(one.value) == str(other.value)


def test_a_branch_for_other_sizes_knows_the_history_of_a_changed_view() -> None:
    def f(base, row, more):
        part = base[3:]
        part[0] = row
        if more:
            part[1] = -1.5
        base[..., 1] = 0.25
        seen = part.requires_grad
        (part * part).sum().backward()
        return seen

    compiled = tj.compile(f)
    for more in (0, 0, 1, 1, 1, 0):
        found = []
        for g in (f, compiled):
            base, row = arr(1, 5, 3), arr(2, 3).requires_grad_()
            found.append((g(base, row, more), bits(base), bits(row.grad)))
        assert found[0] == found[1]
