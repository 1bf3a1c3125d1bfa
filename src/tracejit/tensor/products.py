"""Matrix products with PyTorch's argument rules."""

from __future__ import annotations

from typing import Any

from tracejit import dtypes
from tracejit.config import PRODUCTS
from tracejit.cpu import multiplies_bfloat16
from tracejit.ops.contraction import LONGEST_CHAIN, pays_in_bfloat16, product
from tracejit.ops.record import ops
from tracejit.shapes import broadcast
from tracejit.tensor.arithmetic import add, mul
from tracejit.tensor.casting import SHORT, call_cast
from tracejit.tensor.dispatch import apply, shaped
from tracejit.tensor.inplace import in_place
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.reducing import sum
from tracejit.tensor.shaping import permute, reshape, unsqueeze
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, method, on_gpu

_PRECISIONS = ("highest", "high", "medium")
_precision = _PRECISIONS[0]


def set_float32_matmul_precision(precision: str) -> None:
    """Say how exact products of float32 must be at least: "highest", "high" or "medium".

    Edge: the two lower ones are permissions for hardware that multiplies shorter numbers faster. "high" allows TF32 on
    GPUs. "medium" also allows operands rounded to bfloat16, which CPUs with AMX or AVX512-BF16 do: in matrix products,
    `linear`, `bmm` and the like, if rows and columns are at least 16, 32 places are added up and all of it is as much
    as 32x32 by 32x32; and in the gradients of these, whatever is set when those are computed. Attention that is one
    operation, convolutions and smaller products stay products of float32, as everything does on another CPU. What is
    to be computed in bfloat16 on any CPU, `autocast` says.
    Raises: TypeError or ValueError for anything else.

    >>> import tracejit as tj
    >>> tj.get_float32_matmul_precision()
    'highest'
    """
    global _precision  # noqa: PLW0603 - a setting of the process, as in PyTorch
    if not isinstance(precision, str):
        raise TypeError(f"set_float32_matmul_precision expects a str, but got {type(precision).__name__}")
    if precision not in _PRECISIONS:
        raise ValueError(f"{precision!r} is not one of 'highest', 'high' or 'medium'")
    _precision = precision
    PRODUCTS.tf32 = precision != _PRECISIONS[0]
    PRODUCTS.bfloat16 = precision == _PRECISIONS[2] and multiplies_bfloat16()


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was given last, "highest" at first."""
    return _precision


def _in_bfloat16(a: Tensor, b: Tensor) -> bool:
    """Whether a product of matrices or stacks, whose types and shapes fit, is one of bfloat16."""
    kind = a._dtype
    if kind is not dtypes.bfloat16 and not (PRODUCTS.bfloat16 and kind is dtypes.float32):
        return False
    return pays_in_bfloat16(a._shape[-2], b._shape[-1], a._shape[-1]) and multiplies_bfloat16() and not on_gpu(a)


def _product(a: Tensor, b: Tensor, single: bool = False) -> Any:
    """The product of two matrices or stacks, whose types and shapes fit, as float32 if it is to be `single`."""
    if _in_bfloat16(a, b):
        return apply(ops.bfloat16_matmul, (a, b), (single or a._dtype is dtypes.float32,))
    if single:
        a, b = to_dtype(a, dtypes.float32), to_dtype(b, dtypes.float32)
    k = a._shape[-1]
    if k <= LONGEST_CHAIN:
        return apply(ops.matmul, (a, b))
    return product(a, b, (*a._shape[:-1], b._shape[-1]), k)


def _same_type(a: Tensor, b: Tensor, what: str) -> None:
    for x in (a, b):
        if not isinstance(x, Tensor):
            raise TypeError(f"{what}(): argument must be Tensor, not {type(x).__name__}")
    if a._dtype is not b._dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {a._dtype.name} != {b._dtype.name}"
        )


@method("__matmul__")
def matmul(input: Tensor, other: Tensor) -> Any:
    """Matrix product, of vectors the inner product, of stacks of matrices the stack of products.

    Shape: leading dimensions broadcast. Raises: RuntimeError if the inner sizes or the types differ.

    >>> import tracejit as tj
    >>> tj.matmul(tj.ones(2, 3), tj.ones(3))
    tensor([3., 3.])
    """
    if state.autocast is not None:
        return call_cast(SHORT, matmul, (input, other))
    return contracted(input, other)


def contracted(input: Tensor, other: Tensor, single: bool = False) -> Any:
    """`matmul`, of types of 16 bits as float32 if it is to be `single`, where nothing is cast automatically."""
    _same_type(input, other, "matmul")
    sa, sb = input._shape, other._shape
    if len(sa) == 2 and len(sb) == 2:
        return _stacked(input, other, single)
    if not sa or not sb:
        raise RuntimeError("both arguments to matmul need to be at least 1D, but they are 0D and/or 0D")
    if len(sa) == 1 and len(sb) == 1:
        return dot(input, other)
    a = unsqueeze(input, 0) if len(sa) == 1 else input
    b = unsqueeze(other, 1) if len(sb) == 1 else other
    out = _stacked(a, b, single)
    if len(sa) == 1 or len(sb) == 1:
        shape = out._shape
        drop = ([-2] if len(sa) == 1 else []) + ([-1] if len(sb) == 1 else [])
        out = shaped(out, tuple(s for i, s in enumerate(shape) if i - len(shape) not in drop))
    return out


def _stacked(a: Tensor, b: Tensor, single: bool) -> Any:
    """The product of stacks of matrices."""
    sa, sb = a._shape, b._shape
    if sa[-1] != sb[-2]:
        if len(sa) == 2 and len(sb) == 2:
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({sa[0]}x{sa[1]} and {sb[0]}x{sb[1]})")
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [.., {sa[-1]}] but got: [.., {sb[-2]}] "
            f"(shapes {list(sa)} and {list(sb)})"
        )
    if len(sb) == 2:
        # One matrix for the whole stack: a single tall product.
        flat = a if len(sa) == 2 else apply(ops.reshape, (a,), ((_rows(sa), sa[-1]),))
        out = _product(flat, b, single)
        return shaped(out, (*sa[:-1], sb[-1]))
    a, b, lead = in_stacks(a, b)
    out = _product(a, b, single)
    return shaped(out, (*lead, sa[-2], sb[-1]))


def in_stacks(*matrices: Tensor) -> tuple[Any, ...]:
    """Stacks of matrices as stacks of one size each, and what that size is made of."""
    lead = broadcast(*[x._shape[:-2] for x in matrices])
    count = _rows((*lead, 1))
    parts = []
    for x in matrices:
        s = x._shape
        if s[:-2] != lead:
            x = apply(ops.expand, (x,), ((*lead, *s[-2:]),))
        parts.append(apply(ops.reshape, (x,), ((count, *s[-2:]),)) if len(lead) != 1 else x)
    return (*parts, lead)


def _rows(shape: tuple[int, ...]) -> int:
    n = 1
    for s in shape[:-1]:
        n *= s
    return n


@method()
def mm(input: Tensor, mat2: Tensor) -> Any:
    """Product of two matrices.

    Raises: RuntimeError if the arguments are not matrices or do not fit.
    """
    if state.autocast is not None:
        return call_cast(SHORT, mm, (input, mat2))
    _same_type(input, mat2, "mm")
    sa, sb = input._shape, mat2._shape
    if len(sa) != 2 or len(sb) != 2:
        raise RuntimeError("self must be a matrix" if len(sa) != 2 else "mat2 must be a matrix")
    if sa[1] != sb[0]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({sa[0]}x{sa[1]} and {sb[0]}x{sb[1]})")
    return _product(input, mat2)


@method()
def bmm(input: Tensor, mat2: Tensor) -> Any:
    """Products of two stacks of matrices of the same length."""
    if state.autocast is not None:
        return call_cast(SHORT, bmm, (input, mat2))
    _same_type(input, mat2, "bmm")
    sa, sb = input._shape, mat2._shape
    if len(sa) != 3 or len(sb) != 3:
        raise RuntimeError("batch1 must be a 3D tensor" if len(sa) != 3 else "batch2 must be a 3D tensor")
    if sa[0] != sb[0] or sa[2] != sb[1]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{sa[0]}, {sa[2]}] but got: "
            f"[{sb[0]}, {sb[1]}]."
        )
    return _product(input, mat2)


@method()
def mv(input: Tensor, vec: Tensor) -> Any:
    """Product of a matrix and a vector."""
    if state.autocast is not None:
        return call_cast(None, mv, (input, vec))
    if len(input._shape) != 2 or len(vec._shape) != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {len(vec._shape)}, {len(input._shape)}, {len(vec._shape)}"
        )
    return matmul(input, vec)


@method()
def dot(input: Tensor, tensor: Tensor) -> Any:
    """Inner product of two vectors."""
    _same_type(input, tensor, "dot")
    sa, sb = input._shape, tensor._shape
    if len(sa) != 1 or len(sb) != 1:
        raise RuntimeError(f"1D tensors expected, but got {len(sa)}D and {len(sb)}D tensors")
    if sa != sb:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{sa[0]}] and src [{sb[0]}] to have the same number of "
            f"elements, but got {sa[0]} and {sb[0]} elements respectively"
        )
    return _summed(input, tensor)


def inner_products(a: Tensor, b: Tensor) -> Any:
    """Sums of products along the last dimension of two tensors of one shape."""
    if state.autocast is not None:
        return call_cast(SHORT, inner_products, (a, b))
    _same_type(a, b, "bmm")
    return _summed(a, b)


def _summed(a: Tensor, b: Tensor) -> Any:
    if a._dtype is dtypes.bool:
        raise NotImplementedError("\"dot\" not implemented for 'Bool'")
    return apply(ops.dot, (a, b), (len(a._shape) - 1,))


@method("ger")
def outer(input: Tensor, vec2: Tensor) -> Any:
    """All products of an element of one vector and one of another."""
    if len(input._shape) != 1 or len(vec2._shape) != 1:
        raise RuntimeError(
            f"outer: Expected 1-D argument self, but got {len(input._shape)}-D and {len(vec2._shape)}-D"
        )
    return mul(unsqueeze(input, 1), unsqueeze(vec2, 0))


@method()
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * (mat1 @ mat2)."""
    if state.autocast is not None:
        return call_cast(SHORT, addmm, (input, mat1, mat2), {"beta": beta, "alpha": alpha})
    product = mm(mat1, mat2)
    if not (type(alpha) is int and alpha == 1):
        product = mul(product, alpha)
    return add(product, input if type(beta) is int and beta == 1 else mul(input, beta))


