"""Sorting, unique values, comparisons of whole tensors and diagonals beside PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, draw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

NAN = np.float32([1, np.nan, 0, np.nan, -1])
ORDERS = """sort(x)|sort(x, 0)|sort(x, descending=True)|argsort(x)|argsort(x, 0, descending=True)|sort(x, 5)|msort(x)
topk(x, 2)|topk(x, 2, 0)|topk(x, 9)|topk(x, 1, largest=False)|kthvalue(x, 2)|kthvalue(x, 1, 0, True)|kthvalue(x, 9)
median(x, 0)|median(x, 1, True)|median(x, 5)"""


@pytest.mark.parametrize("text", ORDERS.replace("\n", "|").split("|"))
def test_orders(text: str) -> None:
    check(f"m.{text}", [draw((4, 5))], [draw(())], [draw((6,))], [draw((0, 3))], [draw((0,))])
    check(f"m.{text}", [NAN], grad="median" not in text and "kth" not in text)


def test_orders_of_equal_elements_and_medians() -> None:
    for text in ("m.sort(x, stable=True)", "m.sort(x, stable=True, descending=True)",
                 "m.argsort(x, stable=True, descending=True)"):  # fmt: skip
        check(text, [draw((20,), "i")], [draw((20,), "b")])
    check("m.median(x)", [draw((4, 5))], [draw((6,))])
    check("m.median(x)", [NAN], grad=False)


@pytest.mark.parametrize("text", ["unique(x)", "unique(x, return_inverse=True, return_counts=True)", "unique(x, dim=0)",
                                  "unique_consecutive(x)",
                                  "unique_consecutive(x, return_inverse=True, return_counts=True)"])  # fmt: skip
def test_unique(text: str) -> None:
    arrays = [draw((7,), "i", low=0), draw((4, 5), "s"), draw((4, 5)), draw(()), NAN, draw((0, 3))]
    check(f"m.{text}", *[[a] for a in arrays], grad=False)


@pytest.mark.parametrize("text", ["histc(x, 5)", "histc(x, 5, -1, 1)", "histc(x, 0)", "histc(x, 5, 1, -1)",
                                  "bincount(x)"])  # fmt: skip
def test_counts(text: str) -> None:
    arrays = [draw((7,), "i", low=0), draw((7,), "i"), draw((4, 5), "s"), draw((4, 5)), draw((0,))]
    check(f"m.{text}", *[[a] for a in arrays], grad=False)


def test_bincount_with_weights() -> None:
    places = draw((7,), "i", low=0)
    check("m.bincount(x, minlength=9)", [places])
    check("m.bincount(x, y)", [places, draw((7,))], [places, draw((7,), "i")], [places, draw((6,))], grad=False)


@pytest.mark.parametrize("text", ["equal(x, y)", "allclose(x, y)", "isclose(x, y)", "isclose(x, y, equal_nan=True)",
                                  "isclose(x, y, rtol=-1.0)", "isin(x, y)"])  # fmt: skip
def test_comparisons(text: str) -> None:
    x = draw((3,))
    edges = np.float32([1, np.nan, np.inf, -np.inf])
    check(f"m.{text}", [x, x], [x, x + np.float32(1e-6)], [x, draw((4,))], [edges, np.abs(edges)],
          [draw((3,), "i"), draw((3,), "i")], [x, draw((3,), "d")])  # fmt: skip


@pytest.mark.parametrize("text", ["diag(x)", "diag(x, 1)", "diag(x, -2)", "diag_embed(x)", "diag_embed(x, 1)",
                                  "diag_embed(x, -1)", "diff(x)", "diff(x, 2, 0)", "diff(x, 9)", "nan_to_num(x)",
                                  "cov(x)", "tril(x)", "triu(x, 1)", "diagonal(x)", "diagonal(x, 1)",
                                  "diagonal(x, -1, 1, 0)"])  # fmt: skip
def test_diagonals(text: str) -> None:
    shapes = [(3, 4), (4,), (4, 3), (2, 3, 4), (), (0, 3)]
    check(f"m.{text}", *[[draw(s)] for s in shapes], [draw((3, 4), "i")])


def test_the_rest_of_diagonals() -> None:
    check("x.trace()", [draw((3, 4))], [draw((4,))])
    check("m.diff(x, prepend=y)", [draw((3, 4)), draw((3, 1))])
    check("m.nan_to_num(x, 1.0, 2.0, 3.0)", [np.float32([1, np.nan, np.inf, -np.inf])])
    for p in ("", ", p=1.0"):
        check(f"m.cdist(x, y{p})", [draw((3, 4)), draw((5, 4))], [draw((2, 3, 4)), draw((2, 5, 4))],
              [draw((3, 4)), draw((5, 3))])  # fmt: skip
    check("m.cdist(x, x)", [draw((3, 4))])
    check("m.cdist(x, y)", [draw((2, 1, 3, 4)), draw((5, 6, 4))], [draw((1, 4)), draw((3, 7, 4))])
    for window in ("(0, 2, 1)", "(1, 2, 2)", "(0, 9, 1)", "(0, 2, 0)", "(5, 1, 1)", "(-1, 3, 2)"):
        check(f"x.unfold(*{window})", [draw((3, 4, 5))])
    for window in ("(0, 3, 1)", "(0, 20, 3)", "(0, 17, 1)", "(0, 2, 5)"):
        check(f"x.unfold(*{window})", [draw((40, 2))])
        check(f"x.unfold(*{window}).mean(-1)", [draw((40, 2))])
    check("x.unfold(2, 3, 1).unfold(3, 3, 1).mean((-1, -2))", [draw((2, 3, 8, 9))])
    check("x.unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))", [draw((2, 3, 8, 9))])
    check("x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 12, -1)", [draw((2, 3, 6, 8))])
    for text in ("m.tril_indices(3, 4)", "m.triu_indices(3, 4, 1)", "m.tril_indices(4, 3, -1)"):
        check(text, [])
    for text in ("x.fill_diagonal_(1.0)", "x.clone().fill_diagonal_(1.0)", "x.clone().fill_diagonal_(1.0, wrap=True)"):
        check(text, *[[draw(s)] for s in ((3, 3), (), (7, 3), (3, 7), (3, 3, 3))])


def test_distances_of_points_that_lie_far_from_zero() -> None:
    rng = np.random.default_rng(3)
    x, y = (np.float32(1000 + rng.standard_normal((n, 8))) for n in (40, 30))
    x[3] = y[5]
    ct = rng.standard_normal((40, 30)).astype(np.float32)
    gap = x[:, None].astype(np.float64) - y[None]
    length = np.sqrt((gap * gap).sum(-1))
    pull = np.where(length == 0, 0, ct / np.where(length == 0, 1, length))[..., None] * gap
    one, other = (tj.tensor(z, requires_grad=True) for z in (x, y))
    found = tj.cdist(one, other)
    found.backward(tj.tensor(ct))
    np.testing.assert_allclose(found.detach().numpy(), length, rtol=1e-6)
    np.testing.assert_allclose(one.grad.numpy(), pull.sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.grad.numpy(), -pull.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["list(x)", "[t * 2 for t in x]", "(1.0 in x)", "('a' in x)", "len(x)", "m.numel(x)",
                                  "m.is_tensor(x)", "m.is_floating_point(x)", "x.is_nonzero()", "f'{x.sum():.3f}'",
                                  "f'{x:.2f}'"])  # fmt: skip
def test_python_protocols(text: str) -> None:
    check(text, [draw((3, 3))], [draw(())])


def test_a_sorted_value_carries_its_gradient() -> None:
    x = tj.tensor([3.0, 1.0, 2.0], requires_grad=True)
    x.sort().values[0].backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
