"""What parameters are called, and forms of calls, beside PyTorch: whatever it takes and refuses, and what comes out."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, compare, draw, expression
from tracejit.tensor.naming import named

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning", "RuntimeWarning")
]

X, W = draw((3, 4)), draw((4,), "i", low=0, high=3)
ONE = draw((1, 3, 1))

REDUCTIONS = """sum mean std var prod amax amin all any nansum nanmean median std_mean var_mean max min argmax argmin
logsumexp"""
OTHERS = "cumsum cumprod count_nonzero argsort sort unbind softmax log_softmax diff"
AXIS = {
    **dict.fromkeys(REDUCTIONS.split(), "axis=1, keepdims=True"),
    **dict.fromkeys(OTHERS.split(), "axis=1"),
    "chunk": "chunks=2, axis=1", "narrow": "axis=1, start=1, length=2", "select": "axis=1, index=2",
    "kthvalue": "k=2, axis=0, keepdims=True", "topk": "2, axis=0", "unsqueeze": "axis=1", "squeeze": "axis=1",
    "gather": "axis=1, index=y.view(1, 4)", "take_along_dim": "y.view(1, 4), axis=0",
    "index_select": "axis=1, index=y", "index_add": "axis=1, index=y, source=x", "index_fill": "axis=1, index=y, "
    "value=2.0", "index_copy": "axis=1, index=m.tensor([2, 0]), source=x[:, :2]",
    "scatter": "axis=1, index=y.view(1, 4), value=2.0", "scatter_add": "axis=1, index=y.view(1, 4), src=x[:1]",
    "repeat_interleave": "2, axis=1", "cross": "other=x, axis=0", "cosine_similarity": "x, axis=1",
}  # fmt: skip


@pytest.mark.parametrize("name", AXIS)
def test_axis_is_dim(name: str) -> None:
    operands = ("x", "x.view(1, 12)") if name == "gather" else ("x",)
    for operand in operands:
        check(f"m.{name}({operand}, {AXIS[name]})", [X, W])
        check(f"{operand}.{name}({AXIS[name]})" if hasattr(torch.Tensor, name) else f"m.{name}({operand}, axis=0)",
              [X, W])  # fmt: skip


@pytest.mark.parametrize("text", """m.cat([x, x], axis=1)|m.concat([x, x], axis=1)|m.concatenate([x, x], axis=0)
m.stack([x, x], axis=1)|m.trapezoid(x, axis=0)|m.trapz(x, axis=1)|m.unflatten(x, axis=1, sizes=(2, 2))
m.tensor_split(x, 2, axis=1)|m.norm(x, axis=1)|x.norm(axis=1)|m.split(x, 2, axis=1)|x.split(2, axis=1)
x.sum(1, axis=1)|x.cumsum(1, axis=1)|x.cumsum()|x.cumsum(foo=1)|x.sum(foo=1)|m.gather(x, index=y)|m.flip(x, axis=0)
x.sum(1, True, m.float64)|x.unflatten(axis=1, sizes=(2, 2))""".replace("\n", "|").split("|"))  # fmt: skip
def test_axis_elsewhere(text: str) -> None:
    if text.startswith("x.unflatten"):
        text = text.replace("axis", "dims")
    check(text, [X, W])


def test_whatever_has_a_dim_takes_axis_as_pytorch_does() -> None:
    """By name, whatever functions and methods there are: one that is new must not be forgotten."""
    by_pytorchs_python = {"norm", "split", "unique", "unique_consecutive", "size", "stride", "unflatten"}
    for ours, theirs in ((tj, torch), (tj.Tensor, torch.Tensor)):
        for name in dir(ours):
            function = getattr(ours, name)
            function = getattr(function, "function", function)
            if name.startswith("_") or not hasattr(theirs, name) or not inspect.isfunction(function):
                continue
            names = inspect.signature(function).parameters
            assert "dim" not in names or "names" in names or name in by_pytorchs_python, name


KEYWORDS = """m.flip(x, dims=(0,))|x.flip(dims=[0])|x.permute(dims=(1, 0))|m.permute(x, dims=[1, 0])
x.reshape(shape=(4, 3))|m.reshape(x, shape=[2, -1])|x.view(size=(2, 6))|x.view(size=[12])|x.view(dtype=m.int32)
m.split(x, split_size_or_sections=2)|m.split(tensor=x, split_size_or_sections=[1, 2])|x.split(split_size=2)
x[0].expand(size=(2, 4))|m.broadcast_to(x, size=(2, 3, 4))|m.broadcast_to(x, shape=(2, 3, 4))
x.repeat(repeats=(2, 1))|m.tile(x, dims=(2, 1))|m.swapaxes(x, axis0=0, axis1=1)|m.swapdims(x, dim0=0, dim1=1)
x.swapaxes(axis0=0, axis1=1)|m.transpose(x, dim0=0, dim1=1)|m.hsplit(x, sections=2)|m.hsplit(x, indices=[1])
m.vsplit(x, sections=3)|m.tensor_split(x, sections=2)|m.tensor_split(x, indices=[1])|m.max(x, other=x + 1)
x.min(other=x * 2)|m.isin(elements=y, test_elements=y[:1])|m.isin(elements=y, test_element=2)
m.isin(element=2, test_elements=y)|m.zeros(size=(2, 3))|m.ones(size=[2])|m.empty(size=(2,)).shape
m.rand(size=(2,)).shape|m.randn(size=(2,)).shape|x.new_zeros(size=(2,))|x.new_ones(size=[2, 1])
m.randint(high=3, size=(2,)).shape|m.randint(1, size=(2,))|m.randint(size=(2,))|m.randint(3)|m.arange(end=3)
m.arange(start=1, end=3)|m.arange()|m.diag_embed(x, 1, 0, 2)|m.diag_embed(x, -1, 2, 0)|x.diag_embed(dim1=0, dim2=1)
m.diag_embed(x, 0, 0, 0)|m.diag_embed(x, 0, 0, 3)|y.random_(to=1)|y.random_(**{'from': 3, 'to': 4})
m.zeros(2).uniform_(**{'from': 2.0, 'to': 2.0})|m.zeros(2).uniform_(to=0.0)|m.zeros(2).mul_(other=m.ones(2))
m.logsumexp(input=x, dim=1)|m.std(input=x)|m.lerp(input=x, end=x, weight=0.5)|m.addcmul(input=x, tensor1=x, tensor2=x)
m.embedding(x, y % 3)|m.embedding(weight=x, indices=y % 3, padding_idx=1)|m.dropout(x, 0.5, train=False)
F.alpha_dropout(x, 0.5, training=False)|x.ndimension()|x.is_sparse|m.promote_types(type1=m.int32, type2=m.float16)
x.sum_to_size(1, 4)|x.sum_to_size((3, 1))|x.sum_to_size(4)|x.sum_to_size(size=())|x.sum_to_size(3, 4)
x.sum_to_size(5)|x.sum_to_size(2, 3, 4)|m.trace(x)|m.trace(input=x)|m.trace(y)|x.trace()"""


@pytest.mark.parametrize("text", KEYWORDS.replace("\n", "|").split("|"))
def test_keywords(text: str) -> None:
    check(text, [X, W])


@pytest.mark.parametrize("text", """x.squeeze(0, 2)|x.squeeze((0, 2))|x.squeeze([0, -1])|m.squeeze(x, (0, 1))
x.squeeze(dim=(0, 2))|x.squeeze(dim=())|x.squeeze()|x.squeeze(1)|x.squeeze((0, 0))|x.squeeze(0, 7)""".replace(
    "\n", "|").split("|"))  # fmt: skip
def test_several_dimensions_are_squeezed(text: str) -> None:
    check(text, [ONE])


def test_names_are_looked_at_where_there_are_any() -> None:
    @named(by="step")
    def moved(input: int, dim: int, step: int, *, keepdim: bool = False) -> tuple[Any, ...]:
        """Moved."""
        return input, dim, step, keepdim

    assert moved(1, 2, 3) == moved(1, axis=2, by=3) == moved(1, 2, by=3, keepdims=False) == (1, 2, 3, False)
    assert moved(input=1, step=3, axis=2, keepdim=True) == (1, 2, 3, True)
    assert (moved.__doc__, moved.__name__) == ("Moved.", "moved")
    for args, names, words in (
        ((1,), {}, "missing 1 required positional argument: 'dim'"),
        ((1, 2), {}, "missing 1 required positional argument: 'step'"),
        ((1, 2, 3), {"axis": 2}, "multiple values for argument 'dim'"),
        ((1, 2, 3), {"at": 2}, "unexpected keyword argument 'at'"),
        ((1, 2, 3, True), {}, "takes"),
    ):
        with pytest.raises(TypeError, match=words):
            moved(*args, **names)


OF_CLASS = """m.Tensor()|m.Tensor(2, 3).shape|m.Tensor(5).shape|m.Tensor(0, 3)|m.Tensor([1.0, 2.0])|m.Tensor((2, 3))
m.Tensor(x.shape).shape|m.Tensor(5.0)|m.Tensor(2, 3.0)|m.Tensor([1], requires_grad=True)|m.Tensor(np.ones(2))
m.Tensor(np.array(2.0))|m.Tensor(np.array(2)).shape|m.Tensor(np.int64(3)).shape|m.Tensor(-1)|m.Tensor(True)
m.Tensor(None)|m.Tensor('a')|m.Tensor({})|m.Tensor([])|m.Tensor(())|m.Tensor(data=[1])|m.Tensor([True, False])
m.Tensor(range(3))|m.Tensor([[1, 2], [3]])|m.Tensor(m.ones(2, dtype=m.int64))|m.Tensor(m.tensor(3))
m.Tensor([m.tensor(1.0), 2.0])|m.Tensor([1], device='cpu')|m.Tensor(np.float32(3))"""


@pytest.mark.parametrize("text", OF_CLASS.replace("\n", "|").split("|"))
def test_the_class_makes_tensors(text: str) -> None:
    check(text, [X])


def test_the_class_stands_on_the_memory_of_a_tensor() -> None:
    x = tj.ones(2)
    tj.Tensor(x).add_(1.0)
    assert x.tolist() == [2.0, 2.0]
    assert x._version == 1
    with pytest.raises(NotImplementedError, match="view_as"):
        tj.Tensor(x.requires_grad_())


def test_the_class_makes_tensors_of_the_default_type() -> None:
    tj.set_default_dtype(tj.float64)
    try:
        assert tj.Tensor(2).dtype is tj.Tensor([1]).dtype is tj.nn.Parameter().dtype is tj.float64
    finally:
        tj.set_default_dtype(tj.float32)


def test_constants() -> None:
    for name in ("pi", "inf", "e", "newaxis"):
        assert getattr(tj, name) == getattr(torch, name), name
    assert tj.nan != tj.nan
    assert tj.ones(3)[tj.newaxis].shape == (1, 3)


def test_the_package_of_traces_is_called_as_the_function() -> None:
    import tracejit.trace.region

    assert tracejit.trace.region.Region.__module__ == "tracejit.trace.region"
    assert tj.trace(tj.ones(3, 3)).item() == 3
    region = tj.compile(lambda x: tj.trace(x) * tj.pi, mode="replay")
    assert [region(tj.ones(2, 2) * k).item() for k in range(4)] == [np.float32(2 * k) * np.float32(np.pi)
                                                                    for k in range(4)]  # fmt: skip
    assert not tj.compiler.is_compiling()


def test_gradients_by_every_argument() -> None:
    x = tj.ones(2, requires_grad=True)
    assert tj.autograd.grad((x * x).sum(), x, only_inputs=True, is_grads_batched=False)[0].tolist() == [2.0, 2.0]
    # By position as in PyTorch: outputs, inputs, gradients, retain, create, only_inputs, allow_unused.
    assert tj.autograd.grad(x.sum(), [tj.ones(1, requires_grad=True)], None, None, False, True, True) == (None,)
    with pytest.warns(FutureWarning, match="only_inputs"):
        tj.autograd.grad(x.sum(), x, only_inputs=False)
    with pytest.raises(NotImplementedError, match="is_grads_batched"):
        tj.autograd.grad(x.sum(), x, is_grads_batched=True)
    with pytest.raises(ValueError, match="allow_unused"):
        tj.autograd.grad(x.sum(), x, allow_unused=False, materialize_grads=True)


REPEATS = """m.repeat_interleave(y)|m.repeat_interleave(x[0], y)|x.repeat_interleave(y[:3], dim=0)
x.repeat_interleave(y, 1, output_size=int(y.sum()))|x.repeat_interleave(m.tensor(2), 1)
x.repeat_interleave(m.tensor([2]), 1)|x.repeat_interleave(m.tensor([2]))|x.repeat_interleave(y.to(m.int32), 1)
x.repeat_interleave(m.tensor([1.0, 2.0]), 1)|x.repeat_interleave(y, 0)|x.repeat_interleave(y.view(2, 2), 0)
x.repeat_interleave(-y - 1, 1)|x.repeat_interleave(2, output_size=24)|x.repeat_interleave(2, output_size=5)
x.repeat_interleave(-1)|x.repeat_interleave(y, 1, output_size=50)|m.repeat_interleave(3)|m.repeat_interleave(y, dim=0)
m.repeat_interleave(y, output_size=int(y.sum()))|m.tensor(3.0).repeat_interleave(m.tensor([2]))|x.repeat_interleave(0)
m.repeat_interleave(y.view(2, 2))|m.repeat_interleave(y.double())"""


@pytest.mark.parametrize("text", REPEATS.replace("\n", "|").split("|"))
def test_repeats(text: str) -> None:
    check(text, [X, W])


@pytest.mark.parametrize("text", """x.scatter(1, y.view(1, 4), x + 1, reduce='multiply')
x.scatter(1, y.view(1, 4), 3.0, reduce='multiply')|x.scatter(0, y.view(1, 4), 3.0, reduce='add')
x.scatter_(0, y.view(1, 4), x * 2, reduce='multiply')|x.scatter(0, y.view(1, 4), 3.0, reduce='mean')
x.scatter(0, y, 3.0, reduce='multiply')|y.scatter(0, y, 3, reduce='multiply')
x.scatter(0, y.view(1, 4), y, reduce='add')
x.bool().scatter(0, y.view(1, 4), False, reduce='multiply')""".replace("\n", "|").split("|"))  # fmt: skip
def test_products_by_scatter(text: str) -> None:
    check(text, [X, W], grad=False)


def test_products_by_scatter_have_no_gradient() -> None:
    x, at = tj.ones(3, requires_grad=True), tj.tensor([0, 0])
    with pytest.raises(RuntimeError, match="derivative"):
        x.scatter(0, at, 2.0, reduce="multiply")
    with pytest.raises(IndexError, match="index 7 is out of bounds for dimension 0 with size 3"):
        x.detach().scatter(0, at + 7, 2.0, reduce="multiply")


@pytest.mark.parametrize("text", """m.einsum(x, [0, 1], x, [2, 1], [0, 2])|m.einsum(x, [0, 1])|m.einsum(x, [1, 0])
m.einsum(x, (0, 1), (1, 0))|m.einsum(x, [..., 1], [1, ...])|m.einsum(x, [..., 26], x[0], [26])|m.einsum(x, [0, 52])
m.einsum(x, [30, 2], x[0], [2], [30])|m.einsum(x[:, :3], [0, 0])|m.einsum([x, [0, 1]])|m.einsum('ij,kj', x, x)
m.einsum('ij,kj', [x, x])""".replace("\n", "|").split("|"))  # fmt: skip
def test_einsum_of_lists(text: str) -> None:
    check(text, [X])


@pytest.mark.parametrize("sign", ["+", "-", "*", "/", "**", "//", "%", "==", "&", "|", "<<"])
def test_operators_with_arrays(sign: str) -> None:
    """NumPy computes them, in its types."""
    for array in ("np.array([2.0, 3.0, 4.0, 5.0])", "np.array(2.0)", "np.array([1, 2, 1, 2])", "np.float32([2])"):
        for kind in "fdis":
            check(f"x {sign} {array}", [draw((3, 4), kind)], grad=False)
    if sign not in "&|<<":
        check(f"x {sign} np.array(2.0)", [X])


def test_arrays_are_no_operands_in_place() -> None:
    compare(expression("x.add_(np.ones(4))"), X, grad=False)
    with pytest.raises(TypeError, match="ndarray"):
        tj.ones(2).mul_(np.ones(2))


MESSAGES = """m.arange(3).mean()|m.arange(3).mean(dtype=m.int32)|m.ones(3).mean(dtype=m.int64)|m.arange(2).add_(0.5)
m.zeros(2, dtype=m.int32).add_(m.ones(2, dtype=m.float64))|m.arange(3).index_put((m.tensor([0]),), m.tensor(1.0))
m.ones(2, 3).index_fill(1, m.tensor([4]), 1.0)|m.ones(2, dtype=m.float16) & 1|m.ones(2).take(m.tensor([0.0]))
m.arange(3, dtype=m.int16).norm()|m.arange(3, dtype=m.uint8).norm()|m.arange(3, dtype=m.int8).norm()"""


@pytest.mark.parametrize("text", MESSAGES.replace("\n", "|").split("|"))
def test_messages_name_types_and_dimensions_as_pytorchs_do(text: str) -> None:
    said = []
    for m in (tj, torch):
        with pytest.raises((RuntimeError, IndexError, NotImplementedError)) as found:
            expression(text)(m)
        said.append(str(found.value).split("\n", maxsplit=1)[0].removesuffix("."))
    ours, theirs = said
    if "index" in text and "fill" in text:
        return
    assert ours.split(". Got")[-1] == theirs.split(". Got")[-1] or ours == theirs
