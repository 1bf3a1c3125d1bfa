"""What the suite times one by one: graphs, the same in PyTorch, and what must at least be moved or computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.programs import graph_of, make
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph

BETAS, RATE, EPSILON = (0.9, 0.999), 1e-3, 1e-8


@dataclass(frozen=True)
class Timed:
    """A graph with its inputs; `peer(torch)` is a function of the same tensors in PyTorch.

    `nbytes` must be read and written, `flops` be computed.
    """

    name: str
    arrays: tuple[np.ndarray, ...]
    build: Callable[..., Any]
    peer: Callable[[Any], Callable[..., Any]]
    nbytes: float = 0.0
    flops: float = 0.0

    @property
    def graph(self) -> Graph:
        """The graph."""
        return graph_of(self.build, *self.arrays)


class Arrays:
    """Arrays of random numbers, all of them parts of one, which is made once."""

    def __init__(self, largest: int) -> None:
        self._base = np.random.default_rng(1).standard_normal(largest, np.float32)

    def __call__(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return self._base[:count].reshape(shape)


def _chain(x: Any, y: Any) -> Any:
    inner = make("mul", make("tanh", make("add", make("mul", x, y), 1.0)), make("sigmoid", x))
    return make("exp", make("sub", inner, make("mul", y, 0.5)))


def _chain_peer(torch: Any) -> Callable[..., Any]:
    return lambda x, y: torch.exp(torch.tanh(x * y + 1) * torch.sigmoid(x) - y * 0.5)


def _column(x: Any, like: Any) -> Any:
    return make("reshape", x, shape=(like.shape[0], 1))


def _softmax(x: Any) -> Any:
    grown = make("exp", make("sub", x, _column(make("amax", x, dim=1), x)))
    return make("div", grown, _column(make("sum", grown, dim=1), x))


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    share = 1.0 / x.shape[1]
    centred = make("sub", x, _column(make("mul", make("sum", x, dim=1), share), x))
    variance = make("mul", make("sum", make("mul", centred, centred), dim=1), share)
    scale = make("div", 1.0, make("sqrt", make("add", variance, 1e-5)))
    return make("add", make("mul", make("mul", centred, _column(scale, x)), weight), bias)


def _cross_entropy(x: Any, target: Any) -> Any:
    rows = x.shape[0]
    top = make("reshape", make("amax", x, dim=1), shape=(rows, 1))
    total = make("log", make("sum", make("exp", make("sub", x, top)), dim=1))
    here = make("reshape", make("gather", x, make("reshape", target, shape=(rows, 1)), dim=1), shape=(rows,))
    lost = make("sub", make("add", total, make("reshape", top, shape=(rows,))), here)
    return make("mul", make("sum", lost, dim=0), 1.0 / rows)


def _adam(*tensors: Any) -> tuple[Any, ...]:
    """Updates of parameters, given with their gradients and both moments."""
    count = len(tensors) // 4
    found: list[Any] = []
    for p, g, m, v in zip(*(tensors[k * count : (k + 1) * count] for k in range(4)), strict=True):
        first = make("add", make("mul", m, BETAS[0]), make("mul", g, 1 - BETAS[0]))
        second = make("add", make("mul", make("mul", g, g), 1 - BETAS[1]), make("mul", v, BETAS[1]))
        step = make("div", first, make("add", make("sqrt", second), EPSILON))
        found += [make("sub", p, make("mul", step, RATE)), first, second]
    return tuple(found)


def _adam_peer(torch: Any) -> Callable[..., Any]:
    known: dict[int, Any] = {}

    def step(*tensors: Any) -> Any:
        if not known:
            count = len(tensors) // 4
            parameters = [torch.nn.Parameter(p.clone()) for p in tensors[:count]]
            for parameter, gradient in zip(parameters, tensors[count:], strict=False):
                parameter.grad = gradient
            known[0] = torch.optim.Adam(parameters, lr=RATE, fused=True, capturable=True)
        known[0].step()

    return step


def _matmul(m: int, k: int, n: int, arrays: Arrays) -> Timed:
    return Timed(
        f"matmul {m} x {k} x {n}",
        (arrays(m, k), arrays(k, n)),
        lambda a, b: make("matmul", a, b),
        lambda torch: torch.matmul,
        4.0 * (m * k + k * n + m * n),
        2.0 * m * n * k,
    )


def _convolutions(n: int, c: int, side: int, o: int, arrays: Arrays) -> list[Timed]:
    """3 x 3 filters with padding, forward and both gradients."""
    attrs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    x, w, ct = arrays(n, c, side, side), arrays(o, c, 3, 3), arrays(n, o, side, side)
    flops = 2.0 * n * o * side * side * c * 9
    name = f"{n}x{c}x{side}x{side} to {o}"
    return [
        Timed(
            f"conv {name}",
            (x, w),
            lambda x, w: make("conv2d", x, w, **attrs),
            lambda torch: lambda x, w: torch.nn.functional.conv2d(x, w, padding=1),
            flops=flops,
        ),
        Timed(
            f"conv input grad {name}",
            (ct, w),
            lambda ct, w: make("conv2d_input_grad", ct, w, size=(side, side), **attrs),
            lambda torch: lambda ct, w: torch.nn.grad.conv2d_input((n, c, side, side), w, ct, padding=1),
            flops=flops,
        ),
        Timed(
            f"conv weight grad {name}",
            (ct, x),
            lambda ct, x: make("conv2d_weight_grad", ct, x, kernel=(3, 3), **attrs),
            lambda torch: lambda ct, x: torch.nn.grad.conv2d_weight(x, (o, c, 3, 3), ct, padding=1),
            flops=flops,
        ),
    ]


def _attention(b: int, h: int, length: int, width: int, arrays: Arrays) -> list[Timed]:
    """Causal attention, forward, and with the gradients."""
    q = arrays(b, h, length, width)
    attrs = {"scale": width**-0.5, "causal": True}
    flops = 2.0 * b * h * length * length * width

    def forward(q: Any, k: Any, v: Any) -> Any:
        return nodes.item(make("attention", q, k, v, **attrs), 0)

    def both(q: Any, k: Any, v: Any, ct: Any) -> Any:
        made = make("attention", q, k, v, **attrs)
        back = make("attention_grad", ct, q, k, v, nodes.item(made, 1), **attrs)
        return (nodes.item(made, 0), *(nodes.item(back, i) for i in range(3)))

    def peer(torch: Any) -> Callable[..., Any]:
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v: attend(q, k, v, is_causal=True).transpose(1, 2)

    def peer_of_both(torch: Any) -> Callable[..., Any]:
        attend = torch.nn.functional.scaled_dot_product_attention

        def run(q: Any, k: Any, v: Any, ct: Any) -> Any:
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
            out = attend(q, k, v, is_causal=True)
            torch.autograd.grad(out, (q, k, v), ct.transpose(1, 2))
            return out.detach().transpose(1, 2)

        return run

    name = f"{b}x{h}x{length}x{width}"
    ct = arrays(b, length, h, width)
    return [
        Timed(f"attention {name}", (q, q, q), forward, peer, flops=flops),
        Timed(f"attention with gradients {name}", (q, q, q, ct), both, peer_of_both, flops=3.5 * flops),
    ]


def timed(tiny: bool) -> list[Timed]:
    """All of them, the most important first; `tiny` ones are for a machine that has no GPU."""
    arrays = Arrays(1 << 12 if tiny else 1 << 26)
    large, rows, columns, side = (64, 3, 40, 32) if tiny else (1 << 26, 32768, 1000, 8192)
    a, b = arrays(rows, columns), arrays(columns)
    target = np.arange(rows, dtype=np.int64) % columns
    count, parameter = (2, 4) if tiny else (100, 64)
    tensors = [arrays(parameter, parameter)] * (3 * count) + [np.abs(arrays(parameter, parameter))] * count
    x = arrays(large)
    found = [
        Timed("chain", (x, x), _chain, _chain_peer, 12.0 * large),
        Timed("softmax", (a,), _softmax, lambda torch: lambda a: torch.softmax(a, -1), 8.0 * a.size),
        Timed(
            "layer norm",
            (a, b, b),
            _layer_norm,
            lambda torch: lambda a, w, b: torch.nn.functional.layer_norm(a, a.shape[-1:], w, b),
            8.0 * a.size,
        ),
        Timed(
            "cross-entropy",
            (a, target),
            _cross_entropy,
            lambda torch: torch.nn.functional.cross_entropy,
            4.0 * a.size,
        ),
        Timed("sum", (x,), lambda x: make("sum", x, dim=0), lambda torch: lambda x: x.sum(), 4.0 * large),
        Timed("column sums", (a,), lambda a: make("sum", a, dim=0), lambda torch: lambda a: a.sum(0), 4.0 * a.size),
        Timed(
            "a + a.T / 2",
            (arrays(side, side),),
            lambda a: make("add", a, make("mul", make("permute", a, dims=(1, 0)), 0.5)),
            lambda torch: lambda a: a + a.T * 0.5,
            8.0 * side * side,
        ),
        Timed(f"Adam of {count} tensors", tuple(tensors), _adam, _adam_peer, 28.0 * count * parameter**2),
    ]
    if tiny:
        found += [_matmul(5, 6, 7, arrays), *_convolutions(1, 2, 4, 4, arrays), *_attention(1, 1, 5, 4, arrays)]
        return found
    sizes = ((1024, 1024, 1024), (4096, 4096, 4096), (128, 784, 512), (768, 128, 512), (64, 128, 128), (784, 128, 512))
    found += [_matmul(*size, arrays) for size in sizes]
    for n, c, length, o in ((64, 16, 14, 32), (16, 64, 32, 64), (32, 256, 14, 256)):
        found += _convolutions(n, c, length, o, arrays)
    return found + _attention(12, 4, 64, 32, arrays) + _attention(4, 16, 1024, 64, arrays)
