"""Subscripts, read and written, beside PyTorch: values, shapes, gradients, views, exceptions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, compare, draw, program

READS = """x[0]|x[-1]|x[5]|x[0,1]|x[0,1,2]|x[0,0,0,0]|x[...]|x[:]|x[1:]|x[::2]|x[:, ::3]|x[..., -1]|x[None]
x[:, None]|x[..., None]|x[0, ..., None]|x[1:1]|x[5:]|x[-1:]|x[:, 1:3, ::2]|x[::-1]|x[::0]|x[True]|x[False]
x[None, True, 0]|x[[0]]|x[[0, 1, 0]]|x[[0, 2]]|x[[-1]]|x[[-3]]|x[[]]|x[[0, 1], [0, 1]]|x[[0, 1], :, [0, 1]]
x[:, [0, 1], [0, 1]]|x[0, :, [0, 1]]|x[[0, 1], 0, [0, 1]]|x[[0,1],[0,1,2]]|x[:, [[0, 1], [2, 0]]]
x[[[0], [1]], [[0, 1]]]|x[[0], None, [1]]|x[None, [0], [1]]|x[..., [0, 1]]|x[m.tensor(1)]|x[m.tensor([1, 0])]
x[m.tensor([[1], [0]])]|x[{1}]|x[(0,), (1,)]|x[m.tensor([1, 0], dtype=m.int32)]|x[m.tensor([1.0])]
x[m.tensor([True, False])]|x[m.tensor([True, False, True])]|x[:, m.tensor([True, False, True])]
x[m.tensor([True, False]), m.tensor([0, 2])]|x[x > 0]|x[x > 100]|x[0][x[0] > 0]|x[(x > 0)[:, :, 0]]|x[:, (x > 0)[0]]
x[m.tensor(True)]|x[m.tensor(False)]|x[1.5]|x[m.tensor(0):m.tensor(1)]|x[range(2)]|x[...,...]|x[[True, False]]
x[[True,False], 1:, None]|x[m.arange(2), m.arange(2)]|x[[1], 1:]|x[:, 1:, [0, 0, 1]]|x[0, None, [0, 1]]
x[[0,1], ..., [1,1]]|x[m.zeros(0, dtype=m.int64)]|x[()]|x[1, m.tensor(1), 2]|x[m.tensor([1]), 1:2, m.tensor([3])]
x[1:, 0][0, 1:]|x.permute(2, 0, 1)[0]|x.permute(2, 0, 1)[[0, 1]]|x[1.0:2]"""

CUBE = draw((2, 3, 4))


@pytest.mark.parametrize("text", READS.replace("\n", "|").split("|"))
def test_read(text: str) -> None:
    check(text, [CUBE])


@pytest.mark.parametrize("text", ["x[0]", "x[...]", "x[None]", "x[()]", "x[True]", "x[False]", "x[m.tensor(0)]", "x[:]",
                                  "x[[0]]", "x[None, ...]"])  # fmt: skip
def test_read_without_dimensions(text: str) -> None:
    check(text, [draw(())])


@pytest.mark.parametrize("text", ["x[:0]", "x[0:]", "x[[]]", "x[0]", "x[[0]]", "x[:, 0]", "x[:, [1]]", "x[None]"])
def test_read_of_nothing(text: str) -> None:
    check(text, [draw((0, 3))])


PLACES = """0|1|:|:, 1|..., 0|[0, 1]|[1, 1]|[0, 1], [0, 2]|:, [0, 2]|[0, 1], :, [0, 3]|0, :, [1, 2]|None|:, None|::2
1, 2, 3|True|False|5|0, 9"""


@pytest.mark.parametrize("place", PLACES.replace("\n", "|").split("|"))
@pytest.mark.parametrize("value", ["1.5", "7", "True", "m.tensor(2.5)", "v", "v.double()", "m.tensor(3)"])
def test_write_of_one_value(place: str, value: str) -> None:
    compare(program(f"y[{place}] = {value}"), CUBE, draw((1,)))


FITS = [
    ("0", (3, 4)), ("0", (4,)), ("0", (1, 1, 3, 4)), ("0", (5,)), (":, 1", (2, 4)), ("[0, 1]", (2, 3, 4)),
    ("[1]", (4,)), (":, [0, 2]", (2, 2, 4)), ("[0, 1], :, [0, 3]", (2, 3)), ("[0, 1], [0, 2]", (2, 4)),
    ("[0, 1], [0, 2]", (3, 4)),
    ("0:1", (1, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("place", "shape"), FITS)
@pytest.mark.parametrize(
    "text",
    [
        "y[{}] = v",
        "base = y * 1; z = base[:, :, :]; z[{}] = v; y = m.stack([base, z * 2])",
        "y = (y.permute(2, 1, 0) * 1).permute(2, 1, 0); y[{}] = v",
    ],
)
def test_write_of_tensors(text: str, place: str, shape: tuple[int, ...]) -> None:
    compare(program(text.format(place)), CUBE, draw(shape))


CHANGES = """y[y > 0] = 0.0|y[y > 0] = m.tensor(1.0)|y[y > 0] *= 2|y[x > 100] = 1|y[y[:, 0, 0] > 0] = 3.0
y[:, y[0, :, 0] > 0] = 3.0|y[y > 0] = m.ones(5)|y[y > 0] = y[y > 0] * 3|y[0] += 1|y[0, 1:] *= x[1, 1:]
y[:, 0] = y[:, 1]|y[0][1] = 5.0|y[[0, 1]] += 1|y[[0, 0]] += 1|y[0] = [1.0, 2.0]|y[0] = "a"|y[1.5] = 1|y[...] = 2
y.index_put_((m.tensor([0, 0]), m.tensor([1, 1])), m.tensor(1.5), accumulate=True)|del y[0]
y.index_put_((m.tensor([0, 1]),), x[:1, :, :] * 2)|y.index_put_((y > 0,), m.tensor(9.0))
y.index_put_((m.tensor([0]),), m.ones(7))|y.index_put_((m.tensor([0.]),), m.ones(4))|y.fill_(2.0)|y.zero_()
y.copy_(x[0])|y.copy_(x)|y[0].zero_()|y[0].copy_(x[1])|v = y[0]; y.mul_(2); y = v + y[1]|v = y.view(-1); v[3] = 0.0
v = y.transpose(0, 2); v[1] = 7.0|y = y.masked_fill(y > 0, -1.0)|y.masked_fill_(y > 0, -1.0)|y.clamp_(-0.5, 0.5)
y.add_(x).mul_(y.detach())|y += 1; y *= 2; y -= 3; y /= 4|y **= 2|y.relu_()|x[0] = 1|x.add_(1)|x.view(-1).add_(1)
y.exp_(); y = y * 2|z = y * y; y.add_(1); y = z|z = y.exp(); z.add_(1); y = z|z = y * 2; y.add_(1); y = z
y.add_(m.ones(2, 2, 3, 4))|y.add_(m.ones(4, dtype=m.float64))|y = y.long(); y.add_(1.5)|y = y.long(); y.copy_(x)
y = (y > 0); y += True|y.scatter_(0, m.zeros(1, 3, 4, dtype=m.int64), 5.0)|y.masked_scatter_(y > 0, x)
y.scatter_add_(1, m.zeros(2, 3, 4, dtype=m.int64), x)|y.index_add_(1, m.tensor([0, 0]), x[:, :2], alpha=2)
y.index_copy_(1, m.tensor([2, 0]), x[:, :2])|y.index_fill_(1, m.tensor([0, -1]), 3.0)|y.sin_().log_()
y.div_(x).mul_(x)|y.fill_diagonal_(0.0)|y.neg_()"""


@pytest.mark.parametrize("text", CHANGES.replace("\n", "|").split("|"))
def test_change_in_place(text: str) -> None:
    compare(program(text), CUBE)


def test_basic_subscripts_share_memory_and_the_others_do_not() -> None:
    x = tj.arange(24.0).reshape(2, 3, 4)
    views: list[Any] = [x[0], x[1:], x[..., None], x[:, ::2], x[None], x[tj.tensor(1)], x[:], x[...]]
    copies: list[Any] = [x[[0]], x[x > 3], x[tj.tensor([0])], x[[0], [1]], x[True]]
    assert all(np.shares_memory(v.numpy(), x.numpy()) for v in views)
    assert not any(np.shares_memory(c.numpy(), x.numpy()) for c in copies)


def test_gradient_through_memory_that_changed_is_refused() -> None:
    x = tj.ones(3, requires_grad=True)
    y = x * 1
    z = y * y
    y[0] = 5.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_gathers_and_scatters_of_lists() -> None:
    for text in ("x.gather(0, y)", "m.gather(x, 1, y)", "x.take_along_dim(y, 1)", "m.take(x, y)"):
        check(
            text,
            *[[draw((3, 4)), np.array(i)] for i in ([[0, 1], [2, 0]], [[0]], [0, 1], [[0, 1, 2], [1, 1, 1]])],
            [draw((3, 4)), np.zeros((0, 1), np.int64)],
            [draw((3, 4)), np.float32([[1]])],
        )
    check("x.gather(0, y)", [draw(()), np.array(0)], [draw(()), np.array([0, 0])], [draw((3,)), np.array(1)])
    for text in ("x.scatter(0, y, z)", "x.scatter(1, y, z)", "x.scatter_add(0, y, z)", "m.scatter_add(x, -1, y, z)"):
        for i in ([[0, 1], [2, 0]], [[2, 1, 0, 1]], [0, 1], [[0, 1, 2, 3, 3]]):
            index = np.array(i)
            sources = [draw((3, 4), seed=1), draw((3, 4), "d")]
            check(text, *[[draw((3, 4)), index, s] for s in sources], grad=False)
            check(text, [draw((3, 4)), index, draw(index.shape)])
    check("x.scatter(1, y, 2.5)", [draw((3, 4)), np.array([[0], [1]])])
    check("x.scatter(1, y)", [draw((3, 4)), np.array([[0], [1]])])


REPEATED = """x.scatter_add(0, i[:, None].expand(-1, 4), s)|x.scatter(0, i[:, None].expand(-1, 4), s)
x.gather(0, i[:, None].expand(-1, 4))|x.scatter(0, i[:, None].expand(-1, 4), 2.5)|x.gather(1, i.expand(3, -1))
x.gather(0, i[:, None].expand(-1, 2))|x.scatter_add(0, i[:, None].expand(-1, 2), s[:, :2])
x.scatter_add(0, i[:, None], s[:, :1])|x[:, :1].scatter_add(0, i[:, None], s[:, :1])
x.scatter_add(1, i.expand(3, -1), s.mT[:3])|x.gather(0, i[:0, None].expand(-1, 4))
x[:, :3].scatter_add(0, i.expand(3, 5).mT, s[:, :3])|x.gather(-1, i.view(1, 5).expand(3, 5))
x.scatter_add(0, i[:, None].expand_as(s), s)|x[:1].gather(0, i[3:, None] * 0)"""


@pytest.mark.parametrize("text", REPEATED.replace("\n", "|").split("|"))
def test_an_index_that_repeats_a_vector(text: str) -> None:
    def case(m: Any, x: Any, s: Any, i: Any) -> Any:
        return eval(text, {"m": m, "x": x, "s": s, "i": i})

    compare(case, draw((3, 4)), draw((5, 4), seed=1), np.array([1, 0, 2, 1, 1]))


def test_an_index_that_repeats_a_vector_picks_slices() -> None:
    x, index, source = tj.zeros(3, 4), tj.tensor([1, 0, 2, 1, 1]), tj.randn(5, 4)

    @tj.compile
    def add() -> Any:
        return x.scatter_add(0, index[:, None].expand(-1, 4), source).gather(0, index[:, None].expand(-1, 4))

    for _ in range(3):
        assert np.array_equal(add().numpy(), x.index_add(0, index, source)[index].numpy())
    ops = [op for program in tj.explain(add).programs for group in program["groups"] for op in group["ops"]]
    assert {"index_add", "take"} <= set(ops)
    assert not {"scatter_add", "gather"} & set(ops)
    for wrong in (3, -1):
        with pytest.raises(IndexError, match="out of bounds"):
            x.scatter_add(0, tj.tensor([0, wrong])[:, None].expand(-1, 4), source)


def test_an_index_without_elements_gives_the_same_eagerly_and_compiled() -> None:
    def f(x: tj.Tensor) -> list[tj.Tensor]:
        y = x.exp()
        index = (y.unsqueeze(0) > 0).long()
        return [y.unsqueeze(0).gather(1, index), y.gather(0, (y > 0).long()), y.gather(1, (y > 0).long())]

    x = tj.zeros(0, 3)
    expected = [(tuple(t.shape), t.stride()) for t in f(x)]
    region = tj.compile(f)
    for _ in range(8):
        assert [(tuple(t.shape), t.stride()) for t in region(x)] == expected


VECTORS = [np.array([2, 0, 0]), np.array(1), np.int32([0]), np.zeros(0, np.int64)]


@pytest.mark.parametrize(
    "text", ["x.index_select(0, y)", "m.index_select(x, -1, y)", "x.index_select(7, y)", "m.embedding(x, y)"]
)
def test_index_select(text: str) -> None:
    if "embedding" in text:
        check("F.embedding(y, x)", *[[draw((3, 4)), i] for i in VECTORS], [draw((3, 4)), np.array([5])])
    else:
        check(text, *[[draw((3, 4)), i] for i in VECTORS], [draw((3, 4)), np.array([[0]])], [draw((3, 4)), draw((1,))])


@pytest.mark.parametrize("text", ["x.index_add(1, y, z)", "m.index_add(x, 0, y, z, alpha=2)", "x.index_copy(1, y, z)"])
def test_index_add_and_copy(text: str) -> None:
    for i in ([2, 0], [0], [0, 0, 1]):
        sources = [draw((3, 2)), draw((2, 4)), draw((2, 4), "d"), draw((4,))]
        check(text, *[[draw((3, 4)), np.array(i), s] for s in sources])


@pytest.mark.parametrize("text", ["x.index_fill(1, y, 9.0)", "x.index_fill(0, y, m.tensor(1.5))"])
def test_index_fill(text: str) -> None:
    check(text, *[[draw((3, 4)), np.array(i)] for i in ([2, 0, 0], 1, [5], [-1])])


def test_masks_and_places() -> None:
    masks = [draw((3, 4), "b"), draw((4,), "b"), draw((3, 4))]
    check("x.masked_select(y)", *[[draw((3, 4)), k] for k in masks], [draw(()), draw((), "b")])
    check("m.masked_select(x, y)", [draw((3, 1)), draw((2, 3, 4), "b")])
    check("x.masked_scatter(y, z)", [draw((3, 4)), masks[0], draw((12,))], [draw((3, 4)), masks[0] | True, draw((2,))])
    for text in ("x.nonzero()", "x.nonzero(as_tuple=True)", "m.argwhere(x)", "m.where(x > 0)"):
        check(text, [draw((3, 4), "i")], [draw((3, 4), "b")], [draw(())], [draw((0, 3))], [draw((5,))])


def test_sorted_rows() -> None:
    row, rows = np.sort(draw((6,))), np.sort(draw((2, 6)))
    for options in ("", ", right=True", ", side='left'", ", side='right'", ", out_int32=True", ", side='z'"):
        check(f"m.searchsorted(x, y{options})", [row, draw((3, 4))], [rows, draw((2, 4))], [rows, draw((3, 4))])
    check("m.searchsorted(x, y, side='left', right=True)", [row, row])
    check("m.searchsorted(x, 0.5)", [row], [row.astype(int)], [rows], [draw(())], [draw((0,))])
    check("m.searchsorted(x, y)", [row, row.astype(int)], [row.astype(int), row], [row, draw(())], [rows, draw(())])
    edges = np.array([np.nan, np.inf, -np.inf, row[0]])
    check("m.searchsorted(x, y)", [row, edges], [draw((0,)), row], [row, draw((0,))])
    check("m.searchsorted(x, x, right=True)", [np.sort(draw((3, 500)))], [np.sort(draw((70,), "i"))], [rows[:0]])
    unsorted = draw((2, 6))
    orders = [unsorted.argsort(), unsorted.argsort()[:, :5], unsorted.argsort().astype(np.int32)]
    check("m.searchsorted(x, y, sorter=z)", *[[unsorted, rows, order] for order in orders])
    check("m.bucketize(x, y)", [row, rows], [2, row])
    check("m.bucketize(x, y)", [draw((3, 4)), row])
    check("m.bucketize(x, y, right=True)", [row, row])


def test_what_cannot_be_searched_says_why() -> None:
    rows = tj.zeros(2, 3)
    with pytest.raises(RuntimeError, match="input value can be a scalar only"):
        tj.searchsorted(rows, 1.0)
    with pytest.raises(RuntimeError, match="first N-1 dimensions"):
        tj.searchsorted(rows, tj.zeros(3, 3))
    with pytest.raises(TypeError, match="'sorted_sequence' must be Tensor, not list"):
        tj.searchsorted([1.0, 2.0], rows)
    with pytest.raises(TypeError, match="'sorter' must be Tensor, not list"):
        tj.searchsorted(rows[0], rows, sorter=[0, 1, 2])
    with pytest.raises(TypeError, match="'boundaries' must be Tensor, not list"):
        tj.bucketize(rows, [1.0, 2.0])
    with pytest.raises(NotImplementedError, match="no order of bools"):
        tj.searchsorted(rows[0] > 0, rows > 0)


def test_places_out_of_range_raise_index_error() -> None:
    """PyTorch raises RuntimeError here for some and IndexError for others; here all of them are IndexErrors."""
    x, far = tj.ones(2, 3), tj.tensor([[7]])
    for read in (
        lambda: x.gather(0, far),
        lambda: x.scatter(0, far, 1.0),
        lambda: x.index_add(0, far[0], tj.ones(1, 3)),
        lambda: x[far],
        lambda: x.take(far),
    ):
        with pytest.raises(IndexError, match="index 7 is out of bounds"):
            read()
