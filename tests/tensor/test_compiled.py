"""The functions inside compiled regions: the same bits as eagerly, in every call, with their gradients and changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import draw, expression, flat, program
from tracejit.compiler import Compiled
from tracejit.tensor import functional
from tracejit.trace.compiled import region_of

CLASSES = draw((6,), "i", low=0, high=4)
SIGNS = np.where(draw((3, 4), "b"), 1, -1).astype(np.float32)
CALLS: list[tuple[str, list[Any]]] = [
    *((f"F.{text}", [draw((4, 6))]) for text in
      ("relu(x)", "gelu(x)", "gelu(x, approximate='tanh')", "silu(x)", "leaky_relu(x, 0.2)", "elu(x)", "selu(x)",
       "celu(x, 2.0)", "softplus(x)", "hardtanh(x)", "hardsigmoid(x)", "hardswish(x)", "mish(x)", "logsigmoid(x)",
       "glu(x)", "softmax(x, -1)", "log_softmax(x, 0)", "normalize(x)", "layer_norm(x, (6,))", "rms_norm(x, (6,))",
       "cross_entropy(x, m.tensor([0, 1, 2, 3]))")),
    ("F.linear(x, y, z)", [draw((4, 3)), draw((5, 3)), draw((5,))]),
    ("F.layer_norm(x, (4,), y, z)", [draw((3, 4)), draw((4,)), draw((4,), seed=1)]),
    ("F.group_norm(x, 2, y, z)", [draw((2, 4, 3)), draw((4,)), draw((4,), seed=1)]),
    ("F.local_response_norm(x, 3, 0.5)", [draw((2, 4, 3))]),
    ("F.pixel_shuffle(x, 2)", [draw((2, 8, 2, 3))]),
    ("F.pixel_unshuffle(x, 2)", [draw((2, 2, 4, 6))]),
    ("F.channel_shuffle(x, 2)", [draw((2, 6, 5))]),
    ("F.cross_entropy(x, y)", [draw((6, 4)), CLASSES]),
    ("F.cross_entropy(x, y, ignore_index=1, label_smoothing=0.1)", [draw((6, 4)), CLASSES]),
    ("F.cross_entropy(x, y, z)", [draw((6, 4)), CLASSES, np.abs(draw((4,)))]),
    ("F.nll_loss(x, y, reduction='sum')", [draw((6, 4)), CLASSES]),
    ("F.mse_loss(x, y)", [draw((3, 4)), draw((3, 4), seed=1)]),
    ("F.margin_ranking_loss(x, y, z.detach(), margin=0.3)", [draw((3, 4)), draw((3, 4), seed=1), SIGNS]),
    ("F.hinge_embedding_loss(x, y.detach(), margin=0.3)", [draw((3, 4)), SIGNS]),
    ("F.cosine_embedding_loss(x, y, z[:, 0].detach())", [draw((3, 4)), draw((3, 4), seed=1), SIGNS]),
    ("F.triplet_margin_loss(x, y, z, swap=True)", [draw((3, 4), seed=k) for k in range(3)]),
    ("F.soft_margin_loss(x, y.detach())", [draw((3, 4)), SIGNS]),
    ("F.multilabel_soft_margin_loss(x, y)", [draw((3, 4)), draw((3, 4), "b").astype(np.float32)]),
    ("F.multi_margin_loss(x, y, p=2, weight=z.detach())", [draw((6, 4)), CLASSES, np.abs(draw((4,)))]),
    ("F.poisson_nll_loss(x, y, full=True)", [draw((6,)), CLASSES]),
    ("F.gaussian_nll_loss(x, y, z, eps=0.5)", [draw((3, 4)), draw((3, 4), seed=1), np.abs(draw((3, 4), seed=2))]),
    ("F.huber_loss(x, y, delta=0.4)", [draw((3, 4)), draw((3, 4), seed=1)]),
    ("F.binary_cross_entropy_with_logits(x, y)", [draw((3, 4)), draw((3, 4), "b").astype(np.float32)]),
    ("F.embedding(x, y, padding_idx=1)", [CLASSES, draw((4, 3))]),
    ("F.one_hot(x, 4)", [CLASSES]),
    ("F.conv2d(x, y, z, padding=1)", [draw((2, 3, 6, 6)), draw((4, 3, 3, 3)), draw((4,))]),
    ("F.conv2d(x, y, padding='same')", [draw((2, 3, 6, 6)), draw((4, 3, 2, 2))]),
    ("F.conv_transpose2d(x, y, stride=2)", [draw((2, 3, 4, 4)), draw((3, 4, 3, 3))]),
    ("F.max_pool2d(x, 2)", [draw((2, 3, 6, 6))]),
    ("F.avg_pool2d(x, 2, divisor_override=3)", [draw((2, 3, 6, 6))]),
    ("F.adaptive_avg_pool2d(x, (4, 5))", [draw((2, 3, 6, 7))]),
    ("F.interpolate(x, scale_factor=2)", [draw((2, 3, 3, 4))]),
    ("F.interpolate(x, size=(5, 3), mode='bilinear')", [draw((2, 3, 3, 4))]),
    ("F.interpolate(x, scale_factor=2, mode='bicubic', align_corners=True)", [draw((2, 3, 3, 4))]),
    ("F.pad(x, (2, 1, 1, 2), 'reflect')", [draw((2, 3, 3, 4))]),
    ("F.pad(x, (2, 1, 1, -1), 'replicate')", [draw((2, 3, 3, 4))]),
    ("F.pad(x, (2, 1, 1, 2), 'circular')", [draw((2, 3, 3, 4))]),
    ("F.unfold(x, 3, 1, 1, 2)", [draw((2, 3, 5, 6))]),
    ("F.fold(x, (5, 6), 3, 1, 1, 2)", [draw((2, 18, 9))]),
    ("F.scaled_dot_product_attention(x, y, z)", [draw((2, 3, 5, 4), seed=k) for k in range(3)]),
    ("F.scaled_dot_product_attention(x, y, z, is_causal=True)", [draw((2, 3, 5, 4), seed=k) for k in range(3)]),
    ("x[1:, ::2]", [draw((3, 4))]),
    ("x[[0, 2, 2], [1, 1, 3]]", [draw((3, 4))]),
    ("x[x > 0]", [draw((3, 4))]),
    ("x[y]", [draw((4, 3)), CLASSES]),
    ("x.gather(1, y)", [draw((3, 4)), np.array([[0, 3], [1, 1], [2, 0]])]),
    ("x.sort(1).values", [draw((3, 4))]),
    ("x.std(1)", [draw((3, 4))]),
    ("x.logsumexp(1)", [draw((3, 4))]),
    ("m.tensordot(x, y, ([0, 1], [1, 0]))", [draw((2, 3, 4)), draw((3, 2))]),
    ("m.inner(x, y)", [draw((2, 3)), draw((4, 3))]),
    ("m.kron(x, y)", [draw((2, 3)), draw((2, 2))]),
    ("m.cross(x, y, dim=1)", [draw((4, 3)), draw((4, 3), seed=1)]),
    ("m.block_diag(x, y)", [draw((2, 3)), draw((1, 2))]),
    ("m.cartesian_prod(x, y)", [draw((3,)), draw((2,))]),
    ("m.tensor_split(x, 3, 1)", [draw((3, 7))]),
    ("m.rot90(x, 3)", [draw((2, 3))]),
    ("m.column_stack([x, y])", [draw((3,)), draw((3, 2))]),
    ("m.hypot(x, y)", [draw((3, 4)), draw((3, 4), seed=1)]),
    ("m.xlogy(x, y)", [draw((3, 4)), np.abs(draw((3, 4), seed=1))]),
    *((f"m.{name}(x.sigmoid())", [draw((3, 40))]) for name in ("erfinv", "erfc", "asinh", "atanh", "logit", "sinc")),
    ("m.acosh(x.exp() + 1)", [draw((3, 40))]),
    ("m.logit(x, 0.2)", [np.abs(draw((3, 4)))]),
    ("m.copysign(x, y)", [draw((3, 4)), draw((3, 4), seed=1)]),
    ("m.logaddexp2(x, y)", [draw((3, 4)), draw((3, 4), seed=1)]),
    ("m.frac(m.rad2deg(x))", [draw((3, 4))]),
    ("m.nanmean(x / (x > 0), 1)", [draw((3, 4))]),
    ("m.nansum(x.sqrt())", [draw((3, 4))]),
    ("m.trapezoid(y, x)", [draw((4,)), draw((3, 4))]),
    ("m.corrcoef(x)", [draw((3, 5))]),
    ("m.diagflat(x, 1) * m.hann_window(7)", [draw((2, 3))]),
    ("m.einsum('ij,kj->ik', x, y)", [draw((2, 3)), draw((4, 3))]),
]


def run(function: Any, arrays: list[Any]) -> list[Any]:
    """The results of a call, then the gradients of the operands."""
    tensors = [tj.tensor(a) for a in arrays]
    for t in tensors:
        if t.is_floating_point():
            t.requires_grad_()
    out = flat(function(*tensors))
    total = sum((o * o).sum() for o in out if o.requires_grad)
    if isinstance(total, tj.Tensor):
        total.backward()
    return [o.detach().numpy() for o in out] + [None if t.grad is None else t.grad.numpy() for t in tensors]


@pytest.mark.parametrize(("text", "arrays"), [pytest.param(*call, id=call[0]) for call in CALLS])
def test_compiled_is_eager(text: str, arrays: list[Any]) -> None:
    case = expression(text)

    def plain(*operands: Any) -> Any:
        return case(tj, *operands)

    region = tj.compile(plain)
    for scale in (1, 1, 2, 3, 0.5):
        given = [a * np.float32(scale) if a.dtype == np.float32 else a for a in arrays]
        for ours, eager in zip(run(region, given), run(plain, given), strict=True):
            np.testing.assert_array_equal(ours, eager)
    # Whose graph has no text is planned anew in each process.
    assert all(e.compiled.key for _, e in region_of(region).executables() if isinstance(e.compiled, Compiled))


CHANGES = [
    "y[0] = 5.0", "y[:, 1] = v", "y[[0, 2]] = 0.5", "y[y > 0] = 0.0", "y[0, 1:] *= 2", "y[1:] += v", "y.fill_(2.0)",
    "y.copy_(x[0])", "y.index_add_(0, m.tensor([0, 0]), x[:2])", "y.scatter_(1, m.zeros(3, 1, dtype=m.int64), 7.0)",
    "y.clamp_(-0.5, 0.5)", "y.add_(x).mul_(x)", "y[0][1] = 3.0", "y[None, 1:, ::2] = 4.0", "y **= 2",
]  # fmt: skip


@pytest.mark.parametrize("text", CHANGES)
def test_compiled_changes_are_eager_ones(text: str) -> None:
    case = program(text)

    def plain(x: Any, v: Any) -> Any:
        return case(tj, x, v)

    region = tj.compile(plain)
    for seed in range(5):
        given = [draw((3, 4), seed=seed), draw((1,), seed=seed)]
        for ours, eager in zip(run(region, given), run(plain, given), strict=True):
            np.testing.assert_array_equal(ours, eager)


def test_compiled_batch_norm_moves_its_statistics() -> None:
    def step(x: tj.Tensor, mean: tj.Tensor, variance: tj.Tensor, momentum: float) -> tj.Tensor:
        return functional.batch_norm(x, mean, variance, None, None, True, momentum)

    region = tj.compile(step)
    stats = [[tj.zeros(3), tj.ones(3)] for _ in range(2)]
    for k in range(6):
        x = tj.tensor(draw((5, 3, 4), seed=k))
        a, b = region(x, *stats[0], 0.1 + 0.1 * k), step(x, *stats[1], 0.1 + 0.1 * k)
        assert tj.equal(a, b)
        assert all(tj.equal(p, q) for p, q in zip(*stats, strict=True))


def test_compiled_instance_norm_moves_its_statistics() -> None:
    def step(x: tj.Tensor, mean: tj.Tensor, variance: tj.Tensor) -> tj.Tensor:
        return functional.instance_norm(x, mean, variance)

    region = tj.compile(step)
    stats = [[tj.zeros(3), tj.ones(3)] for _ in range(2)]
    for k in range(5):
        x = tj.tensor(draw((5, 3, 4), seed=k))
        assert tj.equal(region(x, *stats[0]), step(x, *stats[1]))
        assert all(tj.equal(p, q) for p, q in zip(*stats, strict=True))


@pytest.mark.parametrize("text", ["F.dropout(x, 0.3)", "F.dropout2d(x[:, :, None], 0.5)",
                                  "F.alpha_dropout(x, 0.3, True)", "F.gumbel_softmax(x)",
                                  "F.gumbel_softmax(x, 0.3, True, dim=0)", "x + m.randn(3, 4)",
                                  "x * m.rand(3, 4)", "m.randint(0, 9, (5,))", "m.bernoulli(x.sigmoid())",
                                  "F.scaled_dot_product_attention(x, x, x, dropout_p=0.4)", "m.randperm(5)",
                                  "x.clone().normal_(1.0, 2.0)"])  # fmt: skip
def test_compiled_draws_the_same_numbers(text: str) -> None:
    case = expression(text)
    results = []
    for wrap in (tj.compile, lambda f: f):
        tj.manual_seed(11)
        function = wrap(lambda x: case(tj, x))
        results.append([function(tj.tensor(draw((3, 4), seed=k))).numpy().copy() for k in range(5)])
        results[-1].append(tj.rand(3).numpy())
    for ours, eager in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, eager)
