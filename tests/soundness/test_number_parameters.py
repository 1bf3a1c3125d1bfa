"""Every number that a function takes, steady until calls are replayed and then another one: special ones among them."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tracejit as tj
from harness import Case, Program, arr, compare
from tracejit.nn import functional as F

STEADY = 7
UNIT = (0.5, 0.25, 0.0, 1.0, 0.75)
SIGNED = (0.5, -0.5, 0.0, 2.0, -0.0, 1.0, math.inf, math.nan)
POSITIVE = (0.5, 2.0, 1.0, 3.0, 1e-3)
WHOLE = (1, 2, 0, 3, -1)
POWERS = (2.0, 3.0, 1.0, 0.5, 0.0, -1.0, 2.5, -2.0, math.inf, 2, 0, 3, True)
EPS = (1e-5, 1e-3, 0.0, 1e-8)


def wide(x: Any) -> Any:
    """A matrix beside the operand."""
    return x.flip(0) * 0.5 + 0.1


FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "pow": (lambda x, s: x.abs() ** s, POWERS),
    "pow of whole numbers": (lambda x, s: (x * 3).to(tj.int64) ** s, (2, 3, 1, 0, 5, -1, 2.0, 0.5)),
    "rpow": (lambda x, s: s**x, (2.0, 0.5, 0.0, 1.0, -1.0, 2)),
    "float_power": (lambda x, s: tj.pow(x.abs() + 1, s), (1.5, 2.5, 2.0, -0.5, 0.5)),
    "add alpha": (lambda x, s: tj.add(x, wide(x), alpha=s), (1.0, 2.0, 0.0, 1, 2)),
    "sub alpha": (lambda x, s: tj.sub(x, wide(x), alpha=s), (1, 2, 0, 1.0)),
    "add number alpha": (lambda x, s: tj.add(x, 2, alpha=s), (1.0, 2.0, 0.5, 1)),
    "div": (lambda x, s: x / s, SIGNED),
    "rdiv": (lambda x, s: s / x, SIGNED),
    "floor div": (lambda x, s: x // s, (2.0, 0.5, -1.0, 1.0, 2)),
    "remainder": (lambda x, s: x % s, (2.0, 0.5, -1.0, 0.0, 2)),
    "fmod": (lambda x, s: tj.fmod(x, s), (2.0, 0.5, -1.0, 2)),
    "clamp low": (lambda x, s: x.clamp(min=s), SIGNED),
    "clamp high": (lambda x, s: x.clamp(max=s), SIGNED),
    "clamp whole": (lambda x, s: x.clamp(s, 2), WHOLE),
    "maximum": (lambda x, s: tj.where(x > s, x, s), SIGNED),
    "masked fill": (lambda x, s: x.masked_fill(x > 0, s), SIGNED),
    "full like": (lambda x, s: tj.full_like(x, s) + x, SIGNED),
    "full": (lambda x, s: x + tj.full((4,), s), SIGNED),
    "fill": (lambda x, s: x.clone().fill_(s), SIGNED),
    "lerp": (lambda x, s: tj.lerp(x, wide(x), s), SIGNED),
    "addcmul": (lambda x, s: tj.addcmul(x, x, wide(x), value=s), SIGNED),
    "addcdiv": (lambda x, s: tj.addcdiv(x, x, wide(x), value=s), SIGNED),
    "addmm beta": (lambda x, s: tj.addmm(x, x, wide(x), beta=s), (1, 2, 0, 0.5, 1.0)),
    "addmm alpha": (lambda x, s: tj.addmm(x, x, wide(x), alpha=s), (1.0, 2.0, 0.0, 1)),
    "round": (lambda x, s: tj.round(x, decimals=s), (1, 2, 0, -1)),
    "nan to num": (lambda x, s: tj.nan_to_num(x / 0.0, nan=s, posinf=s), (0.5, 2.0, 0.0)),
    "isclose": (lambda x, s: tj.isclose(x, wide(x), rtol=s), UNIT),
    "norm": (lambda x, s: x.norm(s), (2, 1, 0, math.inf, 3, 2.0, 0.5, -math.inf)),
    "var": (lambda x, s: x.var(0, correction=s), (1, 0, 2)),
    "std": (lambda x, s: x.std(correction=s), (1, 0, 2)),
    "leaky relu": (lambda x, s: F.leaky_relu(x, s), SIGNED),
    "elu": (lambda x, s: F.elu(x, s), SIGNED),
    "celu": (lambda x, s: F.celu(x, s), POSITIVE),
    "hardtanh": (lambda x, s: F.hardtanh(x, -s, s), POSITIVE),
    "threshold": (lambda x, s: F.threshold(x, s, 2 * s), SIGNED),
    "softplus": (lambda x, s: F.softplus(x, s, 2 * s), POSITIVE),
    "dropout": (lambda x, s: F.dropout(x, s), (*UNIT, 1.5)),
    "normalize": (lambda x, s: F.normalize(x, s), (2.0, 1.0, 3.0, math.inf)),
    "normalize eps": (lambda x, s: F.normalize(x, eps=s), EPS),
    "cosine similarity": (lambda x, s: F.cosine_similarity(x, wide(x), eps=s), EPS),
    "layer norm": (lambda x, s: F.layer_norm(x, (4,), eps=s), EPS),
    "batch norm": (
        lambda x, s: F.batch_norm(x, tj.zeros(4), tj.ones(4), training=True, momentum=s, eps=0.1 * s + 1e-3), UNIT
    ),
    "smooth l1": (lambda x, s: F.smooth_l1_loss(x, wide(x), beta=s), (0.5, 1.0, 0.0, 2.0)),
    "huber": (lambda x, s: F.huber_loss(x, wide(x), delta=s), POSITIVE),
    "label smoothing": (lambda x, s: F.cross_entropy(x, tj.tensor([0, 1, 2, 3]), label_smoothing=s), UNIT),
    "ignore index": (lambda x, s: F.cross_entropy(x, tj.tensor([0, 1, 2, 3]), ignore_index=s), (1, 2, -100, 3)),
    "pairwise distance": (lambda x, s: F.pairwise_distance(x, wide(x), p=s), (2.0, 1.0, 3.0, math.inf)),
    "cdist": (lambda x, s: tj.cdist(x, wide(x), p=s), (2.0, 1.0, 3.0, math.inf, 0.0)),
    "pad": (lambda x, s: F.pad(x, (1, 1), value=s), SIGNED),
    "arange": (lambda x, s: x + tj.arange(0, 4 * s, s), (1, 2, 0.5, 1.0)),
    "linspace": (lambda x, s: x + tj.linspace(s, 2.0, 4), SIGNED[:6]),
    "tril": (lambda x, s: x.tril(s), WHOLE),
    "roll": (lambda x, s: x.roll(s, 0), WHOLE),
    "diagonal": (lambda x, s: x.diagonal(s), WHOLE),
    "index": (lambda x, s: x[s], WHOLE),
    "slice": (lambda x, s: x[s:], WHOLE),
    "narrow": (lambda x, s: x.narrow(0, s, 1), (1, 2, 0, 3)),
    "sum over": (lambda x, s: x.sum(s), (1, 0, -1)),
    "softmax over": (lambda x, s: x.softmax(s), (1, 0, -1)),
    "topk": (lambda x, s: x.topk(s)[0], (1, 2, 3)),
    "repeat": (lambda x, s: x.repeat(s, 1), (1, 2, 3)),
    "uniform": (lambda x, s: x.clone().uniform_(s, 2.0), (0.5, 1.0, 0.0, 3.0)),
    "normal": (lambda x, s: x.clone().normal_(s, s * s), (0.5, 1.0, 0.0)),
    "normal of tensors": (lambda x, s: tj.normal(x, s), (0.5, 1.0, 0.0, -1.0)),
    "bernoulli": (lambda x, s: x.clone().bernoulli_(s), (*UNIT, 1.5)),
    "exponential": (lambda x, s: x.clone().exponential_(s), (0.5, 1.0, 2.0, -1.0)),
    "randint": (lambda x, s: x + tj.randint(0, s, (4,)), (2, 3, 10)),
    "attention scale": (lambda x, s: F.scaled_dot_product_attention(x[None], x[None], x[None], scale=s), POSITIVE),
    "grad of a pow": (lambda x, s: tj.autograd.grad((p(x).abs() ** s).sum(), P)[0], (2.0, 3.0, 1.0, 0.5, 2.5, 0.0)),
    "interpolate": (lambda x, s: F.interpolate(x[None, None], scale_factor=s), (2.0, 1.0, 3.0)),
    "interpolate between": (lambda x, s: F.interpolate(x[None, None], scale_factor=s, mode="bicubic"), (2.0, 1.1, 3.0)),
    "logsumexp temperature": (lambda x, s: (x / s).logsumexp(0) * s, POSITIVE),
    "one hot": (lambda x, s: F.one_hot(tj.tensor([0, 1]), s), (2, 3, 5)),
    "multiplied by a bool": (lambda x, s: x * s + s, (True, False, 1, 1.0)),
    "compared": (lambda x, s: (x == s, x < s), SIGNED),
    "hardshrink": (lambda x, s: F.hardshrink(x, s), SIGNED),
    "softshrink": (lambda x, s: F.softshrink(x, s), (*POSITIVE, 0.0, -1.0)),
    "local response": (lambda x, s: F.local_response_norm(x[None], 3, s, 1 / s, s), POSITIVE),
    "alpha dropout": (lambda x, s: F.alpha_dropout(x, s, True), (*UNIT, 1.5)),
    "gumbel softmax": (lambda x, s: F.gumbel_softmax(x, s), POSITIVE),
    "instance norm": (
        lambda x, s: F.instance_norm(x[None], tj.zeros(4), tj.ones(4), momentum=s, eps=0.1 * s + 1e-3), UNIT
    ),
    "margin ranking": (lambda x, s: F.margin_ranking_loss(x, wide(x), x.sign(), s), SIGNED),
    "hinge embedding": (lambda x, s: F.hinge_embedding_loss(x, x.sign(), margin=s), SIGNED),
    "cosine embedding": (lambda x, s: F.cosine_embedding_loss(x, wide(x), x[0].sign(), s), SIGNED),
    "triplet margin": (lambda x, s: F.triplet_margin_loss(x, wide(x), 2 * x, s, eps=0.1 * s), (*POSITIVE, -1.0)),
    "triplet norm": (lambda x, s: F.triplet_margin_loss(x, wide(x), 2 * x, p=s), (2.0, 1.0, 3.0, math.inf, 2)),
    "multi margin": (lambda x, s: F.multi_margin_loss(x, tj.tensor([0, 1, 2, 3]), margin=s), SIGNED),
    "multi margin power": (lambda x, s: F.multi_margin_loss(x, tj.tensor([0, 1, 2, 3]), s), (1, 2, 3, 1.0)),
    "poisson": (lambda x, s: F.poisson_nll_loss(x.abs(), x, False, eps=s), EPS),
    "gaussian": (lambda x, s: F.gaussian_nll_loss(x, wide(x), s, eps=0.3), (*POSITIVE, -1.0)),
    "xlogy": (lambda x, s: (tj.xlogy(s, x.abs()), tj.xlogy(x, s)), SIGNED),
    "copysign": (lambda x, s: tj.copysign(x, s), SIGNED[:7]),
    "trapezoid": (lambda x, s: tj.trapezoid(x, dx=s), SIGNED),
    "tensor split": (lambda x, s: x.tensor_split(s)[0], (1, 2, 3, 0)),
    "rot90": (lambda x, s: x.rot90(s), WHOLE),
    "tensordot": (lambda x, s: tj.tensordot(x, x, s), (1, 2, 0, 3)),
    "hann window": (lambda x, s: tj.hann_window(s) * x[0, 0], (4, 1, 0, 7)),
    "bits": (lambda x, s: (x * 10).to(tj.int64) & s, (1, 3, 7)),
    "shift": (lambda x, s: (x * 10).to(tj.int64) << s, (1, 2, 0)),
}
P = tj.ones(4, 4, requires_grad=True)


def p(x: Any) -> Any:
    """Something with a gradient."""
    return P * x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_that_changes_late(name: str) -> None:
    function, values = FUNCTIONS[name]
    assert function(arr(0, 4, 4), values[0]) is not None

    def make() -> Case:
        return Case(function, lambda i: (arr(i, 4, 4), values[max(0, i - STEADY) % len(values)]))

    program = Program(name, make, "", STEADY + 2 * len(values), None)
    compare(program, "auto")
