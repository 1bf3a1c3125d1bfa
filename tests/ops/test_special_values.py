"""Elementwise records at signed zeros, infinities, NaN and subnormals: values and gradients as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.tape import Variable, taping
from tracejit import dtypes
from tracejit.ops.record import Op, ops

torch = pytest.importorskip("torch")

SPECIALS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.0, np.inf, -np.inf, np.nan, 1e-310, -1e-310, 1e-40, 1e300, -1e4]
FLOATS = (dtypes.float32, dtypes.float64)
INTS = (dtypes.uint8, dtypes.int8, dtypes.int32, dtypes.int64)
INEXACT_THERE = {"sqrt"}
"""Off by a unit in PyTorch on a CPU with AVX-512 (of 0.5, float64); ours has NumPy's bits."""

TOLERANCE = {"float32": (2e-6, 1e-37), "float64": (4e-15, 1e-307)}
INTEGERS = [0, 1, 2, 3, 5, 100, -1, -2, -7, -100]


def gelu_there(x: Any) -> Any:
    """PyTorch's own, one by one: of several, oneDNN loses the signs of float32 zeros on a CPU with AVX2."""
    return torch.cat([torch.nn.functional.gelu(one) for one in x.split(1)])


# Records whose namesake in PyTorch does not exist or is another function.
NAMESAKES: dict[str, Any] = {
    "sub": torch.subtract,
    "neg": torch.negative,
    "trunc_divide": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "floor_quotient": torch.floor_divide,
    "float_floor_divide": torch.floor_divide,
    "float_remainder": torch.remainder,
    "float_fmod": torch.fmod,
    "floor_rest": torch.remainder,
    "left_shift": torch.bitwise_left_shift,
    "right_shift": torch.bitwise_right_shift,
    "copy": torch.clone,
    "gelu": lambda x: torch.where(x == np.inf, x, gelu_there(x)),  # NaN there of float32
    "logit": lambda x: torch.logit(x.double()).to(x.dtype),  # of float32 another sign of the gradient at -0.0
    "flush_denormal": lambda x: x - torch.where(x.abs() < torch.finfo(x.dtype).tiny, x, 0).detach(),
}
DIVISIONS = ("floor_divide", "remainder", "fmod", "trunc_divide", "floor_quotient", "floor_rest")
UNARY = [op for op in ops.family("elementwise") if op.params == ("x",) and not op.attrs]
BINARY = [op for op in ops.family("elementwise") if op.params == ("x", "y")]


def namesake(op: Op) -> Any:
    return NAMESAKES.get(op.name) or getattr(torch, op.name)


def specials(dtype: dtypes.dtype) -> Any:
    with np.errstate(over="ignore"):
        return np.array(SPECIALS).astype(dtype.np)


def operands(op: Op, dtype: dtypes.dtype) -> list[Any]:
    values = specials(dtype) if dtype.is_floating_point else np.array(INTEGERS).astype(dtype.np)
    if len(op.params) == 1:
        return [values]
    x, y = (g.ravel() for g in np.meshgrid(values, values))
    if not dtype.is_floating_point and op.name in DIVISIONS:
        return [x[y != 0], y[y != 0]]
    if op.name in ("float_fmod", "float_remainder"):
        # PyTorch's vector loop gives NaN for subnormal divisors and where the quotient overflows.
        with np.errstate(all="ignore"):
            normal = (y == 0) | (np.abs(y) >= np.finfo(dtype.np).tiny) & (np.isfinite(x / y) | ~np.isfinite(x))
        return [x[normal], y[normal]]
    if "shift" in op.name:
        inside = (y >= 0) & (y < 8 * dtype.itemsize)
        return [x[inside], y[inside]]
    return [x, y]


def compare(found: Any, expected: Any, rtol: float, operands: list[Any], tiny: float = 0.0) -> None:
    """Equal, NaN and signs of zeros included, or off by `rtol`; the first operands that differ are shown."""
    assert found.dtype == expected.dtype
    with np.errstate(all="ignore"):
        error = np.abs(np.subtract(found, expected, dtype=np.float64))
        close = (found == expected) | (error <= rtol * np.abs(expected) + tiny)
    if found.dtype.kind == "f":
        close &= np.signbit(found) == np.signbit(expected)
        close |= np.isnan(found) & np.isnan(expected)
    wrong = np.flatnonzero(~close)
    shown = [(*(x[i].item() for x in operands), "->", found[i].item(), "not", expected[i].item()) for i in wrong[:6]]
    assert not shown, f"{len(wrong)} of {close.size}: {shown}"


@pytest.mark.parametrize("op", UNARY + BINARY, ids=repr)
def test_values(op: Op) -> None:
    for dtype in (*FLOATS, *INTS):
        if ("f" if dtype.is_floating_point else "i") not in op.kinds:
            continue
        arrays = operands(op, dtype)
        with np.errstate(all="ignore"):
            found = op.numpy(*arrays)
        if op.name == "relu":
            found = np.where(arrays[0] == 0, arrays[0], found)  # PyTorch keeps the sign of -0.0
        expected = namesake(op)(*map(torch.from_numpy, arrays)).numpy()
        exact = not dtype.is_floating_point or (op.exact and op.name not in INEXACT_THERE)
        rtol, tiny = (0.0, 0.0) if exact else TOLERANCE[dtype.name]
        compare(found, expected, rtol, arrays, tiny)


@pytest.mark.parametrize("op", [op for op in UNARY + BINARY if op.differentiable], ids=repr)
@pytest.mark.parametrize("dtype", FLOATS, ids=repr)
def test_gradients(op: Op, dtype: dtypes.dtype) -> None:
    arrays = operands(op, dtype)
    leaves = [torch.from_numpy(a).clone().requires_grad_() for a in arrays]
    out = namesake(op)(*leaves)
    ct = np.linspace(-1, 2, arrays[0].size).astype(dtype.np)
    if out.grad_fn is None or type(out.grad_fn).__name__ == "NotImplemented":
        pytest.skip("PyTorch has no gradient")
    out.backward(torch.from_numpy(ct))
    with taping() as tape:
        variables = [Variable(a) for a in arrays]
        result = op(*variables)
        found = tape.gradients(result, Variable(ct), variables)
    for f, leaf in zip(found, leaves, strict=True):
        compare(f.value + 0.0, leaf.grad.numpy() + 0.0, 2e-5, [ct, *arrays])