@method()
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * (batch1 @ batch2) for stacks of matrices."""
    if state.autocast is not None:
        return call_cast(SHORT, baddbmm, (input, batch1, batch2), {"beta": beta, "alpha": alpha})
    product = bmm(batch1, batch2)
    if not (type(alpha) is int and alpha == 1):
        product = mul(product, alpha)
    return add(product, input if type(beta) is int and beta == 1 else mul(input, beta))


IN_PLACE = (in_place(addmm), in_place(baddbmm))


def einsum(equation: Any, *operands: Any) -> Any:
    """Sums of products by Einstein's notation, such as "bij,bjk->bik", or `x, [0, 1], y, [1, 2], [0, 2]`.

    Edge: "..." stands for leading dimensions that broadcast. Raises: RuntimeError for an equation that does not fit,
    ValueError for numbers of dimensions that are not in [0, 52).

    >>> import tracejit as tj
    >>> tj.einsum("ij->ji", tj.ones(2, 3)).shape
    tracejit.Size([3, 2])
    """
    if not isinstance(equation, str):
        equation, operands = _spelled((equation, *operands))
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    terms, out = _parse(equation, given)
    labels, x = terms[0], given[0]
    labels, x = _diagonals(labels, x)
    for k in range(1, len(given)):
        other_labels, y = _diagonals(terms[k], given[k])
        later = set(out).union(*map(set, terms[k + 1 :])) if k + 1 < len(given) else set(out)
        labels, x = _contract(labels, x, other_labels, y, later)
    gone = tuple(i for i, c in enumerate(labels) if c not in out)
    if gone:
        x = sum(x, gone)
        labels = [c for c in labels if c in out]
    return permute(x, tuple(labels.index(c) for c in out)) if labels != out else x


def _spelled(args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The equation and the operands of tensors that are followed by lists of their dimensions, last the result's."""
    if len(args) < 2:
        raise ValueError(
            "einsum(): must specify the equation string and at least one operand, or at least one operand and its "
            "subscripts list"
        )
    ends = len(args) & ~1
    terms = ",".join(map(_letters, args[1:ends:2]))
    return terms + (f"->{_letters(args[-1])}" if len(args) > ends else ""), args[:ends:2]


