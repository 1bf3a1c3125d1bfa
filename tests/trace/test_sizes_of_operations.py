"""Operations of all families at sizes that change, meet one another, and shrink to 1 and 0: bits of eager."""

from __future__ import annotations

import numpy as np
import pytest

import tracejit as tj
from tracejit.nn import functional as F
from tracejit.trace.compiled import region_of

SIZES = [
    *[(4, 6)] * 3,
    *((5, 6), (5, 7), (6, 6), (7, 5), (3, 12), (12, 3), (24, 8), (8, 24), (1, 6), (6, 1), (1, 1), (1, 7), (2, 3)),
    *((300, 4), (4, 300), (300, 20), (3, 5000), (0, 3), (3, 0), (9, 9), (17, 30)),
]
"""Rows and columns of each call: no value twice in a row, coincidences, long rows and columns, ones and nothing."""


def rows(x, y):
    return F.softmax(x, dim=1) * y + x.mean(0) - x.amax(1, keepdim=True)


def columns(x, y):
    return (x * y).sum(0), x.var(0, correction=0), (x.exp() + y).sum(1)


def views(x, y):
    n, m = x.shape
    z = x.reshape(n * m).flip(0)[: n * m // 2]
    return z, x.T.reshape(n, m) + y, x[::2].unsqueeze(1).expand(-1, 2, -1).reshape(-1, m)


def joins(x, y):
    z = tj.cat([x, y[:1], x * 2])
    return z, tj.stack([x, y], 1).flatten(), F.pad(x, (1, 2, 0, 1))


def products(x, y):
    return x @ y.T, (x.T @ y).tanh(), x.unsqueeze(0) @ y.T.unsqueeze(0)


def places(x, y):
    n = x.shape[0]
    return x.cumsum(0), x * tj.arange(n).unsqueeze(1), tj.full((n, 2), float(n)) / max(n, 1), tj.tril(x)


def picks(x, y):
    index = (y > 0).long() * (x.shape[1] - 1)
    return x.gather(1, index), x.index_select(0, tj.arange(x.shape[0] - 1, -1, -1)), x.argmax(1)


def normed(x, y):
    return F.layer_norm(x, (x.shape[1],)), F.gelu(x) * F.dropout(y, 0.3), x / x.shape[0]


def gradients(x, y):
    x = x.detach().requires_grad_()
    loss = (F.log_softmax(x * y, dim=1) * y).sum() / x.shape[0] + (x @ x.T).tanh().mean()
    (g,) = tj.autograd.grad(loss, x)
    return loss.detach(), g


def in_place(x, y):
    z = x * 2
    z.add_(y).mul_(float(x.shape[1]))
    z[: x.shape[0] // 2] = 0.5
    return z


def convolved(x, y):
    n, m = x.shape
    image = x.reshape(1, 1, n, m).expand(2, 3, n, m)
    kernel = tj.ones(4, 3, 2, 2) * 0.1
    return F.conv2d(F.pad(image, (1, 1, 1, 1)), kernel), F.max_pool2d(F.pad(image, (1, 1, 1, 1)), 2)


def mixed(x, y):
    n, m = x.shape
    image = x.reshape(n, 1, m, 1).expand(n, 3, m, 9).permute(0, 2, 1, 3).contiguous().requires_grad_()
    kernel = y.reshape(n, m, 1, 1).detach().requires_grad_()
    out = F.conv2d(image, kernel, padding=1)
    out.sum().backward()
    return out.detach(), image.grad, kernel.grad


def resized(x, y):
    x = x.detach().requires_grad_()
    out = F.interpolate(x.unsqueeze(0).unsqueeze(0), scale_factor=2, mode="bilinear")
    (g,) = tj.autograd.grad(out.sum(), x)
    return g, F.interpolate(y.unsqueeze(0), size=8), F.interpolate(y.unsqueeze(0), size=5, mode="linear")


def given(i, n, m):
    rng = np.random.default_rng(i)
    return [tj.from_numpy(rng.standard_normal((n, m)).astype(np.float32)) for _ in range(2)]


def outcome(function, args):
    """The bits that a call gives, or its error."""
    tj.manual_seed(len(args[0]))
    try:
        out = function(*args)
    except Exception as e:
        return type(e), str(e)
    out = out if isinstance(out, tuple) else (out,)
    return [(t.shape, t.dtype, t.numpy().tobytes()) for t in out], tj.get_rng_state().tolist()


@pytest.mark.parametrize(
    "function",
    [rows, columns, views, joins, products, places, picks, normed, gradients, in_place, convolved, mixed, resized],
    ids=lambda f: f.__name__,
)
def test_every_size_has_the_bits_of_eager(function):
    compiled = tj.compile(function, mode="follow")
    for i, (n, m) in enumerate([*SIZES, *reversed(SIZES), *SIZES]):
        expected, found = outcome(function, given(i, n, m)), outcome(compiled, given(i, n, m))
        assert found == expected, (i, n, m)
    region = region_of(compiled)
    assert region.runs
    assert not region.settled
    before = len(region.structures.kernels)
    for i, (n, m) in enumerate([(11, 13), (13, 13), (13, 11), (40, 26)]):
        assert outcome(compiled, given(i, n, m)) == outcome(function, given(i, n, m))
    assert len(region.structures.kernels) == before
