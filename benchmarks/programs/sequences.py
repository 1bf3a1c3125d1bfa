"""Programs that read sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.programs.parts import Program, Step, normal, training, whole


def gru_classifier(torch: Any) -> tuple[Any, Step]:
    """A GRU in both directions over embedded tokens."""
    nn = torch.nn
    F = nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(500, 32)
            self.gru = nn.GRU(32, 64, batch_first=True, bidirectional=True)
            self.out = nn.Linear(128, 5)

        def forward(self, x: Any) -> Any:
            _, last = self.gru(self.embedding(x))
            return self.out(torch.cat([last[0], last[1]], 1))

    net = Net()
    x, y = torch.tensor(whole(0, 500, 32, 40)), torch.tensor(whole(1, 5, 32))
    return net, training(torch.optim.Adam(net.parameters()), lambda: F.cross_entropy(net(x), y))


def character_lstm(torch: Any) -> tuple[Any, Step]:
    """Two layers of an LSTM that predict the next character, by RMSprop with clipped gradients."""
    nn = torch.nn
    F = nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = nn.Embedding(65, 64), nn.Linear(128, 65)
            self.lstm = nn.LSTM(64, 128, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            found, _ = self.lstm(self.embedding(x))
            return self.out(found)

    net = Net()
    x, y = torch.tensor(whole(0, 65, 16, 48)), torch.tensor(whole(1, 65, 16, 48))
    return net, training(
        torch.optim.RMSprop(net.parameters(), lr=1e-3),
        lambda: F.cross_entropy(net(x).reshape(-1, 65), y.reshape(-1)),
        lambda: nn.utils.clip_grad_norm_(net.parameters(), 1.0),
    )


def translation(torch: Any) -> tuple[Any, Step]:
    """A GRU reads; a cell, which attends to what was read, writes token by token."""
    nn = torch.nn
    F = nn.functional
    net = nn.ModuleDict({
        "embedding": nn.Embedding(100, 32), "reader": nn.GRU(32, 64, batch_first=True),
        "writer": nn.GRUCell(96, 64), "out": nn.Linear(128, 100),
    })  # fmt: skip
    x, y = torch.tensor(whole(0, 100, 16, 20)), torch.tensor(whole(1, 100, 16, 15))

    def loss() -> Any:
        read, state = net["reader"](net["embedding"](x))
        state, given, found = state[0], net["embedding"](y), []
        for t in range(15):
            weights = (read @ state[:, :, None]).squeeze(2).softmax(1)
            context = (weights[:, :, None] * read).sum(1)
            state = net["writer"](torch.cat([given[:, t], context], 1), state)
            found.append(net["out"](torch.cat([state, context], 1)))
        return F.cross_entropy(torch.stack(found, 1).reshape(-1, 100), y.reshape(-1))

    return net, training(torch.optim.Adam(net.parameters()), loss)


def encoder(torch: Any) -> tuple[Any, Step]:
    """`nn.TransformerEncoder` over sentences of different lengths."""
    nn = torch.nn
    F = nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
            self.embedding, self.out = nn.Embedding(1000, 128), nn.Linear(128, 2)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Any, padding: Any) -> Any:
            return self.out(self.encoder(self.embedding(x), src_key_padding_mask=padding).mean(1))

    net = Net()
    x, y = torch.tensor(whole(0, 1000, 16, 64)), torch.tensor(whole(1, 2, 16))
    padding = torch.tensor(np.arange(64)[None] >= 32 + whole(2, 32, 16)[:, None])
    return net, training(torch.optim.Adam(net.parameters(), lr=1e-4), lambda: F.cross_entropy(net(x, padding), y))


WIDTH, HEADS, TOKENS = 128, 4, 64


def llama(torch: Any) -> tuple[Any, Step]:
    """RMS norm, rotated positions, gated SiLU and causal attention."""
    nn = torch.nn
    F = nn.functional
    size = WIDTH // HEADS
    angles = np.outer(np.arange(TOKENS), 10000 ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    cos, sin = torch.tensor(np.cos(angles)), torch.tensor(np.sin(angles))

    def rotated(x: Any) -> Any:
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = Norm(), Norm()
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
            self.gate, self.up = nn.Linear(WIDTH, 344, bias=False), nn.Linear(WIDTH, 344, bias=False)
            self.down = nn.Linear(344, WIDTH, bias=False)

        def forward(self, x: Any) -> Any:
            n, h = x.shape[0], self.norm1(x)
            q, k, v = (part(h).view(n, TOKENS, HEADS, size).transpose(1, 2) for part in (self.q, self.k, self.v))
            seen = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
            x = x + self.o(seen.transpose(1, 2).reshape(n, TOKENS, WIDTH))
            h = self.norm2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = nn.Embedding(256, WIDTH), nn.Linear(WIDTH, 256, bias=False)
            self.layers, self.norm = nn.ModuleList([Layer() for _ in range(2)]), Norm()

        def forward(self, x: Any) -> Any:
            x = self.embedding(x)
            for layer in self.layers:
                x = layer(x)
            return self.out(self.norm(x))

    net = Net()
    x, y = torch.tensor(whole(0, 256, 8, TOKENS)), torch.tensor(whole(1, 256, 8, TOKENS))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    return net, training(optimizer, lambda: F.cross_entropy(net(x).view(-1, 256), y.view(-1)))


def decoding(torch: Any) -> tuple[Any, Step]:
    """One token through two layers with keys and values of 128 tokens at hand, which it changes in place."""
    nn = torch.nn
    F = nn.functional
    size = WIDTH // HEADS
    net = nn.ModuleDict({
        "qkv": nn.Linear(WIDTH, 3 * WIDTH), "out": nn.Linear(WIDTH, WIDTH), "norm1": nn.LayerNorm(WIDTH),
        "up": nn.Linear(WIDTH, 4 * WIDTH), "down": nn.Linear(4 * WIDTH, WIDTH), "norm2": nn.LayerNorm(WIDTH),
    })  # fmt: skip
    keys, values = (torch.tensor(normal(seed, 1, HEADS, 128, size)) for seed in (0, 1))
    token = torch.tensor(normal(2, 1, 1, WIDTH))

    def step() -> Any:
        with torch.no_grad():
            x = token
            for _ in range(2):
                q, k, v = net["qkv"](net["norm1"](x)).view(1, 1, 3, HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)
                keys[:, :, 7:8] = k
                values[:, :, 7:8] = v
                seen = F.scaled_dot_product_attention(q, keys, values)
                x = x + net["out"](seen.transpose(1, 2).reshape(1, 1, WIDTH))
                x = x + net["down"](F.gelu(net["up"](net["norm2"](x))))
            return x.sum()

    return net, step


def labelling(torch: Any) -> tuple[Any, Step]:
    """The likelihood of sequences of labels under a conditional random field."""
    nn = torch.nn

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.moves = nn.Linear(32, 8), nn.Parameter(torch.zeros(8, 8))

        def forward(self, x: Any, y: Any) -> Any:
            scores = self.scores(x)
            total = scores[:, 0]
            for t in range(1, x.shape[1]):
                total = torch.logsumexp(total[:, :, None] + self.moves + scores[:, t][:, None], 1)
            of_labels = scores.gather(2, y[..., None]).squeeze(-1).sum(1) + self.moves[y[:, :-1], y[:, 1:]].sum(1)
            return (torch.logsumexp(total, 1) - of_labels).mean()

    net = Field()
    x, y = torch.tensor(normal(0, 16, 30, 32)), torch.tensor(whole(1, 8, 16, 30))
    return net, training(torch.optim.Adam(net.parameters()), lambda: net(x, y))


def temporal_convolutions(torch: Any) -> tuple[Any, Step]:
    """Causal convolutions of sequences, each layer twice as wide apart as the one before."""
    nn = torch.nn
    F = nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv1d(32 if k else 8, 32, 3, dilation=2**k) for k in range(4)])
            self.shortcut, self.out = nn.Conv1d(8, 32, 1), nn.Linear(32, 1)

        def forward(self, x: Any) -> Any:
            for k, conv in enumerate(self.convs):
                x = F.relu(conv(F.pad(x, (2 * 2**k, 0)))) + (x if k else self.shortcut(x))
            return self.out(x[:, :, -1])

    net = Net()
    x, y = torch.tensor(normal(0, 16, 8, 256)), torch.tensor(normal(1, 16, 1))
    return net, training(torch.optim.Adam(net.parameters()), lambda: F.mse_loss(net(x), y))


def word_vectors(torch: Any) -> tuple[Any, Step]:
    """Vectors of words by their neighbours and words drawn at random (skip-gram), by SGD."""
    nn = torch.nn
    F = nn.functional
    net = nn.ModuleList([nn.Embedding(5000, 64), nn.Embedding(5000, 64)])
    words, near = torch.tensor(whole(0, 5000, 256)), torch.tensor(whole(1, 5000, 256))
    far = torch.tensor(whole(2, 5000, 256, 5))

    def loss() -> Any:
        word, right, wrong = net[0](words), net[1](near), net[1](far)
        of_wrong = F.logsigmoid(-(wrong @ word.unsqueeze(2)).squeeze(2)).sum(1)
        return -(F.logsigmoid((word * right).sum(1)) + of_wrong).mean()

    return net, training(torch.optim.SGD(net.parameters(), lr=0.1), loss)


PROGRAMS: dict[str, Program] = {
    "GRU classifier": gru_classifier,
    "character LSTM": character_lstm,
    "translation": translation,
    "transformer encoder": encoder,
    "LLaMA": llama,
    "decoding": decoding,
    "labelling": labelling,
    "temporal convolutions": temporal_convolutions,
    "word vectors": word_vectors,
}