def _letters(dims: Any) -> str:
    found = []
    for d in dims:
        if d is not Ellipsis and not 0 <= d < 52:
            raise ValueError("einsum(): subscript in subscript list is not within the valid range [0, 52)")
        # In the order of the numbers: a result that is not named has its dimensions in that of the letters.
        found.append("..." if d is Ellipsis else chr(65 + d if d < 26 else 71 + d))
    return "".join(found)


def _parse(equation: str, operands: list[Any]) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result, with "..." spelled out as labels of its own."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise RuntimeError(
            "einsum(): more operands were provided than specified in the equation"
            if len(terms) < len(operands)
            else "einsum(): fewer operands were provided than specified in the equation"
        )
    sizes: dict[str, int] = {}
    spelled = []
    widest: list[str] = []
    for term, x in zip(terms, operands, strict=True):
        named = len(term.replace("...", ""))
        extra = len(x._shape) - named
        if ("..." not in term and extra) or extra < 0:
            raise RuntimeError(
                f"einsum(): the number of subscripts in the equation ({named}) does not match the number of "
                f"dimensions ({len(x._shape)}) for an operand"
            )
        dots = [f"{i}" for i in range(extra, 0, -1)]
        widest = dots if len(dots) > len(widest) else widest
        head, _, tail = term.partition("...")
        labels = [*head, *dots, *tail] if "..." in term else list(term)
        for c, s in zip(labels, x._shape, strict=True):
            if sizes.get(c, 1) not in (1, s) and s != 1:
                raise RuntimeError(
                    f"einsum(): subscript {c} has size {s} for an operand which does not broadcast with previously "
                    f"seen size {sizes[c]}"
                )
            sizes[c] = s if sizes.get(c, 1) == 1 else sizes[c]
        spelled.append(labels)
    if arrow:
        head, dots_there, tail = right.partition("...")
        out = [*head, *widest, *tail] if dots_there else list(right)
    else:
        every = "".join(terms).replace("...", "")
        out = [*widest, *sorted(c for c in set(every) if every.count(c) == 1)]
    for c in out:
        if c not in sizes:
            raise RuntimeError(f"einsum(): output subscript {c} does not appear in the equation for any input operand")
    return spelled, out


