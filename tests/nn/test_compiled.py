"""Training steps of library modules and optimizers: compiled, they leave the bits that eager steps leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj


class Recurrent(tj.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(tj.nn, kind)(6, 5, batch_first=True)
        self.out = tj.nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(x)[0][:, -1])


class Transformer(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = tj.nn.Linear(6, 8)
        self.layer = tj.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.out = tj.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(self.enter(x)).mean(1))


class Translation(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = tj.nn.Linear(6, 8)
        self.net = tj.nn.Transformer(8, 2, 1, 2, 16, dropout=0.2, batch_first=True)
        self.out = tj.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.enter(x)
        mask = tj.nn.Transformer.generate_square_subsequent_mask(3)
        return self.out(self.net(x, x[:, :3], tgt_mask=mask, tgt_is_causal=True).mean(1))


class Words(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = tj.nn.Embedding(7, 8, padding_idx=0)
        self.norm = tj.nn.RMSNorm(8)
        self.out = tj.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.table(x)).sum(1))


def dense() -> tj.nn.Module:
    return tj.nn.Sequential(
        tj.nn.Linear(6, 8), tj.nn.LayerNorm(8), tj.nn.GELU(), tj.nn.Dropout(0.2), tj.nn.Linear(8, 3)
    )


def images() -> tj.nn.Module:
    return tj.nn.Sequential(
        tj.nn.Conv2d(1, 4, 3, padding="same"),
        tj.nn.BatchNorm2d(4),
        tj.nn.ReLU(),
        tj.nn.AvgPool2d(2),
        tj.nn.Flatten(),
        tj.nn.Linear(64, 3),
    )


def rare_layers() -> tj.nn.Module:
    return tj.nn.Sequential(
        tj.nn.Conv2d(1, 4, 3, padding="same"),
        tj.nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        tj.nn.Softshrink(0.1),
        tj.nn.PixelShuffle(2),
        tj.nn.PixelUnshuffle(4),
        tj.nn.ChannelShuffle(4),
        tj.nn.LocalResponseNorm(3),
        tj.nn.Dropout3d(0.2),
        tj.nn.Flatten(),
        tj.nn.AlphaDropout(0.2),
        tj.nn.Linear(256, 3),
    )


def pooled_images() -> tj.nn.Module:
    return tj.nn.Sequential(
        tj.nn.Conv2d(1, 4, 3, padding="same"),
        tj.nn.BatchNorm2d(4),
        tj.nn.ReLU(inplace=True),
        tj.nn.MaxPool2d(2),
        tj.nn.Flatten(),
        tj.nn.Linear(64, 3),
    )


CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...], str, dict[str, Any]]] = {
    "RNN": (lambda: Recurrent("RNN"), (4, 5, 6), "SGD", {"lr": 0.05, "momentum": 0.9}),
    "GRU": (lambda: Recurrent("GRU"), (4, 5, 6), "AdamW", {}),
    "LSTM": (lambda: Recurrent("LSTM"), (4, 5, 6), "Adam", {"amsgrad": True}),
    "transformer": (Transformer, (4, 5, 6), "RMSprop", {"centered": True, "momentum": 0.5}),
    "encoder and decoder": (Translation, (4, 5, 6), "NAdam", {}),
    "rare layers": (rare_layers, (4, 1, 8, 8), "Adamax", {}),
    "embedding": (Words, (), "Adagrad", {}),
    "dense": (dense, (4, 6), "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "images": (images, (4, 1, 8, 8), "Adam", {"weight_decay": 0.01}),
    "pooled images": (pooled_images, (4, 1, 8, 8), "SGD", {"lr": 0.05}),
}


def train(name: str, compiled: bool) -> tuple[list[float], list[Any], Any]:
    make, shape, kind, options = CASES[name]
    tj.manual_seed(0)
    net = make()
    optimizer = getattr(tj.optim, kind)(net.parameters(), **options)
    schedule = tj.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    batches = [tj.randn(*shape) if shape else tj.randint(0, 7, (4, 5)) for _ in range(3)]
    target = tj.tensor([0, 1, 2, 1])

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = tj.nn.functional.cross_entropy(net(x), target, label_smoothing=0.1)
        loss.backward()
        tj.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        return loss

    run = tj.compile(step) if compiled else step
    tj.manual_seed(1)
    losses = [run(batches[i % 3]).item() for i in range(7)]
    state = [value for part in optimizer.state.values() for value in part.values()]
    return losses, [*net.state_dict().values(), *state], run


@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_eager(name: str) -> None:
    losses, state, _ = train(name, compiled=False)
    compiled_losses, compiled_state, run = train(name, compiled=True)
    assert compiled_losses == losses
    for a, b in zip(compiled_state, state, strict=True):
        if isinstance(a, tj.Tensor):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        else:
            assert a == b
    assert "1 program(s)" in str(tj.explain(run))
