"""Layers beside PyTorch's: the same weights and inputs, the same results, gradients and text."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.nn.parity import check, close, ours, pair


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    tj.manual_seed(0)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Linear", (3, 4), {}, (5, 3)),
    ("Linear", (3, 4), {"bias": False}, (2, 5, 3)),
    ("Linear", (3, 4), {}, (3,)),
    ("Identity", (), {}, (2, 3)),
    ("Conv2d", (3, 4, 3), {}, (2, 3, 6, 7)),
    ("Conv2d", (3, 4, 3), {}, (3, 6, 7)),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "groups": 2, "bias": False}, (2, 4, 6, 7)),
    ("Conv2d", (4, 4, 3), {"dilation": 2, "padding": 2, "groups": 4}, (2, 4, 7, 7)),
    ("Conv2d", (2, 3, 3), {"padding": "same"}, (2, 2, 5, 6)),
    ("Conv2d", (2, 3, (2, 4)), {"padding": "same", "dilation": (1, 3)}, (2, 2, 9, 10)),
    ("Conv2d", (2, 3, 3), {"padding": "valid"}, (2, 2, 5, 6)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
    ("Conv1d", (2, 3, 3), {"padding": "same", "bias": False}, (2, 7)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "bias": False}, (2, 4, 4, 5)),
    ("ConvTranspose2d", (2, 3, 3), {"stride": 2, "output_padding": 1, "dilation": 2}, (2, 4, 5)),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 9)),
    ("AvgPool1d", (3,), {"padding": 1, "count_include_pad": False}, (2, 3, 9)),
    ("AdaptiveAvgPool1d", (4,), {}, (2, 3, 9)),
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, (6, 4, 3)),
    ("BatchNorm1d", (4,), {"affine": False, "track_running_stats": False}, (6, 4)),
    ("BatchNorm2d", (4,), {"eps": 1e-3, "momentum": 0.3}, (3, 4, 2, 5)),
    ("InstanceNorm1d", (4,), {}, (2, 4, 5)),
    ("InstanceNorm1d", (4,), {"affine": True}, (4, 5)),
    ("InstanceNorm2d", (4,), {"affine": True, "track_running_stats": True}, (3, 4, 2, 5)),
    ("InstanceNorm2d", (4,), {"track_running_stats": True, "momentum": None}, (3, 4, 2, 5)),
    ("InstanceNorm3d", (4,), {"eps": 1e-3, "affine": True, "bias": False}, (2, 4, 2, 3, 2)),
    ("LocalResponseNorm", (3,), {"alpha": 0.2}, (2, 4, 3)),
    ("LocalResponseNorm", (2, 0.1, 0.5, 2.0), {}, (2, 4, 3, 2)),
    ("LayerNorm", (6,), {}, (3, 4, 6)),
    ("LayerNorm", ((4, 6),), {"eps": 1e-3, "bias": False}, (3, 4, 6)),
    ("LayerNorm", ((6,),), {"elementwise_affine": False}, (3, 6)),
    ("GroupNorm", (2, 6), {}, (3, 6, 4, 2)),
    ("GroupNorm", (3, 6), {"affine": False}, (3, 6, 5)),
    ("RMSNorm", (6,), {}, (3, 6)),
    ("RMSNorm", ((2, 6),), {"eps": 1e-2, "elementwise_affine": False}, (3, 2, 6)),
    ("ReLU", (), {}, (3, 4)),
    ("ReLU6", (), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Mish", (), {}, (3, 4)),
    ("SELU", (), {}, (3, 4)),
    ("ELU", (0.7,), {}, (3, 4)),
    ("CELU", (0.7,), {}, (3, 4)),
    ("LeakyReLU", (), {}, (3, 4)),
    ("LeakyReLU", (0.3,), {}, (3, 4)),
    ("PReLU", (4,), {}, (3, 4, 2)),
    ("PReLU", (), {}, (3, 4)),
    ("Softplus", (), {}, (3, 4)),
    ("Softplus", (2.0, 1.5), {}, (3, 4)),
    ("Softsign", (), {}, (3, 4)),
    ("Tanhshrink", (), {}, (3, 4)),
    ("LogSigmoid", (), {}, (3, 4)),
    ("Hardtanh", (-0.5, 0.8), {}, (3, 4)),
    ("Hardsigmoid", (), {}, (3, 4)),
    ("Hardswish", (), {}, (3, 4)),
    ("Threshold", (0.1, 20.0), {}, (3, 4)),
    ("GLU", (), {}, (3, 4)),
    ("Softmax", (-1,), {}, (3, 4)),
    ("Softmin", (0,), {}, (3, 4)),
    ("LogSoftmax", (1,), {}, (3, 4)),
    ("Softmax2d", (), {}, (2, 3, 4, 2)),
    ("Softmax2d", (), {}, (3, 4, 2)),
    ("Hardshrink", (), {}, (3, 4)),
    ("Softshrink", (0.3,), {}, (3, 4)),
    ("PixelShuffle", (2,), {}, (2, 8, 3, 2)),
    ("PixelUnshuffle", (2,), {}, (2, 2, 4, 6)),
    ("ChannelShuffle", (2,), {}, (2, 6, 3)),
    ("MaxPool2d", (2,), {}, (2, 3, 6, 7)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, (2, 3, 7, 7)),
    ("MaxPool2d", (2,), {"return_indices": True, "ceil_mode": True}, (2, 3, 6, 7)),
    ("AvgPool2d", (2,), {}, (2, 3, 6, 7)),
    ("AvgPool2d", ((3, 2),), {"stride": 2, "padding": 1}, (2, 3, 7, 7)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, (2, 3, 7, 7)),
    ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 6, 7)),
    ("AdaptiveAvgPool2d", ((3, None),), {}, (2, 3, 6, 7)),
    ("AdaptiveAvgPool2d", ((4, 5),), {}, (2, 3, 6, 7)),
    ("AdaptiveAvgPool2d", ((4, 9),), {}, (3, 6, 7)),
    ("Unfold", (2,), {}, (2, 3, 6, 7)),
    ("Unfold", ((3, 2),), {"padding": 1, "stride": (2, 1), "dilation": 2}, (2, 3, 6, 7)),
    ("Fold", ((6, 7), 2), {}, (2, 12, 30)),
    ("Fold", (6, (3, 2)), {"padding": 1, "stride": 2}, (2, 18, 12)),
    ("ReflectionPad1d", (2,), {}, (2, 3, 4)),
    ("ReflectionPad2d", ((1, 2, 0, 1),), {}, (2, 3, 4, 5)),
    ("ReplicationPad1d", ((3, 0),), {}, (3, 4)),
    ("ReplicationPad2d", (1,), {}, (3, 4, 5)),
    ("CircularPad1d", (2,), {}, (2, 3, 4)),
    ("CircularPad2d", ((1, 2, 0, 1),), {}, (2, 3, 4, 5)),
    ("ConstantPad1d", (2, 0.5), {}, (2, 3, 4)),
    ("ConstantPad2d", ((1, 2, 0, -1), -1.5), {}, (2, 3, 4, 5)),
    ("ZeroPad1d", (2,), {}, (2, 3, 4)),
    ("ZeroPad2d", ((1, 2, 0, 1),), {}, (2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", ((3, 7),), {"mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": (2, 1.5), "mode": "bicubic"}, (2, 3, 4, 5)),
    ("UpsamplingNearest2d", (), {"scale_factor": 2}, (2, 3, 4, 5)),
    ("UpsamplingBilinear2d", (7,), {}, (2, 3, 4, 5)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("Unflatten", (1, (3, 4)), {}, (2, 12)),
    ("Dropout", (0.0,), {}, (3, 4)),
    ("Dropout3d", (0.0,), {}, (2, 3, 4, 2, 2)),
    ("AlphaDropout", (0.0,), {}, (3, 4)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS)
def test_layer(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    mine, theirs = pair(name, *args, **kwargs)
    assert repr(mine) == repr(theirs)
    check(mine, theirs, leaf(*shape), rtol=2e-5, atol=3e-6)
    # Once more: batch norms now have statistics; then as they are used after training.
    mine.zero_grad()
    theirs.zero_grad()
    check(mine, theirs, leaf(*shape), rtol=2e-5, atol=3e-6)
    mine.eval().zero_grad()
    theirs.eval().zero_grad()
    check(mine, theirs, leaf(*shape), rtol=2e-5, atol=3e-6)


INPLACE = ["ReLU", "ReLU6", "SiLU", "Mish", "SELU", "ELU", "CELU", "LeakyReLU", "Hardtanh", "Hardswish", "Hardsigmoid"]


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_activations(name: str) -> None:
    mine, theirs = getattr(tj.nn, name)(inplace=True), getattr(torch.nn, name)(inplace=True)
    assert repr(mine) == repr(theirs)
    x = leaf(3, 4)
    y = ours(x)
    a, b = y * 1.0, x * 1.0
    assert mine(a) is a
    theirs(b)
    close(a, b)
    (a * a).sum().backward()
    (b * b).sum().backward()
    close(y.grad, x.grad)


@pytest.mark.parametrize("name", ["ReLU6", "ELU", "CELU", "SELU", "Softplus", "Mish", "LogSigmoid", "Hardtanh", "SiLU"])
def test_activations_at_extremes(name: str) -> None:
    x = torch.tensor([-200.0, -90.0, -1.0, -0.0, 0.0, 1.0, 6.0, 30.0, 90.0, 200.0], requires_grad=True)
    check(getattr(tj.nn, name)(), getattr(torch.nn, name)(), x)


def test_dropout() -> None:
    layer = tj.nn.Dropout(0.25)
    out = layer(tj.ones(100, 100)).numpy()
    kept = out != 0
    np.testing.assert_allclose(out[kept], 1 / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.02
    x = tj.ones(3)
    assert layer.eval()(x) is x
    assert tj.nn.Dropout(1.0)(x).tolist() == [0.0, 0.0, 0.0]
    tj.manual_seed(3)
    a = tj.nn.Dropout(0.5)(tj.ones(50)).tolist()
    tj.manual_seed(3)
    assert tj.nn.Dropout(0.5)(tj.ones(50)).tolist() == a
    with pytest.raises(ValueError, match="between 0 and 1"):
        tj.nn.Dropout(1.5)


def test_layers_of_two_inputs() -> None:
    mine, theirs = pair("Bilinear", 3, 4, 2)
    assert repr(mine) == repr(theirs)
    check(mine, theirs, leaf(5, 3), leaf(5, 4))
    mine, theirs = pair("CosineSimilarity")
    assert repr(mine) == repr(theirs)
    check(mine, theirs, leaf(5, 3), leaf(5, 3))
    mine, theirs = pair("PairwiseDistance", 1.0, keepdim=True)
    assert repr(mine) == repr(theirs)
    check(mine, theirs, leaf(5, 3), leaf(5, 3))
    with pytest.raises(ValueError):
        tj.nn.Bilinear(0, 1, 1)


def test_transposed_convolution_to_a_size() -> None:
    mine, theirs = pair("ConvTranspose2d", 2, 3, 3, stride=2)
    x = leaf(1, 2, 4, 4)
    check(partial(mine, output_size=(10, 9)), partial(theirs, output_size=(10, 9)), x)
    for layer, value in ((mine, ours(x)), (theirs, x)):
        with pytest.raises(ValueError, match="requested an output size"):
            layer(value, output_size=(12, 9))


def test_dropout_of_channels() -> None:
    for rank, layer in enumerate((tj.nn.Dropout1d(0.5), tj.nn.Dropout2d(0.5), tj.nn.Dropout3d(0.5))):
        shape = (8, 50, 3, 2, 2)[: rank + 3]
        out = layer(tj.ones(*shape)).numpy().reshape(400, -1)
        assert set(out.ravel().tolist()) == {0.0, 2.0}
        assert (out == out[:, :1]).all()
        assert 100 < (out[:, 0] != 0).sum() < 300


def test_instance_norm_of_other_channels_warns() -> None:
    for lib in (tj, torch):
        with pytest.warns(UserWarning, match="does not match num_features"):
            lib.nn.InstanceNorm1d(3)(lib.ones(2, 4, 5))


def test_alpha_dropout() -> None:
    x = tj.ones(50)
    layer = tj.nn.AlphaDropout(0.5)
    assert len(set(layer(x).tolist())) == 2
    assert layer.eval()(x) is x
    assert repr(layer) == repr(torch.nn.AlphaDropout(0.5))
    y = tj.nn.functional.alpha_dropout(x, 0.5, True, inplace=True)
    assert y is x
    assert len(set(x.tolist())) == 2


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx: int | None) -> None:
    mine, theirs = pair("Embedding", 5, 3, padding_idx=padding_idx)
    assert repr(mine) == repr(theirs)
    check(mine, theirs, torch.tensor([[1, 2, 2], [4, 0, 1]]))
    fresh = tj.nn.Embedding(5, 3, padding_idx=2)
    assert fresh.weight[2].tolist() == [0.0, 0.0, 0.0]
    frozen = tj.nn.Embedding.from_pretrained(tj.ones(4, 2))
    assert not frozen.weight.requires_grad
    for option in ({"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}):
        with pytest.raises(NotImplementedError, match=next(iter(option))):
            tj.nn.Embedding(5, 3, **option)
    with pytest.raises(AssertionError):
        tj.nn.Embedding(5, 3, padding_idx=5)


@pytest.mark.parametrize("nn", [tj.nn, torch.nn], ids=["tracejit", "torch"])
def test_wrong_options_and_inputs(nn: Any) -> None:
    zeros = tj.zeros if nn is tj.nn else torch.zeros
    for make in (
        lambda: nn.Conv2d(3, 4, 3, groups=2),
        lambda: nn.Conv2d(4, 3, 3, groups=2),
        lambda: nn.Conv2d(4, 4, 3, groups=0),
        lambda: nn.Conv2d(4, 4, 3, padding="full"),
        lambda: nn.Conv2d(4, 4, 3, padding="same", stride=2),
        lambda: nn.Conv2d(4, 4, 3, padding_mode="mirror"),
        lambda: nn.GroupNorm(4, 6),
        lambda: nn.BatchNorm1d(3)(zeros(3)),
        lambda: nn.BatchNorm2d(3)(zeros(2, 3, 4)),
        lambda: nn.InstanceNorm1d(3)(zeros(3)),
        lambda: nn.InstanceNorm2d(3)(zeros(2, 3, 1, 1)),
        lambda: nn.InstanceNorm2d(3, affine=True)(zeros(2, 4, 2, 2)),
        lambda: nn.LocalResponseNorm(2)(zeros(2, 3)),
        lambda: nn.Softmax2d()(zeros(2, 3)),
        lambda: nn.MultiheadAttention(0, 1),
    ):
        with pytest.raises(ValueError):
            make()
    for make in (
        lambda: nn.Linear(3, 4)(zeros(2, 5)),
        lambda: nn.Conv2d(3, 4, 3)(zeros(2, 2, 6, 6)),
        lambda: nn.LayerNorm(4)(zeros(2, 3)),
        lambda: nn.RMSNorm(4)(zeros(2, 3)),
        lambda: nn.GroupNorm(2, 4)(zeros(2, 3)),
        lambda: nn.AdaptiveAvgPool2d(2)(zeros(3)),
        lambda: nn.GLU()(zeros(3)),
        lambda: nn.PReLU(3)(zeros(2, 4)),
    ):
        with pytest.raises(RuntimeError):
            make()
    for make in (
        lambda: nn.MultiheadAttention(6, 4),
        lambda: nn.Hardtanh(1.0, -1.0),
    ):
        with pytest.raises(AssertionError):
            make()
    with pytest.raises(TypeError):
        nn.Unflatten("name", 3)
    with pytest.raises(TypeError):
        nn.Unflatten(1, (2.0, 3))


def test_options_that_are_not_supported() -> None:
    for make in (
        lambda: tj.nn.Conv2d(3, 4, 3, padding_mode="circular"),
        lambda: tj.nn.MultiheadAttention(4, 2, add_bias_kv=True),
        lambda: tj.nn.LSTM(3, 4, proj_size=2),
    ):
        with pytest.raises(NotImplementedError):
            make()


def test_softmax_without_dim_warns() -> None:
    for nn, x in ((tj.nn, tj.ones(2, 3)), (torch.nn, torch.ones(2, 3))):
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            out = nn.Softmax()(x)
        assert out.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_normalize() -> None:
    check(tj.nn.functional.normalize, torch.nn.functional.normalize, leaf(3, 4))
    check(
        partial(tj.nn.functional.normalize, p=1.0, dim=0),
        partial(torch.nn.functional.normalize, p=1.0, dim=0),
        leaf(3, 4),
    )
    zero = tj.zeros(2, 3, requires_grad=True)
    tj.nn.functional.normalize(zero).sum().backward()
    assert np.isfinite(zero.grad.numpy()).all()


def test_training_lowers_the_loss() -> None:
    net = tj.nn.Sequential(tj.nn.Linear(2, 16), tj.nn.Tanh(), tj.nn.Linear(16, 1))
    x = tj.rand(64, 2)
    y = (x[:, :1] * x[:, 1:]) * 2
    optimizer = tj.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = tj.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
