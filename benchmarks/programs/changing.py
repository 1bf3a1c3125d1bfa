"""Programs that meet other sizes in each call: batches of graphs, tokens of experts, what a mask picks, sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.programs.graphs import weighted_convolutions
from benchmarks.programs.parts import Batch, Changing, normal, training, whole

Parts = tuple[Any, Any, Batch]


def graph_batches(torch: Any) -> Parts:
    """Two layers of sums over neighbours, 32 graphs at a time: other numbers of nodes and edges in each batch."""
    nn = torch.nn
    F = nn.functional
    graphs = 32

    class Layer(nn.Module):
        def __init__(self, given: int, made: int) -> None:
            super().__init__()
            self.neighbours, self.own = nn.Linear(given, made), nn.Linear(given, made)

        def forward(self, x: Any, source: Any, target: Any) -> Any:
            sent = self.neighbours(x)[source]
            total = torch.zeros(x.shape[0], sent.shape[1]).index_add(0, target, sent)
            count = torch.zeros(x.shape[0]).index_add(0, target, torch.ones(target.shape[0])).clamp(min=1)
            return F.relu(total / count[:, None] + self.own(x))

    net = nn.ModuleList([Layer(16, 64), Layer(64, 64), nn.Linear(64, 2)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(x: Any, source: Any, target: Any, graph: Any, y: Any) -> Any:
        optimizer.zero_grad()
        h = net[1](net[0](x, source, target), source, target)
        loss = F.cross_entropy(net[2](torch.zeros(graphs, 64).index_add(0, graph, h)), y)
        loss.backward()
        optimizer.step()
        return loss

    def batch(k: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(k)
        nodes, edges = int(rng.integers(500, 800)), int(rng.integers(1500, 2500))
        ends = whole(k, nodes, 2, edges)
        arrays = normal(k, nodes, 16), *ends, np.sort(whole(k, graphs, nodes)), whole(k, 2, graphs)
        return tuple(map(torch.from_numpy, arrays))

    return net, step, batch


def parts_of_a_graph(torch: Any) -> Parts:
    """Weighted convolutions over some thousands of a large graph's nodes with the edges between them."""
    net, loss = weighted_convolutions(torch)
    step = training(torch.optim.Adam(net.parameters(), lr=0.01), loss)

    def batch(k: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(k)
        nodes, edges = int(rng.integers(4000, 6000)), int(rng.integers(50000, 70000))
        arrays = normal(k, nodes, 64), whole(k, nodes, 2, edges), abs(normal(k, edges, 1)), whole(k, 16, nodes)
        return tuple(map(torch.from_numpy, arrays))

    return net, step, batch


def mixture_of_experts(torch: Any) -> Parts:
    """512 tokens, each to two of eight experts: an expert takes the tokens that chose it, however many these are."""
    nn = torch.nn
    width, experts, tokens = 64, 8, 512

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(width, experts)
            made = [nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)) for _ in range(experts)]
            self.experts = nn.ModuleList(made)

        def forward(self, x: Any) -> Any:
            weights, chosen = torch.topk(self.gate(x).softmax(-1), 2)
            weights = weights / weights.sum(-1, keepdim=True)
            out = torch.zeros_like(x)
            for k, expert in enumerate(self.experts):
                token, place = torch.where(chosen == k)
                out.index_add_(0, token, expert(x[token]) * weights[token, place, None])
            return out

    net = Mixture()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return net, step, lambda k: (torch.tensor(normal(k, tokens, width)), torch.tensor(normal(k + 1, tokens, width)))


def masked_tokens(torch: Any) -> Parts:
    """A guess of each hidden token of 16 sentences, of which each batch hides another number."""
    nn = torch.nn
    F = nn.functional
    words = 1000
    net = nn.ModuleList([nn.Embedding(words, 64), nn.Linear(64, 64), nn.Linear(64, words)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(ids: Any, mask: Any) -> Any:
        optimizer.zero_grad()
        h = net[0](ids.masked_fill(mask, 0))
        h = torch.tanh(net[1](h + h.mean(1, keepdim=True)))
        loss = F.cross_entropy(net[2](h[mask]), ids[mask])
        loss.backward()
        optimizer.step()
        return loss

    def batch(k: int) -> tuple[Any, ...]:
        hidden = np.random.default_rng(k).random((16, 32)) < 0.15
        return torch.from_numpy(whole(k, words, 16, 32)), torch.from_numpy(hidden)

    return net, step, batch


def sentences(torch: Any) -> Parts:
    """A transformer over 8 sentences of any length up to 48, the loss read before the gradients."""
    nn = torch.nn
    F = nn.functional
    layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)
    net = nn.ModuleList([nn.Embedding(500, 64), layer, nn.Linear(64, 2)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    log: list[float] = []

    def step(ids: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net[2](net[1](net[0](ids)).mean(1)), y)
        log.append(loss.item())
        loss.backward()
        optimizer.step()
        return loss

    def batch(k: int) -> tuple[Any, ...]:
        length = int(np.random.default_rng(k).integers(4, 49))
        return torch.from_numpy(whole(k, 500, 8, length)), torch.from_numpy(whole(k, 2, 8))

    return net, step, batch


def growing_cache(torch: Any) -> Parts:
    """Attention of one new token over a cache of keys and values to which each step joins one, up to 64."""
    nn = torch.nn
    net = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(4)])

    def step(x: Any, keys: Any, values: Any) -> Any:
        with torch.no_grad():
            query = net[0](x)
            keys, values = torch.cat([keys, net[1](x)]), torch.cat([values, net[2](x)])
            return net[3]((query @ keys.T / 8).softmax(-1) @ values).sum()

    def batch(k: int) -> tuple[Any, ...]:
        before = k % 64 + 1
        return tuple(torch.tensor(normal(k + n, rows, 64)) for n, rows in ((0, 1), (1, before), (2, before)))

    return net, step, batch


CHANGING: dict[str, Changing] = {
    "batches of graphs": graph_batches,
    "parts of a graph": parts_of_a_graph,
    "mixture of experts": mixture_of_experts,
    "masked tokens": masked_tokens,
    "sentences": sentences,
    "growing cache": growing_cache,
}
