"""MultiheadAttention and the transformer beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tracejit as tj
from tests.nn.parity import check, check_gradients, load, ours, pair, text

TOLERANCE = {"rtol": 3e-5, "atol": 3e-6}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def causal(size: int) -> torch.Tensor:
    return torch.triu(torch.ones(size, size, dtype=torch.bool), 1)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"attn_mask": causal(5)},
    {"attn_mask": causal(5), "need_weights": False},
    {"attn_mask": causal(5), "need_weights": False, "is_causal": True},
    {"attn_mask": torch.randn(5, 5)},
    {"attn_mask": torch.randn(6, 5, 5), "need_weights": False},
    {"key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)},
    {
        "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool),
        "attn_mask": causal(5),
        "need_weights": False,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("batch_first", [False, True])
def test_self_attention(options: dict[str, Any], batch_first: bool) -> None:
    mine, theirs = pair("MultiheadAttention", 8, 2, batch_first=batch_first)
    assert repr(mine) == text(theirs)
    x = leaf(3, 5, 8) if batch_first else leaf(5, 3, 8)
    my_options = {name: ours(value) for name, value in options.items()}
    check(_Same(mine, my_options), _Same(theirs, options), x, **TOLERANCE)
    check_gradients(mine, theirs, **TOLERANCE)


class _Same:
    """The module with one tensor as query, key and value."""

    def __init__(self, module: Any, options: dict[str, Any]) -> None:
        self.module, self.options = module, options

    def __call__(self, x: Any) -> Any:
        return self.module(x, x, x, **self.options)


@pytest.mark.parametrize("kwargs", [{}, {"bias": False}, {"kdim": 3, "vdim": 7}])
def test_cross_attention(kwargs: dict[str, Any]) -> None:
    mine, theirs = pair("MultiheadAttention", 8, 4, **kwargs)
    check(
        mine, theirs, leaf(5, 2, 8), leaf(6, 2, kwargs.get("kdim", 8)), leaf(6, 2, kwargs.get("vdim", 8)), **TOLERANCE
    )


def test_key_is_value_and_unbatched() -> None:
    mine, theirs = pair("MultiheadAttention", 8, 4)
    k = leaf(6, 8)
    my_k = ours(k)
    q = leaf(5, 8)
    check(lambda q: mine(q, my_k, my_k), lambda q: theirs(q, k, k), q, **TOLERANCE)


def test_dropout_acts_in_training_only() -> None:
    layer = tj.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = tj.randn(2, 5, 8)
    for need_weights in (True, False):
        a, b = (layer.train()(x, x, x, need_weights=need_weights)[0].tolist() for _ in range(2))
        assert a != b
        a, b = (layer.eval()(x, x, x, need_weights=need_weights)[0].tolist() for _ in range(2))
        assert a == b


@pytest.mark.parametrize("nn", [tj.nn, torch.nn], ids=["tracejit", "torch"])
def test_wrong_inputs(nn: Any) -> None:
    zeros = tj.zeros if nn is tj.nn else torch.zeros
    layer = nn.MultiheadAttention(8, 2)
    x = zeros(5, 3, 8)
    for call in (
        lambda: layer(zeros(5, 3, 7), x, x),
        lambda: layer(zeros(8), x, x),
        lambda: layer(x, zeros(5, 8), x),
        lambda: layer(x, zeros(6, 3, 8), x),
    ):
        with pytest.raises(AssertionError):
            call()
    with pytest.raises(RuntimeError):
        layer(x, x, x, attn_mask=zeros(4, 5))
    with pytest.raises(RuntimeError):
        layer(x, x, x, is_causal=True, need_weights=False)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(norm_first: bool, activation: str) -> None:
    options = {"dropout": 0.0, "norm_first": norm_first, "activation": activation, "batch_first": True}
    mine, theirs = pair("TransformerEncoderLayer", 8, 2, 16, **options)
    assert repr(mine) == text(theirs)
    check(mine, theirs, leaf(2, 5, 8), rtol=1e-4, atol=1e-5)
    mine.zero_grad()
    theirs.zero_grad()
    check(mine, theirs, leaf(2, 5, 8), src_mask=causal(5), is_causal=True, rtol=1e-4, atol=1e-5)


def test_encoder() -> None:
    mine = tj.nn.TransformerEncoder(tj.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2, norm=tj.nn.LayerNorm(8))
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0),
        2,
        norm=torch.nn.LayerNorm(8),
        enable_nested_tensor=False,
    )
    load(mine, theirs)
    assert repr(mine) == text(theirs)
    check(mine, theirs, leaf(5, 2, 8), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="relu/gelu"):
        tj.nn.TransformerEncoderLayer(8, 2, activation="tanh")


NEAR = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_decoder_layer(norm_first: bool, activation: str) -> None:
    options = {"dropout": 0.0, "norm_first": norm_first, "activation": activation, "batch_first": True}
    mine, theirs = pair("TransformerDecoderLayer", 8, 2, 16, **options)
    assert repr(mine) == text(theirs)
    padding = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
    for masks in (
        {},
        {"tgt_mask": causal(5), "tgt_is_causal": True},
        {"memory_mask": torch.randn(5, 7), "memory_key_padding_mask": padding.float().masked_fill(padding, -1e9)},
        {"tgt_mask": causal(5), "tgt_key_padding_mask": padding[:, 2:], "memory_key_padding_mask": padding},
    ):
        mine.zero_grad()
        theirs.zero_grad()
        check(mine, theirs, leaf(2, 5, 8), leaf(2, 7, 8), **masks, **NEAR)


def test_decoder() -> None:
    mine, theirs = (
        nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0), 2, norm=nn.LayerNorm(8))
        for nn in (tj.nn, torch.nn)
    )
    load(mine, theirs)
    assert repr(mine) == text(theirs)
    check(mine, theirs, leaf(5, 2, 8), leaf(7, 2, 8), tgt_mask=causal(5), **NEAR)
    assert mine.layers[0] is not mine.layers[1]
    with pytest.raises(RuntimeError, match="relu/gelu"):
        tj.nn.TransformerDecoderLayer(8, 2, activation="tanh")


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer(batch_first: bool) -> None:
    mine, theirs = pair("Transformer", 8, 2, 2, 1, 16, dropout=0.0, bias=not batch_first, batch_first=batch_first)
    assert repr(mine) == text(theirs)
    source, target = (leaf(2, 7, 8), leaf(2, 5, 8)) if batch_first else (leaf(7, 2, 8), leaf(5, 2, 8))
    check(mine, theirs, source, target, **NEAR)
    mine.zero_grad()
    theirs.zero_grad()
    later = torch.nn.Transformer.generate_square_subsequent_mask(5)
    assert tj.nn.Transformer.generate_square_subsequent_mask(5).tolist() == later.tolist()
    padding = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
    masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding, "tgt_mask": causal(5)}
    check(mine, theirs, source.detach().requires_grad_(), target.detach().requires_grad_(), **masks, **NEAR)


def test_transformer_of_ones_own_parts() -> None:
    class Sum(tj.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return args[0] + args[1].mean(0) if len(args) == 2 else args[0] * 2

    net = tj.nn.Transformer(8, 2, custom_encoder=Sum(), custom_decoder=Sum())
    out = net(tj.ones(3, 2, 8), tj.ones(4, 2, 8))
    assert out.shape == (4, 2, 8)
    assert out.unique().tolist() == [3.0]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("nn", [tj.nn, torch.nn], ids=["tracejit", "torch"])
def test_wrong_inputs_of_transformers(nn: Any) -> None:
    zeros = tj.zeros if nn is tj.nn else torch.zeros
    for batch_first, shapes in (
        (False, [(7, 2, 8), (5, 3, 8)]),
        (True, [(2, 7, 8), (3, 5, 8)]),
        (True, [(2, 7, 8), (2, 5, 4)]),
        (False, [(7, 2, 4), (5, 2, 8)]),
    ):
        net = nn.Transformer(8, 2, 1, 1, 16, batch_first=batch_first)
        with pytest.raises(RuntimeError, match="must be equal"):
            net(*(zeros(*s) for s in shapes))
