"""What functions do in place, and tensors that get another shape in place: beside PyTorch, and inside of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, compare, draw, expression, leaves, program

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

VALUES = [
    "y.tril_()", "y.triu_(1)", "y.tril_(diagonal=-1)", "y.cumsum_(0)", "y.cumsum_(axis=1)", "y.cumprod_(1)",
    "y.clip_(-0.2, 0.5)", "y.clip_(min=0.3)", "y.absolute_()", "y.clamp_(-0.9, 0.9).arcsin_()", "y.atan2_(v)",
    "y.arctan2_(v)", "y.fix_()", "y.negative_()", "y.subtract_(v)", "y.multiply_(v)", "y.divide_(v + 9)",
    "y.true_divide_(2.0)", "y.addmm_(v, m.ones(3, 3))", "y.addmm_(x, m.ones(3, 3), beta=0.5, alpha=2.0)",
    "y.mul_(other=v)", "w = x * 2\ny.mul_(other=w)", "y.unsqueeze_(0).baddbmm_(m.ones(1, 2, 2), v[None])",
    *(f"y.{name}_(v)" for name in ("eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater",
                                   "greater_equal")),
]  # fmt: skip
TURNS = [
    "y.t_()", "y.transpose_(0, 1)", "y.swapaxes_(0, 1)", "y.swapdims_(0, 1)", "y.unsqueeze_(0)", "y.unsqueeze_(5)",
    "y.unsqueeze_(-1).squeeze_()", "y.unsqueeze_(0).unsqueeze_(0).squeeze_(0, 1)", "y.unsqueeze_(dim=1)",
    "y.unsqueeze_(axis=1)", "y.squeeze_(0)", "y.t_().mul_(v.t())", "z = y.t()\nz.t_()\nz.mul_(2.0)",
    "z = y[0]\nz.unsqueeze_(0)\nz.mul_(3.0)", "y.t_()\ny[0].mul_(2.0)", "y.t_()\nz = y[1]\nz *= 2",
    "y.t_().unsqueeze_(0)", "y.t_()\nz = y.view(-1)", "y.mul_(v).t_().add_(1.0).t_()",
    "z = y * y\ny.t_()\nif z.requires_grad: z.sum().backward()", "x.t_()", "x.unsqueeze_(0)",
]  # fmt: skip
WHOLE = ["y.cumsum_(0)", "y.bitwise_left_shift_(1)", "y <<= 2", "y >>= 1", "y.bitwise_right_shift_(v.abs())",
         "y.eq_(v)", "y.sgn_()", "y.t_()"]  # fmt: skip
X, V = draw((2, 3)), draw((2, 3), seed=1)


@pytest.mark.parametrize("text", [*VALUES, *TURNS])
def test_in_place(text: str) -> None:
    for grad in (False, True):
        compare(program(text), X, V, grad=grad)


@pytest.mark.parametrize("text", WHOLE)
def test_in_place_of_whole_numbers(text: str) -> None:
    compare(program(text), draw((2, 3), "i"), draw((2, 3), "i", 1))


@pytest.mark.parametrize("text", ["y.t_()", "y.cumsum_(0)", "y.unsqueeze_(0)", "y.eq_(x)", "y.t_().tril_()"])
def test_versions_count_changes(text: str) -> None:
    for m in (tj, __import__("torch")):
        (x,) = leaves(m, [X], False)
        y = program(text)(m, x)
        assert (y._version, tuple(y.shape)) == (text.count("_("), tuple(program(text)(tj, tj.tensor(X)).shape))


def test_a_tensor_that_has_views_does_not_turn() -> None:
    """The views would show it wrongly; PyTorch has them stand on the memory alone."""
    x = tj.tensor(X)
    view = x[0]
    with pytest.raises(RuntimeError, match="clone"):
        x.t_()
    assert x.shape == (2, 3)
    del view
    assert x.t_().shape == (3, 2)


def test_a_leaf_turns_where_no_gradients_are_recorded() -> None:
    w = tj.tensor(X, requires_grad=True)
    with tj.no_grad():
        w.t_()
    assert w.is_leaf
    (w * w).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), 2 * X.T)


def run(function: Any, grad: bool, seed: int) -> list[Any]:
    """The result of a call, what became of its argument, and its gradient; or the class of what was raised."""
    leaf = tj.tensor(draw((2, 3), seed=seed), requires_grad=grad)
    x = leaf * 1
    try:
        out = function(x, tj.tensor(V))
    except (RuntimeError, IndexError, TypeError) as e:
        return [type(e)]
    if out.requires_grad:
        (out * out).sum().backward()
    return [t if t is None else t.detach().numpy().copy() for t in (out, x, leaf.grad)]


FORMS = [
    "x.sum(axis=0, keepdims=True) * x", "m.cat([x, x], axis=1)", "x.std(axis=1) + x.mean(axis=1)", "x.softmax(axis=1)",
    "m.logsumexp(x, axis=1)", "x.max(axis=1).values", "x.sort(axis=0).values", "x.reshape(shape=(-1,))",
    "x.view(size=(3, 2)) * 2", "x.permute(dims=(1, 0)) * 2", "x.flip(dims=(0,))", "x[None].squeeze(0, 1)",
    "m.repeat_interleave(x, m.tensor([1, 2]), axis=0)", "m.einsum(x, [0, 1], x, [2, 1], [0, 2])", "m.trace(x[:, :2])",
    "x.detach().scatter(1, m.zeros(2, 1, dtype=m.int64), 3.0, reduce='multiply') * x", "x.detach() * np.array(2.0)",
    "m.zeros(size=(2, 3)) + x", "m.Tensor(2, 3).fill_(1.0) * x", "m.Tensor([1.0, 2.0, 3.0]).mul_(2.0) * x",
    "m.Tensor(x.detach()).add_(1.0) * m.pi", "x.sum_to_size(1, 3) * x", "x.gather(axis=1, index=m.tensor([[1], [0]]))",
    "m.split(x, split_size_or_sections=2, dim=1)[0] * 2", "x.cumsum(0).diag_embed(dim1=0, dim2=2)",
]  # fmt: skip


@pytest.mark.parametrize("text", [*VALUES, *TURNS, *FORMS])
def test_compiled_is_eager(text: str) -> None:
    changes = text in VALUES or text in TURNS

    def plain(x: Any, v: Any) -> Any:
        return case(tj, x, v) if changes else case(tj, x)

    case = program(text) if changes else expression(text)
    for grad in (False, True):
        region = tj.compile(plain)
        for seed in (1, 1, 2, 3, 4):
            for ours, eager in zip(run(region, grad, seed), run(plain, grad, seed), strict=True):
                np.testing.assert_array_equal(ours, eager)


def test_what_the_class_makes_in_a_region_is_new_in_each_call() -> None:
    region = tj.compile(lambda x: tj.Tensor(3).add_(x))
    found = [region(tj.full((3,), float(k))) for k in range(6)]
    assert [f.tolist() for f in found] == [[float(k)] * 3 for k in range(6)]


@pytest.mark.parametrize("text", ["x.t_()", "x[0].unsqueeze_(0)"])
def test_vectors_and_views(text: str) -> None:
    check(text, [draw((4,))], [draw((1, 4))], grad=False)
