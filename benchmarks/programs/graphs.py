"""Programs on graphs: sums over the edges that lead to a node."""

from __future__ import annotations

from typing import Any

from benchmarks.programs.parts import Program, Step, normal, training, whole


def graph_convolutions(torch: Any) -> tuple[Any, Step]:
    """Two layers that take the mean over neighbours, of 2,000 nodes with 16,000 edges."""
    nn = torch.nn
    F = nn.functional
    nodes, edges = 2000, 16000
    source, target = torch.tensor(whole(0, nodes, edges)), torch.tensor(whole(1, nodes, edges))

    def gathered(h: Any, count: Any) -> Any:
        return torch.zeros(nodes, h.shape[1]).index_add(0, target, h[source]) / count[:, None]

    net = nn.ModuleList([nn.Linear(64, 32), nn.Linear(32, 7)])
    x, y = torch.tensor(normal(2, nodes, 64)), torch.tensor(whole(3, 7, nodes))

    def loss() -> Any:
        count = torch.zeros(nodes).index_add(0, target, torch.ones(edges)).clamp(min=1)
        h = net[0](x)
        h = net[1](F.relu(gathered(h, count) + h))
        return F.nll_loss(F.log_softmax(gathered(h, count) + h, 1), y)

    return net, training(torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4), loss)


def graph_attention(torch: Any) -> tuple[Any, Step]:
    """Four heads that weigh neighbours by a softmax over the edges to a node."""
    nn = torch.nn
    F = nn.functional
    nodes, edges = 1000, 8000
    source, target = torch.tensor(whole(0, nodes, edges)), torch.tensor(whole(1, nodes, edges))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.out = nn.Linear(32, 64, bias=False), nn.Linear(64, 5)
            self.of_source, self.of_target = nn.Parameter(torch.zeros(4, 16)), nn.Parameter(torch.zeros(4, 16))

        def forward(self, x: Any) -> Any:
            h = self.project(x).view(nodes, 4, 16)
            scores = (h * self.of_source).sum(-1)[source] + (h * self.of_target).sum(-1)[target]
            weights = F.leaky_relu(scores, 0.2).exp()
            total = torch.zeros(nodes, 4).scatter_add(0, target[:, None].expand(edges, 4), weights)
            shares = h[source] * (weights / total[target])[..., None]
            gathered = torch.zeros(nodes, 4, 16).index_add(0, target, shares)
            return self.out(F.elu(gathered.reshape(nodes, 64)))

    net = Net()
    x, y = torch.tensor(normal(2, nodes, 32)), torch.tensor(whole(3, 5, nodes))
    return net, training(torch.optim.Adam(net.parameters(), lr=0.005), lambda: F.cross_entropy(net(x), y))


def weighted_convolutions(torch: Any) -> tuple[Any, Any]:
    """Two layers that add up what comes along weighted edges, and their loss for nodes, edges, weights and classes."""
    nn = torch.nn
    F = nn.functional
    net = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 16)])

    def gathered(h: Any, edges: Any, weights: Any) -> Any:
        return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]] * weights)

    def loss(x: Any, edges: Any, weights: Any, y: Any) -> Any:
        h = F.relu(gathered(net[0](x), edges, weights))
        return F.cross_entropy(gathered(net[1](h), edges, weights), y)

    return net, loss


def large_graph(torch: Any) -> tuple[Any, Step]:
    """Weighted convolutions over 20,000 nodes with 240,000 edges."""
    nodes, edges = 20000, 240000
    net, loss = weighted_convolutions(torch)
    given = normal(0, nodes, 64), whole(1, nodes, 2, edges), abs(normal(2, edges, 1)), whole(3, 16, nodes)
    batch = tuple(map(torch.tensor, given))
    return net, training(torch.optim.Adam(net.parameters(), lr=0.01), lambda: loss(*batch))


PROGRAMS: dict[str, Program] = {
    "graph convolutions": graph_convolutions,
    "graph attention": graph_attention,
    "large graph": large_graph,
}