def _diagonals(labels: list[str], x: Tensor) -> tuple[list[str], Tensor]:
    """Repeated labels of one operand taken on the diagonal."""
    for c in dict.fromkeys(labels):
        while labels.count(c) > 1:
            first = labels.index(c)
            second = labels.index(c, first + 1)
            x = x.diagonal(0, first, second)
            labels = [d for i, d in enumerate(labels) if i not in (first, second)] + [c]
    return labels, x


def _contract(a: list[str], x: Tensor, b: list[str], y: Tensor, later: set[str]) -> tuple[list[str], Any]:
    """Multiply two operands and sum the labels that nothing needs later, as one product of stacks of matrices."""
    alone = [i for i, c in enumerate(a) if c not in b and c not in later]
    if alone:
        x, a = sum(x, tuple(alone)), [c for i, c in enumerate(a) if i not in alone]
    alone = [i for i, c in enumerate(b) if c not in a and c not in later]
    if alone:
        y, b = sum(y, tuple(alone)), [c for i, c in enumerate(b) if i not in alone]
    shared = [c for c in a if c in b]
    if any(x._shape[a.index(c)] != y._shape[b.index(c)] for c in shared):
        sizes = {c: max(x._shape[a.index(c)], y._shape[b.index(c)]) for c in shared}
        x = x.expand(tuple(sizes.get(c, s) for c, s in zip(a, x._shape, strict=True)))
        y = y.expand(tuple(sizes.get(c, s) for c, s in zip(b, y._shape, strict=True)))
    batch = [c for c in shared if c in later]
    inner = [c for c in shared if c not in later]
    rows = [c for c in a if c not in b]
    cols = [c for c in b if c not in a]
    sx = dict(zip(a, x._shape, strict=True))
    sy = dict(zip(b, y._shape, strict=True))

    def merged(names: list[str], sizes: dict[str, int]) -> int:
        n = 1
        for c in names:
            n *= sizes[c]
        return n

    k = merged(inner, sx)
    if inner and not rows and not cols:
        shape, order = (*[sx[c] for c in batch], k), (*batch, *inner)
        x, y = (permute(t, tuple(labels.index(c) for c in order)) for t, labels in ((x, a), (y, b)))
        return batch, inner_products(reshape(x, shape), reshape(y, shape))
    left = reshape(
        permute(x, tuple(a.index(c) for c in (*batch, *rows, *inner))), (merged(batch, sx), merged(rows, sx), k)
    )
    right = reshape(
        permute(y, tuple(b.index(c) for c in (*batch, *inner, *cols))), (merged(batch, sx), k, merged(cols, sy))
    )
    if inner:
        out = bmm(left, right) if batch else mm(reshape(left, left._shape[1:]), reshape(right, right._shape[1:]))
    else:
        out = mul(left, right)
    labels = [*batch, *rows, *cols]
    shape = tuple(sx[c] if c in sx else sy[c] for c in labels)
    return labels, reshape(out, shape)

