"""Programs that act, and one that solves an equation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.programs.parts import Program, Step, normal, training, whole


def q_learning(torch: Any) -> tuple[Any, Step]:
    """A step of deep Q-learning, whose target net follows slowly."""
    nn = torch.nn
    F = nn.functional

    def make() -> Any:
        return nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))

    net, follower = make(), make()
    before, after, reward = (torch.tensor(normal(k, 128, *shape)) for k, shape in ((0, (8,)), (1, (8,)), (2, ())))
    action = torch.tensor(whole(3, 4, 128, 1))
    ended = torch.tensor((normal(4, 128) > 1).astype(np.float32))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, amsgrad=True)

    def step() -> Any:
        value = net(before).gather(1, action).squeeze(1)
        with torch.no_grad():
            target = reward + 0.99 * follower(after).max(1).values * (1 - ended)
        loss = F.smooth_l1_loss(value, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(net.parameters(), 100)
        optimizer.step()
        with torch.no_grad():
            for new, old in zip(net.parameters(), follower.parameters(), strict=True):
                old.mul_(0.995).add_(new, alpha=0.005)
        return loss

    return nn.ModuleList([net, follower]), step


def policy_optimization(torch: Any) -> tuple[Any, Step]:
    """A step of proximal policy optimization with a normal policy."""
    nn = torch.nn
    F = nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.mean, self.value = nn.Linear(64, 6), nn.Linear(64, 1)
            self.log_spread = nn.Parameter(torch.zeros(6))

        def forward(self, x: Any) -> Any:
            h = self.body(x)
            return self.mean(h), self.log_spread.exp().expand(x.shape[0], 6), self.value(h).squeeze(-1)

    net = Net()
    x, action = torch.tensor(normal(0, 256, 17)), torch.tensor(normal(1, 256, 6))
    advantage, returned = torch.tensor(normal(2, 256)), torch.tensor(normal(3, 256))
    before = torch.tensor(normal(4, 256) - 8)

    def loss() -> Any:
        mean, spread, value = net(x)
        density = -((action - mean) ** 2) / (2 * spread**2) - spread.log() - 0.5 * math.log(2 * math.pi)
        ratio = (density.sum(-1) - before).exp()
        gain = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        return -clipped.mean() + 0.5 * F.mse_loss(value, returned) - 0.01 * spread.log().sum(-1).mean()

    return net, training(
        torch.optim.Adam(net.parameters(), lr=3e-4, eps=1e-5),
        loss,
        lambda: nn.utils.clip_grad_norm_(net.parameters(), 0.5),
    )


def equation(torch: Any) -> tuple[Any, Step]:
    """Burgers' equation by the derivatives of a net, which are differentiated again."""
    nn = torch.nn
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x, t = (torch.tensor(normal(seed, 500, 1), requires_grad=True) for seed in (0, 1))

    def along(y: Any, x: Any) -> Any:
        return torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]

    def loss() -> Any:
        u = net(torch.cat([x, t], 1))
        slope = along(u, x)
        return ((along(u, t) + u * slope - 0.01 / math.pi * along(slope, x)) ** 2).mean()

    return net, training(torch.optim.Adam(net.parameters(), lr=1e-3), loss)


PROGRAMS: dict[str, Program] = {
    "Q-learning": q_learning,
    "policy optimization": policy_optimization,
    "Burgers' equation": equation,
}
