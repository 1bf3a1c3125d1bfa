"""Peers' figures for later targets: whole training steps with Adam in PyTorch, eager and compiled with CUDA graphs."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.gpu.session import Session

DEVICE = "cuda"


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        batch, length, width = x.shape
        parts = self.qkv(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Gpt(nn.Module):
    """Four blocks of width 128 over a vocabulary of 65."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(65, 128), nn.Embedding(64, 128)
        self.blocks = nn.Sequential(*(Block(128, 4) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 65)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the next token at every place."""
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x))).flatten(0, 1)


def _models() -> dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor, bool]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip

    def labels(count: int, classes: int) -> torch.Tensor:
        return torch.randint(classes, (count,), device=DEVICE)

    tokens = torch.randint(65, (12, 64), device=DEVICE)
    return {
        "MLP b128": (mlp.to(DEVICE), torch.randn(128, 784, device=DEVICE), labels(128, 10), False),
        "CNN b64": (cnn.to(DEVICE), torch.randn(64, 1, 28, 28, device=DEVICE), labels(64, 10), False),
        "GPT TF32": (Gpt().to(DEVICE), tokens, labels(12 * 64, 65), False),
        "GPT bf16": (Gpt().to(DEVICE), tokens, labels(12 * 64, 65), True),
    }


def _loss_of(model: nn.Module, narrow: bool) -> Callable[[Any, Any], Any]:
    def loss_of(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        context: Any = torch.autocast(DEVICE, torch.bfloat16) if narrow else contextlib.nullcontext()
        with context:
            return F.cross_entropy(model(x), target)

    return loss_of


def step_us(step: Callable[[], Any], count: int = 50, rounds: int = 7) -> float:
    """Median microseconds of a step, many in a row, until the device is done."""
    for _ in range(5):
        step()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / count * 1e6)
    return statistics.median(times)


def _kernels(step: Callable[[], Any]) -> dict[str, float]:
    """Kernels of a step and the time in which the device works, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return {"kernels": len(events) / 10, "device us": sum(e.device_time for e in events) / 10}


def _allow_tf32() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def compile_all() -> None:
    """Compiles every model's step once, so that PyTorch's cache on disk has them."""
    _allow_tf32()
    for model, x, target, narrow in _models().values():
        torch.compile(_loss_of(model, narrow), mode="reduce-overhead")(x, target).backward()


def _whole(loss_of: Callable[..., Any], optimizer: Any, x: Any, target: Any) -> Callable[[], Any]:
    """The whole step captured by hand as one CUDA graph."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(x, target).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def run(session: Session) -> None:
    """Measures them."""
    _allow_tf32()
    for name, (model, x, target, narrow) in _models().items():
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        loss_of = _loss_of(model, narrow)
        for label, compiled in (("eager", False), ("torch.compile", True)):
            with session.part(f"{name}, {label} in one graph"):
                forward = torch.compile(loss_of) if compiled else loss_of
                captured = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
                replay = _whole(forward, captured, x, target)
                session.note(f"{name}, {label}, the whole step in one graph", {"us": step_us(replay)})
        for way in ("eager", "reduce-overhead"):
            with session.part(f"{name}, {way}"):
                forward = loss_of if way == "eager" else torch.compile(loss_of, mode="reduce-overhead")

                def step(forward: Any = forward, optimizer: Any = optimizer, x: Any = x, target: Any = target) -> None:
                    optimizer.zero_grad()
                    forward(x, target).backward()
                    optimizer.step()

                for _ in range(4):
                    step()
                found = {"us": step_us(step)}
                session.note(f"{name}, {way}", found)
                session.note(f"{name}, {way}, profiled", _kernels(step))
