"""Elementwise functions, reductions, shapes, products and creation beside PyTorch, over types and shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.tensor.parity import check, draw
from tracejit.cpu import multiplies_bfloat16

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

A = {
    "f": draw((3, 4)), "d": draw((3, 4), "d", 1), "h": draw((3, 4), "h"), "i": draw((3, 4), "i", 2),
    "s": draw((4,), "s"), "u": draw((3, 1), "u", low=0), "b": draw((3, 4), "b"), "0": draw(()), "j": draw((), "i"),
    "e": draw((0, 4)),
}  # fmt: skip


def above_zero(x: np.ndarray) -> np.ndarray:
    """Whole numbers from 1 on, or floats from 1 on; bools as they are."""
    return np.ones_like(x) if x.dtype == np.bool_ else (np.abs(x) + 1).astype(x.dtype)


UNARY = """exp exp2 expm1 log log1p log2 log10 sin cos tan tanh sinh cosh asin acos atan sigmoid erf sqrt rsqrt
asinh acosh atanh erfc erfinv logit sinc arcsinh arccosh arctanh
reciprocal square neg abs sign floor ceil trunc round isnan isinf isfinite logical_not bitwise_not positive"""


@pytest.mark.parametrize("name", UNARY.split())
def test_function_of_one_operand(name: str) -> None:
    check(f"m.{name}(x)", *[[A[k]] for k in "fdhiub0e"])
    check(f"x.{name}()", [A["f"]])


BINARY = """add sub mul div pow maximum minimum remainder fmod atan2 eq ne lt le gt ge logical_and logical_or
logical_xor bitwise_and bitwise_or bitwise_xor"""


@pytest.mark.parametrize("name", BINARY.split())
def test_function_of_two_operands(name: str) -> None:
    kinds = "isub" if name.startswith("bitwise") else "fdisu0j" if name in ("pow", "atan2") else "fdisub0j"
    for p, q in itertools.product(kinds, repeat=2):
        if name == "atan2" and "u" in (p, q):
            continue  # PyTorch's gradient negates the bytes, which wraps.
        x, y = A[p], A[q]
        if name in ("div", "remainder", "fmod", "pow"):
            y = above_zero(y)
        if name == "pow" and x.dtype.kind == "f":
            x = above_zero(x)
        check(f"m.{name}(x, y)", [x, y])
    if name not in ("maximum", "minimum", "atan2", "logical_and", "logical_or", "logical_xor", "pow"):
        for number in ("2", "2.5", "True", "-1.5", "0", "m.tensor(2)"):
            check(f"m.{name}(x, {number})", *[[A[k]] for k in "fibu"])


OPERATORS = ["+", "-", "*", "/", "**", "<", "<=", ">", ">=", "==", "!=", "&", "|", "^", "@", "<<", ">>"]


@pytest.mark.parametrize("sign", OPERATORS)
def test_operators(sign: str) -> None:
    for p, q in (("f", "f"), ("i", "i"), ("i", "s"), ("f", "i")):
        y = above_zero(A[q]) if sign in ("/", "**", "<<", ">>") else A[q]
        x = above_zero(A[p]) if sign == "**" else A[p]
        if not (sign in "&|^" and "f" in (p, q)):
            check(f"x {sign} y", [x, y])
    for p in "fi":
        x = above_zero(A[p]) if sign in ("**", "/") else A[p]
        for text in ("x {} 2", "2 {} x", "x {} 1.5", "1.5 {} x", "x {} 'a'", "x {} None", "x {} [1]"):
            check(text.format(sign), [x])


@pytest.mark.parametrize("exponent", ["0", "1", "2", "3", "4", "-1", "-2", "0.5", "-0.5", "2.0", "3.5", "-3"])
def test_powers_of_numbers(exponent: str) -> None:
    check(f"x ** {exponent}", [above_zero(A["f"])], [A["i"]])


REST = """m.add(x, y, alpha=2)|m.sub(x, y, alpha=0.5)|x.div(y, rounding_mode='floor')|x.div(y, rounding_mode='trunc')
x.div(y, rounding_mode='q')|m.where(x > 0, x, y)|m.lerp(x, y, 0.3)|m.lerp(x, y, x)|m.addcmul(x, y, x, value=0.5)
m.addcdiv(x, y, y, value=0.5)|m.logaddexp(x, y)|m.max(x, y)|m.min(x, y)|x.clamp(-1, 1)|x.clamp(min=0)
x.clamp(max=0.5)|x.clamp()|x.clamp(1, -1)|x.clip(-1, 1)|x.clamp_min(0.0)|x.clamp_max(1)|x.clamp(y, y + 1)
x.masked_fill(x > 0, 5)|x.masked_fill(x > 0, m.tensor(5.0))|x.masked_fill(x, 1.0)|x.where(x > 0, 0.0)
m.where(x > 0, 1, 0)|m.where(x, 1.5, 0)|m.round(x, decimals=1)|-x|abs(x)|+x|x + y[:, :1]|x * y[:2]"""


@pytest.mark.parametrize("text", REST.replace("\n", "|").split("|"))
def test_the_rest_of_arithmetic(text: str) -> None:
    check(text, [A["f"], draw((3, 4), seed=1)])


def test_whole_numbers_divide() -> None:
    x, y = draw((9,), "i"), np.array([1, 2, 3, -1, -2, -3, 4, 5, 1])
    for text in ("x // y", "x % y", "x.div(y, rounding_mode='trunc')", "m.fmod(x, y)", "x // 0", "x % 0", "x / 0"):
        check(text, [x, y])
    check("x % 0", [A["f"]])


REDUCTIONS = """sum mean amax amin std var all any logsumexp prod max min argmax argmin norm count_nonzero"""
DIMS = ["", "0", "1", "-1", "(0, 1)", "5", "(0, 0)", "[0]"]


@pytest.mark.parametrize("name", REDUCTIONS.split())
def test_reductions(name: str) -> None:
    single = name in ("prod", "max", "min", "argmax", "argmin")
    for dim in DIMS:
        if (single and dim.startswith(("(", "["))) or (name in ("amax", "amin") and dim in ("", "(0, 0)")):
            continue
        text = f"x.norm(2{', ' + dim if dim else ''})" if name == "norm" else f"x.{name}({dim})"
        kinds = "fie0h" if name.startswith("arg") else "fibe0h"
        check(text, *[[A[k]] for k in kinds])
    if name not in ("norm", "count_nonzero"):
        check(f"x.{name}(1, keepdim=True)", [A["f"]])


MORE = """x.sum((0, 2))|x.mean((0, 2), True)|x.amax((0, 2))|x.sum(dtype=m.float64)|x.mean(1, dtype=m.float64)
x.var(1, False)|x.var(1, correction=0)|x.std(unbiased=False)|m.var_mean(x, 1)|m.std_mean(x, 0)|x.norm(p=3)
x.norm(p=3, dim=1)|x.norm(p=float('inf'))|x.norm(p=1, dim=0)|x.norm(p='fro')|x.norm(p=-float('inf'), dim=1)|x.prod(1)
x.cumsum(0)|x.cumsum(-1)|x.cumprod(0)|x.cumsum(7)|x.cumsum(0, dtype=m.float64)|(x * 0 + 1).std()|(x * 0).norm()
(x * 0).norm(3)|x.long().cumsum(0)"""


@pytest.mark.parametrize("text", MORE.replace("\n", "|").split("|"))
def test_more_reductions(text: str) -> None:
    check(text, [draw((2, 3, 4))])


def test_reductions_of_ties_nan_and_infinities() -> None:
    check("x.max(0)", [np.float32([[1, np.nan], [2, 3]])], [np.float32([1, 1, 0])])
    check("x.amax(0)", [np.float32([[1, 2], [1, 3]])])
    check("x.prod()", [np.float32([0, 2, 3])], [np.float32([0, 0, 3])])
    check("x.logsumexp(1)", [np.float32([[-np.inf, -np.inf], [1, np.inf]])], grad=False)


SHAPES = """reshape(6, 4)|reshape(-1)|reshape((2, -1))|reshape(5, 5)|reshape(-1, -1)|view(24)|view(2, 12)|view(-1, 5)
transpose(0, 1).view(-1)|transpose(0, 1).reshape(-1)|flatten()|flatten(1)|flatten(0, 1)|flatten(2, 1)|flatten(5)
ravel()|unflatten(1, (3, 1))|unflatten(2, (2, -1))|unflatten(2, (3, 3))|squeeze()|squeeze(0)|squeeze((0, 1))
unsqueeze(0)|unsqueeze(-1)|unsqueeze(5)|permute(2, 0, 1)|permute((2, 0, 1))|permute(0, 1)|permute(0, 0, 1)
permute(-1, 0, 1)|transpose(0, 2)|transpose(0, 5)|swapaxes(0, 1)|t()|mT|movedim(0, 2)|movedim((0, 1), (2, 0))
moveaxis(0, -1)|expand(2, 3, 4)|expand(5, 2, 3, 4)|expand(3, 3, 4)|expand(-1, 3, 4)|expand(-1, 2, 3, 4)|expand(2)
repeat(1, 2, 3)|broadcast_to((5, 2, 3, 4))|repeat(2, 1, 1, 1)|repeat(2)|tile(2)|tile((2, 2))|repeat_interleave(2)
repeat_interleave(2, 1)|repeat_interleave(2, dim=5)|flip(0)|flip((0, 2))|flip(5)|roll(1)|roll(1, 0)
roll((1, -2), (0, 2))|narrow(1, 0, 2)|narrow(1, 2, 2)|narrow(1, -1, 1)|narrow(5, 0, 1)|select(0, 1)|select(0, -1)
select(0, 5)|select(5, 0)|unbind()|unbind(1)|split(2)|split(2, 2)|split([1, 2], 1)|split([1, 1], 1)|split(0)
split(-1)|chunk(2, 1)|chunk(5, 2)|chunk(0)|diagonal()|diagonal(1, 1, 2)|diagonal(0, 0, 0)|contiguous()|clone()
detach()|view_as(m.zeros(4, 6))|reshape_as(m.zeros(4, 6))|size()|size(1)|size(5)|stride()|numel()|dim()
is_contiguous()|transpose(0, 1).is_contiguous()|nbytes|itemsize|element_size()|storage_offset()|is_floating_point()
tolist()|item()|long()|int()|float()|double()|half()|bool()|to(m.float64)|to(m.int64)
type_as(m.zeros(1, dtype=m.float64))|to('cpu')|requires_grad_()|data|is_leaf|ndim|shape|dtype|swapdims(0, 1)"""


@pytest.mark.parametrize("text", SHAPES.replace("\n", "|").split("|"))
def test_shapes(text: str) -> None:
    check(f"x.{text}", [draw((2, 3, 4))], [draw((2, 3, 4), "i")])


@pytest.mark.parametrize("text", ["squeeze()", "squeeze(1)", "squeeze((0, 2))", "squeeze(0)", "item()",
                                  "tolist()", "t()",
                                  "flatten()", "unsqueeze(0)", "expand(3)", "reshape(1)", "view(())", "sum(0)",
                                  "select(0, 0)", "unbind()", "split(1)"])  # fmt: skip
def test_shapes_of_little(text: str) -> None:
    check(f"x.{text}", *[[draw(s)] for s in ((1, 3, 1), (), (1,), (0, 3))])


@pytest.mark.parametrize("text", ["cat([x, y])", "cat([x, y], 1)", "cat([x, y], -1)", "cat([x, y], 5)", "stack([x, y])",
                                  "stack([x, y], 1)", "hstack([x, y])", "vstack([x, y])", "concat([x, y])", "cat([])",
                                  "stack([])", "cat([x, 1])", "cat(x)", "broadcast_tensors(x, y)",
                                  "meshgrid(x, y, indexing='ij')", "meshgrid(x, y, indexing='xy')"])  # fmt: skip
def test_joining(text: str) -> None:
    pairs = [((2, 3), (2, 3)), ((2, 3), (4, 3)), ((3,), (2,)), ((), ()), ((0,), (2, 3)), ((2, 3), (3,))]
    check(f"m.{text}", *[[draw(p), draw(q)] for p, q in pairs], [draw((2, 3)), draw((2, 3), "i")])


PRODUCTS = [
    ((2, 3), (3, 4)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)), ((5, 2, 3), (4, 3, 4)), ((2, 3), (4, 3)), ((3,), (4,)),
    ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["matmul", "mm", "bmm", "mv", "dot", "outer"])
def test_products(name: str) -> None:
    check(f"m.{name}(x, y)", *[[draw(p), draw(q)] for p, q in PRODUCTS])
    check(f"m.{name}(x, y)", *[[draw((2, 3), p), draw((3, 4), q)] for p, q in ("ii", "fd", "dd")])


def test_products_with_sums() -> None:
    check("m.addmm(x, y, z)", [draw((4,)), draw((2, 3)), draw((3, 4))], [draw((3,)), draw((2, 3)), draw((3, 4))])
    check("m.addmm(x, y, z, beta=2, alpha=0.5)", [draw((2, 4)), draw((2, 3)), draw((3, 4))])
    check("m.baddbmm(x, y, z, beta=2, alpha=0.5)", [draw((5, 2, 4)), draw((5, 2, 3)), draw((5, 3, 4))])


EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)), ("i,i->",
    (3,), (3,)),
    ("i,j->ij", (3,), (4,)), ("...ij,...jk->...ik", (5, 2, 3), (3, 4)), ("ij,ij->i", (2, 3), (2, 3)),
    ("ij,kj->ik", (2, 3), (4, 3)), ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij,jk->iz", (2, 3), (3, 4)),
    ("ij,jk->ik", (2, 3), (4, 4)), ("ijk,jk->ik", (2, 3, 4), (3, 4)), ("ij,jk->", (2, 3), (3, 4)),
    ("ij->ji", (2, 3)), ("ii->i", (3, 3)), ("ii->", (3, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)), ("...j->...",
    (2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUM, ids=lambda case: case[0])
def test_einsum(case: tuple[str, *tuple[tuple[int, ...], ...]]) -> None:
    equation, *shapes = case
    names = ", ".join("xy"[: len(shapes)])
    check(f"m.einsum('{equation}', {names})", [draw(s, seed=k) for k, s in enumerate(shapes)])


CREATION = """m.zeros(2, 3)|m.zeros((2, 3), dtype=m.int64)|m.ones(2)|m.full((2, 3), 7)|m.full((2,), 1.5)
m.full((2,), True)|m.zeros(-1)|m.zeros('a')|m.arange(5)|m.arange(1, 5)|m.arange(0, 1, 0.25)|m.arange(5, 0, -2)
m.arange(0, 5, -1)|m.eye(3)|m.arange(5.0)|m.arange(3, dtype=m.float32)|m.arange(1, 2, 0)|m.linspace(0, 1, 5)
m.linspace(0, 1, 1)|m.logspace(0, 2, 3)|m.eye(2, 3)|m.tensor([1, 2])|m.tensor([1.5, 2])|m.tensor([[1, 2], [3]])
m.tensor([])|m.tensor(True)|m.tensor([True, 1])|m.tensor('a')|m.tensor(3, dtype=m.float64)
m.tensor([1.5], dtype=m.int64)|m.tensor([1, 2], requires_grad=True)|m.zeros(())|m.tensor([1.0], requires_grad=True)
m.as_tensor([1, 2])|m.zeros(2, requires_grad=True)|m.empty(0)|m.zeros(2, dtype=m.bool)
m.tensor([[1.0, 2.0], [3.0, 4.0]]).tolist()|m.zeros_like(m.ones(2, 3))|m.ones_like(m.ones(2), dtype=m.int64)
m.tensor(10**20)|m.full_like(m.ones(2), 3)|m.ones(2).new_zeros(3)|m.ones(2).new_ones((2, 2))
m.ones(2).new_full((2,), 3)|m.tensor(1.5).item()|m.ones(2).new_tensor([1, 2])|m.tensor(float('nan'))
m.zeros(2, device='cpu')|m.tensor([1.5, 2]).item()|bool(m.tensor([1]))|bool(m.tensor([1, 2]))|bool(m.tensor([]))
int(m.tensor(2.7))|float(m.tensor([2]))|[1, 2, 3][m.tensor(1)]|len(m.tensor(1))|[1, 2, 3][m.tensor(1.0)]
m.broadcast_shapes((2, 1), (3,))|m.result_type(m.ones(2, dtype=m.int64), 1.5)
m.tensor([1.0], requires_grad=True).numpy()"""


@pytest.mark.parametrize("text", CREATION.replace("\n", "|").split("|"))
def test_creation(text: str) -> None:
    check(text, [])


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, 13, 40])
def test_whole_powers_wrap_as_pytorchs(dtype: str, exponent: int) -> None:
    values = np.array([0, 1, 2, 3, 7, 9]).astype(dtype)
    ours = (tj.from_numpy(values) ** exponent).numpy()
    np.testing.assert_array_equal(ours, (torch.from_numpy(values) ** exponent).numpy())


def test_a_huge_whole_power_returns() -> None:
    assert (tj.tensor([3], dtype=tj.uint8) ** 2**40).tolist() == [pow(3, 2**40, 256)]


def test_precision_of_products_is_a_permission() -> None:
    x, y = tj.randn(33, 40), tj.randn(40, 50)
    exact = (x @ y).numpy().tobytes()
    assert tj.get_float32_matmul_precision() == "highest"
    try:
        for precision in ("medium", "high", "highest"):
            tj.set_float32_matmul_precision(precision)
            assert tj.get_float32_matmul_precision() == precision
            assert ((x @ y).numpy().tobytes() == exact) == (precision != "medium" or not multiplies_bfloat16())
        with pytest.raises(ValueError, match="'fast' is not one of"):
            tj.set_float32_matmul_precision("fast")
        with pytest.raises(TypeError, match="expects a str"):
            tj.set_float32_matmul_precision(2)  # type: ignore[arg-type]
        assert tj.get_float32_matmul_precision() == "highest"
    finally:
        tj.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8"])
def test_whole_numbers_divided_by_one(kind: str) -> None:
    limits = np.iinfo(kind)
    some = draw((200,), "i", low=limits.min, high=limits.max)
    x = np.concatenate([some.astype(kind), [limits.min, limits.max, 0, 1]])
    for y in (1, 2, 3, 7, 64, 100, -2, -3, -100, -1, 300):
        if y > 0 or kind != "uint8":
            given = x[x != limits.min] if y == -1 else x
            check(f"(x // {y}, x % {y}, m.div(x, {y}, rounding_mode='floor'))", [given.astype(kind)], grad=False)
    # There is no number for the quotient; the processor must not be asked for it.
    least = tj.tensor([limits.min], dtype=getattr(tj, kind))
    if limits.min < 0:
        assert ((least // -1).item(), (least % -1).item()) == (limits.min, 0)
    for zero in ("0", "256 if x.dtype in (m.int8, m.uint8) else 0"):
        check(f"x // ({zero})", [x.astype(kind)], grad=False)
        check(f"x % ({zero})", [x.astype(kind)], grad=False)


def test_a_division_by_a_number_is_part_of_a_program() -> None:
    region = tj.compile(lambda x: (x // 7, x % 7))
    for k in range(9):
        x = tj.arange(-20 - k, 20)
        assert all(map(tj.equal, region(x), (x // 7, x % 7)))
    assert "runs eagerly" not in str(tj.explain(region))
