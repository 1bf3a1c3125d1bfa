"""The demo's models: a perceptron, a small convolutional network and a small transformer over image patches."""

from __future__ import annotations

from collections.abc import Callable

import tracejit as tj
from tracejit import nn
from tracejit.nn import functional as F

CLASSES = 10
SIDE = 8


class Mlp(nn.Module):
    """A perceptron 64-128-128-10 with dropout after each hidden layer.

    Shape: (N, 64) to (N, 10).
    """

    def __init__(self, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.fc1 = nn.Linear(SIDE * SIDE, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits of each image."""
        x = self.dropout(F.relu(self.fc1(x)))
        x = self.dropout(F.relu(self.fc2(x)))
        return self.fc3(x)


class Cnn(nn.Module):
    """Two 3x3 convolutions with 16 and 32 channels, each followed by 2x2 max pooling, then two linear layers.

    Shape: (N, 64) to (N, 10).
    """

    def __init__(self, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * (SIDE // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits of each image."""
        x = x.reshape(-1, 1, SIDE, SIDE)
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = self.dropout(F.relu(self.fc1(x.flatten(1))))
        return self.fc2(x)


class Block(nn.Module):
    """One transformer layer: self-attention and a GELU perceptron, each after a layer norm, with residual sums.

    Shape: (N, T, width) to the same.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The layer's output for each token."""
        h = self.norm1(x)
        attended, _ = self.attention(h, h, h, need_weights=False)
        x = x + self.dropout(attended)
        h = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + self.dropout(h)


class Transformer(nn.Module):
    """A transformer over the sixteen 2x2 patches of an image, with learned positions and mean pooling.

    Shape: (N, 64) to (N, 10).
    """

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * tj.randn(SIDE * SIDE // 4, width))
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: tj.Tensor) -> tj.Tensor:
        """The logits of each image."""
        half = SIDE // 2
        patches = x.reshape(-1, half, 2, half, 2).permute(0, 1, 3, 2, 4).reshape(-1, half * half, 4)
        x = self.dropout(self.embed(patches) + self.position)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": Mlp, "cnn": Cnn, "transformer": Transformer}
"""What the demo trains, by the name that `--models` takes."""
