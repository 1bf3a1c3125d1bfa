"""Functions that are a few operations each, beside PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.tensor.parity import check, draw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SHAPES = [(), (3,), (2, 3), (2, 3, 4), (0, 3)]


@pytest.mark.parametrize("name", ["atleast_1d", "atleast_2d", "atleast_3d"])
def test_at_least_so_many_dimensions(name: str) -> None:
    check(f"m.{name}(x)", *[[draw(s)] for s in SHAPES], [draw((2,), "i")])
    check(f"m.{name}(x, y)", [draw(()), draw((2, 3))])
    check(f"m.{name}((x, y))", [draw((3,)), draw((2, 3, 1, 1))])
    check(f"m.{name}()", [])


@pytest.mark.parametrize("name", ["column_stack", "dstack", "row_stack", "vstack", "hstack"])
def test_stacks(name: str) -> None:
    pairs = [((2, 3), (2, 3)), ((2, 3), (4, 3)), ((3,), (3,)), ((3,), (2,)), ((), ()), ((2, 3, 4), (2, 3, 1)),
             ((2,), (2, 3))]  # fmt: skip
    check(f"m.{name}([x, y])", *[[draw(p), draw(q, seed=1)] for p, q in pairs], [draw((2, 3)), draw((2, 3), "i")])
    if name in ("column_stack", "dstack"):
        check(f"m.{name}([])", [])


@pytest.mark.parametrize("where", ["1", "2", "3", "5", "0", "-1", "(1, 2)", "(0, 3, 1)", "[-1, 9]", "()",
                                   "m.tensor([1, 2])", "m.tensor(2)", "m.tensor([1.0])"])  # fmt: skip
def test_splits(where: str) -> None:
    shapes = ((6,), (4, 6), (2, 3, 6), (), (0, 4))
    for dim in ("", ", 1", ", -1", ", 5"):
        check(f"m.tensor_split(x, {where}{dim})", *[[draw(s)] for s in shapes])
    if not where.startswith("m."):
        for name in ("hsplit", "vsplit", "dsplit"):
            check(f"m.{name}(x, {where})", *[[draw(s)] for s in shapes])
            check(f"x.{name}({where})", [draw((2, 6, 6))])


def test_pieces_are_views() -> None:
    for lib in (tj, torch):
        x = lib.zeros(4, 4)
        lib.hsplit(x, 2)[1].fill_(1.0)
        lib.tensor_split(x, [1])[0].fill_(2.0)
        assert x[:2].tolist() == [[2.0] * 4, [0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("text", ["fliplr(x)", "flipud(x)", "rot90(x)", "rot90(x, 2)", "rot90(x, -1)", "rot90(x, 4)",
                                  "rot90(x, 1, (1, 0))", "rot90(x, 1, [-1, 0])", "rot90(x, 3, (0, 0))",
                                  "rot90(x, 1, (0, 1, 2))", "rot90(x, 1, (0, 5))"])  # fmt: skip
def test_turns(text: str) -> None:
    check(f"m.{text}", *[[draw(s)] for s in SHAPES], [draw((3, 2), "i")])
    check(f"x.{text.replace('x, ', '').replace('x', '')}", [draw((2, 3))])


def test_products_of_sets() -> None:
    check("m.cartesian_prod(x)", [draw((3,))], [draw((2, 3))])
    check("m.cartesian_prod(x, y, z)", [draw((3,)), draw((2,)), draw((4,))], [draw((3,)), draw((0,)), draw((2,))])
    check("m.cartesian_prod()", [])
    check("m.block_diag(x, y, z)", [draw((2, 3)), draw((4,)), draw(())],
          [draw((2, 1)), draw((1, 2), "d"), draw((3,), "i")], [draw((2, 3, 1)), draw((2,)), draw(())],
          [draw((0, 2)), draw((2, 2)), draw((2, 0))])  # fmt: skip
    check("m.block_diag()", [])


DIMS = ["", "0", "1", "2", "3", "-1", "([0], [0])", "([1], [0])", "([0, 1], [1, 0])", "([-1], [-1])",
        "([0, 0], [0, 1])", "([0], [0, 1])", "([5], [0])", "m.tensor([[1], [0]])"]  # fmt: skip


@pytest.mark.parametrize("dims", DIMS)
def test_tensordot(dims: str) -> None:
    pairs = [((3, 4), (4, 3)), ((3, 3), (3, 3)), ((2, 3, 4), (3, 4, 2)), ((1, 3), (3, 1)), ((3,), (3,)), ((), (3,)),
             ((3, 0), (0, 3))]  # fmt: skip
    text = f"m.tensordot(x, y{', dims=' if dims else ''}{dims})"
    check(text, *[[draw(p), draw(q, seed=1)] for p, q in pairs])
    check(text, [draw((3, 3), "i"), draw((3, 3), "i", seed=1)], [draw((3, 3)), draw((3, 3), "d")])


def test_products() -> None:
    for name in ("inner", "kron"):
        shapes = ((2, 3), (3,), (), (4, 3), (2, 2, 3), (2, 4))
        for p, q in itertools.product(shapes, repeat=2):
            check(f"m.{name}(x, y)", [draw(p), draw(q, seed=1)])
        check(f"x.{name}(y)", [draw((2, 3)), draw((4, 3))])
        check(f"m.{name}(x, y)", [draw((3,)), draw((3,), "i")], [draw((3,), "i"), draw((3,), "i", seed=1)])
    check("m.ger(x, y)", [draw((3,)), draw((2,))])
    for dim in ("", ", dim=0", ", dim=-1", ", dim=7"):
        pairs = [((3, 4), (3, 4)), ((4, 3), (1, 3)), ((3, 3), (3, 3)), ((3,), (3,)), ((2, 4), (2, 4)), ((3,), (2, 3)),
                 ((3, 1, 3), (3, 4, 3))]  # fmt: skip
        check(f"m.cross(x, y{dim})", *[[draw(p), draw(q, seed=1)] for p, q in pairs])
    check("m.cross(x, y, dim=0)", [draw((3,)), draw((3,), "d")], [draw((3,), "i"), draw((3,), "i", seed=1)])
    with pytest.warns(UserWarning, match="without specifying the dim"):
        tj.cross(tj.ones(3), tj.ones(3))


PAIRS = ["hypot", "xlogy", "copysign", "logaddexp2"]


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_operands(name: str) -> None:
    sign = np.abs if name == "xlogy" else np.asarray
    # PyTorch's gradients of logaddexp2 cannot be had of bools, that of copysign's sign is always zero.
    kinds, given = ("fdhi", "y") if name == "logaddexp2" else ("fdhib", "y.detach()" if name == "copysign" else "y")
    for p, q in itertools.product(kinds, repeat=2):
        x, y = draw((3, 4), p), sign(draw((3, 4), q, seed=1))
        if q in "ib":
            y = np.ones_like(y) if q == "b" else np.abs(y) + 1
        check(f"m.{name}(x, {given})", [x, y], [x, y[0]])
    check(f"x.{name}({given})", [draw((2, 3)), sign(draw((2, 3), seed=2))])
    check(f"m.{name}(x, 2)", [draw((2, 3))], [draw((2, 3), "i")])
    check(f"m.{name}(x, -0.0)", [draw((2, 3))], grad=False)


EDGES = np.float32([0, -0.0, 1, -1, 3.5, -3.5, np.inf, -np.inf, np.nan, 1e30, -1e-30, 1e-40])


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_operands_at_edges(name: str) -> None:
    x, y = (np.repeat(EDGES, len(EDGES)), np.tile(EDGES, len(EDGES)))
    if name == "copysign":
        # The sign of a NaN cannot be told.
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    check(f"m.{name}(x, y)", [x, y], grad=False)
    if name == "copysign":
        ours = tj.copysign(tj.from_numpy(x), tj.from_numpy(y)).numpy()
        np.testing.assert_array_equal(np.signbit(ours[~np.isnan(x)]), np.signbit(y[~np.isnan(x)]))


def test_numbers_on_the_left() -> None:
    check("m.xlogy(2, x)", [np.abs(draw((3,)))])
    check("m.xlogy(0.0, x)", [draw((3,))], grad=False)


def test_heaviside() -> None:
    check("m.heaviside(x, y)", [EDGES, np.full_like(EDGES, 0.5)], [draw((3, 4), "i"), draw((4,), "i")],
          [draw((3,)), draw((3,), "i")], grad=False)  # fmt: skip


SPECIAL = ["erfinv", "erfc", "asinh", "acosh", "atanh", "logit", "sinc"]


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name: str) -> None:
    x = 1 + np.abs(draw((3, 4))) if name == "acosh" else np.tanh(draw((3, 4))) * 0.9
    x = np.abs(x) if name == "logit" else x
    check(f"m.{name}(x)", [x], [x.astype(np.float64)])
    # PyTorch has no gradient for some of these in place.
    check(f"(x * 1).{name}_()", [x], grad=False)
    # PyTorch's sinc has the gradient nan where the angle is infinite in float32.
    check(f"m.{name}(x)", [EDGES], grad=False)


def test_logit_between_bounds() -> None:
    x = np.float32([-1, -0.0, 0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.95, 1, 2, np.nan])
    for text in ("m.logit(x, 0.1)", "m.logit(x, eps=1e-6)", "(x * 1).logit_(0.1)"):
        check(text, [x], [x.astype(np.float64)])
    check("x.logit(0.25)", [x], [x.astype(np.float16)])


def test_sinc_at_nothing() -> None:
    check("m.sinc(x)", [np.float32([0, -0.0, 1, -2, 1e-6, 0.25])])


@pytest.mark.parametrize("name", ["exp2", "log10", "sinh", "cosh", "asin", "acos", "atan"])
def test_elementary_functions_in_place(name: str) -> None:
    check(f"(x * 1).{name}_()", [np.abs(np.tanh(draw((3, 4))))])


@pytest.mark.parametrize("name", ["deg2rad", "rad2deg", "frac"])
def test_functions_of_one_operand(name: str) -> None:
    check(f"m.{name}(x)", *[[draw((3, 4), k)] for k in "fdib"], [EDGES])
    check(f"x.{name}()", [draw((3,))])
    check(f"(x * 1).{name}_()", [draw((3,))])


def test_changes_in_place() -> None:
    for text in ("hypot_(y)", "xlogy_(y.abs())", "copysign_(y)"):
        check(f"(x * 1).{text}", [draw((3,)), draw((3,), seed=1)])
    check("(x * 1).heaviside_(y)", [draw((3,)), draw((3,), seed=1)], grad=False)


def test_sums_without_nan() -> None:
    x = np.where(draw((3, 4), "b"), draw((3, 4)), np.nan).astype(np.float32)
    for name in ("nansum", "nanmean"):
        for options in ("", "0", "1, True", "(0, 1)", "-1", "5", "dim=0, dtype=m.float64"):
            check(f"m.{name}(x{', ' if options else ''}{options})", [x], [draw((3, 4), "i")], [draw((3, 4), "h")])
        check(f"x.{name}()", [x], [draw((3,), "b")])
        check(f"x.{name}()", [np.full((3,), np.nan, np.float32)], [draw((0,))], grad=False)


def test_trapezoid() -> None:
    for name in ("trapezoid", "trapz"):
        for options in ("", ", dx=2", ", dx=0.5, dim=0", ", dim=7"):
            choices = [draw((3, 4)), draw((3, 4), "i"), draw((4,), "b"), draw(()), draw((3, 0))]
            check(f"m.{name}(x{options})", *[[y] for y in choices])
        for dim in ("", ", dim=0"):
            pairs = [((3, 4), (4,)), ((3, 4), (3, 4)), ((3, 4), (3,)), ((2, 3, 4), (3, 4)), ((4,), (4,))]
            check(f"m.{name}(x, y{dim})", *[[draw(p), draw(q, seed=1)] for p, q in pairs])
    check("m.trapezoid(x, y)", [draw((3, 4), "i"), draw((3, 4), "i", seed=1)], [draw((4,)), draw((4,), "b")])


def test_diagonals_and_correlations() -> None:
    for offset in ("", ", 1", ", -2"):
        check(f"m.diagflat(x{offset})", *[[draw(s)] for s in SHAPES])
    for text in ("m.cov(x)", "x.cov(correction=0)", "m.corrcoef(x)", "x.corrcoef()"):
        check(text, *[[draw(s)] for s in ((3, 5), (5,), (2, 3, 4), ())], [draw((2, 4), "i")])
    check("m.corrcoef(x)", [np.ones((2, 3), np.float32)], grad=False)


WEIGHTS = ["fweights=y", "aweights=z", "fweights=y, aweights=z", "fweights=y, aweights=z, correction=0",
           "aweights=z, correction=2", "fweights=z", "aweights=y"]  # fmt: skip


@pytest.mark.parametrize("options", WEIGHTS)
def test_weighted_covariances(options: str) -> None:
    counts, weights = np.array([1, 0, 2, 3]), np.float32([0.5, 1.5, 0, 2])
    text = f"m.cov(x, {options.replace('z', 'z.detach()')})"
    check(text, [draw((3, 4)), counts, weights], [draw((4,)), counts, weights], [draw((3, 5)), counts, weights],
          [draw((3, 4)), counts - 1, weights - 1], [draw((3, 4)), counts * 0, weights * 0],
          [draw((3, 4)), counts[None], weights[None]])  # fmt: skip


@pytest.mark.parametrize("name", ["hann_window", "hamming_window"])
def test_windows(name: str) -> None:
    for options in ("0", "1", "2", "7", "8, False", "5, dtype=m.float64", "5, periodic=False, requires_grad=True", "-1",
                    "3.5", "4, dtype=m.int64", "1, requires_grad=True"):  # fmt: skip
        check(f"m.{name}({options})", [])
    check("m.hamming_window(6, True, 0.6, 0.3)", [])


ALIASES = "arccos arcsin arctan less greater not_equal less_equal greater_equal arctan2 ger"


@pytest.mark.parametrize("name", ALIASES.split())
def test_aliases(name: str) -> None:
    operands = "x" if name in ("arccos", "arcsin", "arctan") else "x, y"
    arrays = [draw((3,)) / 8, draw((3,), seed=1)][: operands.count(",") + 1]
    check(f"m.{name}({operands})", arrays)
    check(f"x.{name}({'y' if ',' in operands else ''})", arrays)
