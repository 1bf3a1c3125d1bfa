"""Threads whose stack is small: what a kernel keeps while it runs lies elsewhere."""

from __future__ import annotations

import threading

import pytest

import tracejit as tj
from tracejit import nn
from tracejit.nn import functional as F

STACK_BYTES = 128 << 10


class _Everything(nn.Module):
    """Operations whose kernels keep much while they run: blocks of products, windows, weights, rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.recurrent = nn.LSTM(64, 32, batch_first=True)
        self.linear = nn.Linear(600, 512)

    def forward(self, images: tj.Tensor, wide: tj.Tensor) -> tj.Tensor:
        y = F.max_pool2d(F.gelu(self.norm(self.conv(images))), 2).flatten(2)
        z = self.recurrent(self.attention(y[..., :64], y[..., 64:128], y[..., 128:192])[0])[0]
        rows = F.softmax(self.linear(wide).double().repeat(1, 10), -1)
        return z.sum() + (rows * rows.log()).sum().float() + (wide.T @ wide).square().mean()


def _run(first: int) -> list[float]:
    """Losses of eager and compiled training steps."""
    tj.manual_seed(first)
    model = _Everything()
    optimizer = tj.optim.Adam(model.parameters())

    def step(images: tj.Tensor, wide: tj.Tensor) -> tj.Tensor:
        optimizer.zero_grad()
        loss: tj.Tensor = model(images, wide)
        loss.backward()
        optimizer.step()
        return loss

    images, wide = tj.randn(4, 3, 32, 32), tj.randn(400, 600)
    compiled = tj.compile(step)
    losses = [f(images, wide).item() for f in (step, *[compiled] * 4)]
    with tj.autocast("cpu", dtype=tj.bfloat16):
        losses.append((wide @ wide.T).sum().item())
    return losses


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_with_a_small_stack_computes_the_same(threads: int) -> None:
    before = tj.get_num_threads(), threading.stack_size()
    tj.set_num_threads(threads)
    try:
        expected, got = _run(1), []
        threading.stack_size(STACK_BYTES)
        thread = threading.Thread(target=lambda: got.extend(_run(1)))
        thread.start()
        thread.join()
    finally:
        tj.set_num_threads(before[0])
        threading.stack_size(before[1])
    assert got == expected
