"""The benchmark's models in PyTorch's way of writing; the framework is an argument where a program has an import."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmarks.workloads import DEEP

CLASSES = 10
VOCABULARY = 65
LSTM_WIDTH = 128


def define(torch: Any) -> dict[str, Callable[[Any], Any]]:
    """The models by the names of their workloads, each made with a dropout probability ("mlp" with its sizes).

    `torch` is PyTorch or tracejit, of which nothing else is used but their `nn` and their functions.
    """
    nn = torch.nn
    F = nn.functional

    class Mlp(nn.Module):
        """Linear layers with ReLU between them."""

        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])

        def forward(self, x: Any) -> Any:
            last = len(self.layers) - 1
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if i < last:
                    x = F.relu(x)
            return x

    class Cnn(nn.Module):
        """Two 3x3 convolutions with 16 and 32 channels, each with ReLU and 2x2 max pooling, then two linear layers."""

        def __init__(self, side: int, hidden: int, dropout: float) -> None:
            super().__init__()
            self.side = side
            self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
            self.fc1 = nn.Linear(32 * (side // 4) ** 2, hidden)
            self.fc2 = nn.Linear(hidden, CLASSES)
            self.dropout = dropout

        def forward(self, x: Any) -> Any:
            x = x.reshape(-1, 1, self.side, self.side)
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.max_pool2d(F.relu(self.conv2(x)), 2)
            x = F.relu(self.fc1(x.flatten(1)))
            return self.fc2(F.dropout(x, self.dropout) if self.dropout else x)

    class ResidualBlock(nn.Module):
        """Two 3x3 convolutions with batch norm beside a shortcut."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential()
            if stride != 1:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            h = F.relu(self.norm1(self.conv1(x)))
            return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))

    class ResNet(nn.Module):
        """A convolution with batch norm, a block of 32 channels, and one of 64 at half the resolution."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
            self.norm = nn.BatchNorm2d(32)
            self.block1 = ResidualBlock(32, 32, 1)
            self.block2 = ResidualBlock(32, 64, 2)
            self.head = nn.Linear(64, CLASSES)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.norm(self.conv(x)))
            x = self.block2(self.block1(x))
            return self.head(x.mean((2, 3)))

    class Lstm(nn.Module):
        """An LSTM whose steps are a Python loop, and a linear layer on the last hidden state."""

        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(LSTM_WIDTH, 4 * LSTM_WIDTH)
            self.hidden = nn.Linear(LSTM_WIDTH, 4 * LSTM_WIDTH)
            self.head = nn.Linear(LSTM_WIDTH, CLASSES)

        def forward(self, x: Any) -> Any:
            h = torch.zeros(x.shape[0], LSTM_WIDTH, device=x.device)
            c = torch.zeros(x.shape[0], LSTM_WIDTH, device=x.device)
            for t in range(x.shape[1]):
                i, f, g, o = (self.inputs(x[:, t]) + self.hidden(h)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.head(h)

    class Block(nn.Module):
        """One transformer layer, norms first."""

        def __init__(self, width: int, heads: int, dropout: float) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width)
            self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
            self.norm2 = nn.LayerNorm(width)
            self.fc1 = nn.Linear(width, 4 * width)
            self.fc2 = nn.Linear(4 * width, width)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x: Any) -> Any:
            h = self.norm1(x)
            attended, _ = self.attention(h, h, h, need_weights=False)
            x = x + self.dropout(attended)
            return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))

    class Transformer(nn.Module):
        """The demo's transformer over sixteen 2x2 patches."""

        def __init__(self, dropout: float) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 64)
            self.position = nn.Parameter(torch.zeros(16, 64))
            self.blocks = nn.ModuleList([Block(64, 4, dropout) for _ in range(2)])
            self.norm = nn.LayerNorm(64)
            self.head = nn.Linear(64, CLASSES)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x: Any) -> Any:
            patches = x.reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)
            x = self.dropout(self.embed(patches) + self.position)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x).mean(1))

    class CausalBlock(nn.Module):
        """One GPT layer: causal self-attention and a perceptron with GELU, norms first."""

        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1 = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.fc1 = nn.Linear(width, 4 * width)
            self.fc2 = nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            n, t, width = x.shape
            parts = self.qkv(self.norm1(x)).split(width, 2)
            q, k, v = (part.view(n, t, self.heads, width // self.heads).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).contiguous().view(n, t, width))
            return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    class Gpt(nn.Module):
        """A GPT over characters, of which every position is predicted."""

        def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
            super().__init__()
            self.token = nn.Embedding(VOCABULARY, width)
            self.position = nn.Embedding(length, width)
            self.blocks = nn.ModuleList([CausalBlock(width, heads) for _ in range(layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            h = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
            for block in self.blocks:
                h = block(h)
            return self.head(self.norm(h)).flatten(0, 1)

    return {
        "mlp": lambda sizes: Mlp(*sizes),
        "mlp-tiny": lambda dropout: Mlp(4, 64, 64, 2),
        "mlp-small": lambda dropout: Mlp(64, 128, 128, 10),
        "mlp-wide": lambda dropout: Mlp(784, 512, 512, 10),
        **{name: lambda dropout, sizes=sizes: Mlp(*sizes) for name, sizes in DEEP.items()},
        "policy": lambda dropout: Mlp(4, 64, 64, 2),
        "cnn-demo": lambda dropout: Cnn(8, 64, dropout),
        "cnn-28": lambda dropout: Cnn(28, 128, 0.0),
        "resnet": lambda dropout: ResNet(),
        "lstm": lambda dropout: Lstm(),
        "transformer-demo": Transformer,
        "gpt": lambda dropout: Gpt(4, 128, 4, 64),
    }


def functions(torch: Any) -> dict[str, Callable[..., Any]]:
    """Single operations and chains by the names of their workloads."""
    F = torch.nn.functional
    root = math.sqrt(2 / math.pi)
    return {
        "chain-4m": lambda x, y: torch.exp(torch.tanh(x * y + 1) * torch.sigmoid(x) - y / 2),
        "gelu-4m": lambda x: 0.5 * x * (1 + torch.tanh(root * (x + 0.044715 * x * x * x))),
        "softmax": lambda x: torch.softmax(x, -1),
        "layer-norm": lambda x: F.layer_norm(x, (1000,)),
        "sum-squares": lambda x: (x * x).sum(),
        "column-sums": lambda x: x.sum(0),
        "axpy": lambda x, y: 1.5 * x + y,
        "symmetrize": lambda x: (x + x.T) / 2,
        "matmul-1024": lambda x, y: x @ y,
        "matmul-512-bias-relu": lambda x, y, b: F.relu(x @ y + b),
        "matmul-32": lambda x, y: x @ y,
    }
