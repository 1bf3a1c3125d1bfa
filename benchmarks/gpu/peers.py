"""The same computations in PyTorch: for eager execution, `torch.compile`, and as references in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

LARGE = 1 << 26
ROWS = {1000: 32768, 4096: 8192}


def chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The elementwise chain."""
    return torch.exp(torch.tanh(x * y + 1) * torch.sigmoid(x) - y / 2)


def triad(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + 3 y."""
    return x + y * 3


def transposed_sum(a: torch.Tensor) -> torch.Tensor:
    """A matrix and half its transpose."""
    return a + a.T / 2


def column_sums(a: torch.Tensor) -> torch.Tensor:
    """Sums down the columns."""
    return a.sum(0)


def full_sum(a: torch.Tensor) -> torch.Tensor:
    """Sum of all."""
    return a.sum()


def softmax(a: torch.Tensor) -> torch.Tensor:
    """Softmax of rows."""
    return torch.softmax(a, -1)


def layer_norm(a: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Layer norm of rows."""
    return F.layer_norm(a, a.shape[-1:], weight, bias)


Case = tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...], int]


def case(name: str) -> Case:
    """The function, its inputs on the device, and the bytes that must be read and written."""
    torch.manual_seed(0)

    def draw(*shape: int, dtype: Any = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device="cuda").to(dtype)

    kind, _, rest = name.partition(" ")
    if kind in ("chain", "triad"):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[rest]
        x, y = (draw(LARGE, dtype=dtype) for _ in range(2))
        return chain if kind == "chain" else triad, (x, y), 3 * x.nbytes
    if kind in ("softmax", "layer_norm"):
        columns = int(rest)
        a = draw(ROWS[columns], columns)
        if kind == "softmax":
            return softmax, (a,), 2 * a.nbytes
        return layer_norm, (a, draw(columns), draw(columns)), 2 * a.nbytes
    if kind == "transposed_sum":
        a = draw(8192, 8192)
        return transposed_sum, (a,), 2 * a.nbytes
    if kind == "column_sums":
        a = draw(65536, 1024)
        return column_sums, (a,), a.nbytes
    a = draw(LARGE)
    return full_sum, (a,), a.nbytes


CASES = (
    "chain f32", "chain bf16", "chain f16", "triad f32", "transposed_sum", "column_sums", "full_sum", "softmax 1000",
    "softmax 4096", "layer_norm 1000", "layer_norm 4096",
)  # fmt: skip


def compile_all() -> None:
    """Compiles every case once, so that PyTorch's cache on disk has them."""
    for name in CASES:
        function, inputs, _ = case(name)
        torch.compile(function)(*inputs)
        torch.compiler.reset()
        torch.cuda.empty_cache()
